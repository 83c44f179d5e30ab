"""Checkpoints that transformers loads, or nearly: read with the values of the file, or refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_loading import GPT2, SMALL, save_tiny, spec_of
from test_quantized_checkpoints import GROUP, LLAMA, checkpoint, gptq_layer, write
from tokenbounds.errors import ModelError
from tokenbounds.models.build import build_model, coded_parameters
from tokenbounds.models.card import ModelCard
from tokenbounds.models.pretrained.loading import load_pretrained
from tokenbounds.models.pretrained.probe import compare_models
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

LONG = {"rope_type": "longrope", "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 24}


def configure(folder, remove=(), **changes):
    path = folder / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in remove}
    path.write_text(json.dumps(config | changes))


def edit(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def assert_as_transformers(folder):
    """The card alone, with the values of the file, gives the logits of AutoModelForCausalLM on the file."""
    loaded, card = load_pretrained(spec_of(folder))
    again = build_model(card)
    again.load_state_dict(loaded.state_dict())
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(0, 50, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, original(ids).logits)
    return card


# --- positions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"type": "linear", "factor": 4.0}, "linear"),
        ({"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, "yarn"),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": None}, "yarn"),
        ({"type": "dynamic", "factor": 2.0, "partial_rotary_factor": 1.0}, "dynamic"),
    ],
)
def test_older_spellings_of_scaling_are_read(tmp_path, settings, expected):
    save_tiny("llama", tmp_path)
    configure(tmp_path, remove=("rope_parameters",), rope_theta=1e4, rope_scaling=settings)
    assert assert_as_transformers(tmp_path).config["rope_parameters"]["rope_type"] == expected


def test_two_names_of_a_type_that_differ_are_refused(tmp_path):
    save_tiny("llama", tmp_path)
    rope = {"rope_type": "linear", "type": "yarn", "factor": 4.0, "rope_theta": 1e4}
    configure(tmp_path, rope_parameters=rope)
    with pytest.raises(ModelError, match=r"rope_parameters\.type"):
        load_pretrained(spec_of(tmp_path))


def test_losses_of_longrope_would_depend_on_later_tokens(tmp_path):
    config = LlamaConfig(**SMALL, rope_parameters={**LONG, "short_factor": [1.0] * 2, "long_factor": [8.0] * 2})
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(48)[None]
    with torch.no_grad():
        assert (model(ids).logits[:, :20] - model(ids[:, :20]).logits).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"longrope .* depends on the longest sequence"):
        load_pretrained(spec_of(tmp_path))
    card = {"family": "llama", "config": {"rope_parameters": config.rope_parameters}}
    with pytest.raises(ModelError, match=r"longrope .* depends on the longest sequence"):
        ModelCard.from_dict(card)


@pytest.mark.parametrize("kind", ["dynamic", "longrope of one list"])
def test_losses_of_what_is_accepted_depend_on_earlier_tokens_alone(tmp_path, kind):
    rope = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0}
    if kind != "dynamic":
        rope = {**LONG, "short_factor": [1.0, 8.0], "long_factor": [1.0, 8.0], "attention_factor": 1.0}
    LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=rope)).save_pretrained(tmp_path)
    assert_as_transformers(tmp_path)
    model, _ = load_pretrained(spec_of(tmp_path))
    ids = torch.arange(48)[None]
    with torch.no_grad():
        long, short = model(ids).logits[:, :20], model(ids[:, :20]).logits
    torch.testing.assert_close(long, short, rtol=0, atol=1e-5)


def test_mistral_with_layer_types_is_no_plain_mistral(tmp_path):
    save_tiny("mistral", tmp_path)
    configure(tmp_path, layer_types=["sliding_attention", "full_attention"])
    with pytest.raises(ModelError, match=r"layer_types .* are not supported"):
        load_pretrained(spec_of(tmp_path))


@pytest.mark.parametrize(
    "change", [{"use_sliding_window": False}, {"use_sliding_window": True, "max_window_layers": 1}]
)
def test_layers_with_a_window_that_a_card_cannot_say_are_refused(tmp_path, change):
    save_tiny("qwen2", tmp_path)
    kinds = {} if change["use_sliding_window"] else {"layer_types": ["sliding_attention"] * 2}
    configure(tmp_path, remove=("layer_types",), sliding_window=16, **change, **kinds)
    with pytest.raises(ModelError, match=r"layer_types .*sliding_attention"):
        load_pretrained(spec_of(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sliding_window", 16),
        ("layer_types", ["sliding_attention", "full_attention"]),
        ("attention_multiplier", 0.5),
        ("partial_rotary_factor", 0.5),
    ],
)
def test_what_llama_would_ignore_is_refused(tmp_path, key, value):
    save_tiny("llama", tmp_path)
    configure(tmp_path, **{key: value})
    with pytest.raises(ModelError, match=key):
        load_pretrained(spec_of(tmp_path))


def test_neutral_values_are_no_fault(tmp_path):
    save_tiny("llama", tmp_path)
    configure(tmp_path, sliding_window=48, alibi=False, logit_scale=1.0, partial_rotary_factor=None, layer_types=None)
    assert_as_transformers(tmp_path)


def test_a_window_that_no_layer_has_is_none(tmp_path):
    config = Qwen2Config(**SMALL, num_key_value_heads=1, use_sliding_window=True, sliding_window=4, max_window_layers=2)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    assert_as_transformers(tmp_path)


def test_probe_reaches_beyond_the_window():
    sizes = SMALL | {"max_position_embeddings": 200, "num_key_value_heads": 2}
    config = MistralConfig(**sizes, sliding_window=100)
    model = MistralForCausalLM(config).eval()
    same, other = (MistralForCausalLM(MistralConfig(**sizes, sliding_window=window)).eval() for window in (100, 101))
    for one in (same, other):
        one.load_state_dict(model.state_dict())
    compare_models(model, same, "here")
    with pytest.raises(ModelError, match="here: the model rebuilt from its card computes something else"):
        compare_models(model, other, "here")
    assert len(other.model.layers) == other.config.num_hidden_layers == 2


def test_probe_reaches_the_end_of_the_context():
    # Up to the original length the two scale alike.
    ropes = [{"rope_type": kind, "rope_theta": 1e4, "factor": 4.0} for kind in ("dynamic", "default")]
    models = [
        LlamaForCausalLM(LlamaConfig(**SMALL | {"max_position_embeddings": 400}, rope_parameters=r)) for r in ropes
    ]
    models[1].load_state_dict(models[0].state_dict())
    compare_models(models[0].eval(), models[1].eval(), "here")
    models[0].config.max_position_embeddings = 100
    models[0].model.rotary_emb.max_seq_len_cached = 100
    with pytest.raises(ModelError, match="computes something else"):
        compare_models(models[0], models[1], "here")


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_constants_of_older_gpt2_are_left_out(tmp_path):
    save_tiny("gpt2", tmp_path)
    count, positions = GPT2["n_layer"], GPT2["n_positions"]
    masks = {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(count)}
    masks |= {f"transformer.h.{i}.attn.bias": torch.ones(positions, positions).tril()[None, None] for i in range(count)}
    edit(tmp_path, lambda tensors: tensors | masks)
    assert_as_transformers(tmp_path)


def test_frequencies_of_older_llama_are_left_out(tmp_path):
    save_tiny("llama", tmp_path)
    edit(tmp_path, lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)})
    assert_as_transformers(tmp_path)


def unfinite(tensors, value):
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    return tensors


TENSOR_FAULTS = {
    "NaN": (lambda t: unfinite(t, float("nan")), r"model\.layers\.1\.mlp\.up_proj\.weight holds values .* not finite"),
    "infinite": (lambda t: unfinite(t, -float("inf")), r"up_proj\.weight holds values that are not finite"),
    "embedding": (
        lambda t: t | {name: torch.zeros(70, 16) for name in ("model.embed_tokens.weight", "lm_head.weight")},
        r"lm_head\.weight is \[70, 16\], but its configuration wants \[50, 16\]",
    ),
    "layer": (
        lambda t: t | {"model.layers.0.mlp.up_proj.weight": torch.zeros(25, 16)},
        r"layers\.0\.mlp\.up_proj\.weight is \[25, 16\], but its configuration wants \[24, 16\]",
    ),
}


@pytest.mark.parametrize("case", TENSOR_FAULTS)
def test_tensors_at_fault_are_named(tmp_path, case):
    change, message = TENSOR_FAULTS[case]
    save_tiny("llama", tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        load_pretrained(spec_of(tmp_path))


def test_tied_model_with_another_head_is_refused(tmp_path):
    save_tiny("llama", tmp_path)
    configure(tmp_path, tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"tie_word_embeddings, but the file holds an lm_head\.weight that is not"):
        load_pretrained(spec_of(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_pointers_of_git_lfs_are_named(tmp_path, name):
    save_tiny("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
        load_pretrained(spec_of(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_in_place_of_its_folder_is_named(tmp_path, name):
    save_tiny("llama", tmp_path)
    with pytest.raises(ModelError, match=rf"{name} is a file. Give its folder"):
        load_pretrained(spec_of(tmp_path / name))


# --- quantized checkpoints --------------------------------------------------------------------------------------------


def save_gptq(folder, extra, *, tied=False, whole=False):
    """A GPTQ checkpoint with further tensors; the dense values that it represents."""
    model = LlamaForCausalLM(LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": tied}))
    state, expected = checkpoint(model, lambda i, o: gptq_layer(i, o, 4, 1, True))
    write(folder, model, state | extra(expected), {"quant_method": "gptq", "bits": 4, "group_size": GROUP})
    if whole:
        parts = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        save_file(parts[0] | parts[1], folder / "model.safetensors", metadata={"format": "pt"})
    return expected


def assert_holds(folder, expected):
    loaded, _ = load_pretrained(spec_of(folder))
    for name, value in coded_parameters(loaded).items():
        assert torch.equal(value, expected[name]), name


def zero_biases(expected, value=0.0):
    names = [name for name in expected if name.endswith("proj.weight")]
    return {name.replace("weight", "bias"): torch.full((len(expected[name]),), value) for name in names}


def test_biases_of_zeros_are_left_out(tmp_path):
    assert_holds(tmp_path, save_gptq(tmp_path, zero_biases))


def test_other_biases_are_refused(tmp_path):
    save_gptq(tmp_path, lambda expected: zero_biases(expected, 0.5))
    with pytest.raises(ModelError, match=r"do not fit a LlamaForCausalLM .*bias"):
        load_pretrained(spec_of(tmp_path))


def test_quantized_and_tied_with_its_own_head_is_read(tmp_path):
    head = "lm_head.weight"
    expected = save_gptq(tmp_path, lambda e: {head: e["model.embed_tokens.weight"].clone()}, tied=True)
    assert_holds(tmp_path, expected)


def test_quantized_and_tied_with_another_head_is_refused(tmp_path):
    save_gptq(tmp_path, lambda e: {"lm_head.weight": e["model.embed_tokens.weight"] + 1}, tied=True)
    with pytest.raises(ModelError, match=r"tie_word_embeddings, but the file holds an lm_head\.weight that is not"):
        load_pretrained(spec_of(tmp_path))


@pytest.mark.parametrize("indexed", [False, True])
def test_files_that_transformers_does_not_read_are_not_read(tmp_path, indexed):
    expected = save_gptq(tmp_path, lambda e: {}, whole=not indexed)
    if indexed:
        files = {name: path.name for path in tmp_path.glob("*.safetensors") for name in load_file(path)}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    save_file({"tok_embeddings.weight": torch.zeros(4, 4)}, tmp_path / "consolidated.safetensors")
    assert_holds(tmp_path, expected)
