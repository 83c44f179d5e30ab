"""Rows of evaluations and certificates: how tokens are scored, and what is certified."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, Coefficient, PositiveInt, Probability

BoundName = Literal[
    "azuma",
    "freedman",
    "betting",
    "telescoped",
    "mixture",
    "documents",
    "documents_betting",
    "sequences",
    "sequences_betting",
]
SubsetColumn = Literal["residue", "chain", "region", "germline", "imgt"]


@dataclass(frozen=True, config=STRICT)
class EvaluationSpec:
    """How tokens are scored: windows of `context` tokens that advance by `stride`, all of them or a sample.

    `visible_tokens` limits what the model sees before each token to that many tokens; null shows the whole window.
    `sample_tokens` is the approximate number of tokens whose blocks are drawn with replacement; null scores all.
    """

    context: PositiveInt = 256
    stride: PositiveInt | None = None
    visible_tokens: PositiveInt | None = None
    sample_tokens: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    shards: PositiveInt = 2
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_tokens: PositiveInt = 16384


@dataclass(frozen=True, config=STRICT)
class BoundsSpec:
    """What a certificate states: total failure probability, metrics, bounds, subsets, and the grids it pays for."""

    delta: Probability = 0.05
    sampling_share: Probability = 0.2
    top_k: tuple[PositiveInt, ...] = (1, 10, 100)
    bounds: Annotated[tuple[BoundName, ...], Field(min_length=1)] = ("azuma", "betting")
    alphas: Annotated[tuple[Probability, ...], Field(min_length=1)] = (
        *(0.0001, 0.0003, 0.001, 0.003),
        *(0.01, 0.03, 0.1, 0.2),
    )
    lambdas: PositiveInt = 32
    link_alphas: Annotated[tuple[Probability, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
    link_betas: Annotated[tuple[Coefficient, ...], Field(min_length=1)] = (0.25, 0.5, 0.75, 0.9, 1.0)
    subsets: tuple[SubsetColumn, ...] = ()


@dataclass(frozen=True, config=STRICT)
class CertificateSpec:
    """A certificate: which message, on which corpus, scored how, stating which bounds.

    `chain` names cheaper messages, cheapest first, towards which the bounds `telescoped` and `mixture` smooth the
    certified one. With `prior: held_out` nothing is paid for messages, which must not depend on the corpus.
    """

    message: str
    corpus: str
    evaluation: str = "default"
    chain: Annotated[tuple[str, ...], Field(max_length=5)] = ()
    prior: Literal["message", "held_out"] = "message"
    bounds: BoundsSpec = Field(default_factory=BoundsSpec)
