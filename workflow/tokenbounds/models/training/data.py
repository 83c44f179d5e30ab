"""Training batches sampled with a seed from a corpus; any batch can be made on its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from tokenbounds.errors import ModelError
from tokenbounds.models.generator import philox
from tokenbounds.models.loss import IGNORED


class TokenSource(Protocol):
    """What sampling needs from a corpus; `corpus.reader.Corpus` is one."""

    lengths: np.ndarray
    start_id: int

    def document(self, number: int) -> np.ndarray:
        """The tokens of a document."""


class BlockSampler:
    """An endless, seeded sequence of training batches; batch i depends on the seed and i alone.

    Each row is a window of `context` tokens inside one document. A token of the corpus is sampled uniformly, and the
    window is placed uniformly among those that contain it, then moved inside the document. The input before a
    document's first token is the corpus's start token; documents shorter than `context` are padded at the end.

    Parameters
    ----------
    corpus
        Where the tokens come from.
    context
        Tokens per row, T.
    batch_tokens
        Tokens per batch; a batch has max(1, batch_tokens // context) rows, B.
    seed
        Seed of the draws.

    Raises
    ------
    ModelError
        If the corpus holds no token.
    """

    def __init__(self, corpus: TokenSource, context: int, batch_tokens: int, seed: int) -> None:
        self._corpus = corpus
        self._ends = np.cumsum(corpus.lengths, dtype=np.int64)
        if not len(self._ends) or not self._ends[-1]:
            raise ModelError("the corpus holds no tokens to train on.")
        self.context = context
        self.rows = max(1, batch_tokens // context)
        self._seed = seed

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number`.

        Returns
        -------
        inputs, targets : int64[B, T]
            Targets are the tokens of the windows, inputs the tokens before them. Padding is -100 in targets and the
            start token in inputs.
        """
        documents, starts, lengths = self.windows(number)
        inputs = np.full((self.rows, self.context), self._corpus.start_id, dtype=np.int64)
        targets = np.full((self.rows, self.context), IGNORED, dtype=np.int64)
        for row, (document, start, count) in enumerate(zip(documents, starts, lengths, strict=True)):
            # One token more to the left, unless the document begins here: then it is the start token, already filled
            # in.
            window = self._corpus.document(int(document))[max(start - 1, 0) : start + count]
            previous = 1 if start > 0 else 0
            targets[row, :count] = window[previous:]
            inputs[row, 1 - previous : count] = window[:-1]
        return inputs, targets

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        number = 0
        while True:
            yield self.batch(number)
            number += 1

    def windows(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Documents, starts and lengths of the windows of batch `number`, int64[B] each."""
        # A token of the corpus at random, and how far into the window it is: [B] each.
        raw = philox(self._seed, f"batch/{number}").random_raw(2 * self.rows)
        tokens = (raw[: self.rows] % np.uint64(self._ends[-1])).astype(np.int64)
        shifts = (raw[self.rows :] % np.uint64(self.context)).astype(np.int64)
        documents = np.searchsorted(self._ends, tokens, side="right")
        lengths = np.asarray(self._corpus.lengths, dtype=np.int64)[documents]
        positions = tokens - (self._ends[documents] - lengths)  # of the token in its document
        starts = np.clip(positions - shifts, 0, np.maximum(lengths - self.context, 0))
        return documents, starts, np.minimum(lengths - starts, self.context)
