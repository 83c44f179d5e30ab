"""Quantized files stay where they are: their tensors are decoded one at a time, to the bits of the whole reading."""

import json

import gguf
import pytest
import torch
import transformers
from gguf_files import write_model
from quip_checkpoints import published_checkpoint
from test_quantized_checkpoints import GPT2, GROUP, LLAMA, awq_layer, checkpoint, four_bit_layer, gptq_layer, write
from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint, open_checkpoint, save_checkpoint
from tokenbounds.models.identity import checkpoint_sha256
from tokenbounds.models.pretrained import gguf_values, packed
from tokenbounds.models.pretrained.gguf_export import write_gguf
from tokenbounds.models.pretrained.loading import import_pretrained, load_pretrained
from transformers import GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

SIZES = {
    "vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 3, "tie_word_embeddings": False,
}  # fmt: skip
TYPES = gguf.GGMLQuantizationType


def spec_of(folder, file=None):
    return PretrainedModel(kind="pretrained", name=str(folder), gguf_file=file)


def quantizing(monkeypatch, kind):
    """Matrices are written in this type from now on."""
    plain = gguf.GGUFWriter.add_tensor

    def add(self, name, value, raw_dtype=None):
        if value.ndim == 2 and kind is not TYPES.F32:
            return plain(self, name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        return plain(self, name, value)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", add)


@pytest.mark.parametrize(
    ("family", "kind"),
    [("Llama", TYPES.F32), ("Llama", TYPES.Q4_0), ("Qwen2", TYPES.Q8_0), ("Qwen3", TYPES.F16), ("Llama", TYPES.BF16)],
)
def test_a_gguf_file_has_the_bits_that_transformers_reads(tmp_path, monkeypatch, family, kind):
    quantizing(monkeypatch, kind)
    monkeypatch.setattr(gguf_values, "_VALUES_AT_ONCE", 500)
    torch.manual_seed(0)
    more = {"head_dim": 16} if family == "Qwen3" else {}
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**SIZES | more))
    for value in coded_parameters(model).values():
        value.data.normal_()  # biases too
    write_model(model, tmp_path / "m.gguf", family.lower())
    whole = type(model).from_pretrained(tmp_path, gguf_file="m.gguf", config=model.config, dtype=torch.float32)
    assert_decodes(tmp_path, "m.gguf", coded_parameters(whole))


def test_a_gguf_file_of_gpt2_has_the_bits_that_transformers_reads(tmp_path):
    model = GPT2LMHeadModel(GPT2)
    write_gguf(model, tmp_path / "m.gguf")
    whole = GPT2LMHeadModel.from_pretrained(tmp_path, gguf_file="m.gguf", config=model.config, dtype=torch.float32)
    assert_decodes(tmp_path, "m.gguf", coded_parameters(whole))


def test_a_gguf_file_read_without_its_interleaving_would_differ(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    write_model(model, tmp_path / "m.gguf")
    values = gguf_values.GgufValues(gguf_values.GgufFile.open(tmp_path / "m.gguf"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(values.read(name), model.state_dict()[name])
    values._heads = {}
    assert not torch.equal(values.read(name), model.state_dict()[name])


def assert_decodes(folder, file, expected):
    """An import of a folder copies nothing, and has these values however they are read."""
    target = folder / "imported"
    import_pretrained(spec_of(folder, file), target)
    assert {path.name for path in target.iterdir()} == {"card.json", "original.json"}
    source, card = open_checkpoint(target)
    assert source.shapes.keys() == expected.keys()
    for name, value in expected.items():
        found = source.read(name)
        assert found.dtype == torch.float32 and torch.equal(found, value), name
    loaded, _ = load_checkpoint(target)
    save_checkpoint(folder / "copy", loaded, card)
    assert checkpoint_sha256(target) == checkpoint_sha256(folder / "copy")


KINDS = {
    "gptq": ({"quant_method": "gptq", "bits": 3, "group_size": GROUP}, lambda i, o: gptq_layer(i, o, 3, 1, True)),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": GROUP}, awq_layer),
    "bitsandbytes": ({"quant_method": "bitsandbytes"}, lambda i, o: four_bit_layer(i, o, True)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_class", [LlamaForCausalLM, GPT2LMHeadModel])
def test_packed_integers_are_decoded_where_they_are(tmp_path, monkeypatch, kind, model_class):
    monkeypatch.setattr(packed, "_ROWS_AT_ONCE", 10)
    settings, make = KINDS[kind]
    model = model_class(LLAMA if model_class is LlamaForCausalLM else GPT2)
    state, expected = checkpoint(model, make)
    write(tmp_path, model, state, settings)
    assert_decodes(tmp_path, None, {name: expected[name] for name in coded_parameters(model)})


def test_a_published_quip_checkpoint_is_decoded_where_it_is(tmp_path):
    published_checkpoint(tmp_path, "E8P12RVQ3B", rescaled=True)
    model, _ = load_pretrained(spec_of(tmp_path))
    assert_decodes(tmp_path, None, coded_parameters(model))


def test_what_has_changed_since_is_refused(tmp_path):
    model = LlamaForCausalLM(LLAMA)
    state, _ = checkpoint(model, awq_layer)
    write(tmp_path, model, state, KINDS["awq"][0])
    import_pretrained(spec_of(tmp_path), tmp_path / "imported")
    record = tmp_path / "imported" / "original.json"
    said = json.loads(record.read_text())
    for wrong in ({"quant_method": "awq", "bits": 3}, {"quant_method": "hqq"}, {}):
        record.write_text(json.dumps(said | {"quantization": wrong}))
        with pytest.raises(ModelError, match="supported"):
            open_checkpoint(tmp_path / "imported")
    record.write_text(json.dumps(said | {"quantization": [1]}))
    with pytest.raises(ModelError, match=r"original\.json"):
        open_checkpoint(tmp_path / "imported")
    record.write_text(json.dumps(said | {"tensors": said["tensors"] | {"model.norm.weight": "none such"}}))
    with pytest.raises(ModelError, match="none such"):
        open_checkpoint(tmp_path / "imported")[0].read("model.norm.weight")
    record.write_text(json.dumps(said))
    with (tmp_path / "model-0.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    with pytest.raises(ModelError, match=r"model-0\.safetensors has changed"):
        open_checkpoint(tmp_path / "imported")


def test_a_type_that_cannot_be_decoded_is_one_error(tmp_path, monkeypatch):
    write_model(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path / "m.gguf")
    monkeypatch.setattr(gguf, "dequantize", lambda *_: 1 / 0)
    with pytest.raises(ModelError, match=r"m\.gguf: cannot load the tensor .*division"):
        load_pretrained(spec_of(tmp_path, "m.gguf"))
