"""Rows of antibody sources: files of sequences, which of them are read, and how they become documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, Checked, Fault, Paths, PositiveInt, Probability

ChainChoice = Literal["heavy", "light", "paired", "any"]
RegionMethod = Literal["columns", "alignment", "immunum"]
Species = Literal["camel", "human", "mouse", "rabbit", "rat", "rhesus"]

Donor = Annotated[
    str | None,
    Field(
        description="Where to find a sequence's donor: a column (FASTA: a field of the header; OAS: also a key"
        " of the metadata), or `@file`. Clones of different donors are different clones."
    ),
]
Molecule = Annotated[
    Literal["amino_acids", "nucleotides"],
    Field(description="What the letters are; nucleotides are translated from the first base on."),
]


@dataclass(frozen=True, config=STRICT)
class KeepSpec:
    """What to keep that is left out or removed by default. The manifest counts all of it either way."""

    unproductive: Annotated[bool, Field(description="Rearrangements that the source calls unproductive.")] = False
    duplicates: Annotated[bool, Field(description="Sequences that were read before, letter for letter.")] = False
    ambiguous: Annotated[
        bool, Field(description="Sequences with `X`, `*` or another letter that is not a residue; it becomes `[UNK]`.")
    ] = False
    gaps: Annotated[
        bool, Field(description="Alignment gaps, as tokens; otherwise they are removed and the sequence stays.")
    ] = False


@dataclass(frozen=True, config=STRICT)
class SingleLayout:
    """Each sequence (or pair) is a document: `[CLS] s [ClSep]`."""

    kind: Literal["single"]


@dataclass(frozen=True, config=STRICT)
class FamilyLayout:
    """Each clonal family is a document, or several if it is large: `[CLS] s1 [ClSep] s2 [ClSep] …`, in random order."""

    kind: Literal["family"]
    max_tokens: Annotated[
        int, Field(ge=8, description="Longest document, `[CLS]` included; further members begin another one.")
    ] = 2048
    documents_per_clone: Annotated[
        PositiveInt | None,
        Field(description="Largest number of documents per clone; members beyond that are left out. `null`: no limit."),
    ] = None
    seed: Annotated[int, Field(description="Seed of the order of a family's members.")] = 0


LayoutSpec = Annotated[SingleLayout | FamilyLayout, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class SplitSpec:
    """One of two disjoint parts of a source. Two corpora that differ in `part` alone share no clone (or donor)."""

    by: Annotated[
        Literal["clone", "donor"],
        Field(description="What stays together: a `clone`, or a `donor` with all clones."),
    ]
    part: Annotated[Literal["train", "test"], Field(description="The part to read.")]
    test_fraction: Annotated[
        Probability, Field(description="Expected share of clones (or donors) in the test part.")
    ] = 0.1
    seed: Annotated[
        int, Field(description="Seed of the assignment, a hash of names: the order of sequences does not matter.")
    ] = 0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class SequenceSource(Checked):
    """What all sources of antibody sequences share."""

    labels: ClassVar[tuple[str, ...]] = ("residue", "chain", "region", "germline", "imgt")

    paths: Annotated[
        Paths, Field(description="Files, folders (searched for the format's usual endings) or glob patterns.")
    ]
    package: Annotated[
        str | None,
        Field(description="Installed Python package in whose folder `paths` are looked up. It is never imported."),
    ] = None
    licence: Annotated[str, Field(description="The sequences' licence, for the manifest.")] = "unstated"
    clone: Annotated[
        str | None,
        Field(
            description="Where to find a sequence's clone: a column (FASTA: a field of the header), or `@file`, "
            "which makes each file a clone."
        ),
    ] = None
    donor: Donor = None
    keep: Annotated[KeepSpec, Field(description="What to keep that is left out by default.")] = Field(
        default_factory=KeepSpec
    )
    layout: Annotated[LayoutSpec, Field(description="What makes up a document.")] = Field(
        default_factory=lambda: SingleLayout(kind="single")
    )
    split: Annotated[SplitSpec | None, Field(description="Take one part of the source only; `null` takes all.")] = None
    regions: Annotated[
        tuple[RegionMethod, ...],
        Field(
            description="How regions are found, in this order: `columns` of the file, IMGT-gapped `alignment`, or"
            " `immunum`, which must be installed once a sequence needs it. What none of them labels "
            "is `none`."
        ),
    ] = ("columns", "alignment", "immunum")

    @property
    def only_chain(self) -> Literal["heavy", "light"] | None:
        """The only kind of chain that it yields; None if it may yield both."""
        raise NotImplementedError

    def faults(self) -> Iterator[Fault]:
        """Yield keys that families and splits need, and keys that a split cannot have."""
        by = self.split.by if self.split else None
        if self.clone is None and self.layout.kind == "family":
            yield Fault("clone", "families are made of clones. Name the column (or field) that holds the clone.")
        if self.clone is None and by == "clone":
            yield Fault("clone", "a split by clone needs it. Name the column (or field) that holds the clone.")
        if self.donor is None and by == "donor":
            yield Fault("donor", "a split by donor needs it. Name the column (or field) that holds the donor.")
        if self.keep.duplicates and by:
            yield Fault(
                "keep.duplicates",
                "a sequence that belongs to two clones could be in both parts of the split. Leave out 'duplicates', or "
                "'split'.",
            )


@dataclass(frozen=True, config=STRICT, kw_only=True)
class AirrSource(SequenceSource):
    """Rearrangement tables of the AIRR Community (TSV or comma-separated, plain or .gz), one chain per row."""

    kind: Literal["airr"]
    chains: Annotated[
        ChainChoice, Field(description="Which chains to read; `paired` joins the two chains of each cell.")
    ] = "any"
    residues: Annotated[
        str | None,
        Field(
            description="Column of amino acids. `null` takes the first that exists of `sequence_alignment_aa`, "
            "`sequence_alignment` (translated), `sequence_aa` and `sequence` (translated)."
        ),
    ] = None
    germline: Annotated[
        str, Field(description="Column of the germline alignment (nucleotides), e.g. `germline_alignment_d_mask`.")
    ] = "germline_alignment"
    cell: Annotated[str, Field(description="Column by which `paired` chains are joined.")] = "cell_id"
    check_schema: Annotated[
        bool, Field(description="Check each file against the AIRR schema; the package `airr` must be installed.")
    ] = False

    @property
    def only_chain(self) -> Literal["heavy", "light"] | None:
        """The only kind of chain that it yields; None if it may yield both."""
        return _only(self.chains)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class OasSource(SequenceSource):
    """Data units of the Observed Antibody Space (csv.gz: a line of metadata, a header, rows), unpaired or paired."""

    kind: Literal["oas"]
    chains: Annotated[ChainChoice, Field(description="Which chains to read; `paired` reads paired units.")] = "any"
    donor: Donor = "Subject"

    @property
    def only_chain(self) -> Literal["heavy", "light"] | None:
        """The only kind of chain that it yields; None if it may yield both."""
        return _only(self.chains)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class FastaSource(SequenceSource):
    """FASTA files, plain or .gz; headers may contain `key=value` fields, separated by `|`, `;` or blanks."""

    kind: Literal["fasta"]
    chain: Annotated[
        Literal["heavy", "light"] | None,
        Field(description="Which chain the sequences are; `null` leaves it to IMGT numbering."),
    ] = None
    molecule: Molecule = "amino_acids"

    @property
    def only_chain(self) -> Literal["heavy", "light"] | None:
        """The only kind of chain that it yields; None if it may yield both."""
        return self.chain


@dataclass(frozen=True, config=STRICT, kw_only=True)
class CsvSource(SequenceSource):
    """Tables (comma- or tab-separated, plain or .gz) with a header and a column of heavy or light chains, or both."""

    kind: Literal["csv"]
    heavy: Annotated[str | None, Field(description="Column of heavy chains.")] = None
    light: Annotated[str | None, Field(description="Column of light chains; with `heavy`, rows are pairs.")] = None
    name: Annotated[str | None, Field(description="Column of names; `null` takes file and row.")] = None
    molecule: Molecule = "amino_acids"

    @property
    def only_chain(self) -> Literal["heavy", "light"] | None:
        """The only kind of chain that it yields; None if it yields pairs."""
        return "heavy" if self.light is None else "light" if self.heavy is None else None

    def faults(self) -> Iterator[Fault]:
        """Yield the shared faults, a table without any column of chains, and a column that is given two meanings."""
        yield from super().faults()
        if self.heavy is None and self.light is None:
            yield Fault("heavy", "name the column of heavy chains, or that of light chains ('light'), or both.")
        columns = {"heavy": self.heavy, "light": self.light, "clone": self.clone, "donor": self.donor}
        yield from repeated_columns(columns, but=("clone", "donor"))


def _only(chains: ChainChoice) -> Literal["heavy", "light"] | None:
    return chains if chains == "heavy" or chains == "light" else None


def repeated_columns(columns: dict[str, str | None], but: tuple[str, str] | None = None) -> Iterator[Fault]:
    """Yield a line for every column that two keys name, except for the two keys in `but`."""
    named = [(key, column) for key, column in columns.items() if column is not None]
    for (first, column), (second, other) in itertools.combinations(named, 2):
        if column == other and (first, second) != but:
            yield Fault(second, f"the column '{column}' is '{first}' already. Name another.")


AntibodySource = AirrSource | OasSource | FastaSource | CsvSource


@dataclass(frozen=True, config=STRICT)
class IglmTokenizer:
    """IgLM's own 33 tokens, for corpora that its models are certified on: single sequences of one kind of chain."""

    vocabulary_size: ClassVar[int | None] = 33
    kind: Literal["iglm"]
    chain: Annotated[
        Literal["heavy", "light"],
        Field(description="The kind of chain of all sequences; IgLM reads it as a token."),
    ] = "heavy"
    species: Annotated[
        Species,
        Field(description="The species; IgLM reads it as a token."),
    ] = "human"


@dataclass(frozen=True, config=STRICT)
class AntibodyTokenizer:
    """20 amino acids, gap and 8 special tokens (docs/antibody.md): 29 tokens, fixed before any corpus."""

    vocabulary_size: ClassVar[int | None] = 29
    kind: Literal["antibody"]
