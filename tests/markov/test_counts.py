"""Counting grams of a corpus."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from tokenbounds.config import MarkovModel
from tokenbounds.errors import ModelError
from tokenbounds.models.markov import counts as counting
from tokenbounds.models.markov.counts import fit_markov, load_counts
from tokenbounds.models.markov.grams import MarkovCard, gram_codes


def test_grams_of_a_hand_written_document():
    card = MarkovCard(order=2, vocabulary_size=10, start_id=7)
    assert list(gram_codes(np.array([1, 2, 3]), 2, card)) == [771, 712, 123]
    assert list(gram_codes(np.array([1, 2, 3]), 0, card)) == [1, 2, 3]
    assert len(gram_codes(np.array([], dtype=np.uint16), 2, card)) == 0
    assert list(gram_codes(np.array([5]), 6, MarkovCard(6, 10, 7))) == [7777775]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_counts_equal_a_naive_count(corpus, counted, order):
    expected = Counter()
    for document in corpus.iterate():
        padded = [corpus.start_id] * order + [int(token) for token in document]
        for i in range(len(document)):
            expected[sum(token * 256**k for k, token in enumerate(reversed(padded[i : i + order + 1])))] += 1
    card, grams, counts = load_counts(counted[order])
    assert dict(zip(grams.tolist(), counts.tolist(), strict=True)) == expected
    assert card == MarkovCard(order, 256, 0)


def test_chunks_do_not_show(corpus, counted, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "_CHUNK_TOKENS", 300)
    fit_markov(MarkovModel(kind="markov", corpus="c", order=2), corpus, tmp_path)
    for ours, reference in zip(load_counts(tmp_path)[1:], load_counts(counted[2])[1:], strict=True):
        assert np.array_equal(ours, reference)


def test_too_many_contexts_are_refused():
    with pytest.raises(ModelError, match="highest order possible with this vocabulary is 3"):
        counting.check_codes(65536, 4)
    counting.check_codes(65536, 3)
    counting.check_codes(256, 6)


@pytest.mark.parametrize("change", [{"order": 7}, {"order": True}, {"start_id": 256}, {"family": "gpt2"}, {"extra": 1}])
def test_hostile_cards_are_refused(change):
    good = MarkovCard(1, 256, 0).to_dict()
    assert MarkovCard.from_dict(good) == MarkovCard(1, 256, 0)
    with pytest.raises(ModelError):
        MarkovCard.from_dict({**good, **change})


def test_damaged_counts_are_named(counted, tmp_path):
    for name in ("counts.arrow", "card.json"):
        (tmp_path / name).write_bytes((counted[1] / name).read_bytes())
    path = tmp_path / "counts.arrow"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"counts\.arrow"):
        load_counts(tmp_path)
    unsorted = pa.table({"gram": pa.array([5, 3], pa.uint64()), "count": pa.array([1, 1])})
    with pa.ipc.new_file(str(path), unsorted.schema) as writer:
        writer.write_table(unsorted)
    with pytest.raises(ModelError, match="no ordered table"):
        load_counts(tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match=r"counts\.arrow"):
        load_counts(tmp_path)
