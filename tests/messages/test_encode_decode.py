"""Messages of whole models: every tensor exact in a fresh process, Hugging Face folders with the same losses."""

import hashlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from forged_messages import write_message
from fresh_decoder import digests
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.errors import MessageError
from tokenbounds.messages.container import read_message
from tokenbounds.messages.decode import decode_message, export_huggingface
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint
from transformers import AutoModelForCausalLM

FAMILIES = ("gpt2", "llama", "mistral")


def spec_of(kind, coder="adaptive", **training):
    row = {"model": "m", "quantizer": {"kind": kind, "straight_through": training}, "coder": coder}
    return parse_row(MessageSpec, json.dumps(row))


@pytest.mark.parametrize(
    ("family", "parameterization", "kind", "coder"),
    list(itertools.product(FAMILIES, ("dense", "lora"), ("uniform", "codebook"), ("adaptive", "static"))),
)
def test_every_method_and_family(checkpoint, tmp_path, family, parameterization, kind, coder):
    directory = checkpoint(family, parameterization)
    message = encode_model(directory, spec_of(kind, coder), tmp_path / "m.tbm", tmp_path / "m.json")
    report = json.loads((tmp_path / "m.json").read_text())
    original, card = load_checkpoint(directory)
    decoded = decode_message(tmp_path / "m.tbm")
    assert report["size_bits"] == 8 * (tmp_path / "m.tbm").stat().st_size == sum(report["breakdown"].values())
    assert report["sha256"] == hashlib.sha256((tmp_path / "m.tbm").read_bytes()).hexdigest()
    assert message.header["model"]["vocabulary_size"] == card.vocabulary_size
    before = coded_parameters(original)
    assert report["coded_parameters"] == sum(value.numel() for value in before.values())
    for name, value in coded_parameters(decoded).items():
        error = (value - before[name]).abs().max()
        assert error < 1.2 * before[name].abs().max(), name
    assert not decoded.training


def test_a_fresh_process_decodes_the_same_bits_without_the_checkpoints(checkpoint, tmp_path, decoded_afresh):
    paths = []
    for family, parameterization, kind in itertools.product(FAMILIES, ("dense", "lora"), ("uniform", "codebook")):
        paths.append(tmp_path / f"{family}-{parameterization}-{kind}.tbm")
        encode_model(checkpoint(family, parameterization), spec_of(kind), paths[-1], tmp_path / "m.json")
    assert decoded_afresh(paths) == [digests(decode_message(path)) for path in paths]


@pytest.mark.parametrize(("family", "parameterization"), list(itertools.product(FAMILIES, ("dense", "lora"))))
def test_exported_folder_loads_in_transformers_with_the_same_losses(checkpoint, tmp_path, family, parameterization):
    encode_model(checkpoint(family, parameterization), spec_of("uniform"), tmp_path / "m.tbm", tmp_path / "m.json")
    export_huggingface(tmp_path / "m.tbm", tmp_path / "folder")
    assert not list((tmp_path / "folder").glob("*.bin"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "folder").eval()
    ids = torch.arange(30).reshape(2, 15) % 64
    with torch.no_grad():
        ours = decode_message(tmp_path / "m.tbm")(input_ids=ids, labels=ids).loss
        theirs = loaded(input_ids=ids, labels=ids).loss
    assert abs(float(ours - theirs)) < 1e-5


@pytest.mark.parametrize("kind", ["uniform", "codebook"])
@pytest.mark.parametrize("rate_weight", [0.0, 0.3])
def test_finetuning_lowers_loss_and_rate_weight_lowers_bits(checkpoint, tmp_path, corpus, kind, rate_weight):
    plain = encode_model(checkpoint("gpt2"), spec_of(kind), tmp_path / "a.tbm", tmp_path / "a.json")
    spec = spec_of(kind, steps=40, batch_tokens=64, learning_rate=0.01, rate_weight=rate_weight)
    tuned = encode_model(checkpoint("gpt2"), spec, tmp_path / "b.tbm", tmp_path / "b.json", corpus)
    history = json.loads((tmp_path / "b.json").read_text())["straight_through"]
    assert history["last_loss_bits"] < history["first_loss_bits"] - 0.5
    if rate_weight:
        assert tuned.size_bits < plain.size_bits
    assert decode_message(tmp_path / "b.tbm") is not None


@pytest.mark.parametrize("by_sensitivity", [False, True])
def test_finetuning_is_reproducible(checkpoint, tmp_path, corpus, by_sensitivity):
    spec = spec_of("uniform", steps=3, batch_tokens=64, rate_weight=0.3)
    if by_sensitivity:
        spec = replace(spec, quantizer=replace(spec.quantizer, sensitivity_tokens=64, drop_values=True))
    names = ("a", "b")
    for name in names:
        encode_model(checkpoint("llama"), spec, tmp_path / f"{name}.tbm", tmp_path / f"{name}.json", corpus)
    assert len({(tmp_path / f"{name}.tbm").read_bytes() for name in names}) == 1


def test_finetuning_needs_a_corpus_and_writes_nothing_without(checkpoint, tmp_path):
    with pytest.raises(MessageError, match="corpus"):
        encode_model(checkpoint("gpt2"), spec_of("uniform", steps=1), tmp_path / "m.tbm", tmp_path / "m.json")
    assert not list(tmp_path.iterdir())


def test_values_that_are_not_finite_end_in_one_error(checkpoint, tmp_path):
    model, card = load_checkpoint(checkpoint("gpt2"))
    from tokenbounds.models.checkpoint import save_checkpoint

    with torch.no_grad():
        next(iter(coded_parameters(model).values()))[0] = np.nan
    save_checkpoint(tmp_path, model, card)
    with np.errstate(all="ignore"), pytest.raises(MessageError, match="finite"):
        encode_model(tmp_path, spec_of("uniform"), tmp_path / "m.tbm", tmp_path / "m.json")


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"family": "gpt2", "config": {"n_embd": 1 << 20, "n_layer": 4096}}},
        {"model": {"family": "gpt2", "config": {"n_embd": 1, "n_head": 1, "n_layer": 4096}}},
        {"model": {"family": "bert"}},
        {"model": []},
        {"model": {"family": "markov", "order": 6}},
        {"model": {"family": "gpt2", "config": {"auto_map": "x"}}},
        {"quantizer": {"kind": "pickle"}},
        {"quantizer": {"kind": "uniform", "more": 1}},
        {"quantizer": None},
        {"coder": "huffman"},
        {"coder": ["adaptive"]},
        {"extra": 1},
    ],
)
def test_hostile_headers_end_in_the_one_error(checkpoint, tmp_path, change):
    message = encode_model(checkpoint("gpt2"), spec_of("uniform"), tmp_path / "m.tbm", tmp_path / "m.json")
    write_message(tmp_path / "h.tbm", {**message.header, **change}, message.parts)
    with pytest.raises(MessageError, match=r"h\.tbm"):
        decode_message(tmp_path / "h.tbm")


def test_decoding_does_not_depend_on_the_order_parts_are_looked_up(checkpoint, tmp_path):
    message = encode_model(checkpoint("gpt2"), spec_of("uniform"), tmp_path / "m.tbm", tmp_path / "m.json")
    write_message(tmp_path / "r.tbm", message.header, message.parts[::-1])
    assert digests(decode_message(tmp_path / "r.tbm")) == digests(decode_message(tmp_path / "m.tbm"))
    assert read_message(tmp_path / "m.tbm").size_bits == read_message(tmp_path / "r.tbm").size_bits
