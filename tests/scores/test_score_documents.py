"""Losses of documents in memory: those of the model token by token, whatever the windows."""

import numpy as np
import pytest
import torch
from scoring_cases import VOCABULARY, in_memory, make_corpus, make_model
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import ScoreError
from tokenbounds.models.training.data import BlockSampler
from tokenbounds.scores.documents import score_documents, score_windows
from tokenbounds.scores.plan import window_rows
from tokenbounds.scores.scorer import ScoringOptions


class TwoTokens:
    """A chain that gives the token one above the last the probability 1/2, and the others equal shares of the rest."""

    vocabulary_size = VOCABULARY

    def score(self, tokens, start_id):
        before = np.concatenate([[start_id], tokens[:-1]]).astype(np.int64)
        follows = tokens == (before + 1) % VOCABULARY
        bits = np.where(follows, 1.0, 1.0 + np.log2(VOCABULARY - 1))
        return bits.astype(np.float32), np.where(follows, 1, VOCABULARY).astype(np.int32)


def direct(model, before, targets):
    """Loss in bits and rank of each target, from logits of the whole window at once."""
    with torch.no_grad():
        logits = model(torch.tensor([np.asarray(before, np.int64).tolist()])).logits[0].double()
    wanted = torch.tensor(np.asarray(targets, np.int64))[:, None]
    bits = -logits.log_softmax(-1).gather(1, wanted)[:, 0] / np.log(2)
    return bits.numpy(), (logits >= logits.gather(1, wanted)).sum(1).numpy()


def test_losses_are_the_model_s_own():
    model, corpus = make_model("llama"), make_corpus()
    scores = score_documents(model, corpus, options=ScoringOptions(batch_tokens=64))
    assert [len(each.nll_bits) for each in scores] == corpus.lengths.tolist()
    for tokens, (bits, rank) in zip(corpus.contents, scores, strict=True):
        if len(tokens):
            expected, ranks = direct(model, [corpus.start_id, *tokens[:-1]], tokens)
            np.testing.assert_allclose(bits, expected, atol=1e-4)
            np.testing.assert_array_equal(rank, ranks)


def test_long_documents_are_scored_whole_in_windows_that_overlap_by_half():
    model = make_model("gpt2")
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 150)
    ((bits, _),) = score_documents(model, in_memory([tokens]))  # windows of 64 positions, steps of 32
    stream = np.concatenate([[3], tokens])
    np.testing.assert_allclose(bits[:64], direct(model, stream[:64], stream[1:65])[0], atol=1e-4)
    np.testing.assert_allclose(bits[64:96], direct(model, stream[32:96], stream[33:97])[0][32:], atol=1e-4)
    ((beside, _),) = score_documents(model, in_memory([tokens]), context=64, stride=64)
    np.testing.assert_allclose(beside[64:128], direct(model, stream[64:128], stream[65:129])[0], atol=1e-4)
    assert abs(bits[64:96] - beside[64:96]).max() > 1e-3  # the context is seen


def test_chains_are_scored_by_the_same_call():
    documents = [np.array([4, 5, 9]), np.array([], np.int64), np.array([4])]
    scores = score_documents(TwoTokens(), in_memory(documents))
    surprise = np.float32(1.0 + np.log2(VOCABULARY - 1))
    assert [each.nll_bits.tolist() for each in scores] == [[1.0, 1.0, surprise], [], [1.0]]
    with pytest.raises(ScoreError, match="no tokens"):
        score_documents(TwoTokens(), in_memory([np.array([], np.int64)]))


def test_windows_of_training_batches_have_the_losses_of_training():
    model, corpus = make_model("llama"), make_corpus()
    sampler = BlockSampler(corpus, 12, 48, seed=0)
    inputs, targets = sampler.batch(3)
    scores = score_windows(model, corpus, window_rows(*sampler.windows(3)))
    lengths = (targets >= 0).sum(axis=1)
    pieces = zip(inputs, targets, lengths, strict=True)
    expected = np.concatenate([direct(model, row[:length], wanted[:length])[0] for row, wanted, length in pieces])
    np.testing.assert_allclose(scores.nll_bits, expected, atol=1e-4)


def test_a_corpus_in_memory_has_what_one_on_disk_has():
    corpus = MemoryCorpus([[1, 2], [], [3]], 5, start_id=4)
    public = {name for name in vars(Corpus) if not name.startswith("_")} - {"open"}
    public |= {"lengths", "documents", "tokens", "vocabulary_size", "start_id"}
    assert all(
        hasattr(corpus, name) for name in public | {"lengths", "documents", "tokens", "vocabulary_size", "start_id"}
    )
    assert (corpus.documents, corpus.tokens, corpus.lengths.tolist()) == (3, 3, [2, 0, 1])
    assert [document.tolist() for document in corpus.iterate()] == [[1, 2], [], [3]]
    assert corpus.document(2).tolist() == [3]
