"""Small files that ask for much: each is refused in one line, in a few seconds and little memory."""

import json
import resource

import numpy as np
import pytest
import torch
import transformers
from peak_memory import forget_peak, peak_kibibytes
from safetensors.torch import save_file
from tokenbounds.errors import MessageError, ModelError
from tokenbounds.limits import machine_memory, memory_limit
from tokenbounds.messages.coding.symbols import encode_symbols
from tokenbounds.messages.container import Part, render_message, write_varint
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.base import load_base
from tokenbounds.models.build import build_model
from tokenbounds.models.card import ModelCard
from tokenbounds.models.families import FAMILIES
from tokenbounds.models.pretrained.filling import fill_model

pytestmark = pytest.mark.adversary
GIB = 1 << 30


def chain(order, vocabulary_size, symbols):
    model = {"family": "markov", "order": order, "start_id": 0, "vocabulary_size": vocabulary_size}
    header = {"coder": "adaptive", "model": model, "quantizer": {"kind": "counts", "levels": 2}}
    return render_message(header, [Part("symbols", symbols)])


def block(count, symbols, alphabet, shape=None):
    code = encode_symbols(symbols, alphabet, "adaptive", shape)
    return write_varint(count) + write_varint(len(code)) + code


def many_contexts():
    """Every context of three bytes, without any weight: 2^16 at order 2, 2^22 at order 3."""
    first = block(1, np.array([[1]]), 3, (1, 1))
    pairs = block(256, np.ones(256, dtype=int), 2) + write_varint(0) + write_varint(0)
    triples = block(1 << 16, np.ones(1 << 16, dtype=int), 2) + write_varint(0) + write_varint(0)
    return chain(3, 256, first + pairs + triples + write_varint(1 << 21) + write_varint(0))


def many_cells():
    """A plane of 2^24 cells: 16 contexts, a million tokens."""
    first, contexts = block(1, np.array([[1]]), 3, (1, 1)), block(16, np.ones(16, dtype=int), 2)
    return chain(1, 1 << 20, first + contexts + write_varint(1 << 20) + write_varint(0))


def transformer(card, parts, quantizer=None):
    return render_message({"coder": "adaptive", "model": card, "quantizer": quantizer or {"kind": "uniform"}}, parts)


def unneeded(kind, size):
    """A part that nothing reads, so that the message is larger than its content."""
    card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 4096, "n_head": 2}, 32, 0, 16).to_dict()
    return transformer(card, [Part("scales", b""), Part("symbols", b""), Part(kind, bytes(size))])


def subspace():
    """Few coded values over many generated ones."""
    settings = {"kind": "subspace", "dimension": 4}
    card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 8192, "n_head": 2}, 32, 0, 16, settings).to_dict()
    return transformer(card, [Part("scales", b"\1"), Part("symbols", bytes(20_000))])


ATTACKS = {
    "contexts": (many_contexts, "larger tables"),
    "cells": (many_cells, "larger tables"),
    "values": (lambda: unneeded("values", 20_000), "1 parts of kind 'values', and its format has 0"),
    "books": (lambda: unneeded("codebooks", 2_000), "1 parts of kind 'codebooks', and its format has 0"),
    "hash": (lambda: unneeded("side_information", 32), "must hold 0 hashes"),
    "list": (lambda: transformer({"family": []}, [], {"kind": [1]}), "unknown quantizer"),
    "twice": (lambda: unneeded("symbols", 9), "2 parts of kind 'symbols', and its format has 1"),
    "head": (lambda: unneeded("smoothing_head", 20_000), "parameters; at most 1048576"),
    "generated": (subspace, "parameters; at most 7340032"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_messages_that_ask_for_much_are_refused_early(name, monkeypatch):
    build, said = ATTACKS[name]
    message = build()
    assert len(message) < 21_000
    monkeypatch.setattr("tokenbounds.messages.decode.build_model", lambda *_: pytest.fail("a model was built"))
    before = forget_peak()
    with pytest.raises(MessageError, match=said):
        decode_message(message)
    assert peak_kibibytes() - before < GIB >> 11  # KiB: half a GiB


HUGE = {"n_layer": 48, "n_embd": 8192, "n_head": 2}


def test_a_base_is_compared_with_its_file_before_it_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenbounds.models.checkpoint.build_model", lambda *_: pytest.fail("a model was built"))
    card = ModelCard("gpt2", HUGE, 32, 0, 16).to_dict()
    (tmp_path / "card.json").write_text(json.dumps(card))
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors and its card disagree"):
        load_base(tmp_path)


def test_a_hugging_face_folder_is_compared_with_its_files_before_it_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenbounds.models.pretrained.loading.open_plain", lambda *_: pytest.fail("built"))
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 32, "bos_token_id": 0, **HUGE}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="its configuration describes"):
        load_base(tmp_path)


def test_what_does_not_fit_into_memory_is_refused_by_name(monkeypatch):
    card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 64, "n_head": 2}, 32, 0, 16)
    monkeypatch.setattr("tokenbounds.limits.machine_memory", lambda: 1 << 17)
    with pytest.raises(ModelError, match=r"a model of 53,184 parameters takes 0\.0 GiB .*--max-memory"):
        build_model(card)


def test_limits_of_the_process_count(monkeypatch):
    soft = {resource.RLIMIT_AS: resource.RLIM_INFINITY, resource.RLIMIT_DATA: 3 << 20}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft[kind], resource.RLIM_INFINITY))
    assert memory_limit() == 3 << 20 < machine_memory()


@pytest.mark.parametrize("claim", [{"n_layer": 10**9}, {"n_embd": 1 << 16}])
def test_a_configuration_is_compared_with_its_tensors_before_it_is_built(claim):
    config = transformers.GPT2Config(**{"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 32} | claim)
    tensors = {"transformer.wte.weight": torch.zeros(32, 8)}
    with pytest.raises(ModelError, match=r"file: its configuration describes .*; its file has"):
        fill_model(config, FAMILIES["gpt2"], tensors, "file")
