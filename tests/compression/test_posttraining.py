"""Post-training quantizers: exact round trips of every family, targets met, each method better than the one before."""

import itertools
import json

import numpy as np
import pytest
import torch
from fresh_decoder import digests
from proxy import proxy_loss
from tokenbounds.compression.calibration.layers import Matrix, matrices_of, of_use
from tokenbounds.compression.calibration.store import Calibration
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.posttraining.roundings import SensitivitySteps, staggered_exponents
from tokenbounds.compression.posttraining.scale_search import Rounder, encoded_bits, find_scale
from tokenbounds.config import CalibrationSpec, MessageSpec, parse_row
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.errors import CalibrationError, CorpusError, MessageError
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint

FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
KINDS = ("rtn", "gptq", "quip", "watersic")
CALIBRATION = CalibrationSpec(model="m", corpus="c", tokens=384, context=16, batch_tokens=64)


def spec_of(kind, coder="adaptive", **settings):
    quantizer = {"kind": kind, "target": {"scale": 0.5}, **settings}
    if kind != "rtn":
        quantizer["calibration"] = "c"
    return parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer, "coder": coder}))


@pytest.fixture(scope="module")
def calibrated(calibrate):
    """A function family -> checkpoint folder, path of its calibration."""
    return lambda family: calibrate(family, CALIBRATION)


@pytest.fixture
def encoded(calibrated, tmp_path):
    """A function (family, spec) -> message, report, path of the message."""
    numbers = itertools.count()

    def make(family, spec):
        path = tmp_path / f"{next(numbers)}.tbm"
        directory, calibration = calibrated(family)
        message = encode_model(directory, spec, path, path.with_suffix(".json"), calibration=calibration)
        return message, json.loads(path.with_suffix(".json").read_text()), path

    return make


def values_of(model):
    return {name: value.detach().numpy() for name, value in coded_parameters(model).items()}


def test_every_tensor_of_every_family_and_method_decodes_exactly_in_a_fresh_process(encoded, decoded_afresh):
    paths, coders = [], itertools.cycle(("adaptive", "static"))
    for family, kind in itertools.product(FAMILIES, KINDS):
        if kind in ("rtn", "gptq") and family not in ("gpt2", "llama"):
            continue  # their messages are of the form of the others'
        settings = {"target": {"scale": 1e-3}} if kind == "watersic" else {}
        paths.append(encoded(family, spec_of(kind, next(coders), **settings))[2])
        if kind == "watersic":
            settings |= {"trellis": None}
            paths.append(encoded(family, spec_of(kind, next(coders), **settings))[2])
    assert decoded_afresh(paths) == [digests(decode_message(path)) for path in paths]


def weighted_loss(calibration, directory, path):
    """Sum over linear layers of the loss's second-order estimate: output sensitivities times the proxy loss."""
    model, _ = load_checkpoint(directory)
    before, after, total = values_of(model), values_of(decode_message(path)), 0.0
    for matrix in of_use(matrices_of(model), "linear"):
        errors = before[matrix.name] - after[matrix.name]
        errors = errors.T if matrix.transposed else errors
        rows = np.sqrt(calibration.outputs(matrix))[:, None]
        total += proxy_loss(rows * errors, calibration.moments(matrix).astype(np.float64))
    return total


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_at_equal_rate_feedback_and_sensitivity_beat_rounding(calibrated, encoded, family):
    directory, path = calibrated(family)
    calibration = Calibration.open(path)
    losses = {}
    for kind in KINDS:
        _, report, message = encoded(family, spec_of(kind, target={"bits_per_weight": 3.0}))
        assert report["quantization"]["linear"]["bits_per_weight"] == pytest.approx(3.0, rel=0.05)
        losses[kind] = weighted_loss(calibration, directory, message)
    assert losses["gptq"] < 0.9 * losses["rtn"]
    # In matrices this small, the steps of columns take a quarter of the bits: only the gain over rounding is sure.
    assert losses["quip"] < losses["rtn"]
    assert losses["watersic"] < 0.9 * losses["rtn"]


def test_rate_distortion_rounding_pays_at_equal_size(calibrated, encoded):
    directory, path = calibrated("gpt2")
    calibration, losses = Calibration.open(path), []
    for rate_weight in (0.0, 0.12):
        spec = spec_of("watersic", target={"bits_per_weight": 2.0}, rate_weight=rate_weight)
        losses.append(weighted_loss(calibration, directory, encoded("gpt2", spec)[2]))
    assert losses[1] < losses[0]


@pytest.mark.parametrize(("family", "states"), [("qwen2", 8), ("qwen2", 32), ("gpt2", 8)])
def test_a_trellis_pays_at_equal_size(calibrated, encoded, family, states):
    directory, path = calibrated(family)
    calibration, losses = Calibration.open(path), []
    for settings in ({"trellis": None}, {"trellis": states}):
        message, _, decoded = encoded(family, spec_of("watersic", target={"bits_per_weight": 4.0}, **settings))
        losses.append(weighted_loss(calibration, directory, decoded))
    turned = {"turned": [*range(2, 10)]} if family == "gpt2" else {}  # weights as [inputs, outputs]
    assert message.header["quantizer"] == {"kind": "scaled", "trellis": states, "plain": [], **turned}
    assert losses[1] < losses[0]


def test_a_size_in_megabits_is_met_by_the_whole_message(encoded):
    spec = spec_of("watersic", target={"message_megabits": 0.03})
    message, report, _ = encoded("gpt2", spec)
    assert message.size_bits - message.breakdown["header"] - message.breakdown["container"] == pytest.approx(
        30000, abs=1100
    )
    assert report["quantization"]["linear"]["evaluations"]


def test_embeddings_can_have_a_rate_of_their_own(encoded):
    spec = spec_of("watersic", target={"bits_per_weight": 2.5}, embedding_bits_per_weight=4.0)
    _, report, _ = encoded("llama", spec)
    assert report["quantization"]["embedding"]["bits_per_weight"] == pytest.approx(4.0, abs=0.6)
    assert report["quantization"]["linear"]["bits_per_weight"] == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("shared", [1.0, 0.0])
def test_centred_tables_take_fewer_bits_at_equal_error_where_rows_have_much_in_common(shared):
    """Where they have nothing in common, a centre gains nothing."""
    rng = np.random.default_rng(3)
    table = (shared * rng.normal(size=16) + rng.normal(size=(400, 16))).astype(np.float32)
    bits, errors = [], []
    for centred in (False, True):
        rounding = SensitivitySteps(spec_of("watersic", centred_tables=centred).quantizer, EqualTokens())
        rounder = Rounder(rounding, {"w": table})
        for _ in range(3):  # code lengths are learned
            found = rounder.round([Matrix("w", "lookup", False, "lookup")], 1.0)
        bits.append(encoded_bits(found))
        errors.append(np.mean((found["w"].values() - table) ** 2))
        assert (found["w"].centre is not None) == centred
    assert errors[1] == pytest.approx(errors[0], rel=0.05)  # the steps are the same
    assert bits[1] < (0.93 if shared else 1.05) * bits[0]
    assert shared or bits[1] > bits[0]


def test_a_message_with_centred_tables_decodes_to_what_was_rounded(encoded):
    spec = spec_of("watersic", target={"bits_per_weight": 2.5}, embedding_bits_per_weight=3.0, centred_tables=True)
    message, report, path = encoded("llama", spec)
    assert message.header["quantizer"]["centred"][0] == 0 and len(message.header["quantizer"]["centred"]) == 2
    assert report["quantization"]["embedding"]["bits_per_weight"] == pytest.approx(3.0, abs=0.6)
    assert all(np.isfinite(value).all() for value in values_of(decode_message(path)).values())


def test_the_report_names_the_calibration(encoded):
    record = encoded("qwen2", spec_of("gptq"))[1]["quantization"]["calibration"]
    assert record["tokens"] > 300
    assert record["documents"]
    assert "held_out" in record["overlap"]


def test_encoding_is_reproducible(encoded):
    spec = spec_of("watersic", target={"bits_per_weight": 2.0})
    assert encoded("llama", spec)[2].read_bytes() == encoded("llama", spec)[2].read_bytes()


def test_another_models_calibration_and_none_are_refused(calibrated, tmp_path):
    directory, _ = calibrated("gpt2")
    with pytest.raises(CalibrationError, match="another model"):
        encode_model(directory, spec_of("gptq"), tmp_path / "m", tmp_path / "r", calibration=calibrated("llama")[1])
    with pytest.raises(CalibrationError, match="needs a calibration"):
        encode_model(directory, spec_of("watersic"), tmp_path / "m", tmp_path / "r")
    assert not list(tmp_path.iterdir())


def test_low_rank_models_are_refused(checkpoint, tmp_path):
    directory = checkpoint("gpt2", parameterization={"kind": "lora", "rank": 2, "targets": ["attention"]})
    with pytest.raises(CalibrationError, match="'lora'"):
        encode_model(directory, spec_of("rtn"), tmp_path / "m", tmp_path / "r")


def test_a_corpus_with_tokens_that_the_model_does_not_know_is_refused(checkpoint, tmp_path):
    with pytest.raises(CorpusError, match="document 1 holds token 48, but the model knows 48 tokens"):
        corpus = MemoryCorpus([[3, 4], [48]], 49, 0)
        encode_model(checkpoint("gpt2"), spec_of("rtn"), tmp_path / "m", tmp_path / "r", corpus=corpus)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("guess", [1e-6, 1.0, 1e6])
def test_scales_are_found_from_far_away(guess):
    asked = []

    def bits(scale):
        asked.append(scale)
        return 1e7 / (1 + scale)

    assert bits(find_scale(bits, 2e6, guess)) == pytest.approx(2e6, rel=0.011)
    assert len(asked) <= 13


@pytest.mark.parametrize("guess", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("wanted", [5e5, 1.7e6, 4e6])
def test_a_size_that_falls_while_code_lengths_are_learned_is_met(wanted, guess):
    asked = []

    def bits(scale):
        asked.append(scale)
        return 5e5 * np.log2(1 + (4 / scale) ** 2) * (1 + 0.1 * 0.8 ** len(asked))

    scale = find_scale(bits, wanted, guess)
    assert len(asked) <= 12
    assert bits(scale) == pytest.approx(wanted, rel=0.03)  # further drift is less than that


def test_a_size_that_no_scale_gives_is_refused():
    with pytest.raises(MessageError, match="Choose another target"):
        find_scale(lambda scale: 1e6 + 1 / scale, 5e5, 1.0)


def test_equal_steps_do_not_all_move_at_once():
    """Otherwise the size of a vocabulary whose tokens are rarely seen would jump by more than a target's tolerance."""
    scales = 0.013 * 2.0 ** (np.arange(9) / 80)  # tenths of the exponents' unit
    found = [staggered_exponents(np.full(1000, scale)) for scale in scales]
    assert all(np.mean(a != b) <= 0.101 for a, b in itertools.pairwise(found))
    assert all(np.abs(a - 8 * np.log2(scale)).max() <= 1.0 for a, scale in zip(found, scales, strict=True))
    assert np.array_equal(found[0] - 8, staggered_exponents(np.full(1000, scales[0] / 2)))


class EqualInputs:
    """A calibration whose inputs are all alike, and whose fourth output never mattered."""

    def moments(self, matrix):
        return np.eye(16, dtype=np.float32)

    def outputs(self, matrix):
        return np.array([1, 1, 1, 0, 1, 1, 1, 1], dtype=np.float32)


class EqualTokens:
    """A calibration of a table whose rows and columns all matter as much."""

    def lookup_moments(self):
        return np.eye(16, dtype=np.float32)

    def row_frequencies(self, matrix):
        return np.ones(400, dtype=np.float32)


@pytest.mark.parametrize("trellis", [None, 8])
def test_outputs_that_never_mattered_keep_errors_of_the_size_of_others(trellis):
    """Such a unit would be activated by an error as large as its step, if that followed its sensitivity alone."""
    quantizer = spec_of("watersic", trellis=trellis).quantizer
    weight = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    rounded = SensitivitySteps(quantizer, EqualInputs()).round(Matrix("w", "linear", False, "g"), weight, 0.5, None)
    errors = np.sqrt(np.mean((rounded.values() - weight) ** 2, axis=1))
    assert errors[3] < 4 * np.delete(errors, 3).mean()
    assert rounded.row_exponents[3] > np.delete(rounded.row_exponents, 3).max()


def test_values_that_are_not_finite_are_refused_by_name(calibrated, checkpoint, tmp_path):
    from tokenbounds.models.checkpoint import save_checkpoint

    directory = checkpoint("gpt2")
    model, card = load_checkpoint(directory)
    with torch.no_grad():
        coded_parameters(model)["transformer.h.1.mlp.c_fc.weight"][0, 0] = np.inf
    save_checkpoint(directory, model, card)
    with pytest.raises(MessageError, match=r"h\.1\.mlp\.c_fc\.weight"):
        encode_model(directory, spec_of("rtn"), tmp_path / "m", tmp_path / "r")
