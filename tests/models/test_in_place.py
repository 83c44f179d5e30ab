"""Imported checkpoints stay where they are: the same values and hash as a copy, and refused once they change."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_loading import SMALL, save_tiny, spec_of
from tokenbounds.errors import ModelError
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint, open_checkpoint, save_checkpoint
from tokenbounds.models.identity import checkpoint_sha256
from tokenbounds.models.pretrained import filling, in_place
from tokenbounds.models.pretrained.in_place import open_plain
from tokenbounds.models.pretrained.loading import card_from_config, import_pretrained, load_pretrained
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


def save_shards(folder, **more):
    """A LLaMA in bfloat16, in several files with an index."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SMALL | more)).bfloat16()
    model.save_pretrained(folder, max_shard_size="4kB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_shards_are_read_in_place(tmp_path, tied):
    model = save_shards(tmp_path / "hub", tie_word_embeddings=tied)
    import_pretrained(spec_of(tmp_path / "hub"), tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"card.json", "original.json"}
    source, card = open_checkpoint(tmp_path / "model")
    values = coded_parameters(model)
    assert source.shapes.keys() == values.keys()
    for name, value in values.items():
        assert source.read(name).dtype == torch.bfloat16
        assert torch.equal(source.read(name), value)
    loaded, _ = load_checkpoint(tmp_path / "model")
    save_checkpoint(tmp_path / "copy", loaded, card)
    assert checkpoint_sha256(tmp_path / "model") == checkpoint_sha256(tmp_path / "copy")
    ids = torch.arange(40)[None]
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "hub", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, original(ids).logits)


@pytest.mark.parametrize("fault", ["changed", "gone", "longer"])
def test_files_that_are_no_longer_what_was_imported_are_named(tmp_path, fault):
    save_shards(tmp_path / "hub")
    import_pretrained(spec_of(tmp_path / "hub"), tmp_path / "model")
    path = sorted((tmp_path / "hub").glob("*.safetensors"))[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(data) if fault == "changed" else path.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=rf"{path.name}.*(does not exist|has changed)"):
        load_checkpoint(tmp_path / "model")
    with pytest.raises(ModelError, match=path.name):
        checkpoint_sha256(tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../hub/config.json": {"size_bytes": 1, "sha256": ""}}},
        {"files": {}},
        {"files": [1]},
        {"schema_version": 2},
        {"tensors": {"lm_head.weight": "none such"}},
        {"card_sha256": "ab"},
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path, change):
    save_shards(tmp_path / "hub")
    import_pretrained(spec_of(tmp_path / "hub"), tmp_path / "model")
    path = tmp_path / "model" / "original.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=r"original\.json|none such"):
        load_checkpoint(tmp_path / "model")


def test_parameters_are_found_without_the_name_of_the_inner_model(tmp_path):
    save_tiny("gpt2", tmp_path / "hub")
    path = tmp_path / "hub" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    loaded, _ = load_pretrained(spec_of(tmp_path / "hub"))
    for name, value in coded_parameters(loaded).items():
        assert torch.equal(value, tensors[name.removeprefix("transformer.")])


def test_a_card_that_computes_something_else_is_noticed(tmp_path):
    save_tiny("llama-odd", tmp_path)
    config = LlamaConfig.from_pretrained(tmp_path, attn_implementation="sdpa")
    card = card_from_config(config)
    open_plain(tmp_path, config, card, "here")
    for change in ({"rms_norm_eps": 0.5}, {"hidden_act": "silu"}, {"rope_parameters": {"rope_theta": 20.0}}):
        other = dataclasses.replace(card, config=card.config | change)
        with pytest.raises(ModelError, match="here: the model rebuilt from its card computes something else"):
            open_plain(tmp_path, config, other, "here")


def test_a_copy_of_an_earlier_row_is_removed_and_decoded_values_are_kept(tmp_path):
    save_tiny("llama", tmp_path / "hub")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"left over")
    import_pretrained(spec_of(tmp_path / "hub"), tmp_path / "model")
    assert not (tmp_path / "model" / "model.safetensors").exists()


def test_values_that_are_not_finite_are_found_in_every_part_of_a_tensor(monkeypatch):
    monkeypatch.setattr(filling, "_CHECKED_TOGETHER", 3)
    values = torch.zeros(2, 4)
    filling.check_finite([("a", values), ("none", torch.zeros(0))], "here")
    values[1, 3] = float("nan")
    with pytest.raises(ModelError, match="here: the tensor a holds values that are not finite"):
        filling.check_finite([("a", values)], "here")


def test_memory_of_blocks_that_were_compared_is_given_back(tmp_path, monkeypatch):
    save_shards(tmp_path / "hub")
    given = []
    monkeypatch.setattr(in_place, "release_freed_memory", lambda: given.append(1))
    monkeypatch.setattr(in_place, "_RELEASED_AFTER", 1)
    import_pretrained(spec_of(tmp_path / "hub"), tmp_path / "model")
    source, _ = open_checkpoint(tmp_path / "model")
    assert len(given) == 2 * len(source.shapes)  # each value is read once in either model
