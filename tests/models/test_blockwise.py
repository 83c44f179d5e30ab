"""Models one block at a time, from files read tensor by tensor, equal the whole model bit for bit."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from small_checkpoints import CONFIGS, save_noisy
from tokenbounds.errors import ModelError
from tokenbounds.models.blockwise import BlockwiseModel
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint, open_checkpoint
from tokenbounds.models.safetensors_files import SafetensorsFiles
from tokenbounds.models.tensor_source import SafetensorsSource

CPU = torch.device("cpu")
TYPES = [
    ("gpt2", {}),
    ("gpt2", {"tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True}),
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("mistral", {"sliding_window": 8}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 8}),
]


class Watched:
    """A source that remembers what was read."""

    def __init__(self, source):
        self.shapes, self._source, self.seen = source.shapes, source, []

    def read(self, name):
        self.seen.append(name)
        return self._source.read(name)


def logits_of(model, ids):
    with torch.no_grad():
        hidden, arguments = model.embed(ids)
        for index in range(model.blocks):
            with model.block(index) as block:
                hidden = model.run(block, hidden, arguments)
        return model.logits(model.final_norm(hidden))


@pytest.mark.parametrize(("family", "config"), TYPES)
def test_one_block_after_the_other_equals_the_whole_model(tmp_path, family, config):
    card = ModelCard(family, CONFIGS[family] | config, 48, 1, 32, seed=5)
    save_noisy(tmp_path, card, noise=0.1)
    source, _ = open_checkpoint(tmp_path)
    watched = Watched(source)
    model = BlockwiseModel(watched, card, CPU, torch.float32)
    ids = torch.randint(0, 48, (2, 24), generator=torch.Generator().manual_seed(0))
    whole, _ = load_checkpoint(tmp_path)
    with torch.no_grad():
        expected = whole(input_ids=ids, use_cache=False).logits
    assert torch.equal(logits_of(model, ids), expected)
    # Every tensor is read once, those of a block when it is its turn, and nothing of a block is kept.
    assert sorted(watched.seen) == sorted(source.shapes)
    assert {value.device.type for name in model.block_parameters(0) for value in [model.model.get_parameter(name)]} == {
        "meta"
    }


def loaded(model, least):
    """Names of the parameters in memory of at least so many values."""
    named = model.model.named_parameters()
    return {name for name, value in named if value.device.type != "meta" and value.numel() >= least}


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_blocks_and_head_are_in_memory_one_after_the_other(tmp_path, tied):
    card = ModelCard("llama", CONFIGS["llama"] | {"tie_word_embeddings": tied}, 48, 1, 32, seed=5)
    save_noisy(tmp_path, card, noise=0.1)
    source, _ = open_checkpoint(tmp_path)
    model, kept = (BlockwiseModel(source, card, CPU, torch.float32, keep_vocabulary=keep) for keep in (False, True))
    ids, least = torch.arange(48)[None, :24], 2 * card.hidden  # more than norms
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    assert loaded(kept, least) == ({embedding} if tied else {embedding, head})
    assert loaded(model, least) == set()
    with model.embeddings():
        assert loaded(model, least) == {embedding}
        hidden, arguments = model.embed(ids)
    with torch.no_grad():
        for index in range(model.blocks):
            with model.block(index) as block:
                assert loaded(model, least) <= set(model.block_parameters(index)) and loaded(model, least)
                hidden = model.run(block, hidden, arguments)
        with model.head():
            assert loaded(model, least) == {embedding if tied else head}
            assert torch.equal(model.logits(model.final_norm(hidden)), logits_of(kept, ids))
    assert loaded(model, least) == set() and loaded(kept, least)


def test_blocks_in_another_order_are_another_model(tmp_path):
    card = ModelCard("llama", CONFIGS["llama"], 48, 1, 32)
    save_noisy(tmp_path, card, noise=0.1)
    model = BlockwiseModel(*open_checkpoint(tmp_path), CPU, torch.float32)
    ids = torch.arange(16)[None]
    straight = logits_of(model, ids)
    block = model.block
    model.block = lambda index: block(model.blocks - 1 - index)
    assert not torch.equal(logits_of(model, ids), straight)


def test_parameterized_models_are_refused(tmp_path):
    parameterization = {"kind": "lora", "rank": 2, "targets": ["mlp"]}
    card = ModelCard("llama", CONFIGS["llama"], 48, 1, 32, parameterization)
    save_noisy(tmp_path, card, noise=0.1)
    with pytest.raises(ModelError, match="'lora' cannot be held block by block"):
        BlockwiseModel(*open_checkpoint(tmp_path), CPU, torch.float32)


TENSORS = {
    "half": torch.arange(6).reshape(2, 3).half(),
    "brain": torch.tensor([1.5, -0.0]).bfloat16(),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "scalar": torch.tensor(7.0),
    "empty": torch.zeros((0, 4)),
}


def test_tensors_are_those_of_the_files(tmp_path):
    names = list(TENSORS)
    for number, part in enumerate((names[:2], names[2:])):
        save_file({name: TENSORS[name] for name in part}, tmp_path / f"{number}.safetensors")
    source = SafetensorsSource(SafetensorsFiles.open(sorted(tmp_path.iterdir())))
    assert source.shapes == {name: tuple(value.shape) for name, value in TENSORS.items()}
    for name, value in TENSORS.items():
        assert source.read(name).dtype == value.dtype
        assert torch.equal(source.read(name), value)
    with pytest.raises(ModelError, match="no tensor other"):
        source.read("other")


def test_a_tensor_in_two_files_is_refused(tmp_path):
    for number in range(2):
        save_file({"a": torch.ones(3)}, tmp_path / f"{number}.safetensors")
    with pytest.raises(ModelError, match="both hold the tensor a"):
        SafetensorsFiles.open(sorted(tmp_path.iterdir()))


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


FAULTS = {
    "not one": b"abc",
    "length beyond the file": struct.pack("<Q", 1 << 20) + b"{}",
    "no JSON": struct.pack("<Q", 2) + b"{]",
    "a list": struct.pack("<Q", 2) + b"[]",
    "a name twice": (b'{"a":1,"a":2}', 8),
    "unknown type": ({"a": entry(dtype="F3")}, 8),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8),
    "negative": ({"a": entry(shape=(-2,))}, 8),
    "not integers": ({"a": entry(shape=(2.0,))}, 8),
    "another size": ({"a": entry(shape=(3,))}, 8),
    "beyond the end": ({"a": entry()}, 4),
    "bytes left over": ({"a": entry()}, 12),
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, 12),
    "huge": ({"a": entry(shape=(1 << 40, 1 << 40), offsets=(0, 1 << 82))}, 8),
}


@pytest.mark.parametrize("case", FAULTS)
def test_damaged_files_are_refused_by_name(tmp_path, case):
    data = FAULTS[case]
    if isinstance(data, tuple):
        header = data[0] if isinstance(data[0], bytes) else json.dumps(data[0]).encode()
        data = struct.pack("<Q", len(header)) + header + b"\0" * data[1]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        SafetensorsFiles.open([path])
