"""Rows of tasks: what antibody models are tried at, beside being certified."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt

RegionName = Literal["FWR1", "CDR1", "FWR2", "CDR2", "FWR3", "CDR3", "FWR4"]
Messages = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class RecoveryTask:
    """Recover the residues of a region from what precedes it (IgLM: from both sides), greedily and residue by residue.

    `sequences` are drawn from `corpus` by `seed`; `chain` restricts them to one kind of chain.
    """

    kind: Literal["recovery"]
    corpus: str
    messages: Messages
    regions: Annotated[tuple[RegionName, ...], Field(min_length=1)] = ("CDR3",)
    chain: Literal["heavy", "light"] | None = "heavy"
    sequences: PositiveInt = 200
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class AffinityTask:
    """Rank variants of an antibody by likelihood, and compare with a measured `value`: one correlation an antibody.

    Tables are comma- or tab-separated with a header. A variant is a `sequence`, or a `heavy` and a `light` chain.
    """

    kind: Literal["affinity"]
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    messages: Messages
    value: str
    higher_is_better: bool
    antibody: str | None = None
    sequence: str | None = None
    heavy: str | None = None
    light: str | None = None
    resamples: PositiveInt = 2000
    seed: Annotated[int, Field(ge=0)] = 0


TaskSpec = Annotated[RecoveryTask | AffinityTask, Field(discriminator="kind")]
