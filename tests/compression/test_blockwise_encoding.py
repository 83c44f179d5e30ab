"""Encoding in parts and in threads: the same bytes, sizes met with few roundings, codes kept outside of memory."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from small_checkpoints import LLAMA, save_noisy
from tokenbounds.compression.calibration.layers import matrices_of
from tokenbounds.compression.encode import encode_model, symbols_entropy_bits
from tokenbounds.compression.posttraining import kept_codes, ldlq, roundings, scale_search
from tokenbounds.compression.posttraining.kept_codes import CodeStore, KeptMatrix
from tokenbounds.compression.posttraining.parallel import in_threads
from tokenbounds.compression.posttraining.scale_search import Rounder, encoded_bits
from tokenbounds.compression.transformer import load_subject
from tokenbounds.config import CalibrationSpec, MessageSpec, parse_row
from tokenbounds.errors import MessageError
from tokenbounds.messages.formats.scaled import ScaledMatrix
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint, save_checkpoint

CALIBRATION = CalibrationSpec(model="m", corpus="c", tokens=384, context=16, batch_tokens=64)


def spec_of(kind="watersic", **settings):
    quantizer = {"kind": kind, "calibration": "c"} | ({} if kind == "quip_sharp" else {"target": {"scale": 0.3}})
    quantizer |= settings
    return parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer}))


@pytest.fixture
def threads():
    """A function that sets the number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def encoded(calibrate, tmp_path):
    """A function (family, spec) -> bytes of the message, report."""

    def make(family, spec):
        directory, calibration = calibrate(family, CALIBRATION)
        encode_model(directory, spec, tmp_path / "m.tbm", tmp_path / "m.json", calibration=calibration)
        return (tmp_path / "m.tbm").read_bytes(), json.loads((tmp_path / "m.json").read_text())

    return make


@pytest.mark.parametrize(
    ("family", "spec"),
    [("llama", spec_of()), ("gpt2", spec_of("quip")), ("llama", spec_of("quip_sharp"))],
    ids=["watersic", "quip", "quip#"],
)
def test_threads_and_parts_change_no_byte(encoded, threads, monkeypatch, family, spec):
    threads(1)
    alone = encoded(family, spec)
    threads(3)
    monkeypatch.setattr(kept_codes, "_SMALL", 0)
    monkeypatch.setattr(roundings, "_ROWS_AT_ONCE", 5)
    monkeypatch.setattr(ldlq, "_PRODUCT_VALUES", 0)
    assert encoded(family, spec) == alone


def test_results_come_in_order_and_few_items_are_begun(threads):
    threads(3)
    begun = []

    def work(item):
        begun.append(item)
        return 2 * item

    found = in_threads(work, range(20))
    assert next(found) == 0
    assert len(begun) <= 4
    assert list(found) == list(range(2, 40, 2))
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda item: 1 // item, [1, 0, 1, 1, 1]))


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    """A LLaMA of 4 blocks and 0.12 million weights."""
    folder = tmp_path_factory.mktemp("wider")
    config = LLAMA | {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 96}
    return save_noisy(folder, ModelCard("llama", config, 48, 1, 32, seed=5), noise=0.1)


def test_a_sample_finds_the_scale_and_all_matrices_are_rounded_three_times_at_most(wider, tmp_path, monkeypatch):
    row = {"model": "m", "quantizer": {"kind": "rtn", "target": {"bits_per_weight": 2.0}}}
    spec, rounded = parse_row(MessageSpec, json.dumps(row)), Counter()
    round_all = Rounder.round

    def counted(self, matrices, scale):
        rounded[len(matrices)] += 1
        return round_all(self, matrices, scale)

    monkeypatch.setattr(Rounder, "round", counted)
    monkeypatch.setattr(scale_search, "_SAMPLED_WEIGHTS", 60_000)  # a half
    encode_model(wider, spec, tmp_path / "m", tmp_path / "r")
    assert rounded[28] in (2, 3)
    assert rounded[14] >= 3
    linear = json.loads((tmp_path / "r").read_text())["quantization"]["linear"]
    assert linear["bits"] == pytest.approx(2 * linear["weights"], rel=0.013)
    assert linear["evaluations"][-1] == [linear["scale"], linear["bits"]]


def test_a_sample_unlike_the_rest_costs_no_further_round(wider, tmp_path, monkeypatch):
    model, card = load_checkpoint(wider)
    for block in model.model.layers[::2]:  # those of the sample: of heavy tails, so of fewer bits at equal steps
        for values in block.parameters():
            if values.ndim == 2:
                values.data = values.data**3
    save_checkpoint(tmp_path / "model", model, card)
    row = {"model": "m", "quantizer": {"kind": "rtn", "target": {"bits_per_weight": 2.0}}}
    monkeypatch.setattr(scale_search, "_SAMPLED_WEIGHTS", 60_000)  # a half

    def rounds():
        encode_model(tmp_path / "model", parse_row(MessageSpec, json.dumps(row)), tmp_path / "m", tmp_path / "r")
        return len(json.loads((tmp_path / "r").read_text())["quantization"]["linear"]["evaluations"])

    assert rounds() == 1
    monkeypatch.setattr(scale_search.Sample, "likeness", lambda *_: 1.0)
    assert rounds() > 1


def test_a_size_that_the_sample_does_not_lead_to_is_refused(encoded, monkeypatch):
    monkeypatch.setattr(scale_search, "_SAMPLED_WEIGHTS", 2500)
    monkeypatch.setattr("tokenbounds.compression.posttraining.quantize.encoded_bits", lambda *_: 10**6)
    with pytest.raises(MessageError, match="Choose another target"):
        encoded("llama", spec_of(target={"bits_per_weight": 2.0}))


@pytest.mark.parametrize(("most", "size"), [(127, 1), (128, 2), (40000, 4)])
def test_codes_are_kept_in_the_narrowest_integers(monkeypatch, most, size):
    monkeypatch.setattr(kept_codes, "_SMALL", 0)
    codes = np.array([[-3, 0, most], [1, 2, 3]], dtype=np.int32)
    matrix = ScaledMatrix(codes, np.arange(2, dtype=np.int32), np.arange(3, dtype=np.int32), 8, True)
    store = CodeStore()
    kept = store.keep("a", matrix)
    assert isinstance(kept, KeptMatrix)
    (path,) = Path(kept._folder.name).iterdir()
    assert path.stat().st_size == size * 6
    del store
    for one, other in ((kept, matrix), (kept.transpose(), matrix.transpose())):
        assert np.array_equal(one.codes, other.codes)
        assert np.array_equal(one.coded, other.coded)
        assert one.coded_shape == one.coded.shape
        assert np.array_equal(one.values(), other.values())
        assert (one.states, one.transposed) == (other.states, other.transposed)
    folder = path.parent
    del kept, one, other
    assert not folder.exists()


def test_matrices_in_groups_take_the_bits_of_each_group(calibrate, monkeypatch):
    directory, _ = calibrate("llama", CALIBRATION)
    subject = load_subject(directory, "pretrained", [])
    rounder = Rounder(roundings.RoundToNearest(), subject.tensors)
    rounded = rounder.round(matrices_of(subject.structure)[1:5], 0.5)
    whole = encoded_bits(rounded)
    monkeypatch.setattr(scale_search, "_CODED_TOGETHER", 1)
    assert whole < encoded_bits(rounded) < 1.5 * whole


@pytest.mark.parametrize("codes", [[-3, -3, 0, 5], [0, 1 << 20, -(1 << 20), 0], [7] * 9])
def test_entropies_are_those_of_the_frequencies(codes):
    shares = np.array(list(Counter(codes).values())) / len(codes)
    assert symbols_entropy_bits(np.array(codes)) == pytest.approx(-len(codes) * float(shares @ np.log2(shares)))
