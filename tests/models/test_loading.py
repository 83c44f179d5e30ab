"""Pretrained models from folders and GGUF files: same logits, or a refusal that names the fault."""

import json
import shutil
import sys

import pytest
import torch
from gguf_files import write_gguf
from safetensors.torch import load_file, save_file
from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.files import canonical_json
from tokenbounds.models.build import build_model, coded_parameters
from tokenbounds.models.card import ModelCard
from tokenbounds.models.pretrained.loading import load_pretrained
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

torch.set_num_threads(1)

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "initializer_range": 0.5,
    "bos_token_id": 3,
    "eos_token_id": 4,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 48, "initializer_range": 0.5}
GPT2 |= {"bos_token_id": 49, "eos_token_id": 49}

CASES = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2)),
    "gpt2-odd": (
        GPT2LMHeadModel,
        GPT2Config(
            **GPT2,
            n_inner=20,
            activation_function="relu",
            layer_norm_epsilon=1e-3,
            scale_attn_by_inverse_layer_idx=True,
            tie_word_embeddings=False,
        ),
    ),
    "llama": (LlamaForCausalLM, LlamaConfig(**SMALL, num_key_value_heads=2, rms_norm_eps=1e-3)),
    "llama-odd": (
        LlamaForCausalLM,
        LlamaConfig(
            **SMALL,
            tie_word_embeddings=True,
            attention_bias=True,
            mlp_bias=True,
            head_dim=6,
            hidden_act="gelu",
            rope_parameters=LLAMA3,
        ),
    ),
    "mistral": (MistralForCausalLM, MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SMALL, num_key_value_heads=1, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SMALL, num_key_value_heads=4, head_dim=8)),
}


def save_tiny(case, folder):
    model_class, config = CASES[case]
    torch.manual_seed(1)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def spec_of(folder, **more):
    return PretrainedModel(kind="pretrained", name=str(folder), **more)


@pytest.mark.parametrize("case", CASES)
def test_card_and_values_reproduce_the_logits(tmp_path, case):
    original = save_tiny(case, tmp_path)
    loaded, card = load_pretrained(spec_of(tmp_path))
    assert card.start_id == (49 if case.startswith("gpt2") else 3)
    again = build_model(ModelCard.from_dict(json.loads(canonical_json(card.to_dict()))))
    again.load_state_dict(loaded.state_dict())
    ids = torch.randint(0, 50, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = original(ids).logits
        for model in (loaded, again):
            assert torch.equal(model(ids).logits, expected)


def test_start_token_can_be_given(tmp_path):
    save_tiny("llama", tmp_path)
    assert load_pretrained(spec_of(tmp_path, start_id=7))[1].start_id == 7


def test_unsupported_architecture_is_refused_before_weights_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba", "vocab_size": 10}))
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"'mamba' is not supported; supported: gpt2, llama"):
        load_pretrained(spec_of(tmp_path))


def test_code_of_a_model_is_never_run(tmp_path):
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="'evil' is not supported"):
        load_pretrained(spec_of(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(tmp_path):
    model = save_tiny("gpt2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin. Pickled weights are not read"):
        load_pretrained(spec_of(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "hqq"}}, "'hqq' is not supported"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary",
        ),
        ({"hidden_act": "mish"}, "hidden_act"),
    ],
)
def test_configurations_a_card_cannot_say_are_refused(tmp_path, change, message):
    save_tiny("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        load_pretrained(spec_of(tmp_path))


@pytest.mark.parametrize("damage", ["missing", "extra", "truncated"])
def test_weights_that_do_not_fit_are_refused(tmp_path, damage):
    save_tiny("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    if damage == "missing":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    if damage == "extra":
        tensors["model.layers.1.mlp.up_proj.bias"] = torch.zeros(24)
    save_file(tensors, path, metadata={"format": "pt"})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="up_proj" if damage != "truncated" else "cannot be read as safetensors"):
        load_pretrained(spec_of(tmp_path))


def test_missing_folder_and_package_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read the configuration of .*nowhere"):
        load_pretrained(spec_of(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="no_such_package"):
        load_pretrained(PretrainedModel(kind="pretrained", package="no_such_package", gguf_file="x.gguf"))


@pytest.mark.parametrize("from_package", [False, True])
def test_gguf_file_of_a_folder_or_a_package(tmp_path, monkeypatch, from_package):
    folder = tmp_path / "gguf_holder"
    folder.mkdir()
    tensors = write_gguf(folder / "tiny.gguf")
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    where = {"package": "gguf_holder"} if from_package else {"name": str(folder)}
    model, card = load_pretrained(PretrainedModel(kind="pretrained", gguf_file="tiny.gguf", **where))
    assert card.config["rope_parameters"]["rope_theta"] == 500.0
    assert (card.context, card.start_id, card.layers) == (32, 1, 1)
    values = coded_parameters(model)
    assert torch.equal(values["model.embed_tokens.weight"], torch.from_numpy(tensors["token_embd"]))
    assert torch.equal(values["model.layers.0.mlp.down_proj.weight"], torch.from_numpy(tensors["blk.0.ffn_down"]))
    assert "gguf_holder" not in sys.modules
    shutil.rmtree(folder)
