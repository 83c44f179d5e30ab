"""Text from decoded messages: `tokenbounds sample`."""

import numpy as np
import pytest
import torch
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import CorpusSpec, MarkovModel, MessageSpec, TextSource
from tokenbounds.config.quantizers import CountsQuantizer, OnlineQuantizer, UniformQuantizer
from tokenbounds.corpus.shards import Corpus, tokenize_corpus
from tokenbounds.errors import CorpusError, MessageError
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.build import build_model
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint
from tokenbounds.models.markov.counts import fit_markov
from tokenbounds.models.online.card import OnlineCard, name_online
from tokenbounds.scores.sample_text import draw_token, sample_text
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

WINDOW = 8
WORDS = [f"w{number}" for number in range(16)]


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """A chain of order 1 that saw a terminal's commands, networks of bytes and of 16 words, an online reference."""
    folder = tmp_path_factory.mktemp("messages")
    (folder / "text.txt").write_text("ab\x1b" * 50)
    tokenize_corpus(
        CorpusSpec(source=TextSource(kind="text", paths=(str(folder / "text.txt"),))), "text", folder / "corpus"
    )
    fit_markov(MarkovModel(kind="markov", corpus="text", order=1), Corpus.open(folder / "corpus"), folder / "chain")
    for name, size in (("network", 256), ("words", 16)):
        card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 16, "n_head": 2}, size, 0, WINDOW)
        torch.manual_seed(3)
        save_checkpoint(folder / name, build_model(card), card)
    (folder / "online").mkdir()
    name_online(OnlineCard(12), folder / "online/card.json")
    quantizers = {
        "chain": CountsQuantizer(kind="counts", threshold=1),
        "network": UniformQuantizer(kind="uniform"),
        "words": UniformQuantizer(kind="uniform"),
        "online": OnlineQuantizer(kind="no_values"),
    }
    for name, quantizer in quantizers.items():
        spec = MessageSpec(model=name, quantizer=quantizer)
        encode_model(folder / name, spec, folder / f"{name}.tbm", folder / f"{name}.json")
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="w1"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w1", bos_token="w0").save_pretrained(folder / "place")
    return folder


def test_a_token_is_drawn_as_often_as_it_is_probable():
    scores = np.log([0.1, 0.2, 0.3, 0.4])
    uniforms = (np.arange(1000) + 0.5) / 1000
    assert np.bincount([draw_token(scores, 1.0, each) for each in uniforms]).tolist() == [100, 200, 300, 400]
    # Temperature 1/2 squares probabilities: 1, 4, 9 and 16 of 30.
    drawn = np.bincount([draw_token(scores, 0.5, each) for each in uniforms])
    assert drawn == pytest.approx(1000 * np.array([1, 4, 9, 16]) / 30, abs=1)
    assert draw_token(scores, 0.0, 0.0) == draw_token(scores, 1e-300, 0.99) == 3


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-53])
def test_an_impossible_token_is_never_drawn(uniform):
    assert draw_token(np.array([-np.inf, 5.0, -np.inf]), 1.0, uniform) == 1


def test_a_chain_continues_what_it_saw(messages):
    assert sample_text(messages / "chain.tbm", "b", tokens=5, temperature=0.0) == "b\x1bab\x1ba"
    # It goes on so with probability 0.98 each time, and does not find its way back: all else is new to it.
    text = sample_text(messages / "chain.tbm", "a", tokens=60, seed=1)
    assert text == sample_text(messages / "chain.tbm", "a", tokens=60, seed=1)
    assert text != sample_text(messages / "chain.tbm", "a", tokens=60, seed=2)
    assert text.startswith("ab\x1bab\x1b")


def test_a_network_sees_the_start_the_prompt_and_its_window(messages):
    model, tokens = decode_message(messages / "network.tbm"), [0, *b"xy"]
    for _ in range(2 * WINDOW):  # the most probable token, longer than the window
        window = torch.tensor([tokens[-WINDOW:]])
        tokens.append(int(model(input_ids=window).logits[0, -1].argmax()))
    found = sample_text(messages / "network.tbm", "xy", tokens=2 * WINDOW, temperature=0.0)
    assert found == bytes(tokens[1:]).decode("utf-8", "replace")


def test_a_tokenizer_writes_the_words(messages):
    text = sample_text(messages / "words.tbm", "w5", tokens=6, tokenizer=str(messages / "place"))
    assert text.startswith("w5 ") and len(text.split()) == 7 and set(text.split()) <= set(WORDS)


@pytest.mark.parametrize(
    ("message", "tokenizer", "error", "words"),
    [
        ("words", "bytes", CorpusError, "predicts 16 tokens, but the tokenizer bytes has 256"),
        ("network", "antibody", CorpusError, "--tokenizer FOLDER"),
        ("network", "nowhere/at-all", CorpusError, "nowhere/at-all"),
        ("online", "bytes", MessageError, "online reference"),
    ],
)
def test_what_cannot_be_sampled_is_refused(messages, message, tokenizer, error, words):
    with pytest.raises(error, match=words):
        sample_text(messages / f"{message}.tbm", tokenizer=tokenizer)


def test_predictions_that_are_none_are_refused(messages, monkeypatch):
    model = decode_message(messages / "network.tbm")
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(float("nan"))
    monkeypatch.setattr("tokenbounds.scores.sample_text.decode_message", lambda *_: model)
    with pytest.raises(MessageError, match="not finite"):
        sample_text("a.tbm")


def test_the_command_prints_no_commands_of_a_terminal(run, messages):
    command = ["sample", messages / "chain.tbm", "--prompt", "a", "--tokens", 4, "--temperature", 0]
    assert run(*command) == (0, "ab�ab\n", "")
    status, _, err = run("sample", messages / "online.tbm")
    assert status == 1 and "online reference" in err
