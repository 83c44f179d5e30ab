"""Whole scoring jobs: shards, chains, and inputs that must be refused."""

import contextlib
import copy
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scoring_cases import VOCABULARY, make_corpus, make_model, make_plan
from tokenbounds.config import ByteTokenizer, CorpusSpec, EvaluationSpec, TextSource
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.errors import ScoreError
from tokenbounds.files import sha256_file
from tokenbounds.scores.plan import plan_corpus
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.scoring import make_scorer, score_blocks, score_message, score_shard
from tokenbounds.scores.store import open_scores

CPU = ScoringOptions(device="cpu", batch_tokens=40)


class Bigram:
    """A chain of order 1 from a fixed table; counts how often it is asked."""

    vocabulary_size = VOCABULARY

    def __init__(self):
        probabilities = np.random.default_rng(0).random((VOCABULARY, VOCABULARY))
        self.bits = -np.log2(probabilities / probabilities.sum(1, keepdims=True))
        self.calls = 0

    def score(self, tokens, start_id):
        self.calls += 1
        previous = np.concatenate([[start_id], tokens])[:-1].astype(int)
        nll = self.bits[previous, tokens]
        return nll.astype(np.float32), (self.bits[previous] <= nll[:, None]).sum(1).astype(np.int32)


def run_all(predictor, corpus, plan, tmp_path, options=CPU):
    paths = [tmp_path / f"shard-{shard}.parquet" for shard in range(plan.shards)]
    for shard, path in enumerate(paths):
        score_shard(copy.deepcopy(predictor), corpus, plan, shard, path, message_sha256="me", options=options)
    return open_scores(paths, plan=plan, message_sha256="me", manifest_sha256="ma")


def table_of(scores):
    return pa.Table.from_batches(list(scores.iter_batches())).combine_chunks()


@pytest.mark.parametrize("shards", [2, 7, 40])
def test_shards_together_are_the_whole(shards, corpus, tmp_path):
    """Also with more shards than blocks, some of them empty."""
    model = make_model("gpt2")
    whole = table_of(run_all(model, corpus, make_plan(tmp_path, corpus, stride=5), tmp_path))
    scores = run_all(model, corpus, make_plan(tmp_path, corpus, stride=5, shards=shards), tmp_path)
    parts = table_of(scores)
    assert scores.rows == corpus.tokens
    np.testing.assert_allclose(parts["nll_bits"].to_numpy(), whole["nll_bits"].to_numpy(), atol=2e-5)
    assert parts.drop_columns("nll_bits") == whole.drop_columns("nll_bits")


def test_a_sample_scores_the_same_tokens_alike(corpus, tmp_path):
    model = make_model("llama")
    everything = table_of(run_all(model, corpus, make_plan(tmp_path, corpus), tmp_path)).to_pylist()
    losses = {(row["document"], row["position"]): row for row in everything}
    plan = make_plan(tmp_path, corpus, sample_tokens=30, shards=2)
    sample = table_of(run_all(model, corpus, plan, tmp_path)).to_pylist()
    assert 0 < len(sample) < len(everything)
    for row in sample:
        whole = losses[row["document"], row["position"]]
        assert row["nll_bits"] == pytest.approx(whole["nll_bits"], abs=2e-5) and row["rank"] == whole["rank"]


@pytest.mark.parametrize("sample_tokens", [None, 50])
def test_chains_score_each_document_once(sample_tokens, corpus, tmp_path):
    chain = Bigram()
    plan = make_plan(tmp_path, corpus, stride=5, sample_tokens=sample_tokens)
    score_shard(chain, corpus, plan, 0, tmp_path / "chain.parquet", message_sha256="me", options=CPU)
    table = table_of(open_scores([tmp_path / "chain.parquet"], plan=plan))
    assert chain.calls == len(set(table["document"].to_pylist()))
    for row in table.to_pylist():
        tokens = corpus.contents[row["document"]]
        nll, rank = Bigram().score(tokens, corpus.start_id)
        assert row["nll_bits"] == nll[row["position"]] and row["rank"] == rank[row["position"]]
        assert row["token"] == tokens[row["position"]]


def test_reordering_groups_do_not_show(corpus, tmp_path):
    """Rows come in plan order whatever the size of the groups within which windows are reordered."""
    model = make_model("gpt2")
    plan = make_plan(tmp_path, corpus, stride=5)
    scorer = make_scorer(model, corpus, CPU)
    tables = [pa.Table.from_batches(score_blocks(scorer, corpus, plan.table, size)) for size in (1, 10, 100000)]
    assert len({table.num_rows for table in tables}) == 1
    for table in tables[:2]:
        np.testing.assert_allclose(table["nll_bits"].to_numpy(), tables[2]["nll_bits"].to_numpy(), atol=2e-5)
        assert table.drop_columns("nll_bits") == tables[2].drop_columns("nll_bits")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop_the_job(value, corpus, tmp_path):
    """Position 14 of document 6 spoils the window in which it is an input: that of positions 12 to 23."""
    corpus.contents = [np.where(document == 36, 0, document) for document in corpus.contents]
    corpus.contents[6][14] = 36
    model = make_model("gpt2", tie_word_embeddings=False)
    with torch.no_grad():
        model.transformer.wte.weight[36] = value
    plan = make_plan(tmp_path, corpus)
    (tmp_path / "out").mkdir()
    with pytest.raises(ScoreError, match="document 6 position 12"):
        score_shard(model, corpus, plan, 0, tmp_path / "out" / "s.parquet", message_sha256="me", options=CPU)
    assert list((tmp_path / "out").iterdir()) == []


def refuse(model, corpus, plan, tmp_path, match, options=CPU):
    with pytest.raises(ScoreError, match=match):
        score_shard(model, corpus, plan, 0, tmp_path / "s.parquet", message_sha256="me", options=options)
    assert not (tmp_path / "s.parquet").exists()


def test_models_that_do_not_fit_are_refused(corpus, tmp_path):
    plan = make_plan(tmp_path, corpus)
    larger = make_corpus()
    larger.vocabulary_size = VOCABULARY + 1
    larger.contents[6][14] = VOCABULARY
    refuse(make_model("gpt2"), larger, plan, tmp_path, f"document 6 holds token {VOCABULARY}.*predicts {VOCABULARY}")
    refuse(Bigram(), larger, plan, tmp_path, f"document 6 holds token {VOCABULARY}.*predicts {VOCABULARY}")
    long = make_plan(tmp_path, make_corpus((100,)), context=65)
    refuse(make_model("llama"), make_corpus((100,)), long, tmp_path, "positions for only 64")
    refuse(make_model("gpt2"), make_corpus((5, 6)), plan, tmp_path, "the corpus has 11")
    moved = make_corpus((*corpus.lengths[:-2], 40, 2))
    refuse(make_model("gpt2"), moved, plan, tmp_path, "document 8 has 2 tokens")


def test_tokens_of_the_tokenizer_that_no_document_holds_do_not_matter(corpus, tmp_path):
    """A [PAD] that was added to a tokenizer makes its vocabulary larger than the model's."""
    plan = make_plan(tmp_path, corpus)
    scores = {}
    for added in (0, 1):
        corpus.vocabulary_size = VOCABULARY + added
        score_shard(make_model("gpt2"), corpus, plan, 0, tmp_path / "s.parquet", message_sha256="me", options=CPU)
        scores[added] = pq.read_table(tmp_path / "s.parquet").to_pydict()
    assert scores[0] == scores[1]


def test_families_that_change_their_logits_are_refused_by_name(corpus, tmp_path):
    plan = make_plan(tmp_path, corpus)
    declared = make_model("llama")
    declared.config.final_logit_softcapping = 30.0
    refuse(declared, corpus, plan, tmp_path, "'llama'.*final_logit_softcapping")
    hidden = make_model("llama")
    forward = type(hidden).forward

    def doubled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * 2
        return output

    hidden.forward = types.MethodType(doubled, hidden)
    refuse(hidden, corpus, plan, tmp_path, "'llama' does more to its logits")
    refuse(make_model("llama").model, corpus, plan, tmp_path, "no separate output embedding")


def test_models_that_see_the_future_are_refused(corpus, tmp_path):
    model = make_model("llama")
    model.model.norm.register_forward_hook(lambda module, args, output: output + output.mean(dim=1, keepdim=True))
    refuse(model, corpus, make_plan(tmp_path, corpus), tmp_path, "looks at tokens to the right")
    bidirectional = make_model("llama")
    for layer in bidirectional.model.layers:
        layer.self_attn.is_causal = False
    refuse(bidirectional, corpus, make_plan(tmp_path, corpus), tmp_path, "looks at tokens to the right")


DEPENDENT = {
    "neighbours": lambda states: states - 0.1 * states.mean(dim=0, keepdim=True),
    "the longest of a batch": lambda states: states * (1.1 if states.shape[1] > 8 else 1.0),
    "room for so many tokens": lambda states: (
        states * (torch.arange(states[..., 0].numel()) < 14).view(*states.shape[:2], 1)
    ),
}


@pytest.mark.parametrize("what", DEPENDENT)
def test_models_that_see_the_rest_of_the_batch_are_refused(corpus, tmp_path, what):
    model = make_model("llama")
    model.model.norm.register_forward_hook(lambda module, args, output: DEPENDENT[what](output))
    refuse(model, corpus, make_plan(tmp_path, corpus), tmp_path, "by more than what precedes it")


def test_scaled_positions_that_change_with_the_length_are_refused(corpus, tmp_path):
    """Dynamic scaling recomputes its frequencies when a sequence is longer than any before."""
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 8.0}
    dynamic = make_model("llama", rope_parameters=rope)
    plan = make_plan(tmp_path, corpus)
    score_shard(dynamic, corpus, plan, 0, tmp_path / "honest.parquet", message_sha256="me", options=CPU)
    rotary = dynamic.model.rotary_emb
    rotary.max_seq_len_cached = rotary.original_max_seq_len = 4
    rotary.config = copy.deepcopy(dynamic.config)
    rotary.config.max_position_embeddings = 4
    refuse(dynamic, corpus, plan, tmp_path, "by more than what precedes it")


def test_options_are_checked():
    for wrong in ({"dtype": "float16"}, {"batch_tokens": 0}, {"head_rows": 0}):
        with pytest.raises(ScoreError):
            ScoringOptions(**wrong)


def test_provenance_is_in_the_file(corpus, tmp_path):
    plan = make_plan(tmp_path, corpus)
    path = tmp_path / "s.parquet"
    assert score_shard(make_model("gpt2"), corpus, plan, 0, path, message_sha256="me", options=CPU) == corpus.tokens
    metadata = pq.read_schema(path).metadata
    assert metadata[b"plan_sha256"].decode() == plan.sha256 and metadata[b"dtype"] == b"float32"
    software = open_scores([path], plan=plan).provenance.software
    assert software["torch"] == torch.__version__ and software["device"] == "cpu"
    assert software["batch_tokens"] == str(CPU.batch_tokens)


def test_a_message_alone_suffices(corpus, tmp_path, monkeypatch):
    """`score_message` reads the message, the corpus and the plan, and refuses a plan made for another corpus."""
    spec = CorpusSpec(
        source=TextSource(kind="text", paths=(str(tmp_path / "a.txt"),)), tokenizer=ByteTokenizer("bytes")
    )
    (tmp_path / "a.txt").write_text("what a message says is what is scored")
    tokenize_corpus(spec, "words", tmp_path / "words")
    plan_corpus(tmp_path / "words", EvaluationSpec(context=16, shards=1), tmp_path / "plan.parquet")
    (tmp_path / "chain.tbm").write_bytes(b"message")
    chain = Uniform()
    monkeypatch.setattr("tokenbounds.scores.scoring.decoded_predictor", lambda *_: contextlib.nullcontext(chain))
    arguments = (tmp_path / "chain.tbm", tmp_path / "words", tmp_path / "plan.parquet", 0, tmp_path / "s.parquet")
    assert score_message(*arguments) == 37
    scores = open_scores([tmp_path / "s.parquet"], plan=read_plan(tmp_path / "plan.parquet"))
    assert scores.provenance.message_sha256 == sha256_file(tmp_path / "chain.tbm") and scores.check() == 37
    manifest = tmp_path / "words" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(ScoreError, match="another corpus"):
        score_message(*arguments)


class Uniform:
    """Every byte equally likely."""

    vocabulary_size = 256

    def score(self, tokens, start_id):
        return np.full(len(tokens), 8, np.float32), np.full(len(tokens), 256, np.int32)
