"""Losses of a text before and after encoding: placed models give what whole ones do."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from small_checkpoints import LLAMA, save_noisy
from tokenbounds.compression.divergence import compare_predictions
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.scored_text import score_text
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint
from tokenbounds.scores import placement
from tokenbounds.scores.documents import score_documents
from tokenbounds.scores.scorer import ScoringOptions

VOCABULARY, CONTEXT = 40, 16


@pytest.fixture
def text():
    """Three windows of tokens, the first after a start token."""
    return MemoryCorpus([np.random.default_rng(1).integers(1, VOCABULARY, 3 * CONTEXT, np.uint16)], VOCABULARY, 0)


@pytest.fixture
def encoded(tmp_path):
    """A checkpoint, and its message."""
    card = ModelCard("llama", LLAMA, VOCABULARY, 3, CONTEXT)
    folder, message = save_noisy(tmp_path / "model", card, noise=0.2), tmp_path / "m.tbm"
    row = {"model": "m", "quantizer": {"kind": "rtn", "target": {"scale": 1.0}}}
    encode_model(folder, parse_row(MessageSpec, json.dumps(row)), message, tmp_path / "m.json")
    return folder, message


def scored(encoded, text, where="whole"):
    folder, message = encoded
    return score_text(message, folder, text, ScoringOptions(device="cpu", placement=where, batch_tokens=32))


def test_a_block_at_a_time_gives_what_whole_models_do(encoded, text, monkeypatch):
    whole = scored(encoded, text)
    for name in ("load_checkpoint", "decode_message"):
        monkeypatch.setattr(placement, name, lambda *_: pytest.fail("a whole model was loaded"))
    assert scored(encoded, text, "blocks") == whole
    assert scored(encoded, text, "blocks")["tokens"] == 3 * CONTEXT


def test_one_original_at_a_time_is_in_memory(encoded, text, monkeypatch):
    load, loaded = placement.load_checkpoint, []

    def one_at_a_time(folder):
        gc.collect()
        assert all(model() is None for model in loaded)
        model, card = load(folder)
        loaded.append(weakref.ref(model))
        return model, card

    monkeypatch.setattr(placement, "load_checkpoint", one_at_a_time)
    scored(encoded, text)
    assert len(loaded) == 2


def test_losses_and_divergences_are_those_of_the_two_models(encoded, text):
    folder, message = encoded
    found = scored(encoded, text)
    original, decoded = load_checkpoint(folder)[0], decode_message(message)
    for name, model in (("before", original), ("after", decoded)):
        losses = score_documents(model, text, context=CONTEXT, stride=CONTEXT)[0].nll_bits
        assert found["loss_bits"][name] == pytest.approx(losses.mean(dtype=float), rel=1e-6)
    stream = np.concatenate([[text.start_id], text.document(0)]).astype(np.int64)
    inputs, targets = (torch.from_numpy(each.reshape(3, CONTEXT)) for each in (stream[:-1], stream[1:]))
    compared = compare_predictions(original, decoded, inputs, targets)
    assert found["kl_bits"] == pytest.approx(compared["kl_bits"], rel=1e-4) and found["kl_bits"] > 0.01
    assert found["changed_first_choices"] == pytest.approx(compared["changed_first_choices"]) != 0
    # The divergence has a direction.
    turned = compare_predictions(decoded, original, inputs, targets)["kl_bits"]
    assert found["kl_bits"] != pytest.approx(turned, rel=1e-3)
