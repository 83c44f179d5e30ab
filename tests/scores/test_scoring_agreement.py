"""Scores against an independent float64 reference: naive loops, full logits, explicit windows."""

import copy
import logging
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scoring_cases import CONTEXT, VOCABULARY, make_corpus, make_model, make_plan
from tokenbounds import progress
from tokenbounds.scores import neural
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.scoring import score_shard

FAMILIES = ("gpt2", "llama", "mistral")


def reference(model, corpus, context, stride, shift=0):
    """Losses in bits, ranks, whether a rank hangs on a near tie, and entropies, per (document, position), in float64.

    `shift` = 1 is the classical mistake: each input is one token too late.
    """
    model = copy.deepcopy(model).double()
    result = {}
    for number, document in enumerate(corpus.contents):
        tokens = [int(token) for token in document]
        begin = 0
        while begin < len(tokens):
            first_window = begin == 0
            end = min(begin + (context if first_window else stride), len(tokens))
            visible = 0 if first_window else begin - (context - stride)
            previous = [corpus.start_id, *tokens]
            inputs = previous[visible + shift : end + shift]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([inputs])).logits[0]
            assert logits.dtype == torch.float64
            for position in range(begin, end):
                row = logits[min(position - visible, len(logits) - 1)]
                nll = -torch.log_softmax(row, 0)[tokens[position]].item() / math.log(2)
                margin = (row - row[tokens[position]]).abs()
                margin[tokens[position]] = math.inf
                rank = sum(1 for value in row.tolist() if value >= row[tokens[position]].item())
                entropy = torch.distributions.Categorical(logits=row).entropy().item() / math.log(2)
                result[number, position] = (nll, rank, margin.min().item() < 1e-5, entropy)
            begin = end
    return result


def scored(model, corpus, plan, tmp_path, **options):
    out = tmp_path / "scores.parquet"
    score_shard(
        copy.deepcopy(model), corpus, plan, 0, out, message_sha256="me", options=ScoringOptions(device="cpu", **options)
    )
    return pq.read_table(out)


def compare(table, expected, tolerance=1e-4):
    """What every test here compares: tokens, losses within `tolerance` bits, ranks, and rounded entropies."""
    keys = list(zip(table["document"].to_pylist(), table["position"].to_pylist(), strict=True))
    assert keys == sorted(expected)
    nll, rank, tie, entropy = (np.array(values) for values in zip(*(expected[key] for key in keys), strict=True))
    assert np.max(np.abs(table["nll_bits"].to_numpy() - nll)) < tolerance
    wrong = (table["rank"].to_numpy() != rank) & ~tie.astype(bool)
    assert not wrong.any()
    if "entropy_bits" in table.column_names:
        assert np.max(np.abs(table["entropy_bits"].to_numpy() - entropy)) <= 1 / 16 + tolerance


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stride", [None, 5, 1])
def test_agrees_with_float64(family, stride, corpus, tmp_path):
    model = make_model(family)
    plan = make_plan(tmp_path, corpus, stride=stride)
    table = scored(model, corpus, plan, tmp_path, batch_tokens=50)
    compare(table, reference(model, corpus, CONTEXT, stride or CONTEXT))
    assert table["token"].to_pylist() == [int(token) for document in corpus.contents for token in document]


@pytest.mark.parametrize("family", FAMILIES)
def test_shifted_inputs_are_caught(family, corpus, tmp_path):
    model = make_model(family)
    table = scored(model, corpus, make_plan(tmp_path, corpus, stride=5), tmp_path)
    with pytest.raises(AssertionError):
        compare(table, reference(model, corpus, CONTEXT, 5, shift=1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens,head_rows", [(1, 1), (30, 7), (100000, None)])
def test_batch_size_changes_nothing(family, batch_tokens, head_rows, corpus, tmp_path):
    model = make_model(family)
    plan = make_plan(tmp_path, corpus, stride=7)
    base = scored(model, corpus, plan, tmp_path)
    other = scored(model, corpus, plan, tmp_path, batch_tokens=batch_tokens, head_rows=head_rows)
    np.testing.assert_allclose(base["nll_bits"].to_numpy(), other["nll_bits"].to_numpy(), atol=2e-5)
    assert base.drop_columns("nll_bits") == other.drop_columns("nll_bits")


@pytest.mark.parametrize(("family", "inner"), [("gpt2", 128), ("llama", 48)])
def test_a_wide_model_takes_fewer_tokens_at_a_time(family, inner, corpus, tmp_path, monkeypatch):
    model, plan = make_model(family), make_plan(tmp_path, corpus)
    most, tables = [], []
    for tokens in (1000, 20):
        monkeypatch.setattr(neural, "_ACTIVATION_BYTES", 4 * tokens * (6 * 32 + 3 * inner))
        seen = []
        model.base_model.register_forward_hook(
            lambda module, arguments, output, seen=seen: seen.append(output.last_hidden_state.shape[:2].numel())
        )
        tables.append(scored(model, corpus, plan, tmp_path))
        most.append(max(seen[4:]))  # after those that look whether a loss depends on anything else
    assert most[1] <= 20 < most[0]
    np.testing.assert_allclose(*(table["nll_bits"].to_numpy() for table in tables), atol=2e-5)


def test_tokens_to_the_right_do_not_matter(corpus, tmp_path):
    """What follows a token, padding included, must not change its loss."""
    model = make_model("llama")
    plan = make_plan(tmp_path, corpus)
    before = scored(model, corpus, plan, tmp_path)
    changed = make_corpus()
    changed.contents[6][20:] = (changed.contents[6][20:] + 1) % VOCABULARY
    after = scored(model, changed, plan, tmp_path)
    same = [d != 6 or p < 20 for d, p in zip(*(before[c].to_pylist() for c in ("document", "position")), strict=True)]
    old, new = before["nll_bits"].to_numpy(), after["nll_bits"].to_numpy()
    assert np.array_equal(old[same], new[same])
    assert not np.allclose(old[~np.array(same)], new[~np.array(same)])


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_close(family, corpus, tmp_path):
    model = make_model(family)
    plan = make_plan(tmp_path, corpus, stride=5)
    exact = scored(model, corpus, plan, tmp_path)["nll_bits"].to_numpy()
    rough = scored(model, corpus, plan, tmp_path, dtype="bfloat16")["nll_bits"].to_numpy()
    assert 0 < np.abs(exact - rough).mean() < 0.1


def test_bfloat16_keeps_rotary_frequencies_exact(corpus, tmp_path):
    model = make_model("llama")
    plan = make_plan(tmp_path, corpus)
    frequencies = model.model.rotary_emb.inv_freq.clone()
    options = ScoringOptions(dtype="bfloat16", device="cpu")
    score_shard(model, corpus, plan, 0, tmp_path / "s.parquet", message_sha256="me", options=options)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(model.model.rotary_emb.inv_freq, frequencies)


def test_the_log_says_how_far_scoring_is_within_a_group_of_windows(corpus, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(progress.Progress.__init__, "__defaults__", ("", 0, 0.0))  # each message, not one in 10 s
    caplog.set_level(logging.INFO, "tokenbounds.scores.scoring")
    tokens = scored(make_model("gpt2"), corpus, make_plan(tmp_path, corpus), tmp_path, batch_tokens=32).num_rows
    done = [int(record.getMessage().split()[1].replace(",", "")) for record in caplog.records]
    assert len(done) > 2 and done == sorted(set(done)) and done[-1] == tokens


def test_ties_count_against_the_model(corpus, tmp_path):
    """All logits equal: every rank is V and every loss log2 V."""
    model = make_model("gpt2")
    torch.nn.init.zeros_(model.lm_head.weight)
    table = scored(model, corpus, make_plan(tmp_path, corpus), tmp_path)
    assert set(table["rank"].to_pylist()) == {VOCABULARY}
    np.testing.assert_allclose(table["nll_bits"].to_numpy(), math.log2(VOCABULARY), atol=1e-5)


def test_partial_ties_are_counted_by_hand(corpus, tmp_path):
    """Logits 1 for tokens 0-4, 2 for token 5, 0 for others: ranks 6, 1 and V."""
    model = make_model("llama", tie_word_embeddings=False)
    model.model.norm.register_forward_hook(lambda module, args, output: torch.ones_like(output))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[:5, 0] = 1
        model.lm_head.weight[5, 0] = 2
    table = scored(model, corpus, make_plan(tmp_path, corpus), tmp_path)
    total = 5 * math.e + math.e**2 + (VOCABULARY - 6)
    for token, nll, rank in zip(*(table[c].to_pylist() for c in ("token", "nll_bits", "rank")), strict=True):
        logit = 1 if token < 5 else 2 if token == 5 else 0
        assert rank == {1: 6, 2: 1, 0: VOCABULARY}[logit]
        assert nll == pytest.approx(math.log2(total) - logit / math.log(2), abs=1e-5)


def test_larger_vocabulary_than_the_corpus_is_fine(corpus, tmp_path):
    corpus.vocabulary_size = VOCABULARY - 1
    corpus.contents = [np.minimum(document, VOCABULARY - 2) for document in corpus.contents]
    table = scored(make_model("gpt2"), corpus, make_plan(tmp_path, corpus), tmp_path)
    assert table.schema.metadata[b"vocabulary_size"] == str(VOCABULARY).encode()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; test_agrees_with_float64 is its twin")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-4), ("bfloat16", 0.5)])
def test_cuda_agrees_with_cpu(family, dtype, tolerance, corpus, tmp_path):
    model = make_model(family)
    plan = make_plan(tmp_path, corpus, stride=5)
    expected = scored(model, corpus, plan, tmp_path)
    options = ScoringOptions(dtype=dtype, device="cuda")
    score_shard(model, corpus, plan, 0, tmp_path / "cuda.parquet", message_sha256="me", options=options)
    found = pq.read_table(tmp_path / "cuda.parquet")
    assert found.select(["document", "position"]) == expected.select(["document", "position"])
    np.testing.assert_allclose(found["nll_bits"].to_numpy(), expected["nll_bits"].to_numpy(), atol=tolerance)
