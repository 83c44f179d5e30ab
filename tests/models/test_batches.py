"""Batches of training: windows of one document, drawn about uniformly, by seed and number alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import FakeCorpus
from tokenbounds.errors import ModelError
from tokenbounds.models.training.data import BlockSampler


def test_batch_of_one_short_document_by_hand():
    sampler = BlockSampler(FakeCorpus([[5, 6, 7]], start_id=9), context=5, batch_tokens=10, seed=0)
    inputs, targets = sampler.batch(0)
    assert inputs.tolist() == [[9, 5, 6, 9, 9]] * 2
    assert targets.tolist() == [[5, 6, 7, -100, -100]] * 2


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any),
    context=st.integers(1, 8),
    number=st.integers(0, 10**6),
)
def test_every_row_is_a_window_of_one_document(lengths, context, number):
    offsets = np.cumsum([0, *lengths])
    documents = [np.arange(1, size + 1) + offset for size, offset in zip(lengths, offsets, strict=False)]
    inputs, targets = BlockSampler(FakeCorpus(documents), context, 4 * context, seed=1).batch(number)
    assert inputs.dtype == targets.dtype == np.int64
    for row_in, row_out in zip(inputs, targets, strict=True):
        count = int((row_out != -100).sum())
        assert np.all(row_out[count:] == -100) and count >= 1
        document = next(d for d in documents if row_out[0] in d)
        first = int(row_out[0] - document[0])
        assert row_out[:count].tolist() == document[first : first + count].tolist()
        assert count == min(context, len(document))
        assert row_in[0] == (0 if first == 0 else document[first - 1])
        assert row_in[1:count].tolist() == row_out[: count - 1].tolist()


def test_batches_depend_on_seed_and_number_alone(corpus):
    one = BlockSampler(corpus, 8, 64, seed=1)
    later = iter(BlockSampler(corpus, 8, 64, seed=1))
    for number in range(3):
        for expected, got in zip(one.batch(number), next(later), strict=True):
            assert np.array_equal(expected, got)
    assert not np.array_equal(one.batch(0)[0], one.batch(1)[0])
    assert not np.array_equal(one.batch(0)[0], BlockSampler(corpus, 8, 64, seed=2).batch(0)[0])


def test_tokens_are_drawn_about_uniformly():
    documents = [np.arange(0, 90), np.arange(90, 100)]
    sampler = BlockSampler(FakeCorpus(documents), context=5, batch_tokens=5000, seed=0)
    counts = np.bincount(sampler.batch(0)[1].ravel(), minlength=100)
    assert abs(counts[90:].sum() / counts.sum() - 0.1) < 0.04
    assert counts.min() > 0


def test_empty_corpus_is_refused():
    with pytest.raises(ModelError, match="no tokens"):
        BlockSampler(FakeCorpus([[], []]), 4, 8, seed=0)
