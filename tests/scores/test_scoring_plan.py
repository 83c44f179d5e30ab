"""Plans against a naive reference, and the sampling estimator's expectation by enumeration."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_cases import make_corpus, make_plan
from tokenbounds.draws import uniform_integers
from tokenbounds.errors import ScoreError
from tokenbounds.scores import plan as plan_module
from tokenbounds.scores.plan import plan_scoring
from tokenbounds.scores.plan_file import expand_blocks, read_plan, write_plan

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=20).filter(any)


def naive_blocks(lengths, context, stride):
    """(document, start, length, context) of every block, by hand."""
    blocks = []
    for document, length in enumerate(lengths):
        if length == 0:
            continue
        blocks.append((document, 0, min(length, context), 0))
        start = context
        while start < length:
            blocks.append((document, start, min(stride, length - start), context - stride))
            start += stride
    return blocks


def plan_all(lengths, context=8, stride=None, **settings):
    settings = {"sample_tokens": None, "seed": 0, "shards": 1} | settings
    return plan_scoring(np.array(lengths, dtype=np.int64), context=context, stride=stride, **settings)


@given(LENGTHS, st.integers(1, 20), st.data())
@settings(max_examples=80, deadline=None)
def test_matches_the_naive_plan(lengths, context, data):
    stride = data.draw(st.integers(1, context))
    table = plan_all(lengths, context, stride)
    rows = table.select(["document", "start", "length", "context"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == naive_blocks(lengths, context, stride)
    assert table["block"].to_pylist() == list(range(len(table)))
    assert set(table["draws"].to_pylist()) == {1}


@given(LENGTHS, st.integers(1, 20), st.data())
@settings(max_examples=40, deadline=None)
def test_every_token_exactly_once(lengths, context, data):
    table = plan_all(lengths, context, data.draw(st.integers(1, context)))
    tokens = expand_blocks(table)
    found = list(zip(tokens["document"].tolist(), tokens["position"].tolist(), strict=True))
    assert found == [(document, i) for document, length in enumerate(lengths) for i in range(length)]


@given(LENGTHS, st.integers(1, 20), st.integers(1, 5), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_shards_are_contiguous_and_balanced(lengths, context, shards, sample):
    for sample_tokens in (None, sample):
        table = plan_all(lengths, context, shards=shards, sample_tokens=sample_tokens)
        shard, length = table["shard"].to_numpy(), table["length"].to_numpy()
        assert np.all(np.diff(shard) >= 0) and shard.min() >= 0 and shard.max() < shards
        sizes = np.bincount(shard, weights=length, minlength=shards)
        assert np.all(np.abs(sizes - length.sum() / shards) <= context)


@given(LENGTHS, st.integers(1, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_chunks_change_nothing(lengths, context, data):
    stride = data.draw(st.integers(1, context))
    whole = plan_all(lengths, context, stride, shards=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "_BLOCKS_PER_CHUNK", 3)
        assert plan_all(lengths, context, stride, shards=3).equals(whole)


def test_strided_windows_by_hand():
    """12 tokens, windows of 5 that move by 3."""
    rows = plan_all([12], 5, 3).select(["start", "length", "context"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [(0, 5, 0), (5, 3, 2), (8, 3, 2), (11, 1, 2)]


@given(LENGTHS, st.integers(1, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_block_averages_are_unbiased(lengths, context, data):
    """Every token index in turn, each with probability 1/m: the mean of block averages is the corpus mean."""
    stride = data.draw(st.integers(1, context))
    layout = plan_module._lay_out(np.array(lengths), context, stride)
    losses = np.random.default_rng(sum(lengths)).random(sum(lengths))
    drawn = plan_module._blocks_of_tokens(layout, np.arange(len(losses)))
    tokens = expand_blocks(plan_all(lengths, context, stride))
    assert np.array_equal(drawn, tokens["block"])
    averages = np.bincount(tokens["block"], weights=losses) / np.bincount(tokens["block"])
    assert averages[drawn].mean() == pytest.approx(losses.mean())


def test_sampled_blocks_keep_their_numbers_and_frequencies():
    """Drawn blocks are rows of the exhaustive plan; a block is drawn in proportion to its length."""
    lengths = [0, 3, 8, 30, 1]
    everything = {row["block"]: row for row in plan_all(lengths).to_pylist()}
    table = plan_all(lengths, sample_tokens=200_000, seed=5)
    metadata = table.schema.metadata
    draws = int(metadata[b"draws"])
    assert draws == -(-200_000 * len(everything) // sum(lengths)) and metadata[b"mode"] == b"sampled"
    assert sum(table["draws"].to_pylist()) == draws
    for row in table.to_pylist():
        assert {**row, "draws": 1} == everything[row["block"]]
        share = row["length"] / sum(lengths)
        assert abs(row["draws"] / draws - share) < 5 * np.sqrt(share / draws)


def test_sampling_ignores_the_number_of_shards_but_not_the_seed():
    lengths = [100] * 30
    first, second, third = (
        plan_all(lengths, sample_tokens=100, seed=seed, shards=shards) for seed, shards in ((1, 1), (1, 4), (2, 1))
    )
    assert first.drop_columns("shard") == second.drop_columns("shard")
    assert first["block"] != third["block"]


def test_sampling_draws_blocks_not_present_in_a_uniform_block_draw():
    """Drawing blocks uniformly would be biased: the enumeration above must tell the two apart."""
    losses, blocks = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1])
    averages = np.bincount(blocks, weights=losses) / np.bincount(blocks)
    assert averages[blocks].mean() == losses.mean() and averages.mean() != losses.mean()


def test_uniform_integers_are_pinned_and_uniform():
    """The stream is part of the format: a change would silently change every sampled study."""
    assert uniform_integers(1000, 5, 0).tolist() == [int(word) % 1000 for word in np.random.Philox(0).random_raw(5)]
    counts = np.bincount(uniform_integers(7, 70_000, 3), minlength=7)
    assert np.all(np.abs(counts - 10_000) < 5 * np.sqrt(10_000))
    large = uniform_integers(2**63 - 1, 1000, 1)
    assert large.min() >= 0 and len(large) == 1000


def test_plan_survives_its_file(tmp_path):
    corpus = make_corpus()
    plan = make_plan(tmp_path, corpus, stride=5, shards=3, seed=9)
    assert (plan.mode, plan.tokens, plan.context, plan.stride, plan.shards, plan.seed) == (
        "exhaustive",
        corpus.tokens,
        12,
        5,
        3,
        9,
    )
    assert sum(plan.table["length"].to_pylist()) == plan.tokens and plan.draws == plan.blocks == len(plan.table)
    assert plan.manifest_sha256 == "ma" and plan.documents == len(corpus.contents)
    assert sum(plan.shard(shard).num_rows for shard in range(3)) == plan.blocks
    with pytest.raises(ScoreError, match="shards 0 to 2"):
        plan.shard(3)


def test_unknown_version_and_foreign_files_are_refused(tmp_path):
    table = plan_all([5])
    path = tmp_path / "plan.parquet"
    write_plan(table.replace_schema_metadata({b"schema_version": b"99"}), path, manifest_sha256="m")
    with pytest.raises(ScoreError, match="version 99"):
        read_plan(path)
    pq.write_table(table.drop_columns("draws"), path)
    with pytest.raises(ScoreError, match="columns"):
        read_plan(path)
    path.write_bytes(b"PAR1 not quite")
    with pytest.raises(ScoreError, match=r"plan\.parquet"):
        read_plan(path)
    with pytest.raises(ScoreError, match=r"absent\.parquet"):
        read_plan(tmp_path / "absent.parquet")


@pytest.mark.parametrize(
    "lengths,changes,message",
    [
        ([0, 0], {}, "no tokens"),
        ([], {}, "no tokens"),
        ([3, -1], {}, "negative"),
        ([3], {"context": 0}, "context 0"),
        ([3], {"stride": 9}, "stride 9"),
        ([3], {"stride": 0}, "stride 0"),
        ([3], {"sample_tokens": 0}, "sample_tokens is 0"),
        ([3], {"shards": 0}, "shards is 0"),
    ],
)
def test_impossible_settings_are_refused(lengths, changes, message):
    with pytest.raises(ScoreError, match=message):
        plan_all(lengths, **changes)
