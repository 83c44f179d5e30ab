"""Context-limited scoring: every token from the last few before it, against float64 windows made one by one."""

import copy
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_cases import CONTEXT, in_memory, make_corpus, make_model, make_plan
from test_scoring_agreement import FAMILIES, compare, scored
from test_scoring_jobs import Bigram
from test_scoring_plan import LENGTHS, plan_all
from tokenbounds.errors import ScoreError
from tokenbounds.scores.plan_file import column, expand_blocks, read_plan
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.scoring import score_shard
from tokenbounds.scores.windows import limit_windows


def reference(model, corpus, visible):
    """As in test_scoring_agreement, but each token from a window of its own: the `visible` tokens before it."""
    model = copy.deepcopy(model).double()
    result = {}
    for number, document in enumerate(corpus.contents):
        tokens = [int(token) for token in document]
        for position, token in enumerate(tokens):
            window = [corpus.start_id, *tokens][: position + 1][-visible:]
            with torch.no_grad():
                row = model(input_ids=torch.tensor([window])).logits[0, -1]
            margin = (row - row[token]).abs()
            margin[token] = math.inf
            rank = sum(1 for value in row.tolist() if value >= row[token].item())
            nll = -torch.log_softmax(row, 0)[token].item() / math.log(2)
            entropy = torch.distributions.Categorical(logits=row).entropy().item() / math.log(2)
            result[number, position] = (nll, rank, margin.min().item() < 1e-5, entropy)
    return result


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("visible", "context"), [(1, CONTEXT), (4, CONTEXT), (8, 3), (40, 64)])
def test_agrees_with_float64(family, visible, context, corpus, tmp_path):
    """Also with blocks shorter than what is visible, and with more visible than there is."""
    model = make_model(family)
    plan = make_plan(tmp_path, corpus, context=context, visible_tokens=visible)
    compare(scored(model, corpus, plan, tmp_path, batch_tokens=50), reference(model, corpus, visible))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_token_more_or_less_is_caught(family, corpus, tmp_path):
    model = make_model(family)
    table = scored(model, corpus, make_plan(tmp_path, corpus, visible_tokens=4), tmp_path)
    for wrong in (3, 5):
        with pytest.raises(AssertionError):
            compare(table, reference(model, corpus, wrong))


def test_it_is_a_stride_of_one(corpus, tmp_path):
    """Windows of k tokens that move by one token show the same; only the blocks differ."""
    model = make_model("llama")
    limited = scored(model, corpus, make_plan(tmp_path, corpus, visible_tokens=5), tmp_path)
    strided = scored(model, corpus, make_plan(tmp_path, corpus, context=5, stride=1), tmp_path)
    np.testing.assert_allclose(limited["nll_bits"].to_numpy(), strided["nll_bits"].to_numpy(), atol=2e-5)
    same = ["document", "position", "token", "rank"]
    assert limited.select(same) == strided.select(same)
    blocks = scored(model, corpus, make_plan(tmp_path, corpus), tmp_path)["block"]
    assert limited["block"] == blocks != strided["block"]


@given(LENGTHS, st.integers(1, 20), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_windows_show_what_is_visible_and_score_each_token_once(lengths, context, visible):
    plan = plan_all(lengths, context)
    rows = limit_windows(plan, visible)
    assert all(np.array_equal(*pair) for pair in zip(*map(_keys, (plan, rows)), strict=True))
    start, length, shown = (column(rows, name) for name in ("start", "length", "context"))
    assert np.array_equal(shown, np.minimum(start, visible - 1))
    assert np.all((length == 1) | (start + length <= visible)) and np.all(length + shown <= visible)
    opening = (start < visible) & (np.diff(start, prepend=-1) == 1) & (np.diff(column(rows, "block"), prepend=-1) == 0)
    assert not opening.any()


def _keys(rows):
    return expand_blocks(rows).values()


def test_equal_windows_are_computed_once(tmp_path):
    """Three tokens over and over: after the opening, three distinct windows of four tokens, whatever the length."""
    corpus = in_memory([np.tile([1, 2, 5], 60).astype(np.uint16)])
    model = make_model("gpt2")
    plan = make_plan(tmp_path, corpus, context=64, visible_tokens=4)
    seen = []
    model.transformer.wte.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    score_shard(model, corpus, plan, 0, tmp_path / "s.parquet", message_sha256="me", options=ScoringOptions("float32"))
    windows = [shape for shape in seen if shape[1] == 4]
    assert sum(shape[0] for shape in windows) <= 2 * 3 + 1
    table = pq.read_table(tmp_path / "s.parquet")
    compare(table, reference(make_model("gpt2"), corpus, 4))


def test_a_chain_sees_what_its_order_says(corpus, tmp_path):
    chain = Bigram()
    whole = scored(chain, corpus, make_plan(tmp_path, corpus), tmp_path)
    assert scored(chain, corpus, make_plan(tmp_path, corpus, visible_tokens=2), tmp_path).equals(whole)
    chain.order = 3
    with pytest.raises(ScoreError, match="order 3 sees more than the 2 visible"):
        scored(chain, corpus, make_plan(tmp_path, corpus, visible_tokens=2), tmp_path)


def test_few_positions_suffice_for_few_visible_tokens(corpus, tmp_path):
    """A model with 64 positions in blocks of 100 tokens."""
    corpus = in_memory([*corpus.contents, *make_corpus((100,)).contents])
    plan = make_plan(tmp_path, corpus, context=100, visible_tokens=7)
    assert scored(make_model("llama"), corpus, plan, tmp_path).num_rows == corpus.tokens
    with pytest.raises(ScoreError, match="positions for only 64"):
        scored(make_model("llama"), corpus, make_plan(tmp_path, corpus, context=100, visible_tokens=65), tmp_path)


def test_the_plan_says_so_and_older_releases_refuse_it(tmp_path):
    plan = make_plan(tmp_path, make_corpus(), visible_tokens=6, sample_tokens=30, shards=2)
    assert (plan.visible_tokens, plan.mode) == (6, "sampled")
    metadata = pq.read_schema(tmp_path / "plan.parquet").metadata
    assert metadata[b"schema_version"] == b"2"
    plain = make_plan(tmp_path, make_corpus(), sample_tokens=30, shards=2)
    assert plain.visible_tokens is None and plain.table.equals(plan.table)
    assert b"visible_tokens" not in pq.read_schema(plain.path).metadata
    for spoiled in ({b"schema_version": b"1"}, {b"visible_tokens": b"few"}):
        table = plan.table.replace_schema_metadata({**metadata, **spoiled})
        pq.write_table(table, tmp_path / "spoiled.parquet")
        with pytest.raises(ScoreError, match=r"spoiled\.parquet"):
            read_plan(tmp_path / "spoiled.parquet")
    for wrong, match in (({"visible_tokens": 0}, "visible_tokens is 0"), ({"stride": 5}, "Leave one out")):
        with pytest.raises(ScoreError, match=match):
            make_plan(tmp_path, make_corpus(), **({"visible_tokens": 6} | wrong))
