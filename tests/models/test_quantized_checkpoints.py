"""GPTQ, AWQ and bitsandbytes checkpoints: packed here value by value, read as the dense values they represent."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.pretrained.loading import load_pretrained
from tokenbounds.models.pretrained.packed import unpack_stream
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
LLAMA = LlamaConfig(
    vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=32, bos_token_id=1,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=32, bos_token_id=1)
GROUP = 16


def linear_layers(model):
    return [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and name != "lm_head"
    ]


def write(folder, model, tensors, settings):
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    names = sorted(tensors)
    for shard in range(2):  # as large checkpoints are
        part = {name: tensors[name].contiguous() for name in names[shard::2]}
        save_file(part, folder / f"model-{shard}.safetensors", metadata={"format": "pt"})


def words_of(values, bits):
    """Pack a list of unsigned integers into 32-bit words, the first value in the lowest bits."""
    stream = sum(int(value) << (bits * place) for place, value in enumerate(values))
    count = -(-bits * len(values) // 32)
    words = [(stream >> (32 * index)) & 0xFFFFFFFF for index in range(count)]
    return np.array(words, dtype=np.uint32).astype(np.int32)


def shapes_of(model):
    """Inputs and outputs of each linear layer."""
    found = {}
    for name in linear_layers(model):
        shape = model.get_submodule(name).weight.shape
        found[name] = tuple(shape) if isinstance(model, GPT2LMHeadModel) else tuple(shape)[::-1]
    return found


def integers(inputs, outputs, bits):
    codes = RNG.integers(0, 1 << bits, size=(inputs, outputs))
    zeros = RNG.integers(0, 1 << bits, size=(inputs // GROUP, outputs))
    scales = RNG.uniform(0.01, 0.1, size=(inputs // GROUP, outputs)).astype(np.float16)
    return codes, zeros, scales


def gptq_layer(inputs, outputs, bits, offset, shuffled):
    codes, zeros, scales = integers(inputs, outputs, bits)
    group = np.arange(inputs) // GROUP
    group = RNG.permutation(group) if shuffled else group
    tensors = {
        "qweight": np.stack([words_of(column, bits) for column in codes.T], axis=1),
        "qzeros": np.stack([words_of((row - offset) % (1 << bits), bits) for row in zeros]),
        "scales": scales,
        "g_idx": group.astype(np.int32),
    }
    if not shuffled:
        del tensors["g_idx"]
    return tensors, ((codes - zeros[group]) * scales[group].astype(np.float32)).T


def awq_layer(inputs, outputs):
    codes, zeros, scales = integers(inputs, outputs, 4)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(row):
        return np.concatenate([words_of(row[start : start + 8][order], 4) for start in range(0, len(row), 8)])

    tensors = {"qweight": np.stack([*map(pack, codes)]), "qzeros": np.stack([*map(pack, zeros)]), "scales": scales}
    return tensors, ((codes - zeros.repeat(GROUP, axis=0)) * scales.astype(np.float32).repeat(GROUP, axis=0)).T


def checkpoint(model, make_layer):
    """Tensors of a checkpoint whose linear layers `make_layer` makes, and the dense values they represent."""
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    if not model.config.tie_word_embeddings:
        state["lm_head.weight"] = model.lm_head.weight.detach().clone()
    expected = dict(state)
    for name, (inputs, outputs) in shapes_of(model).items():
        tensors, dense = make_layer(inputs, outputs)
        del state[f"{name}.weight"]
        state |= {f"{name}.{key}": torch.as_tensor(value) for key, value in tensors.items()}
        dense = dense.T if isinstance(model, GPT2LMHeadModel) else dense
        expected[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(dense, dtype=np.float32))
    return state, expected


def assert_reads(folder, expected):
    model, card = load_pretrained(PretrainedModel(kind="pretrained", name=str(folder)))
    assert card.vocabulary_size == 40
    for name, value in coded_parameters(model).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("model_class", [LlamaForCausalLM, GPT2LMHeadModel])
@pytest.mark.parametrize(
    ("bits", "version", "shuffled"),
    [(4, "gptq", True), (4, "gptq_v2", False), (3, "gptq", False), (8, "gptq", True), (2, "gptq_v2", True)],
)
def test_gptq(tmp_path, model_class, bits, version, shuffled):
    model = model_class(LLAMA if model_class is LlamaForCausalLM else GPT2)
    offset = 1 if version == "gptq" else 0
    state, expected = checkpoint(model, lambda i, o: gptq_layer(i, o, bits, offset, shuffled))
    write(
        tmp_path,
        model,
        state,
        {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "checkpoint_format": version},
    )
    assert_reads(tmp_path, expected)


def test_awq(tmp_path):
    model = LlamaForCausalLM(LLAMA)
    state, expected = checkpoint(model, awq_layer)
    write(
        tmp_path,
        model,
        state,
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
    )
    assert_reads(tmp_path, expected)


# The 4-bit floats of bitsandbytes in the order of their codes: a sign, then eight magnitudes in twelfths.
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3], dtype=np.float32) / 12


def four_bit_layer(inputs, outputs, nested, kind="nf4"):
    levels = FP4.copy() if kind == "fp4" else np.sort(RNG.normal(size=16)).astype(np.float32)
    codes = RNG.integers(0, 16, size=outputs * inputs)
    blocks = -(-codes.size // 64)
    state = {"quant_type": kind, "blocksize": 64, "dtype": "float16", "shape": [outputs, inputs]}
    tensors = {"weight": (codes[::2] << 4 | codes[1::2]).astype(np.uint8)[:, None], "weight.quant_map": levels}
    if nested:
        table = np.linspace(-1, 1, 256).astype(np.float32)
        inner, outer = RNG.integers(0, 256, size=blocks), RNG.uniform(0.5, 1, size=-(-blocks // 8)).astype(np.float32)
        state |= {"nested_blocksize": 8, "nested_offset": 0.25, "nested_dtype": "float32"}
        tensors |= {
            "weight.absmax": inner.astype(np.uint8),
            "weight.nested_absmax": outer,
            "weight.nested_quant_map": table,
        }
        scales = table[inner] * outer.repeat(8)[:blocks] + np.float32(0.25)
    else:
        scales = RNG.uniform(0.5, 1, size=blocks).astype(np.float32)
        tensors["weight.absmax"] = scales
    text = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8).copy()
    tensors[f"weight.quant_state.bitsandbytes__{kind}"] = text
    return tensors, (levels[codes] * scales.repeat(64)[: codes.size]).reshape(outputs, inputs)


def eight_bit_layer(inputs, outputs):
    codes = RNG.integers(-127, 128, size=(outputs, inputs)).astype(np.int8)
    rows = RNG.uniform(0.5, 1, size=outputs).astype(np.float32)
    tensors = {"weight": codes, "SCB": rows, "weight_format": np.array(0, dtype=np.uint8)}
    return tensors, codes.astype(np.float32) * (rows / 127)[:, None]


@pytest.mark.parametrize("kind", ["nf4", "nf4 nested", "fp4", "fp4 nested", "int8"])
def test_bitsandbytes(tmp_path, kind):
    model = LlamaForCausalLM(LLAMA)
    make = eight_bit_layer if kind == "int8" else lambda i, o: four_bit_layer(i, o, "nested" in kind, kind[:3])
    state, expected = checkpoint(model, make)
    settings = {"load_in_4bit": kind != "int8", "bnb_4bit_quant_type": kind[:3]}
    write(tmp_path, model, state, {"quant_method": "bitsandbytes", **settings})
    assert_reads(tmp_path, expected)


def test_four_bit_floats_by_hand(tmp_path):
    """A code is a sign, two bits of exponent and one of mantissa; two codes per byte, the first in the upper half."""
    model = LlamaForCausalLM(LLAMA)
    state, _ = checkpoint(model, lambda i, o: four_bit_layer(i, o, False, "fp4"))
    name = "model.layers.0.self_attn.o_proj.weight"
    state[name][:4, 0] = torch.tensor([0x3B, 0x24, 0x01, 0x8F], dtype=torch.uint8)
    state[f"{name}.absmax"][:] = 3.0
    write(tmp_path, model, state, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    model, _ = load_pretrained(PretrainedModel(kind="pretrained", name=str(tmp_path)))
    found = model.get_parameter(name)[0, :8].tolist()
    assert found == pytest.approx([3.0, -3.0, 2.0, 1.0, 0.0, 1 / 64, 0.0, -0.75])


def test_streams_by_hand():
    # 3 bits: the eleventh value straddles two words.
    words = np.array([words_of(range(8), 3), words_of([7] * 8, 3)])
    assert unpack_stream(words, 3)[:, :8].tolist() == [[*range(8)], [7] * 8]
    values = RNG.integers(0, 8, size=32)
    assert unpack_stream(words_of(values, 3)[None], 3)[0].tolist() == values.tolist()


def broken(key, value):
    def change(state):
        name = next(name for name in sorted(state) if name.endswith(key))
        if value is None:
            del state[name]
        else:
            state[name] = value(state[name])

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (broken(".scales", None), "scales"),
        (broken(".qzeros", None), "qzeros"),
        (broken(".scales", lambda value: value[:, :-1]), "qweight"),
        (broken(".qzeros", lambda value: value[:-1]), "qzeros"),
        (broken(".qweight", lambda value: value.float()), "qweight"),
        (broken(".qweight", lambda value: value[:-1]), "g_idx"),
        (broken(".g_idx", lambda value: value + 100), "g_idx"),
        (broken(".g_idx", lambda value: value - 1), "g_idx"),
        (broken(".scales", lambda value: value * float("nan")), "finite"),
        (broken("q_proj.qweight", None), "q_proj"),
    ],
)
def test_malformed_checkpoints_are_refused_by_name(tmp_path, change, fault):
    model = LlamaForCausalLM(LLAMA)
    state, _ = checkpoint(model, lambda i, o: gptq_layer(i, o, 4, 1, True))
    change(state)
    write(tmp_path, model, state, {"quant_method": "gptq", "bits": 4, "group_size": GROUP})
    with pytest.raises(ModelError, match=fault):
        load_pretrained(PretrainedModel(kind="pretrained", name=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"{", "JSON"),
        (b"[]", "shape"),
        (b'{"shape": [4, -4], "blocksize": 64}', "shape"),
        (b'{"shape": [99999, 99999], "blocksize": 1}', "wants"),
    ],
)
def test_malformed_states_of_bitsandbytes_are_refused(tmp_path, text, fault):
    model = LlamaForCausalLM(LLAMA)
    state, _ = checkpoint(model, lambda i, o: four_bit_layer(i, o, False))
    broken("bitsandbytes__nf4", lambda value: torch.tensor(list(text), dtype=torch.uint8))(state)
    write(tmp_path, model, state, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(ModelError, match=fault):
        load_pretrained(PretrainedModel(kind="pretrained", name=str(tmp_path)))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"quant_method": "hqq"}, "'hqq' is not supported; supported: gptq, awq, bitsandbytes and QuIP#"),
        ({"quant_method": "gptq", "bits": 5}, "5 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemm"),
        ({"load_in_4bit": True}, "None is not supported"),
    ],
)
def test_other_quantizations_are_refused(tmp_path, settings, fault):
    write(tmp_path, LlamaForCausalLM(LLAMA), {"x": torch.zeros(1)}, settings)
    with pytest.raises(ModelError, match=fault):
        load_pretrained(PretrainedModel(kind="pretrained", name=str(tmp_path)))


def test_a_tensor_in_two_files_is_refused(tmp_path):
    model = LlamaForCausalLM(LLAMA)
    state, _ = checkpoint(model, awq_layer)
    write(tmp_path, model, state, {"quant_method": "awq", "bits": 4})
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / "model-0.safetensors").read_bytes())
    with pytest.raises(ModelError, match="both hold"):
        load_pretrained(PretrainedModel(kind="pretrained", name=str(tmp_path)))


def test_damaged_files_are_refused(tmp_path):
    model = LlamaForCausalLM(LLAMA)
    state, _ = checkpoint(model, awq_layer)
    write(tmp_path, model, state, {"quant_method": "awq", "bits": 4})
    path = tmp_path / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="model-1"):
        load_pretrained(PretrainedModel(kind="pretrained", name=str(tmp_path)))
