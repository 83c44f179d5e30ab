"""What online n-grams expect a network to lose: a function of what precedes each token, however the plan is cut."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from scoring_cases import make_corpus, make_model
from tokenbounds.config.certificates import LARGEST_CENTRED_VOCABULARY
from tokenbounds.errors import ScoreError
from tokenbounds.models.online.ngrams import Ngrams
from tokenbounds.scores import scoring
from tokenbounds.scores.centres import CENTRE_ALPHA, CENTRE_TILT
from tokenbounds.scores.cross_entropies import CrossEntropyScorer, Replay, cross_entropies
from tokenbounds.scores.plan import plan_scoring
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.scoring import make_scorer
from tokenbounds.scores.windows import Group, gather_windows

V = 7


class Documents:
    """A corpus in memory."""

    vocabulary_size, start_id = V, 0

    def __init__(self, documents):
        self.documents = documents
        self.lengths = np.array([len(each) for each in documents])
        self.tokens = int(self.lengths.sum())

    def document(self, number):
        return self.documents[number]


def corpus(seed=0):
    rng = np.random.default_rng(seed)
    return Documents([(rng.integers(0, 5, size) ** 2 % V).astype(np.int64) for size in (120, 0, 200, 90)])


def group(*blocks):
    document, start, length = (np.array(values) for values in zip(*blocks, strict=True))
    return Group(document, start, length, np.zeros_like(start), np.empty(0, np.int64))


def test_whole_predictions_are_those_that_losses_come_from_and_sum_to_at_most_one():
    documents = corpus().documents
    once, whole = Ngrams(V, 3, 12), Ngrams(V, 3, 12)
    for document in documents:
        losses = once.losses(document)
        found = whole.predictions(document, 0, 0, len(document))
        assert np.allclose(-np.log2(found[np.arange(len(document)), document]), losses, atol=1e-5)
        assert np.all(found > 0) and np.all(found.sum(axis=1) <= 1.0)


def test_predictions_do_not_depend_on_how_the_plan_is_cut_or_on_going_back():
    once = Replay(corpus(), V, 2)
    blocks = [(0, 30, 40), (2, 0, 50), (2, 100, 60), (3, 10, 80)]
    expected = once.predictions(group(*blocks))
    cut = Replay(corpus(), V, 2)
    parts = [cut.predictions(group(block)) for block in [(0, 30, 10), (0, 40, 30), *blocks[1:]]]
    assert np.array_equal(np.concatenate(parts), expected)
    assert np.array_equal(cut.predictions(group(*blocks)), expected)


@pytest.mark.parametrize("held", [1 << 20, 1])
def test_few_whole_predictions_are_held_where_the_vocabulary_is_large(held, monkeypatch):
    at_once, predictions = [], Replay.predictions

    def counting(self, asked):
        at_once.append(int(asked.length.sum()))
        return predictions(self, asked)

    monkeypatch.setattr(Replay, "predictions", counting)
    monkeypatch.setattr(scoring, "_PREDICTED_VALUES", held)
    text = make_corpus()
    rows = plan_scoring(text.lengths, context=8, stride=8, sample_tokens=None, seed=0, shards=1)
    scorer = make_scorer(make_model("gpt2"), text, ScoringOptions(batch_tokens=20), centre_order=2)
    found = pa.Table.from_batches(scoring.score_blocks(scorer, text, rows, batch_tokens=20))
    assert found.num_rows == text.tokens == sum(at_once)
    assert (max(at_once) <= 20) == (held == 1)
    # Windows that are scored by themselves have the same cross-entropies.
    alone = [scorer.score(gather_windows(rows.slice(row, 1), text)) for row in range(rows.num_rows)]
    assert np.array_equal(found["cross_entropy_bits"], np.concatenate([columns[3] for columns in alone]))


def test_a_prediction_depends_on_nothing_from_its_token_on():
    before, after = corpus(), corpus()
    after.documents[2][150:] = (after.documents[2][150:] + 1) % V
    blocks = group((2, 100, 70))
    one, other = (Replay(each, V, 3).predictions(blocks) for each in (before, after))
    assert np.array_equal(one[:51], other[:51])
    assert not np.allclose(one[51], other[51])  # what has read a changed token differs


def test_the_cross_entropy_is_the_expected_loss_under_the_tilted_prediction():
    rng = np.random.default_rng(1)
    logits, reference = rng.normal(0, 3, (20, V)), rng.dirichlet(np.ones(V), 20)
    pi = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) * (1 - CENTRE_ALPHA) + CENTRE_ALPHA / V
    weights = reference * pi**CENTRE_TILT
    expected = (weights * -np.log2(pi)).sum(axis=1) / weights.sum(axis=1)
    found = cross_entropies(*(torch.tensor(each, dtype=torch.float32) for each in (logits, reference)))
    assert np.allclose(found.numpy(), expected, atol=1e-4)


def test_what_cannot_have_them_is_refused_in_a_line(monkeypatch):
    class Chain:
        vocabulary_size = V

        def score(self, tokens, start_id):
            raise AssertionError

    with pytest.raises(ScoreError, match="centre_order is for a network"):
        make_scorer(Chain(), corpus(), ScoringOptions(), centre_order=2)
    monkeypatch.setattr(
        "tokenbounds.scores.neural.NeuralScorer.__init__",
        lambda self, *given: setattr(self, "vocabulary_size", LARGEST_CENTRED_VOCABULARY + 1),
    )
    with pytest.raises(ScoreError, match="is for at most 4096"):
        CrossEntropyScorer(None, corpus(), ScoringOptions(), 2)
