"""Scores with the labels of their tokens, checked against the corpus's annotations as they stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.corpus.annotations import Annotations
from tokenbounds.corpus.labels import LabelColumn
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError, ScoreError
from tokenbounds.scores.plan_file import column
from tokenbounds.scores.store import Scores


@dataclass(frozen=True)
class LabelledScores:
    """Scores of a corpus that declares label columns.

    Attributes
    ----------
    scores
        The scores, in any order; labels that their files hold must be those of the annotations.
    columns
        The label columns that are asked for, by name.
    annotations
        Codes of every token of the corpus; None if all columns follow from the token.
    """

    scores: Scores
    columns: dict[str, LabelColumn]
    annotations: Annotations | None

    @classmethod
    def of(cls, scores: Scores, corpus_directory: Path, names: Sequence[str]) -> LabelledScores:
        """Open the labels of the corpus that was scored.

        Raises
        ------
        CertificateError
            If the corpus declares no column of such a name that has categories.
        CorpusError
            If its annotations cannot be read.
        ScoreError
            If the score files were made with other declarations.
        """
        corpus = Corpus.open(corpus_directory)
        declared = {label.name: label for label in corpus.manifest.labels if label.categories}
        for name in names:
            if name not in declared:
                known = ", ".join(declared) or "none"
                raise CertificateError(f"corpus {corpus.manifest.corpus} declares no label '{name}' (it has: {known}).")
        columns = {name: declared[name] for name in names}
        for stated in scores.provenance.labels:
            if columns.get(stated.name, stated) != stated:
                raise ScoreError(
                    f"{scores.files[0].parent}: column {stated.name} has other labels than the manifest of the corpus "
                    "declares. Score its shards again."
                )
        stored = any(label.is_stored for label in columns.values())
        return cls(scores, columns, Annotations.open(corpus_directory, corpus) if stored else None)

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream score columns and label columns (codes, int32) by name.

        Raises
        ------
        ScoreError
            If a score file has another label for a token than the annotations.
        """
        wanted = list(columns or ("nll_bits",))
        labels = [name for name in wanted if name in self.columns]
        plain = [name for name in wanted if name not in self.columns]
        copied = [name for name in labels if name in self.scores.provenance.schema.names]
        for batch in self.scores.iter_batches(sorted({*plain, *copied, "document", "position", "token"})):
            arrays = {name: batch[name] for name in plain}
            for name, codes in self._codes(batch, labels).items():
                if name in copied and not np.array_equal(column(batch, name), codes):
                    raise ScoreError(
                        f"{self.scores.files[0].parent}: column {name} has other labels than the annotations of the "
                        "corpus. Score its shards again."
                    )
                arrays[name] = pa.array(codes.astype(np.int32))
            yield pa.RecordBatch.from_arrays([arrays[name] for name in wanted], names=wanted)

    def _codes(self, batch: pa.RecordBatch, names: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
        """Codes of the batch's tokens by column, int[rows]: from the token itself, or from the annotations."""
        found = {}
        if self.annotations is not None:
            found = self.annotations.at(column(batch, "document"), column(batch, "position"))
        for name in names:
            of_tokens = self.columns[name].codes_of_tokens
            if of_tokens is not None:
                found[name] = np.array(of_tokens)[column(batch, "token")]
        return {name: found[name] for name in names}
