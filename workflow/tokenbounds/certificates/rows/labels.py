"""Scores with the labels of their tokens, streamed beside the corpus's annotations, which have the last word."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.antibodies import iglm, vocabulary
from tokenbounds.corpus.annotations import ANNOTATIONS_SCHEMA, Annotations
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError, ScoreError
from tokenbounds.scores.plan import column
from tokenbounds.scores.store import Scores

RESIDUE = "residue"
_RESIDUE_IDS = {vocabulary.TOKENS: vocabulary.AMINO_ACID_IDS, iglm.TOKENS: iglm.RESIDUE_IDS}


@dataclass(frozen=True)
class LabelledScores:
    """Scores of a corpus that has annotations.

    Attributes
    ----------
    scores
        The scores, in any order; labels that their files hold must be those of the annotations.
    annotations
        Labels of every token of the corpus.
    is_residue
        Which tokens of the vocabulary are amino acids, bool[V].
    """

    scores: Scores
    annotations: Annotations
    is_residue: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Scores, corpus_directory: Path) -> LabelledScores:
        """Open the annotations of the corpus that was scored.

        Raises
        ------
        CorpusError
            If it has none.
        """
        corpus = Corpus.open(corpus_directory)
        annotations = Annotations.open(corpus_directory, corpus)
        is_residue = np.zeros(corpus.vocabulary_size, dtype=bool)
        is_residue[_residue_ids(corpus.vocabulary_size)] = True
        return cls(scores, annotations, is_residue)

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream score columns and label columns by name.

        Raises
        ------
        ScoreError
            If a score file has another label for a token than the annotations.
        """
        wanted = list(columns or ("nll_bits",))
        labels = [name for name in wanted if name == RESIDUE or name in LABEL_NAMES]
        stored = [name for name in wanted if name not in labels]
        copied = [name for name in labels if name in self.scores.provenance.schema.names]
        for batch in self.scores.iter_batches(sorted({*stored, *copied, "document", "position", "token"})):
            found = self.annotations.at(column(batch, "document"), column(batch, "position"))
            arrays = {name: batch[name] for name in stored}
            for name in labels:
                values = self.is_residue[column(batch, "token")] if name == RESIDUE else getattr(found, name)
                arrays[name] = pa.array(values.astype(np.int32))
                if name in copied and not np.array_equal(column(batch, name), values):
                    self._refuse(name)
            yield pa.RecordBatch.from_arrays([arrays[name] for name in wanted], names=wanted)

    def _refuse(self, name: str) -> None:
        folder = self.scores.files[0].parent
        raise ScoreError(
            f"{folder}: column {name} has other labels than the annotations of the corpus. Score its shards again."
        )


def _residue_ids(size: int) -> npt.NDArray[np.int64]:
    for tokens, ids in _RESIDUE_IDS.items():
        if len(tokens) == size:
            return ids
    raise CertificateError(f"a vocabulary of {size} tokens is none of antibodies; their labels do not fit it.")


def _names() -> dict[str, dict[int, str]]:
    """Names of each label column's values, from the schema of annotations; positions are called by their number."""
    metadata = {key.decode(): value.decode() for key, value in ANNOTATIONS_SCHEMA.metadata.items()}
    named = {name: json.loads(metadata[name]) for name in ANNOTATIONS_SCHEMA.names if name in metadata}
    names = {column: dict(enumerate(labels)) for column, labels in named.items()}
    return {**names, "imgt": {0: "none"}}


LABEL_NAMES: Mapping[str, Mapping[int, str]] = _names()
SUBSET_NAMES: Mapping[str, Mapping[int, str]] = {RESIDUE: {0: "other", 1: RESIDUE}, **LABEL_NAMES}
