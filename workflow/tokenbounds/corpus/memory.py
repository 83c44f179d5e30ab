"""A corpus in memory, for texts and sequences that need no files of their own, and for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class MemoryCorpus:
    """Documents in memory, which training, calibration and scoring read as they read `corpus.reader.Corpus`.

    Parameters
    ----------
    contents
        Tokens of each document, int[n].
    vocabulary_size, start_id
        As for a tokenizer: every token is below `vocabulary_size`; `start_id` precedes a document's first token.

    Attributes
    ----------
    contents : list of int[n]
        Tokens of each document.
    lengths : int64[documents]
        Number of tokens of each document.
    documents, tokens : int
        How many there are.
    """

    def __init__(self, contents: Sequence[npt.ArrayLike], vocabulary_size: int, start_id: int) -> None:
        self.contents: list[npt.NDArray[Any]] = [np.asarray(tokens) for tokens in contents]
        self.vocabulary_size = vocabulary_size
        self.start_id = start_id
        self.lengths = np.array([len(tokens) for tokens in self.contents], np.int64)
        self.documents = len(self.contents)
        self.tokens = int(self.lengths.sum())

    def document(self, number: int) -> npt.NDArray[Any]:
        """The tokens of a document, int[n]."""
        return self.contents[number]

    def iterate(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the documents' tokens in their order."""
        yield from self.contents
