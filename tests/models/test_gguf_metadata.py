"""What a GGUF file says about positions is computed, and what nothing understands is refused by name."""

import json

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf_files import write_model
from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.files import canonical_json
from tokenbounds.models.build import build_model
from tokenbounds.models.card import ModelCard
from tokenbounds.models.pretrained.loading import load_pretrained

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 3,
    "tie_word_embeddings": False,
    "initializer_range": 0.4,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
SCALING = gguf.RopeScalingType
YARN_KEYS = (
    lambda writer: writer.add_rope_scaling_type(SCALING.YARN),
    lambda writer: writer.add_rope_scaling_factor(4.0),
    lambda writer: writer.add_rope_scaling_orig_ctx_len(32),
)


def make(family="Llama", **config):
    torch.manual_seed(0)
    settings = getattr(transformers, f"{family}Config")(**SIZES | config)
    return getattr(transformers, f"{family}ForCausalLM")(settings).eval()


def plain_frequencies(theta, head_dim=8):
    return theta ** (-np.arange(0, head_dim, 2) / head_dim)


def frequencies(model):
    return model.model.rotary_emb.inv_freq.numpy()


def load(folder):
    return load_pretrained(PretrainedModel(kind="pretrained", name=str(folder), gguf_file="m.gguf"))


def assert_same(folder, right):
    """The model in m.gguf, and the one of its card alone, give the right logits beyond every window and length."""
    loaded, card = load(folder)
    again = build_model(ModelCard.from_dict(json.loads(canonical_json(card.to_dict()))))
    again.load_state_dict(loaded.state_dict())
    ids = torch.randint(0, 50, (1, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = right(ids).logits
        assert expected.std() > 0.1
        for model in (loaded, again):
            torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=2e-5)
    return card


CASES = {
    "plain": (make, "llama", ()),
    "linear": (
        lambda: make(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
        "llama",
        (lambda w: w.add_rope_scaling_type(SCALING.LINEAR), lambda w: w.add_rope_scaling_factor(4.0)),
    ),
    "linear, as older files say": (
        lambda: make(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
        "llama",
        (lambda w: w.add_float32("llama.rope.scale_linear", 2.0),),
    ),
    "none, whatever the factor": (
        make,
        "llama",
        (lambda w: w.add_rope_scaling_type(SCALING.NONE), lambda w: w.add_rope_scaling_factor(4.0)),
    ),
    "yarn": (lambda: make(rope_parameters=YARN), "llama", YARN_KEYS),
    "yarn of Qwen2": (lambda: make("Qwen2", rope_parameters=YARN), "qwen2", YARN_KEYS),
    "yarn with its own ramp": (
        lambda: make(rope_parameters={**YARN, "beta_fast": 8.0, "beta_slow": 2.0}),
        "llama",
        (
            *YARN_KEYS,
            lambda w: w.add_float32("llama.rope.scaling.yarn_beta_fast", 8.0),
            lambda w: w.add_float32("llama.rope.scaling.yarn_beta_slow", 2.0),
        ),
    ),
    "sliding window": (lambda: make("Mistral", sliding_window=16), "llama", (lambda w: w.add_sliding_window(16),)),
    "window as long as the context": (make, "llama", (lambda w: w.add_sliding_window(128),)),
    "heads of their own size": (
        lambda: make("Qwen3", head_dim=16),
        "qwen3",
        (lambda w: w.add_key_length(16), lambda w: w.add_value_length(16)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_positions_are_read(tmp_path, case):
    right, architecture, add = CASES[case]
    right = right()
    write_model(right, tmp_path / "m.gguf", architecture, add)
    assert_same(tmp_path, right)


def test_a_plain_reading_of_a_scaled_file_would_differ(tmp_path):
    write_model(make(rope_parameters=YARN), tmp_path / "m.gguf", add=YARN_KEYS)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(tmp_path, make())


def test_llama_3_frequencies_become_its_rule(tmp_path):
    right = make(rope_parameters=LLAMA3)
    factors = plain_frequencies(500.0) / frequencies(right)
    write_model(right, tmp_path / "m.gguf", tensors=[("rope_freqs.weight", factors)])
    assert assert_same(tmp_path, right).config["rope_parameters"] == LLAMA3


def test_other_frequencies_are_listed(tmp_path):
    factors = [1.0, 1.25, 3.0, 7.0]
    right = make(
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": factors,
            "long_factor": factors,
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": 128,
        }
    )
    np.testing.assert_allclose(frequencies(right), plain_frequencies(1e4) / factors, rtol=1e-6)
    write_model(right, tmp_path / "m.gguf", tensors=[("rope_freqs.weight", factors)])
    assert_same(tmp_path, right)


def test_mistral_file_without_window_has_none(tmp_path):
    right = make("Mistral", sliding_window=None)
    write_model(right, tmp_path / "m.gguf")
    assert assert_same(tmp_path, right).family == "llama"


REFUSED = {
    "longrope": (lambda w: w.add_rope_scaling_type(SCALING.LONGROPE), "rope.scaling.type is 'longrope'"),
    "part of a head": (lambda w: w.add_rope_dimension_count(4), "rope.dimension_count is 4"),
    "window of Qwen2": (lambda w: w.add_sliding_window(16), "attention.sliding_window is 16"),
    "a key of attention": (lambda w: w.add_attention_scale(0.5), r"attention\.scale = 0.5 is not understood"),
    "a key of logits": (lambda w: w.add_logit_scale(2.0), r"logit_scale = 2.0 is not understood"),
    "experts": (lambda w: w.add_expert_count(4), "expert_count = 4"),
    "one of two parts": (lambda w: w.add_uint16("split.count", 2), "one of 2 parts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_keys_that_nothing_understands_are_refused(tmp_path, case):
    add, message = REFUSED[case]
    write_model(make("Qwen2"), tmp_path / "m.gguf", "qwen2", [add])
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.1.attn_sinks.weight", "rope_factors_long.weight"])
def test_tensors_that_nothing_takes_are_refused(tmp_path, name):
    write_model(make(), tmp_path / "m.gguf", tensors=[(name, np.ones(32))])
    with pytest.raises(ModelError, match=f"nothing in a llama model uses the tensor {name}"):
        load(tmp_path)


def test_missing_keys_are_named(tmp_path):
    right = make()
    write_model(right, tmp_path / "m.gguf")
    data = (tmp_path / "m.gguf").read_bytes()
    # transformers would leave the rows of queries and keys interleaved without a word.
    (tmp_path / "m.gguf").write_bytes(data.replace(b"head_count_kv", b"head_count_xx"))
    with pytest.raises(ModelError, match="head_count_xx"):
        load(tmp_path)


def test_files_cut_short_are_refused(tmp_path):
    write_model(make(), tmp_path / "m.gguf")
    data = (tmp_path / "m.gguf").read_bytes()
    for size in (0, 10, 24, 300, len(data) // 2, len(data) - 1):
        (tmp_path / "m.gguf").write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"m\.gguf is truncated or damaged"):
            load(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match="Git LFS pointer"):
        load(tmp_path)
