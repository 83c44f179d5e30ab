"""Rows of antibody sources: files of sequences, which of them are read, and how they become documents."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt, Probability

ChainChoice = Literal["heavy", "light", "paired", "any"]
Molecule = Literal["amino_acids", "nucleotides"]
RegionMethod = Literal["columns", "alignment", "immunum"]
Paths = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class KeepSpec:
    """What is read although it is left out (or removed) by default. The manifest counts all of it either way."""

    unproductive: bool = False
    duplicates: bool = False
    ambiguous: bool = False
    gaps: bool = False


@dataclass(frozen=True, config=STRICT)
class SingleLayout:
    """Each sequence (or pair) is a document: `[CLS] s [ClSep]`."""

    kind: Literal["single"]


@dataclass(frozen=True, config=STRICT)
class FamilyLayout:
    """Each clonal family is a document, or several if it is large: `[CLS] s1 [ClSep] s2 [ClSep] …`, in drawn order."""

    kind: Literal["family"]
    max_tokens: Annotated[int, Field(ge=8)] = 2048
    documents_per_clone: PositiveInt | None = None
    seed: int = 0


LayoutSpec = Annotated[SingleLayout | FamilyLayout, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class SplitSpec:
    """One of two disjoint parts of a source. Two corpora that differ in `part` alone share no clone (or donor)."""

    by: Literal["clone", "donor"]
    part: Literal["train", "test"]
    test_fraction: Probability = 0.1
    seed: int = 0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class SequenceSource:
    """What all sources of antibody sequences share."""

    paths: Paths
    package: str | None = None
    licence: str = "unstated"
    clone: str | None = None
    donor: str | None = None
    keep: KeepSpec = Field(default_factory=KeepSpec)
    layout: LayoutSpec = Field(default_factory=lambda: SingleLayout(kind="single"))
    split: SplitSpec | None = None
    regions: tuple[RegionMethod, ...] = ("columns", "alignment", "immunum")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class AirrSource(SequenceSource):
    """Rearrangement tables of the AIRR Community (TSV or comma-separated, plain or .gz), one chain a row."""

    kind: Literal["airr"]
    chains: ChainChoice = "any"
    residues: str | None = None
    germline: str = "germline_alignment"
    cell: str = "cell_id"
    check_schema: bool = False


@dataclass(frozen=True, config=STRICT, kw_only=True)
class OasSource(SequenceSource):
    """Data units of the Observed Antibody Space (csv.gz: a line of metadata, a header, rows), unpaired or paired."""

    kind: Literal["oas"]
    chains: ChainChoice = "any"
    donor: str | None = "Subject"


@dataclass(frozen=True, config=STRICT, kw_only=True)
class FastaSource(SequenceSource):
    """FASTA files, plain or .gz; headers may hold `key=value` fields, separated by `|`, `;` or blanks."""

    kind: Literal["fasta"]
    chain: Literal["heavy", "light"] | None = None
    molecule: Molecule = "amino_acids"


@dataclass(frozen=True, config=STRICT, kw_only=True)
class CsvSource(SequenceSource):
    """Tables (comma- or tab-separated, plain or .gz) with a header and a column of heavy or light chains, or both."""

    kind: Literal["csv"]
    heavy: str | None = None
    light: str | None = None
    name: str | None = None
    molecule: Molecule = "amino_acids"


AntibodySource = AirrSource | OasSource | FastaSource | CsvSource


@dataclass(frozen=True, config=STRICT)
class IglmTokenizer:
    """IgLM's own 33 tokens, for corpora that its models are certified on: single sequences of one kind of chain."""

    kind: Literal["iglm"]
    chain: Literal["heavy", "light"] = "heavy"
    species: Literal["camel", "human", "mouse", "rabbit", "rat", "rhesus"] = "human"


@dataclass(frozen=True, config=STRICT)
class AntibodyTokenizer:
    """20 amino acids, gap and 8 special tokens (docs/antibody.md): 29 tokens, fixed before any corpus."""

    kind: Literal["antibody"]
