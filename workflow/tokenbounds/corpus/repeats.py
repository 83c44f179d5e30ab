"""Documents that are equal to an earlier one, token for token: a model that memorized one knows them all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Repeats:
    """How many documents of a corpus are equal to an earlier one, and how many tokens these have."""

    documents: int = 0
    tokens: int = 0


class RepeatCounter:
    """Counts repeats as documents pass, by the first eight bytes of the digests of their tokens; empty ones aside.

    Memory grows by 16 bytes per document.
    """

    def __init__(self) -> None:
        self._keys: list[npt.NDArray[np.uint64]] = []
        self._lengths: list[npt.NDArray[np.int64]] = []

    def add(self, digests: list[bytes], lengths: npt.ArrayLike) -> None:
        """Take in the digests and numbers of tokens of some documents."""
        tokens = np.asarray(lengths, dtype=np.int64)
        keys = np.frombuffer(b"".join(digest[:8] for digest in digests), dtype="<u8").astype(np.uint64)
        self._keys.append(keys[tokens > 0])
        self._lengths.append(tokens[tokens > 0])

    def count(self) -> Repeats:
        """Repeats among all documents so far."""
        if not self._keys:
            return Repeats()
        lengths = np.concatenate(self._lengths)
        _, first = np.unique(np.concatenate(self._keys), return_index=True)
        return Repeats(len(lengths) - len(first), int(lengths.sum() - lengths[first].sum()))
