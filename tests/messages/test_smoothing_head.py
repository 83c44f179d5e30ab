"""Smoothing heads: their bytes, what hostile bytes do, and that training finds weights worth their bits."""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fresh_decoder import digests
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.smoothing_head import train_smoothing_head
from tokenbounds.config import MessageSpec, SmoothingHeadSpec, parse_row
from tokenbounds.errors import MessageError
from tokenbounds.messages import container
from tokenbounds.messages.container import Part, parse_message, read_message, render_message
from tokenbounds.messages.decode import decode_message, export_huggingface
from tokenbounds.messages.smoothing_head import SmoothingHead, grid_positions, read_alphas, smoothing_head_of

HEAD = SmoothingHead(grid_size=3, step_exponent=-16, codes=np.array([2, -1, 0, 5], np.int32))
GOLDEN = "03f003e826"
SPEC = {"tokens": 256, "steps": 20, "grid_size": 6}


def spec_of(head=None, kind="uniform"):
    row = {"model": "m", "quantizer": {"kind": kind}}
    return parse_row(MessageSpec, json.dumps({**row, **({"smoothing_head": head} if head else {})}))


@pytest.fixture(scope="module")
def encoded(checkpoint, corpus, tmp_path_factory):
    """The same model without a head and with one."""
    folder, source = tmp_path_factory.mktemp("heads"), checkpoint("gpt2")
    encode_model(source, spec_of(), folder / "plain.tbm", folder / "plain.json")
    encode_model(source, spec_of(SPEC), folder / "head.tbm", folder / "head.json", corpus)
    return folder


def test_values_weights_and_positions_by_hand():
    """Step 2^(-16/8) = 1/4."""
    assert HEAD.alphas == (0.125, 0.25, 0.5)
    assert HEAD.values().tolist() == [0.5, -0.25, 0.0, 1.25]
    states = torch.tensor([[0.0, 0.0, 9.0], [-2.0, 1.0, 0.0], [1.0, 0.0, 0.0], [8.0, 0.0, 0.0], [np.nan, 0.0, 0.0]])
    # 1.25, 0, 1.75, 5.25 and none: rounded, and kept on the grid
    assert grid_positions(states, torch.from_numpy(HEAD.values()), 3).tolist() == [1, 0, 2, 2, 0]
    assert grid_positions(states.bfloat16(), torch.from_numpy(HEAD.values()), 3).tolist() == [1, 0, 2, 2, 0]


def test_the_part_s_bytes():
    """Number of weights, step exponent + 512 = 496 as a varint, then an adaptive stream."""
    assert HEAD.to_part() == Part("smoothing_head", bytes.fromhex(GOLDEN))
    message = parse_message(render_message({}, [HEAD.to_part()]))
    decoded = SmoothingHead.from_message(message, 3)
    assert (decoded.grid_size, decoded.step_exponent, decoded.codes.tolist()) == (3, -16, [2, -1, 0, 5])
    assert read_alphas(message) == HEAD.alphas
    assert message.breakdown["smoothing_head"] == 8 * len(bytes.fromhex(GOLDEN))


def test_a_message_without_a_head_has_no_weights():
    message = parse_message(render_message({}, []))
    assert read_alphas(message) == () and SmoothingHead.from_message(message, 3) is None
    assert "smoothing_head" not in message.breakdown


@pytest.mark.parametrize(
    "data", ["", "00f003", "11f003", "03", "038008e826", "03f003e82600", "03f003e8261234567812345678", "8003f003e826"]
)
def test_hostile_parts(data):
    """Empty, no weights, 17 of them, cut off, a step beyond 2^64, and bytes left over."""
    message = parse_message(render_message({}, [Part("smoothing_head", bytes.fromhex(data))]))
    with pytest.raises(MessageError):
        SmoothingHead.from_message(message, 3)


def test_two_heads_and_heads_of_chains_are_refused():
    twice = parse_message(render_message({}, [HEAD.to_part(), HEAD.to_part()]))
    for read in (read_alphas, lambda message: SmoothingHead.from_message(message, 3)):
        with pytest.raises(MessageError, match="2 parts of kind 'smoothing_head'"):
            read(twice)
    chain = {"model": {"family": "markov", "order": 0, "start_id": 0, "vocabulary_size": 4}}
    with pytest.raises(MessageError, match="Markov chain has no hidden state"):
        decode_message(render_message(chain, [HEAD.to_part()]))
    for grid_size in (0, 17):
        with pytest.raises(MessageError, match="weights"):
            replace(HEAD, grid_size=grid_size)


def test_a_head_is_one_more_part_and_changes_nothing_else(encoded, tmp_path):
    plain, headed = read_message(encoded / "plain.tbm"), read_message(encoded / "head.tbm")
    assert headed.header == plain.header and headed.parts[:-1] == plain.parts
    assert headed.size_bits > plain.size_bits and sum(headed.breakdown.values()) == headed.size_bits
    report = json.loads((encoded / "head.json").read_text())["smoothing_head"]
    assert report["size_bits"] == headed.breakdown["smoothing_head"]
    assert tuple(report["alphas"]) == read_alphas(headed)
    assert json.loads((encoded / "plain.json").read_text())["smoothing_head"] is None
    with_head, without = decode_message(encoded / "head.tbm"), decode_message(encoded / "plain.tbm")
    assert list(with_head.state_dict()) == list(without.state_dict())
    assert smoothing_head_of(without) is None
    for name in ("plain", "head"):
        export_huggingface(encoded / f"{name}.tbm", tmp_path / name)
    exported = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "head")]
    assert exported[0] == exported[1]


def test_a_fresh_process_decodes_the_same_head(encoded, decoded_afresh):
    headed, plain = decoded_afresh([encoded / "head.tbm", encoded / "plain.tbm"])
    assert headed == digests(decode_message(encoded / "head.tbm"))
    assert set(headed) - set(plain) == {"smoothing head"}


def test_every_flipped_bit_of_the_part_is_seen(encoded):
    """By the checksum; and with the checksum made again, the bytes decode to another head or not at all."""
    data = (encoded / "head.tbm").read_bytes()
    part = read_message(data).part("smoothing_head")
    first = data.rindex(part)
    same = smoothing_head_of(decode_message(data)).to_part()
    for bit in range(8 * first, 8 * (first + len(part))):
        damaged = bytearray(data[: -container.CHECKSUM_BYTES])
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(MessageError, match="checksum"):
            parse_message(bytes(damaged) + data[-container.CHECKSUM_BYTES :])
        try:
            message = parse_message(bytes(damaged) + hashlib.sha256(damaged).digest()[: container.CHECKSUM_BYTES])
            assert SmoothingHead.from_message(message, 16).to_part() != same
        except MessageError:
            pass


def test_training_is_reproducible_and_needs_a_corpus(encoded, checkpoint, corpus, tmp_path):
    encode_model(checkpoint("gpt2"), spec_of(SPEC), tmp_path / "again.tbm", tmp_path / "again.json", corpus)
    assert (tmp_path / "again.tbm").read_bytes() == (encoded / "head.tbm").read_bytes()
    with pytest.raises(MessageError, match="smoothing head is trained on a corpus"):
        encode_model(checkpoint("gpt2"), spec_of(SPEC), tmp_path / "none.tbm", tmp_path / "none.json")
    with pytest.raises(MessageError, match="Markov chain has no hidden state"):
        encode_model(tmp_path, spec_of(SPEC, "counts"), tmp_path / "none.tbm", tmp_path / "none.json")
    assert not (tmp_path / "none.tbm").exists()


# --- training ---------------------------------------------------------------------------------------------------------

V, HIDDEN = 64, 8


class Liar:
    """Predicts 0 → 1 → 2 → 0 with certainty, but after 2 comes anything: only after 2 does it need smoothing."""

    config = SimpleNamespace(vocab_size=V)

    def __init__(self, span=20.0):
        self._logits = torch.zeros(V, V)
        for token, guess in ((0, 1), (1, 2), (2, 0)):
            self._logits[token, guess] = span
        self._logits[3:, 0] = span
        self._states = torch.randn(V, HIDDEN, generator=torch.Generator().manual_seed(0))
        self._inverse = torch.linalg.lstsq(self._states[:4], torch.eye(4)).solution

    def base_model(self, input_ids, use_cache):
        return SimpleNamespace(last_hidden_state=self._states[input_ids.clamp_max(3)])

    def lm_head(self, states):
        return (states @ self._inverse) @ self._logits[:4]


class Lied:
    """0 1 2 and then any of the tokens from 3 on, over and over."""

    start_id = 3

    def __init__(self, tokens=100_000):
        rng = np.random.default_rng(0)
        text = np.tile([0, 1, 2, 3], 300)
        text[3::4] = rng.integers(3, V, 300)
        self._text, self.tokens, self.lengths = text.astype(np.int64), tokens, np.array([text.size])

    def document(self, number):
        return self._text


@pytest.mark.parametrize("bound", ["azuma", "betting"])
def test_training_smooths_where_the_model_errs(bound):
    spec = SmoothingHeadSpec(bound=bound, tokens=2048, steps=150, grid_size=10)
    head, report = train_smoothing_head(Liar(), Lied(), context=64, message_bits=3000, spec=spec)
    values = torch.from_numpy(head.values())
    sure, lying = (grid_positions(Liar()._states[[token]], values, head.grid_size) for token in (0, 2))
    assert lying.item() >= sure.item() + 2
    assert report["expected_bits"] < report["expected_bits_with_one_alpha"] - 0.1
    assert report["size_bits"] == 8 * len(head.to_part().data) < 200


def test_a_head_that_cannot_pay_says_so():
    """A model that guesses uniformly: every weight gives the same losses, and the head costs its bits."""
    spec = SmoothingHeadSpec(tokens=512, steps=10, grid_size=6)
    _, report = train_smoothing_head(Liar(0.0), Lied(), context=64, message_bits=300, spec=spec)
    assert report["expected_bits"] > report["expected_bits_with_one_alpha"]


def test_losses_that_are_not_finite_are_refused():
    with pytest.raises(MessageError, match="not finite"):
        train_smoothing_head(
            Liar(np.inf), Lied(), context=64, message_bits=300, spec=SmoothingHeadSpec(tokens=64, steps=1)
        )
