"""The tokens that a model is calibrated on: whole documents in a seeded order, packed into equal windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenbounds.errors import CalibrationError
from tokenbounds.models.generator import philox
from tokenbounds.models.loss import IGNORED
from tokenbounds.models.training.data import TokenSource


@dataclass(frozen=True)
class Windows:
    """Packed windows.

    Attributes
    ----------
    inputs, targets : int64 array [windows, context]
        Each document follows the corpus's start token, which is never a target (-100).
    documents : tuple of int
        Numbers of the documents in them; the last one may be incomplete.
    """

    inputs: np.ndarray
    targets: np.ndarray
    documents: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Number of input positions."""
        return self.inputs.size


def pack_windows(corpus: TokenSource, tokens: int, context: int, seed: int) -> Windows:
    """Pack documents, drawn without replacement by `seed`, into windows of `context` tokens until there are `tokens`.

    A smaller corpus is used completely, up to the last full window.

    Raises
    ------
    CalibrationError
        If the corpus does not fill one window.
    """
    lengths = np.asarray(corpus.lengths)
    order = np.argsort(philox(seed, "calibration").random_raw(len(lengths)), kind="stable")
    needed = context * max(tokens // context, 1) + 1  # the last input has a target as well
    pieces, documents, count = [], [], 0
    for number in order:
        pieces.append(np.concatenate([[corpus.start_id], corpus.document(int(number)).astype(np.int64)]))
        documents.append(int(number))
        count += len(pieces[-1])
        if count >= needed:
            break
    windows = (min(count, needed) - 1) // context
    if windows < 1:
        raise CalibrationError(f"the calibration corpus holds {count} tokens, fewer than one window of {context}.")
    stream = np.concatenate(pieces)[: windows * context + 1]  # documents one after the other, start tokens included
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])[:-1]  # where each start token is in it
    targets = stream[1:].copy()  # no loss on start tokens, which no document contains
    boundaries = starts[(starts >= 1) & (starts <= windows * context)] - 1
    targets[boundaries] = IGNORED
    shape = (windows, context)
    return Windows(stream[:-1].reshape(shape), targets.reshape(shape), tuple(documents))
