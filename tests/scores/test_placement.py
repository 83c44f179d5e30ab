"""Scores of a model that is held block by block, or spread over devices, are those of the whole model."""

import contextlib
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scoring_cases import VOCABULARY, make_corpus, make_plan
from small_checkpoints import CONFIGS, save_noisy
from tokenbounds.errors import ScoreError
from tokenbounds.messages.container import parse_message, read_message, render_message
from tokenbounds.messages.formats.uniform import UniformFormat
from tokenbounds.messages.smoothing_head import SmoothingHead
from tokenbounds.messages.spool import spool_message, spoolable_card
from tokenbounds.models.blockwise import BlockwiseModel
from tokenbounds.models.build import coded_shapes
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint
from tokenbounds.scores import placement
from tokenbounds.scores.placement import (
    GIB,
    Sizes,
    choose_placement,
    load_dispatched,
    placed_original,
    placed_predictor,
)
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.scoring import score_shard

TYPES = {
    "gpt2": ("gpt2", {}),
    "gpt2, untied": ("gpt2", {"tie_word_embeddings": False}),
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
}


def write_message(path, name="llama", head=False, **changes):
    """A message of random values."""
    family, config = TYPES[name]
    card = ModelCard(family, CONFIGS[family] | config | changes, VOCABULARY, 3, 32)
    draw = np.random.default_rng(0)
    shapes = coded_shapes(card)
    codes = {tensor: draw.integers(-9, 10, shape).astype(np.int32) for tensor, shape in shapes.items()}
    values = UniformFormat(codes, dict.fromkeys(shapes, -35))
    header = {"model": card.to_dict(), "quantizer": values.header(), "coder": "adaptive"}
    parts = values.to_parts("adaptive")
    if head:
        parts.append(SmoothingHead(4, -16, draw.integers(-9, 10, card.hidden + 1).astype(np.int32)).to_part())
    path.write_bytes(render_message(header, parts))
    return path


def scored(folder, message, visible_tokens=None, stride=None, original=None, **options):
    """The table of a message's scores on a small corpus."""
    corpus, options = make_corpus(), ScoringOptions(device="cpu", batch_tokens=50, **options)
    plan = make_plan(folder, corpus, stride=stride, visible_tokens=visible_tokens)
    out = folder / "scores.parquet"
    with contextlib.ExitStack() as stack:
        predictor = stack.enter_context(placed_predictor(read_message(message), message, (), options))
        other = None if original is None else stack.enter_context(placed_original(original, options))
        score_shard(predictor, corpus, plan, 0, out, message_sha256="me", options=options, original=other)
    return pq.read_table(out)


@pytest.mark.parametrize("name", TYPES)
def test_blocks_score_as_the_whole_model_does(name, tmp_path, monkeypatch):
    message = write_message(tmp_path / "m.tbm", name)
    whole = scored(tmp_path, message, stride=5, placement="whole")
    assert scored(tmp_path, message, stride=5, placement="blocks").equals(whole)
    # Several rounds through the model, because the scratch file is small.
    monkeypatch.setattr(placement, "SCRATCH_BYTES", 1)
    assert scored(tmp_path, message, stride=5, placement="blocks").equals(whole)


@pytest.mark.parametrize(
    "settings", [{"dtype": "bfloat16"}, {"visible_tokens": 3}, {"head": True}], ids=["bfloat16", "visible", "head"]
)
def test_blocks_in_all_ways_of_scoring(settings, tmp_path):
    message = write_message(tmp_path / "m.tbm", head=settings.pop("head", False))
    whole = scored(tmp_path, message, placement="whole", **settings)
    assert scored(tmp_path, message, placement="blocks", **settings).equals(whole)


@pytest.fixture
def original(tmp_path):
    """A checkpoint of the message's architecture with other values."""
    folder = tmp_path / "original"
    family, config = TYPES["llama"]
    save_noisy(folder, ModelCard(family, CONFIGS[family] | config, VOCABULARY, 3, 32), noise=0.1)
    return folder


def test_a_comparison_block_by_block_is_that_of_whole_models(original, tmp_path, monkeypatch):
    message = write_message(tmp_path / "m.tbm")
    whole = scored(tmp_path, message, stride=5, placement="whole", original=original)
    assert whole["kl_bits"].to_numpy().mean() > 0.01
    monkeypatch.setattr(BlockwiseModel, "block", counted := CountedBlocks(BlockwiseModel.block))
    assert scored(tmp_path, message, stride=5, placement="blocks", original=original).equals(whole)
    # Both models' two blocks once for all batches, and once to see that losses do not depend on later tokens.
    assert counted.calls == 8


class CountedBlocks:
    """A method, and how often it was called."""

    def __init__(self, method):
        self.method, self.calls = method, 0

    def __get__(self, instance, owner=None):
        self.calls += 1
        return self.method.__get__(instance, owner)


def test_a_whole_model_is_compared_with_one_that_is_held_block_by_block(original, tmp_path, monkeypatch):
    message = write_message(tmp_path / "m.tbm")
    whole = scored(tmp_path, message, placement="whole", original=original)
    # Beside the decoded model there is no room for another.
    chosen = iter(["whole", "blocks"])
    monkeypatch.setattr(placement, "choose_placement", lambda _: next(chosen))
    assert scored(tmp_path, message, original=original).equals(whole)
    assert next(chosen, None) is None


def test_a_folder_of_transformers_is_compared_with_as_its_checkpoint_is(original, tmp_path):
    message = write_message(tmp_path / "m.tbm")
    load_checkpoint(original)[0].save_pretrained(tmp_path / "folder")
    for where in ("whole", "blocks"):
        one, other = (
            scored(tmp_path, message, placement=where, original=place) for place in (original, tmp_path / "folder")
        )
        assert one["kl_bits"].equals(other["kl_bits"])


def test_blocks_in_another_order_are_noticed(tmp_path, monkeypatch):
    message = write_message(tmp_path / "m.tbm")
    whole = scored(tmp_path, message, placement="whole")
    block = BlockwiseModel.block
    monkeypatch.setattr(BlockwiseModel, "block", lambda self, index: block(self, self.blocks - 1 - index))
    assert not scored(tmp_path, message, placement="blocks").equals(whole)


def test_dispatched_models_score_as_whole_ones(tmp_path):
    """The code that spreads a model over GPUs, here with the CPU as its only device."""
    message = parse_message(write_message(tmp_path / "m.tbm", "llama, tied").read_bytes())
    card = spoolable_card(message)
    source = spool_message(message, card, tmp_path / "model.safetensors", torch.float32)
    model = load_dispatched(source, card, torch.float32, {"cpu": GIB}, force=True)
    assert "forward" in vars(model.model.layers[0])  # hooked
    corpus, options = make_corpus(), ScoringOptions(device="cpu", batch_tokens=50)
    whole = scored(tmp_path, tmp_path / "m.tbm", placement="whole")
    out = tmp_path / "dispatched.parquet"
    score_shard(model, corpus, read_plan(tmp_path / "plan.parquet"), 0, out, message_sha256="me", options=options)
    found = pq.read_table(out)
    np.testing.assert_allclose(found["nll_bits"].to_numpy(), whole["nll_bits"].to_numpy(), atol=2e-5)
    assert found["rank"].equals(whole["rank"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; the tests above are its twins")
@pytest.mark.parametrize("where", ["whole", "dispatch", "blocks"])
def test_placements_on_a_gpu(where, tmp_path):
    message = write_message(tmp_path / "m.tbm")
    expected = scored(tmp_path, message, placement="whole")
    corpus, options = make_corpus(), ScoringOptions(device="cuda", batch_tokens=50, placement=where)
    out = tmp_path / "gpu.parquet"
    with placed_predictor(read_message(message), message, (), options) as predictor:
        plan = read_plan(tmp_path / "plan.parquet")
        score_shard(predictor, corpus, plan, 0, out, message_sha256="me", options=options)
    np.testing.assert_allclose(pq.read_table(out)["nll_bits"].to_numpy(), expected["nll_bits"].to_numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "where"),
    [
        (Sizes(model=4 * GIB, decoding=20 * GIB, host=32 * GIB, gpus=()), "whole"),
        (Sizes(model=4 * GIB, decoding=20 * GIB, host=16 * GIB, gpus=()), "blocks"),
        (Sizes(model=14 * GIB, decoding=140 * GIB, host=500 * GIB, gpus=(80 * GIB,)), "whole"),
        (Sizes(model=14 * GIB, decoding=140 * GIB, host=64 * GIB, gpus=(80 * GIB,)), "dispatch"),
        (Sizes(model=140 * GIB, decoding=1400 * GIB, host=2000 * GIB, gpus=(80 * GIB, 80 * GIB)), "dispatch"),
        (Sizes(model=140 * GIB, decoding=1400 * GIB, host=64 * GIB, gpus=(24 * GIB,)), "blocks"),
    ],
)
def test_placements_follow_from_sizes(sizes, where):
    assert choose_placement(sizes) == where


def test_the_log_says_where_and_scratch_files_go(tmp_path, monkeypatch, caplog):
    message = write_message(tmp_path / "m.tbm")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr(placement, "_free_memory", lambda: 1 << 20)
    with caplog.at_level(logging.INFO, logger="tokenbounds.scores.placement"):
        scored(tmp_path, message)  # `auto`
    assert "placement blocks" in caplog.text
    assert not list(scratch.iterdir())


def test_what_cannot_be_placed_is_refused(tmp_path):
    message = write_message(tmp_path / "m.tbm")
    with pytest.raises(ScoreError, match="needs a GPU"):
        scored(tmp_path, message, placement="dispatch")
    with pytest.raises(ScoreError, match="choose auto, whole"):
        ScoringOptions(placement="disk")
    lora = {"kind": "lora", "rank": 2, "targets": ["mlp"]}
    card = ModelCard("llama", CONFIGS["llama"], VOCABULARY, 3, 32, lora)
    shapes = coded_shapes(card)
    values = UniformFormat(
        {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}, dict.fromkeys(shapes, 0)
    )
    header = {"model": card.to_dict(), "quantizer": values.header(), "coder": "adaptive"}
    message.write_bytes(render_message(header, values.to_parts("adaptive")))
    with pytest.raises(ScoreError, match="dense transformers"):
        scored(tmp_path, message, placement="blocks")
