"""Cards, seeded numbers, building, low-rank layers and checkpoints."""

import contextlib
import hashlib
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parameterized import check_same
from safetensors.torch import load_file, save_file
from tokenbounds.errors import ModelError
from tokenbounds.files import canonical_json
from tokenbounds.models.build import build_model, coded_parameters, count_parameters, initialize, to_dense
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint, save_checkpoint
from tokenbounds.models.families import FAMILIES, ROLES
from tokenbounds.models.generator import uniform
from tokenbounds.models.parameterizations.lora import LoraEmbedding, LoraLinear
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

torch.set_num_threads(1)

GOLDEN_FIRST = ["-0x1.b8d7ea0000000p-7", "-0x1.dea9220000000p-6", "0x1.48855a0000000p-8", "0x1.2071320000000p-6"]
GOLDEN_DIGEST = "251642b483d1ca00b00ad5b1a2eb3f70cbd4e120f7030b848a34b0e6aa3da33c"
GOLDEN_FIXED = "ca95d2c2b2caa3df3697afea38926bc698de015745de6f6356b4c60ead429b19"
LORA = {"kind": "lora", "rank": 3, "scale": 4.0, "targets": list(ROLES)}


def make_card(family="gpt2", parameterization=None, **config):
    if family == "gpt2":
        config = {"n_layer": 3, "n_embd": 16, "n_head": 4} | config
    else:
        config = {
            "num_hidden_layers": 3,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        } | config
    return ModelCard(
        family=family,
        config=config,
        vocabulary_size=30,
        start_id=1,
        context=20,
        parameterization=parameterization or {"kind": "dense"},
        seed=3,
    )


def fill(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in coded_parameters(model).values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


# --- cards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parameterization", [{"kind": "dense"}, LORA])
def test_card_round_trip(family, parameterization):
    card = make_card(family, parameterization)
    assert ModelCard.from_dict(json.loads(canonical_json(card.to_dict()))) == card


def test_card_of_the_default_model_is_short():
    card = ModelCard("gpt2", {"n_layer": 4, "n_embd": 128, "n_head": 4}, 256, 0, 256)
    assert canonical_json(card.to_dict()) == '{"config":{"n_embd":128,"n_head":4,"n_layer":4},"family":"gpt2"}'


def test_card_stores_only_unusual_rotary_parameters():
    card = make_card("llama", rope_parameters={"rope_theta": 500.0})
    assert card.to_dict()["config"]["rope_parameters"] == {"rope_theta": 500.0}
    assert "rope_parameters" not in make_card("llama").to_dict()["config"]


HOSTILE = [
    ("family", "mamba", "'mamba' is not supported"),
    ("family", 7, "7 is not supported"),
    ("family", ["gpt2"], "is not supported"),
    ("code", "import os", "code is unknown"),
    ("config", [1], "config must be a mapping"),
    ("config", {"auto_map": "x"}, "auto_map is unknown"),
    ("config", {"n_layer": 1 << 40}, "n_layer"),
    ("config", {"n_layer": 0}, "n_layer"),
    ("config", {"n_layer": 2.5}, "n_layer"),
    ("config", {"n_layer": True}, "n_layer"),
    ("config", {"n_embd": 10, "n_head": 3}, "not a multiple"),
    ("config", {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
    ("config", {"activation_function": "os.system"}, "activation_function"),
    ("vocabulary_size", 1 << 60, "vocabulary_size"),
    ("vocabulary_size", "256", "vocabulary_size"),
    ("start_id", 30, "start_id 30 is not a token"),
    ("context", -1, "context"),
    ("seed", -1, "seed"),
    ("parameterization", "lora", "parameterization must be a mapping"),
    ("parameterization", {"kind": "os"}, "parameterization.kind"),
    ("parameterization", {"kind": "lora", "rank": 1 << 30}, "rank"),
    ("parameterization", {"kind": "lora", "scale": float("inf")}, "scale"),
    ("parameterization", {"kind": "lora", "targets": []}, "targets"),
    ("parameterization", {"kind": "lora", "targets": ["attention", 3]}, "targets"),
]


@pytest.mark.parametrize(("key", "value", "message"), HOSTILE)
def test_hostile_cards_are_refused(key, value, message):
    raw = make_card().to_dict()
    with pytest.raises(ModelError, match=message):
        ModelCard.from_dict(raw | {key: value})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [*make_card().to_dict(), "seed", "start_id", "n_layer", "rope_parameters", "num_attention_heads", "head_dim"]


@settings(max_examples=200, deadline=None)
@given(
    top=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3),
    config=st.dictionaries(st.sampled_from([*KEYS, "rope_theta"]), JSON, max_size=3),
    family=st.sampled_from(sorted(FAMILIES)),
)
def test_only_model_errors_escape(top, config, family):
    raw = {**make_card(family).to_dict(), **top}
    if isinstance(raw["config"], dict):
        raw["config"] = {**raw["config"], **config}
    with contextlib.suppress(ModelError):
        count_parameters(ModelCard.from_dict(raw))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_type": "magic"}, "rope_type"),
        ({"import": 1}, "does not know"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 5000}, "at most 4096"),
    ],
)
def test_hostile_rotary_parameters_are_refused(rope, message):
    with pytest.raises(ModelError, match=message):
        make_card("llama", rope_parameters=rope)


def test_contradicting_rotary_parameters_are_refused_before_building():
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [1.0] * 3}
    with pytest.raises(ModelError, match="no llama model fits"):
        build_model(make_card("llama", rope_parameters=rope))


def test_huge_models_are_refused_before_allocation():
    huge = {"n_layer": 4096, "n_embd": 1 << 20, "n_head": 4096, "n_inner": 1 << 20}
    card = ModelCard("gpt2", huge, 1 << 24, 0, 1 << 24)
    with pytest.raises(ModelError, match="parameters; at most 1099511627776"):
        build_model(card)
    with pytest.raises(ModelError, match="coded values; at most 100"):
        build_model(make_card(), max_coded=100)
    with pytest.raises(ModelError, match="parameters; at most 100"):
        build_model(make_card(parameterization=LORA), max_parameters=100)


# --- seeded numbers ---------------------------------------------------------------------------------------------------


def reference_philox(name, counter):
    """One block of Philox4x64-10 in plain integers, from the paper's definition."""
    digest = hashlib.sha256(name).digest()
    key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    mask, block = (1 << 64) - 1, [counter, 0, 0, 0]
    for _ in range(10):
        left, right = block[0] * 0xD2E7470EE14C6C93, block[2] * 0xCA5A826395121157
        block = [(right >> 64) ^ block[1] ^ key[0], right & mask, (left >> 64) ^ block[3] ^ key[1], left & mask]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return block


def test_numbers_follow_from_the_definition():
    values = uniform(5, "some.weight", (16,), 0.02)
    unit = float(np.float32(0.02 * math.sqrt(3) / 2**24))
    expected = []
    for counter in (1, 2):
        for word in reference_philox(b"tokenbounds 5 some.weight", counter):
            for half in (word & 0xFFFFFFFF, word >> 32):
                expected.append(np.float32((2 * (half >> 8) + 1 - 2**24) * unit))
    assert values.tolist() == [float(value) for value in expected]


def test_golden_numbers():
    values = uniform(0, "x", (4,), 0.02)
    assert [float(value).hex() for value in values] == GOLDEN_FIRST
    digest = hashlib.sha256(uniform(7, "layer.weight", (1000, 1001), 1.5).astype("<f4").tobytes()).hexdigest()
    assert digest == GOLDEN_DIGEST


def test_numbers_have_the_wanted_spread_and_differ_by_name():
    values = uniform(1, "a", (400, 500), 0.5)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.005
    assert values.std() == pytest.approx(0.5, rel=0.01)
    assert np.abs(values).max() <= 0.5 * math.sqrt(3)
    assert abs(np.corrcoef(values.ravel(), uniform(1, "b", (400, 500), 0.5).ravel())[0, 1]) < 0.01
    assert np.array_equal(values.ravel()[:7], uniform(1, "a", (7,), 0.5))


def test_fixed_part_is_golden_and_ignores_torchs_generator():
    digests = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = build_model(make_card(parameterization=LORA))
        fixed = b"".join(buffer.numpy().tobytes() for _, buffer in model.named_buffers())
        digests.add(hashlib.sha256(fixed).hexdigest())
    assert digests == {GOLDEN_FIXED}


# --- building ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("parameterization", [{"kind": "dense"}, LORA])
def test_built_model(family, tied, parameterization):
    card = make_card(family, parameterization, tie_word_embeddings=tied)
    model = build_model(card)
    parameters = coded_parameters(model)
    assert not model.training
    assert all(not value.any() and value.dtype == torch.float32 for value in parameters.values())
    assert len({id(value) for value in parameters.values()}) == len(parameters)
    assert any("lm_head" in name for name in parameters) == (not tied)
    counts = count_parameters(card)
    assert counts.coded == sum(value.numel() for value in parameters.values())
    assert counts.total == counts.coded + sum(buffer.numel() for buffer in model.buffers())
    assert model.config._attn_implementation == "sdpa"
    assert build_model(card, max_parameters=counts.total, max_coded=counts.coded) is not None


def test_initial_values():
    model = build_model(make_card(parameterization={**LORA, "targets": ["mlp"]}))
    initialize(model, seed=1)
    values = coded_parameters(model)
    std = 0.02 * math.sqrt(768 / 16)
    assert values["transformer.wte.weight"].std().item() == pytest.approx(std, rel=0.1)
    assert values["transformer.h.0.attn.c_proj.weight"].std().item() == pytest.approx(std / math.sqrt(6), rel=0.15)
    assert not values["transformer.h.0.mlp.c_fc.lora_b"].any()
    assert values["transformer.h.0.mlp.c_fc.lora_a"].abs().max() <= 1 / math.sqrt(16)
    assert values["transformer.ln_f.weight"].eq(1).all()
    assert not values["transformer.ln_f.bias"].any()
    again = build_model(make_card(parameterization={**LORA, "targets": ["mlp"]}))
    initialize(again, seed=1)
    assert all(torch.equal(value, values[name]) for name, value in coded_parameters(again).items())
    initialize(again, seed=2)
    assert not torch.equal(coded_parameters(again)["transformer.wte.weight"], values["transformer.wte.weight"])


# --- low rank ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "linear-no-bias", "conv1d"])
@pytest.mark.parametrize("rows", [2, 40])
def test_low_rank_product_equals_dense_product(kind, rows):
    plain = Conv1D(7, 5) if kind == "conv1d" else nn.Linear(5, 7, bias=kind == "linear")
    layer = LoraLinear(plain, {"rank": 3, "scale": 2.0}).double()
    assert layer.factor == pytest.approx(2 / 3)
    layer.fixed = torch.randn(7, 5, dtype=torch.float64)
    fill(layer)
    assert layer._should_form_weight(2 * rows) == (rows == 40)
    x = torch.randn(2, rows, 5, dtype=torch.float64, requires_grad=True)
    check_same(layer, x, lambda: nn.functional.linear(x, layer.dense_weight(), layer.bias))


def test_wide_layers_form_their_weight_only_without_gradients():
    layer = LoraLinear(nn.Linear(200, 200), {"rank": 1, "scale": 2.0})
    assert not layer._should_form_weight(4096)
    with torch.no_grad():
        assert layer._should_form_weight(4096)
        assert not layer._should_form_weight(1)
        x = fill(layer)(torch.ones(16, 200))
    torch.testing.assert_close(layer(torch.ones(16, 200)), x, rtol=1e-4, atol=1e-3)


def test_low_rank_embedding_equals_dense_embedding():
    layer = LoraEmbedding(nn.Embedding(9, 4), {"rank": 50, "scale": 2.0}).double()
    assert layer.lora_a.shape == (4, 4)
    layer.fixed = torch.randn(9, 4, dtype=torch.float64)
    fill(layer)
    ids = torch.tensor([[0, 8, 3], [3, 3, 1]])
    check_same(layer, ids, lambda: nn.functional.embedding(ids, layer.dense_weight()))


def test_dense_weight_by_hand():
    layer = LoraLinear(nn.Linear(2, 2, bias=False), {"rank": 1, "scale": 3.0})
    with torch.no_grad():
        layer.fixed.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.lora_b.copy_(torch.tensor([[1.0], [2.0]]))
        layer.lora_a.copy_(torch.tensor([[10.0, 20.0]]))
    assert layer.dense_weight().tolist() == [[31.0, 62.0], [63.0, 124.0]]
    assert layer(torch.tensor([1.0, 0.0])).tolist() == [31.0, 63.0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("targets", [["attention", "mlp"], ["embedding"], ["head"], list(ROLES)])
def test_to_dense_computes_the_same(family, tied, targets):
    card = make_card(family, {**LORA, "targets": targets}, tie_word_embeddings=tied)
    model = fill(build_model(card)).double()
    dense = to_dense(model)
    assert not any(isinstance(module, LoraLinear | LoraEmbedding) for module in dense.modules())
    ids = torch.arange(40).reshape(2, 20) % 30
    torch.testing.assert_close(model(ids).logits, dense(ids).logits, rtol=1e-9, atol=1e-9)
    assert not {value.data_ptr() for value in model.parameters()} & {value.data_ptr() for value in dense.parameters()}


def test_targets_decide_which_layers_are_low_rank():
    names = {
        target: set(coded_parameters(build_model(make_card(parameterization={**LORA, "targets": [target]}))))
        for target in ROLES
    }
    assert "transformer.h.2.attn.c_attn.lora_a" in names["attention"]
    assert "transformer.h.2.mlp.c_fc.weight" in names["attention"]
    assert "transformer.h.2.mlp.c_fc.bias" in names["mlp"]
    assert {"transformer.wte.lora_a", "transformer.wpe.lora_b"} <= names["embedding"]
    assert "transformer.wte.lora_a" in names["head"]
    assert "transformer.wpe.weight" in names["head"]


def test_dense_copy_opens_with_transformers(tmp_path):
    model = fill(build_model(make_card(parameterization=LORA)))
    to_dense(model).save_pretrained(tmp_path)
    ids = torch.arange(20)[None]
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(opened(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", [{"kind": "dense"}, LORA])
def test_checkpoint_round_trip(tmp_path, parameterization):
    card = make_card("llama", parameterization)
    model = fill(build_model(card))
    save_checkpoint(tmp_path, model, card)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "card.json"}
    assert set(load_file(tmp_path / "model.safetensors")) == set(coded_parameters(model))
    loaded, loaded_card = load_checkpoint(tmp_path)
    assert loaded_card == card
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_weights_may_be_read_by_whom_other_files_may(tmp_path):
    card = make_card()
    save_checkpoint(tmp_path, build_model(card), card)
    usual = tmp_path / "usual"
    usual.touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {usual.stat().st_mode}


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "integers", "truncated", "gone", "card"])
def test_damaged_checkpoints_are_refused(tmp_path, damage):
    card = make_card()
    save_checkpoint(tmp_path, build_model(card), card)
    path = tmp_path / "model.safetensors"
    tensors, name = load_file(path), "transformer.ln_f.bias"
    if damage == "missing":
        del tensors[name]
    elif damage == "extra":
        tensors["transformer.extra"] = torch.zeros(1)
    elif damage == "shape":
        tensors[name] = torch.zeros(3)
    elif damage == "integers":
        tensors[name] = torch.zeros(16, dtype=torch.int32)
    save_file(tensors, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "gone":
        path.unlink()
    elif damage == "card":
        (tmp_path / "card.json").write_text('{"family":"gpt2","config":{"n_layer":-1}}')
    with pytest.raises(ModelError, match=r"card\.json" if damage == "card" else r"model\.safetensors"):
        load_checkpoint(tmp_path)
