"""Rows of tasks: what models are tested on in addition to certificates; here those of antibodies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.antibodies import Species, repeated_columns
from tokenbounds.config.base import STRICT, Checked, Fault, Paths, PositiveInt, Reference
from tokenbounds.config.text_tasks import (
    GenerationTask,
    MemorizationTask,
    SamplesTask,
    TaskMessages,
    ZeroShotTask,
    repeated_messages,
)

RegionName = Literal["FWR1", "CDR1", "FWR2", "CDR2", "FWR3", "CDR3", "FWR4"]

SpeciesTold = Annotated[Species, Field(description="The species that IgLM is told; other models are told none.")]
SampleSeed = Annotated[int, Field(ge=0, description="Seed of the random sample.")]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class RecoveryTask(Checked):
    """Recover the residues of a region from what precedes it (IgLM: from both sides), greedily and residue by residue.

    `sequences` are sampled from `corpus` with `seed`; `chain` restricts them to one kind of chain.
    """

    kind: Literal["recovery"]
    corpus: Annotated[
        str,
        Reference("corpora"),
        Field(
            description="Corpus row, of the antibody tokenizer, to sample sequences from; one that no model was "
            "trained on is the most informative."
        ),
    ]
    messages: TaskMessages
    regions: Annotated[
        tuple[RegionName, ...], Field(min_length=1, description="Regions to recover, by IMGT's definition.")
    ] = ("CDR3",)
    chain: Annotated[Literal["heavy", "light"] | None, Field(description="Kind of chain; `null` takes any.")] = "heavy"
    species: SpeciesTold = "human"
    sequences: Annotated[PositiveInt, Field(description="Number of sequences sampled, at most one per document.")] = 200
    seed: SampleSeed = 0

    def faults(self) -> Iterator[Fault]:
        """Yield a message that is named twice."""
        yield from repeated_messages(self.messages)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class AffinityTask(Checked):
    """Rank variants of an antibody by likelihood, and compare with a measured `value`: one correlation per antibody.

    Tables are comma- or tab-separated with a header. A variant is a `sequence`, or a `heavy` and a `light` chain.
    """

    kind: Literal["affinity"]
    paths: Annotated[
        Paths,
        Field(
            description="Comma- or tab-separated tables with a header, plain or .gz: files, folders or patterns.",
        ),
    ]
    messages: TaskMessages
    value: Annotated[
        str, Field(description="Column of what was measured, e.g. a dissociation constant or a binding score.")
    ]
    higher_is_better: Annotated[
        bool, Field(description="Whether a larger value means better binding: `false` for dissociation constants.")
    ]
    antibody: Annotated[
        str | None,
        Field(description="Column that says which antibody a row is a variant of; each has its own correlation."),
    ] = None
    sequence: Annotated[
        str | None,
        Field(
            description="Column of sequences of one chain, of an unknown kind. Either this, or `heavy` "
            "and `light` or one of them."
        ),
    ] = None
    heavy: Annotated[str | None, Field(description="Column of heavy chains.")] = None
    light: Annotated[
        str | None, Field(description="Column of light chains; the log-likelihoods of both chains are added.")
    ] = None
    species: SpeciesTold = "human"
    resamples: Annotated[PositiveInt, Field(description="Bootstrap samples of each correlation's interval.")] = 2000
    seed: SampleSeed = 0

    def faults(self) -> Iterator[Fault]:
        """Yield a message that is named twice, and columns that say nothing or too much."""
        yield from repeated_messages(self.messages)
        if (self.sequence is None) == (self.heavy is None and self.light is None):
            yield Fault("", "give either 'sequence', or 'heavy' and 'light' or one of them.")
        keys = ("value", "antibody", "sequence", "heavy", "light")
        yield from repeated_columns({key: getattr(self, key) for key in keys})


AntibodyTask = RecoveryTask | AffinityTask
TaskSpec = Annotated[
    RecoveryTask | AffinityTask | GenerationTask | MemorizationTask | SamplesTask | ZeroShotTask,
    Field(discriminator="kind"),
]
