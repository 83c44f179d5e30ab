"""Adapters over a base: the base's hash, what stays frozen, and training that starts from the base itself."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenbounds.config import FinetunedModel, Lora, Training
from tokenbounds.errors import CorpusError, ModelError
from tokenbounds.models.adapters import AdapterCard, adapter_shapes, attach_adapters, check_adapter
from tokenbounds.models.base import find_base, load_base, load_finetuned
from tokenbounds.models.build import build_model, coded_parameters, count_parameters, initialize, to_dense
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint
from tokenbounds.models.identity import checkpoint_sha256, model_sha256
from tokenbounds.models.training.finetune import finetune_model

torch.set_num_threads(1)

LLAMA = {
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
CONFIGS = {"llama": LLAMA, "gpt2": {"n_layer": 3, "n_embd": 16, "n_head": 2}}
IDS = torch.arange(30).reshape(2, 15) % 32


def make_base(folder, family="llama", seed=3):
    card = ModelCard(family, CONFIGS[family], vocabulary_size=32, start_id=1, context=16)
    model = build_model(card)
    initialize(model, seed)
    save_checkpoint(folder, model, card)
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


class Repeating:
    """Documents that repeat a short pattern."""

    start_id, vocabulary_size = 1, 32
    lengths = np.array([120, 90])
    manifest = SimpleNamespace(shards=(SimpleNamespace(sha256="0"),))

    def document(self, number):
        return np.tile(np.arange(3 + number, 9 + number, dtype=np.uint16), 20)[: self.lengths[number]]


def spec_of(parameterization=None, **training):
    training = {"steps": 8, "batch_tokens": 64, "learning_rate": 0.05, "save_steps": 4, **training}
    lora = parameterization or Lora(kind="lora", rank=1, last_layers=2)
    return FinetunedModel("finetuned", "b", "c", lora, Training(**training), context=16, seed=2)


# --- the hash of a model ----------------------------------------------------------------------------------------------


def test_the_hash_is_what_the_documentation_says(tmp_path):
    model = make_base(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    lines = ["tokenbounds model 1", json.dumps(card, sort_keys=True, separators=(",", ":"))]
    for name, value in sorted(load_file(tmp_path / "model.safetensors").items()):
        shape = "x".join(str(size) for size in value.shape)
        lines.append(f"{name} {shape} {hashlib.sha256(value.numpy().astype('<f4').tobytes()).hexdigest()}")
    assert "lm_head.weight" not in "".join(lines)
    wanted = hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()
    assert wanted == checkpoint_sha256(tmp_path) == load_base(tmp_path)[2]
    assert logits(load_base(tmp_path)[0]).equal(logits(model))


def test_the_hash_is_a_known_one():
    card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 2, "n_head": 1}, vocabulary_size=3, start_id=0, context=2)
    tensors = [("b", np.array([1.0, -2.5], dtype=np.float32)), ("a", np.zeros((1, 2), dtype=np.float16))]
    digest = "605e2af64e977ea4e4a9d960b3ebb9015298d2a21ceda30bba37cc2a6579647b"
    assert model_sha256(card, tensors) == model_sha256(card, tensors[::-1]) == digest


@pytest.mark.parametrize("family", CONFIGS)
def test_the_layout_of_files_does_not_change_the_hash(tmp_path, family):
    make_base(tmp_path / "one", family)
    values = load_file(tmp_path / "one" / "model.safetensors")
    (tmp_path / "two").mkdir()
    save_file(dict(reversed(values.items())), tmp_path / "two" / "model.safetensors", metadata={"other": "order"})
    card = json.loads((tmp_path / "one" / "card.json").read_text())
    (tmp_path / "two" / "card.json").write_text(json.dumps(dict(reversed(card.items()))))
    model, _, sha256 = load_base(tmp_path / "one")
    to_dense(model).save_pretrained(tmp_path / "folder")
    assert checkpoint_sha256(tmp_path / "two") == sha256 == load_base(tmp_path / "folder")[2]


def test_a_changed_value_or_card_changes_the_hash(tmp_path):
    make_base(tmp_path)
    first = checkpoint_sha256(tmp_path)
    values = load_file(tmp_path / "model.safetensors")
    name = min(values)
    values[name].view(-1)[0] = torch.nextafter(values[name].view(-1)[0], torch.tensor(9.0))
    save_file(values, tmp_path / "model.safetensors")
    second = checkpoint_sha256(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**card, "start_id": 2}))
    assert len({first, second, checkpoint_sha256(tmp_path)}) == 3


def test_what_is_no_dense_model_has_no_hash(tmp_path):
    card = ModelCard("gpt2", CONFIGS["gpt2"], 32, 0, 16, {"kind": "lora", "rank": 1})
    save_checkpoint(tmp_path, build_model(card), card)
    for read in (checkpoint_sha256, load_base):
        with pytest.raises(ModelError, match="not dense"):
            read(tmp_path)
    model = make_base(tmp_path)
    with torch.no_grad():
        next(iter(coded_parameters(model).values()))[0] = np.nan
    save_checkpoint(tmp_path, model, ModelCard("llama", LLAMA, 32, 1, 16))
    with pytest.raises(ModelError, match="not finite"):
        checkpoint_sha256(tmp_path)


def test_the_base_is_found_by_its_hash_alone(tmp_path):
    for seed in (1, 2):
        make_base(tmp_path / str(seed), seed=seed)
    wanted = checkpoint_sha256(tmp_path / "2")
    places = [tmp_path / "nowhere", tmp_path / "1", tmp_path / "2"]
    model, _ = find_base(wanted, places, 32)
    assert logits(model).equal(logits(load_base(tmp_path / "2")[0]))
    with pytest.raises(ModelError, match=r"nowhere does not exist.*1 holds .*--base") as caught:
        find_base(wanted, places[:2], 32)
    assert wanted[:16] in str(caught.value)


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("targets", [["attention"], ["mlp", "embedding"]])
def test_adapters_of_value_zero_change_nothing_and_are_all_that_is_coded(tmp_path, family, targets):
    base = make_base(tmp_path, family)
    settings = check_adapter({"kind": "lora", "rank": 2, "targets": targets, "last_layers": 2})
    model, card, _ = load_base(tmp_path)
    model = attach_adapters(model, settings)
    initialize(model, 7)
    assert logits(model).equal(logits(base))
    names = set(coded_parameters(model))
    assert names
    assert all(name.endswith(("lora_a", "lora_b")) for name in names)
    assert not any(".0." in name for name in names)
    found = {name: tuple(value.shape) for name, value in coded_parameters(model).items()}
    assert adapter_shapes(card, settings) == found and list(adapter_shapes(card, settings)) == list(found)
    with torch.no_grad():
        for value in coded_parameters(model).values():
            value.add_(0.05)
    assert not torch.allclose(logits(model), logits(base))
    assert torch.allclose(logits(to_dense(model)), logits(model), atol=1e-5)


def test_targets_that_name_no_layer_are_refused(tmp_path):
    make_base(tmp_path, "gpt2")
    model, _, _ = load_base(tmp_path)
    del model.transformer.h[:]
    with pytest.raises(ModelError, match="no layer"):
        attach_adapters(model, check_adapter({"kind": "lora", "targets": ["mlp"]}))


@pytest.mark.parametrize("last_layers", [None, 1, 2, 3, 9])
@pytest.mark.parametrize("family", CONFIGS)
def test_values_are_counted_without_building_whatever_the_last_layers(family, last_layers):
    lora = {"kind": "lora", "rank": 2, "targets": ["attention", "head"], "last_layers": last_layers}
    card = ModelCard(family, CONFIGS[family], 32, 1, 16, lora)
    model, counts = build_model(card), count_parameters(card)
    assert counts.coded == sum(value.numel() for value in model.parameters())
    assert counts.total == counts.coded + sum(value.numel() for value in model.buffers())


@pytest.mark.parametrize(
    "change",
    [
        {"base_sha256": "x"},
        {"base_sha256": "A" * 64},
        {"parameterization": {"kind": "dense"}},
        {"parameterization": {"kind": "lora", "rank": 0}},
        {"vocabulary_size": None},
        {"context": 0},
        {"family": "gpt2"},
        {"more": 1},
    ],
)
def test_cards_that_are_none_are_refused(change):
    card = AdapterCard("0" * 64, {"kind": "lora", "rank": 1}, 32, 16)
    assert AdapterCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card
    with pytest.raises(ModelError):
        AdapterCard.from_dict({**card.to_dict(), **change})


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_adapters_lowers_the_loss_and_leaves_the_base(tmp_path):
    make_base(tmp_path / "base")
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    finetune_model(spec_of(), tmp_path / "base", Repeating(), tmp_path / "out", tmp_path / "work")
    model, card = load_finetuned(tmp_path / "out", [tmp_path / "base"])
    assert card.base_sha256 == checkpoint_sha256(tmp_path / "base")
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(coded_parameters(model))
    ids = torch.from_numpy(Repeating().document(0)[:16].astype(np.int64))[None]
    with torch.no_grad():
        tuned = model(input_ids=ids, labels=ids).loss
        plain = load_base(tmp_path / "base")[0](input_ids=ids, labels=ids).loss
    assert tuned < plain - 0.05
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before


def test_training_is_reproducible_and_depends_on_the_base(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        make_base(tmp_path / name, seed=seed)
    found = []
    for base, out in (("one", "a"), ("one", "b"), ("two", "c")):
        finetune_model(spec_of(steps=3), tmp_path / base, Repeating(), tmp_path / out, tmp_path / "work")
        found.append((tmp_path / out / "model.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]
    with pytest.raises(ModelError, match="was not found"):
        load_finetuned(tmp_path / "a", [tmp_path / "two"])


def test_corpora_and_windows_that_do_not_fit_the_base_are_refused(tmp_path):
    make_base(tmp_path)
    corpus = Repeating()
    corpus.vocabulary_size = 33
    corpus.document = lambda number: np.arange(33)
    with pytest.raises(CorpusError, match=r"document 0 holds token 32, but the model knows 32 .* own tokenizer"):
        finetune_model(spec_of(), tmp_path, corpus, tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "out").exists()
    del corpus.document  # as of a [PAD] that was added to the tokenizer, which no text holds
    finetune_model(spec_of(steps=1), tmp_path, corpus, tmp_path / "out", tmp_path / "work")
    assert (tmp_path / "out" / "model.safetensors").exists()
    long = dataclasses.replace(spec_of(), context=17)
    with pytest.raises(ModelError, match="longer than"):
        finetune_model(long, tmp_path, Repeating(), tmp_path / "out", tmp_path / "work")
