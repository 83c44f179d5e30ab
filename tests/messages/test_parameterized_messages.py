"""Messages of every parameterization: exact in a fresh process, harmless whatever they claim, trained on request."""

import itertools
import json

import pytest
from forged_messages import write_message
from fresh_decoder import digests
from peak_memory import forget_peak, peak_kibibytes
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.errors import MessageError
from tokenbounds.messages.decode import decode_message, export_huggingface
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint
from transformers import AutoModelForCausalLM

FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
KINDS = ("kronecker", "monarch", "subspace", "sublora", "kronecker_subspace")


def spec_of(kind, **training):
    row = {"model": "m", "quantizer": {"kind": kind, "straight_through": training}, "coder": "adaptive"}
    return parse_row(MessageSpec, json.dumps(row))


def test_a_fresh_process_decodes_every_tensor_of_every_family_and_kind_exactly(checkpoint, tmp_path, decoded_afresh):
    paths = []
    for number, (family, parameterization) in enumerate(itertools.product(FAMILIES, KINDS)):
        paths.append(tmp_path / f"{family}-{parameterization}.tbm")
        directory = checkpoint(family, parameterization)
        kind = ("uniform", "codebook")[number % 2]
        message = encode_model(directory, spec_of(kind), paths[-1], tmp_path / "m.json")
        coded = coded_parameters(load_checkpoint(directory)[0])
        report = json.loads((tmp_path / "m.json").read_text())
        assert [row["name"] for row in report["tensors"]] == list(coded)
        assert message.size_bits == 8 * paths[-1].stat().st_size
    assert decoded_afresh(paths) == [digests(decode_message(path)) for path in paths]


@pytest.mark.parametrize("parameterization", KINDS)
def test_exported_folder_computes_what_the_message_does(checkpoint, tmp_path, parameterization):
    encode_model(checkpoint("gpt2", parameterization), spec_of("uniform"), tmp_path / "m.tbm", tmp_path / "m.json")
    export_huggingface(tmp_path / "m.tbm", tmp_path / "folder")
    loaded, decoded = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "folder").eval(),
        decode_message(tmp_path / "m.tbm"),
    )
    ids = decoded.dummy_inputs["input_ids"] % 64
    assert (loaded(ids).logits - decoded(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["uniform", "codebook"])
@pytest.mark.parametrize("parameterization", KINDS)
def test_training_through_quantization_lowers_the_loss_and_a_rate_weight_the_bits(
    checkpoint, tmp_path, corpus, parameterization, kind
):
    sizes = []
    for rate_weight in (0.0, 3.0):
        spec = spec_of(kind, steps=24, batch_tokens=64, learning_rate=0.02, rate_weight=rate_weight)
        directory = checkpoint("gpt2", parameterization)
        sizes.append(encode_model(directory, spec, tmp_path / "m.tbm", tmp_path / "m.json", corpus).size_bits)
        history = json.loads((tmp_path / "m.json").read_text())["straight_through"]
        assert rate_weight or min(row["loss_bits"] for row in history["curve"]) < history["first_loss_bits"] - 0.3
    assert sizes[1] < sizes[0]


HUGE = {"n_embd": 1 << 15, "n_layer": 64, "n_head": 1}


@pytest.mark.parametrize(
    "parameterization",
    [
        {"kind": "kronecker"},
        {"kind": "monarch", "blocks": 1 << 15, "targets": ["attention", "mlp", "head", "embedding"]},
        {"kind": "subspace", "dimension": 1},
        {"kind": "subspace", "dimension": 1 << 32},
        {"kind": "subspace", "dimension": 4096, "over": {"kind": "kronecker"}},
        {"kind": "subspace", "dimension": 1, "over": {"kind": "lora", "rank": 1}},
    ],
)
def test_small_messages_cannot_ask_for_much(checkpoint, tmp_path, parameterization):
    message = encode_model(checkpoint("gpt2"), spec_of("uniform"), tmp_path / "m.tbm", tmp_path / "m.json")
    model = {"family": "gpt2", "config": HUGE, "vocabulary_size": 1 << 15, "context": 1 << 15}
    model["parameterization"] = parameterization
    write_message(tmp_path / "h.tbm", {**message.header, "model": model}, message.parts)
    before = forget_peak()
    with pytest.raises(MessageError, match=r"h\.tbm.* are allowed here"):
        decode_message(tmp_path / "h.tbm")
    assert peak_kibibytes() - before < 50_000  # KiB
