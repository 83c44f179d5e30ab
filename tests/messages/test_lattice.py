"""QuIP# messages: exact round trips in a fresh process, sizes, feedback that helps, published codes kept."""

import json
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_decoder import digests
from tokenbounds.compression.calibration.calibrate import calibrate_model
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.methods.published import load_codes
from tokenbounds.compression.posttraining.lattice import round_to_lattice
from tokenbounds.config import CalibrationSpec, MessageSpec, PretrainedModel, parse_row
from tokenbounds.config.quantizers import QuipSharpQuantizer
from tokenbounds.errors import MessageError
from tokenbounds.messages.container import Part, parse_message, render_message
from tokenbounds.messages.decode import decode_message
from tokenbounds.messages.formats.lattice import Settings, linear_names, round_scale
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint
from tokenbounds.models.pretrained.loading import import_pretrained

sys.path.append(str(Path(__file__).parents[1] / "models"))
from quip_checkpoints import CODEBOOKS, published_checkpoint


def spec_of(coder="adaptive", **settings):
    quantizer = {"kind": "quip_sharp", **settings}
    return parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer, "coder": coder}))


def relative_errors(directory, path):
    original, decoded = load_checkpoint(directory)[0], decode_message(path)
    before, after = coded_parameters(original), coded_parameters(decoded)
    names = linear_names({name: tuple(value.shape) for name, value in before.items()})
    with torch.no_grad():
        return {name: float((after[name] - before[name]).norm() / before[name].norm()) for name in names}


def test_every_tensor_of_every_family_decodes_exactly_in_a_fresh_process(checkpoint, corpus, tmp_path, decoded_afresh):
    paths, calibration = [], CalibrationSpec(model="m", corpus="c", tokens=384, context=16, batch_tokens=64)
    for number, (family, bits) in enumerate(
        zip(("gpt2", "llama", "mistral", "qwen2", "qwen3"), (2, 3, 4, 2, 3), strict=True)
    ):
        directory, out = checkpoint(family), tmp_path / f"{family}.safetensors"
        calibrate_model(directory, corpus, calibration, out)
        paths.append(tmp_path / f"{number}.tbm")
        coder = ("adaptive", "static")[number % 2]
        spec = spec_of(coder, bits=bits, calibration="c", seed=number, embedding_bits_per_weight=5.0)
        encode_model(directory, spec, paths[-1], tmp_path / "m.json", calibration=out)
        errors = relative_errors(directory, paths[-1])
        assert errors and max(errors.values()) < {2: 0.5, 3: 0.3, 4: 0.15}[bits]
    assert decoded_afresh(paths) == [digests(decode_message(path)) for path in paths]


@pytest.fixture(scope="module")
def lattice(checkpoint, tmp_path_factory):
    """A function (bits) -> message and report of a LLaMA."""

    @lru_cache
    def make(bits):
        folder = tmp_path_factory.mktemp("lattice")
        message = encode_model(checkpoint("llama"), spec_of(bits=bits), folder / "m.tbm", folder / "m.json")
        return message, json.loads((folder / "m.json").read_text())

    return make


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_linear_layers_take_their_bits(lattice, bits):
    message, report = lattice(bits)
    assert report["bits_per_parameter"] == message.size_bits / report["coded_parameters"]
    model = decode_message(render_message(message.header, message.parts))
    assert report["coded_parameters"] == sum(value.numel() for value in coded_parameters(model).values())
    compared = report["coders_compared"]
    assert compared["ours"] <= 1.01 * min(compared[name] for name in ("gzip", "xz", "zstd")) + 1600
    report = report["quantization"]["linear"]
    assert report["bits"] == message.breakdown["values"]
    assert 0.8 * bits < report["bits_per_weight"] < 1.15 * bits  # of tiny layers; 24 inputs make three blocks of eight
    assert message.header["quantizer"] == {"kind": "quip_sharp", "bits": bits, "seed": 0, "transposed": False}


def test_feedback_lowers_the_loss_of_outputs():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(48, 64)).astype(np.float32)
    inputs = rng.normal(size=(500, 64)) @ (0.3 * rng.normal(size=(64, 64)) + np.diag(rng.exponential(size=64)))
    moments = inputs.T @ inputs / 500
    spec = QuipSharpQuantizer(kind="quip_sharp", bits=2, damping=1e-4)
    losses = []
    for given in (moments, None):
        matrix = round_to_lattice(weight, given, spec, "w")
        error = matrix.values(weight.shape, Settings(2, 0, False), "w") - weight
        losses.append(np.trace(error @ moments @ error.T))
    assert losses[0] < 0.8 * losses[1]


def test_another_seed_gives_another_message_of_the_same_quality(checkpoint, tmp_path):
    directory = checkpoint("gpt2")
    for seed in (0, 1):
        encode_model(directory, spec_of(seed=seed), tmp_path / f"{seed}.tbm", tmp_path / "m.json")
    first, second = ((tmp_path / f"{seed}.tbm").read_bytes() for seed in (0, 1))
    assert first != second and abs(len(first) - len(second)) < 0.02 * len(first)
    wrong = parse_message(first)
    header = {**wrong.header, "quantizer": {**wrong.header["quantizer"], "seed": 1}}
    (tmp_path / "w.tbm").write_bytes(render_message(header, wrong.parts))
    assert min(relative_errors(directory, tmp_path / "w.tbm").values()) > 1.0  # rotated back by other signs


def test_scales_are_upper_halves_of_floats():
    assert round_scale(1.0) == 1 and round_scale(0.0) == np.float32(2.0**-60) and round_scale(1e30) == 2.0**60
    for value in np.random.default_rng(0).lognormal(size=50):
        scale = round_scale(value)
        assert scale.view(np.uint32) & 0xFFFF == 0 and abs(scale / value - 1) < 2.0**-8


@pytest.mark.parametrize(
    "settings",
    [{"bits": 5}, {"bits": "2"}, {"bits": True}, {"seed": -1}, {"seed": 1 << 64}, {"transposed": 0}, {"extra": 1}],
)
def test_hostile_settings_are_refused(lattice, settings):
    message, _ = lattice(2)
    header = {**message.header, "quantizer": {**message.header["quantizer"], **settings}}
    with pytest.raises(MessageError):
        decode_message(render_message(header, message.parts))


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"\0" * len(data), lambda data: b""]
)
def test_damaged_codes_are_refused(lattice, change):
    message, _ = lattice(3)
    parts = [Part(part.kind, change(part.data)) if part.kind == "values" else part for part in message.parts]
    with pytest.raises(MessageError):
        decode_message(render_message(message.header, parts))


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_published_codes_become_a_message_without_loss(tmp_path, codebook):
    published_checkpoint(tmp_path / "hub", codebook, rescaled=codebook == "E8P12")
    import_pretrained(PretrainedModel(kind="pretrained", name=str(tmp_path / "hub")), tmp_path / "model")
    spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": {"kind": "published"}}))
    message = encode_model(tmp_path / "model", spec, tmp_path / "m.tbm", tmp_path / "m.json")
    original, _ = load_checkpoint(tmp_path / "model")
    assert digests(decode_message(tmp_path / "m.tbm")) == digests(original)
    layers = load_codes(tmp_path / "model").layers.values()
    codes = sum(2 * plane.size for layer in layers for plane in (layer.codes, layer.residuals) if plane is not None)
    assert message.breakdown["symbols"] <= 8 * (codes * (1 if codebook != "E8P12RVQ3B" else 0.75) + 100)


def test_other_models_have_no_published_codes(checkpoint, tmp_path):
    spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": {"kind": "published"}}))
    with pytest.raises(MessageError, match="QuIP#"):
        encode_model(checkpoint("llama"), spec, tmp_path / "m.tbm", tmp_path / "m.json")
