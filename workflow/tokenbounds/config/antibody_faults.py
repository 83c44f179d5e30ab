"""What can be wrong with a source of antibody sequences, said in the user's own keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenbounds.config.antibodies import AntibodySource, CsvSource, FamilyLayout, SequenceSource

if TYPE_CHECKING:
    from tokenbounds.config import Study


def antibody_faults(study: Study) -> Iterator[str]:
    """Yield a line for every antibody source that lacks what its other keys need."""
    for name, corpus in study.corpora.items():
        source = corpus.source
        if not isinstance(source, SequenceSource):
            continue
        for fault in _source_faults(source):
            yield f"  corpora.{name}.source.{fault}"
        if corpus.tokenizer.kind not in ("antibody", "iglm"):
            yield f"  corpora.{name}.tokenizer: antibody sequences need the tokenizer {{kind: antibody}}."
        if corpus.tokenizer.kind == "iglm" and isinstance(source.layout, FamilyLayout):
            yield f"  corpora.{name}.source.layout: IgLM reads single sequences. Use {{kind: single}}."


def _source_faults(source: AntibodySource) -> Iterator[str]:
    by = source.split.by if source.split else None
    if source.clone is None and isinstance(source.layout, FamilyLayout):
        yield "clone: families are made of clones. Name the column (or field) that holds the clone."
    if source.clone is None and by == "clone":
        yield "clone: a split by clone needs it. Name the column (or field) that holds the clone."
    if source.donor is None and by == "donor":
        yield "donor: a split by donor needs it. Name the column (or field) that holds the donor."
    if isinstance(source, CsvSource) and source.heavy is None and source.light is None:
        yield "heavy: name the column of heavy chains, or of light chains by 'light', or both."
    if source.keep.duplicates and by:
        yield (
            "keep.duplicates: a sequence that stands in two clones could be in both parts of the split. Leave out "
            "'duplicates', or 'split'."
        )
