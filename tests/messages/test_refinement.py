"""Nested messages: a coarse uniform quantization, and its refinement coded on top."""

import json

import numpy as np
import pytest
from forged_messages import write_message
from fresh_decoder import digests
from test_base_messages import finetuned
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.grids import round_by_spread, round_to_steps
from tokenbounds.compression.methods.refinement import refine
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import decode_planes, encode_planes
from tokenbounds.messages.coding.tensors import encode_codes
from tokenbounds.messages.container import Message, read_message
from tokenbounds.messages.decode import decode_message
from tokenbounds.messages.formats.grid import step_of
from tokenbounds.messages.formats.refinement import RefinementFormat, fine_step
from tokenbounds.messages.formats.uniform import UniformFormat
from tokenbounds.messages.side_information import SideInformation
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint


def spec_of(**quantizer):
    return parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer}))


COARSE = spec_of(kind="uniform", step_ratio=1.0)
FINE = spec_of(kind="refinement", of="coarse", factor=3)


@pytest.fixture
def nested(checkpoint, tmp_path):
    """The model's folder, and the paths of its coarse and fine message."""
    folder, coarse, fine = checkpoint("llama"), tmp_path / "coarse.tbm", tmp_path / "fine.tbm"
    encode_model(folder, COARSE, coarse, tmp_path / "c.json")
    encode_model(folder, FINE, fine, tmp_path / "f.json", side_information=[coarse])
    return folder, coarse, fine


def quantized(ratio=1.0, factor=3, seed=0):
    rng = np.random.default_rng(seed)
    tensors = {"w": rng.normal(size=(160, 120)), "norm.weight": 1 + rng.normal(size=40) / 9, "b": rng.normal(size=7)}
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    coarse = UniformFormat(**vars(round_by_spread(tensors, ratio)))
    return tensors, coarse, refine(coarse, factor, tensors)


# --- codes ------------------------------------------------------------------------------------------------------------


def test_a_refinement_by_hand():
    tensors = {"w": np.array([[-1.3, -0.2, 0.1, 0.4, 0.6, 2.0]], dtype=np.float32)}
    coarse = round_to_steps(tensors, {"w": 0})
    fine = refine(coarse, 4, tensors)
    assert coarse.codes["w"].tolist() == [[-1, 0, 0, 0, 1, 2]]
    assert fine.offsets["w"].tolist() == [[-1, -1, 0, 2, -2, 0]]
    assert fine.dequantize()["w"].tolist() == [[-1.25, -0.25, 0.0, 0.5, 0.5, 2.0]]


@pytest.mark.parametrize("factor", [2, 3, 4, 7, 256])
def test_the_fine_values_are_those_of_a_fine_quantization(factor):
    tensors, coarse, fine = quantized(factor=factor)
    for name, value in fine.dequantize().items():
        step = float(step_of(coarse.exponents[name])) / factor
        assert np.abs(value - tensors[name]).max() <= 0.5 * step + 1e-6
        assert np.abs(fine.offsets[name]).max() <= factor / 2
    message = Message({"quantizer": fine.header()}, tuple(fine.to_parts("adaptive")), 0, {}, "")
    again = RefinementFormat.from_message(message, {}, "adaptive", coarse)
    assert all(np.array_equal(again.offsets[name], fine.offsets[name]) for name in tensors)


def test_fine_steps_have_the_same_bits_everywhere():
    assert [fine_step(exponent, 3).tobytes().hex() for exponent in (0, 1, -40)] == ["abaaaa3e", "031dba3e", "abaa2a3c"]


def test_a_refinement_costs_what_a_fine_quantization_costs_more_than_the_coarse_one():
    """Odd factors code no value twice: both messages together are as short as the fine one alone, within one percent.

    An even factor leaves the values halfway between two coarse ones to both: half a bit more for a factor of two.
    """

    def bits(factor):
        _, coarse, fine = quantized(factor=factor)
        codes = [factor * coarse.codes[name].astype(np.int64) + fine.offsets[name] for name in coarse.codes]
        nested = len(encode_codes(coarse.symbols(), "adaptive")) + len(fine.to_parts("adaptive")[0].data)
        return nested / len(encode_codes(codes, "adaptive"))

    assert bits(3) < 1.01
    assert bits(5) < 1.01
    assert 1.05 < bits(2) < 1.25


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_the_coarse_codes_help_to_code_the_fine_ones(ratio):
    _, _, fine = quantized(ratio=ratio)
    alone = len(encode_codes(fine.symbols(), "adaptive"))
    assert len(fine.to_parts("adaptive")[0].data) < (0.995 if ratio < 1 else 0.95) * alone


def test_planes_with_sides_are_decoded_with_the_same_sides_only():
    rng = np.random.default_rng(3)
    planes = [rng.integers(-3, 4, size=shape) for shape in ((5, 9), (1, 1), (0, 4), (3, 1), (1, 30))]
    sides = [rng.integers(-9, 10, size=plane.shape) for plane in planes]
    data = encode_planes(planes, sides=sides)
    decoded = decode_planes(data, [plane.shape for plane in planes], sides=sides)
    assert all(np.array_equal(one, other) for one, other in zip(planes, decoded, strict=True))
    mirrored = decode_planes(data, [plane.shape for plane in planes], sides=[-side for side in sides])
    assert all(np.array_equal(one, other) for one, other in zip(decoded, mirrored, strict=True))
    try:
        other = decode_planes(data, [plane.shape for plane in planes], sides=[side + 3 for side in sides])
        assert not np.array_equal(other[0], planes[0])
    except MessageError:
        pass
    assert encode_planes(planes) != data


def test_tensors_of_another_model_and_values_that_are_not_finite_are_refused():
    tensors, coarse, _ = quantized()
    with pytest.raises(MessageError, match="another model"):
        refine(coarse, 3, {"w": tensors["w"]})
    tensors["b"][0] = np.nan
    with np.errstate(all="ignore"), pytest.raises(MessageError, match="not finite"):
        refine(coarse, 3, tensors)


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_fresh_process_decodes_both_messages_to_the_same_bits(nested, tmp_path, decoded_afresh):
    folder, coarse, fine = nested
    assert decoded_afresh([coarse, fine]) == [digests(decode_message(path)) for path in (coarse, fine)]
    original = coded_parameters(load_checkpoint(folder)[0])
    errors = [
        max(
            float((value - original[name]).abs().max().detach())
            for name, value in coded_parameters(decode_message(path)).items()
        )
        for path in (coarse, fine)
    ]
    assert errors[1] < 0.4 * errors[0]
    assert SideInformation.of(read_message(fine)) == SideInformation(coarse=read_message(coarse).sha256)
    assert json.loads((tmp_path / "f.json").read_text())["coarse"] == read_message(coarse).sha256


def test_the_coarse_message_must_be_there_whole(nested, tmp_path):
    _, coarse, fine = nested
    data = bytearray(coarse.read_bytes())
    data[len(data) // 2] ^= 1
    coarse.write_bytes(bytes(data))
    with pytest.raises(MessageError, match=r"fine\.tbm: it refines the message .*coarse\.tbm is"):
        decode_message(fine)
    coarse.unlink()
    with pytest.raises(MessageError, match="--coarse"):
        decode_message(fine)
    with pytest.raises(MessageError, match="cannot be read"):
        decode_message(fine.read_bytes(), [tmp_path / "gone.tbm"])


def forged(path, header=None, **parts):
    message = read_message(path)
    kept = [part if part.kind not in parts else type(part)(part.kind, parts[part.kind]) for part in message.parts]
    write_message(path.with_name("forged.tbm"), {**message.header, **(header or {})}, kept)
    return path.with_name("forged.tbm")


@pytest.mark.parametrize(
    "change",
    [
        {"quantizer": {"kind": "refinement"}},
        {"quantizer": {"kind": "refinement", "factor": 1}},
        {"quantizer": {"kind": "refinement", "factor": True}},
        {"quantizer": {"kind": "refinement", "factor": 257}},
        {"quantizer": {"kind": "refinement", "factor": 3.0}},
        {"quantizer": {"kind": "refinement", "factor": 3, "more": 1}},
        {"coder": "static"},
        {"coder": "huffman"},
    ],
)
def test_hostile_refinements_end_in_the_one_error(nested, change):
    with pytest.raises(MessageError, match=r"forged\.tbm"):
        decode_message(forged(nested[2], header=change))


def test_a_refinement_names_one_uniform_message_of_the_same_model(nested, checkpoint, tmp_path):
    folder, coarse, fine = nested
    encode_model(checkpoint("gpt2"), COARSE, tmp_path / "other.tbm", tmp_path / "o.json")
    encode_model(folder, spec_of(kind="codebook"), tmp_path / "book.tbm", tmp_path / "b.json")
    for name, complaint in (("other", "another model"), ("book", "uniform"), ("fine", "refinement itself")):
        named = bytes.fromhex(read_message(tmp_path / f"{name}.tbm").sha256)
        with pytest.raises(MessageError, match=complaint):
            decode_message(forged(fine, side_information=named))
        with pytest.raises(MessageError, match=r"another model|uniform|refined"):
            encode_model(
                folder, FINE, tmp_path / "n.tbm", tmp_path / "n.json", side_information=[tmp_path / f"{name}.tbm"]
            )
    with pytest.raises(MessageError, match="needs that message"):
        encode_model(
            folder, FINE, tmp_path / "n.tbm", tmp_path / "n.json", side_information=[coarse, tmp_path / "book.tbm"]
        )
    assert not (tmp_path / "n.tbm").exists()


def test_fine_tunes_can_be_nested_too(checkpoint, tmp_path):
    base = checkpoint("llama")
    tuned = finetuned(base, tmp_path / "tuned")
    coarse, fine = tmp_path / "coarse.tbm", tmp_path / "fine.tbm"
    encode_model(tuned, COARSE, coarse, tmp_path / "c.json", side_information=[base])
    encode_model(tuned, FINE, fine, tmp_path / "f.json", side_information=[base, coarse])
    assert read_message(fine).breakdown["side_information"] == 512
    assert digests(decode_message(fine, [base])) != digests(decode_message(coarse, [base]))
    with pytest.raises(MessageError, match="no place"):
        decode_message(fine.read_bytes(), [coarse])
    swapped = read_message(fine).part("side_information")
    with pytest.raises(MessageError):
        decode_message(forged(fine, side_information=swapped[32:] + swapped[:32]), [base])
