"""Straight-through training is refused where its values, gradients and moments cannot fit in memory."""

import numpy as np
import pytest
from tokenbounds import limits
from tokenbounds.compression.straight_through import check_training
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.errors import MessageError

SHAPES = {"a": (1000, 1000), "b": (1000,)}


def test_training_is_refused_before_anything_is_read(monkeypatch):
    corpus = MemoryCorpus([np.arange(5, dtype=np.uint16)], 8, 1)
    needed = 56 * 1_001_000
    monkeypatch.setattr(limits, "memory_limit", lambda: needed)
    assert check_training(SHAPES, corpus) is corpus
    monkeypatch.setattr(limits, "memory_limit", lambda: needed - 1)
    with pytest.raises(MessageError, match=r"training of 1,001,000 parameters takes 0\.1 GiB of memory, and at most"):
        check_training(SHAPES, corpus)
    with pytest.raises(MessageError, match=r"needs a corpus. Pass it, or set straight_through.steps to 0"):
        check_training(SHAPES, None)
