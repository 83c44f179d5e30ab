"""The rate with the best bound: one minimum is found, by real encodings, the same each time."""

import json
import math

import pytest
from tokenbounds.compression.best_rate import encode_best, is_searched, minimise
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.errors import MessageError
from tokenbounds.messages.decode import decode_message

TARGET = {"bound": "best", "corpus": "c", "pilot_tokens": 64}
ROW = {"model": "m", "quantizer": {"kind": "rtn", "target": TARGET}}
SPEC = parse_row(MessageSpec, json.dumps(ROW))


@pytest.mark.parametrize("valley", [1e-4, 0.3, 1.0, 7.0])
def test_the_bottom_of_a_valley_is_found(valley):
    asked = []

    def value(scale):
        asked.append(scale)
        return abs(math.log2(scale / valley)) ** 1.5

    found = minimise(value, 0.05)
    assert abs(math.log2(found / valley)) < 0.13
    assert found in asked
    assert len(asked) < 30


def test_the_message_written_has_the_least_expected_bound_of_all_tried(checkpoint, corpus, tmp_path):
    for name in "ab":
        encode_best(checkpoint("gpt2"), SPEC, tmp_path / f"{name}.tbm", tmp_path / f"{name}.json", corpus)
    report = json.loads((tmp_path / "a.json").read_text())
    best = min(report["search"], key=lambda trial: trial["expected_bound"])
    assert best["size_bits"] == report["size_bits"] == 8 * (tmp_path / "a.tbm").stat().st_size
    assert report["message"]["quantizer"]["target"]["bound"] == "best"
    assert len({trial["size_bits"] for trial in report["search"]}) > 3
    assert (tmp_path / "a.tbm").read_bytes() == (tmp_path / "b.tbm").read_bytes()
    assert decode_message(tmp_path / "a.tbm") is not None


def test_only_a_search_takes_such_a_target(checkpoint, tmp_path):
    assert is_searched(SPEC)
    with pytest.raises(MessageError, match="search over encodings"):
        encode_model(checkpoint("gpt2"), SPEC, tmp_path / "m", tmp_path / "r")
    with pytest.raises(MessageError, match="needs its corpus"):
        encode_best(checkpoint("gpt2"), SPEC, tmp_path / "m", tmp_path / "r")
