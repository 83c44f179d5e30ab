"""Messages decoded tensor by tensor: the values of the whole decoder, and its errors."""

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding import adaptive
from tokenbounds.messages.container import Part, parse_message, render_message
from tokenbounds.messages.decode import decode_message
from tokenbounds.messages.formats import FORMATS
from tokenbounds.messages.spool import spool_message, spoolable_card
from tokenbounds.models.build import coded_parameters

FUZZER = Path(__file__).parents[2] / "benchmarks" / "fuzz_messages.py"


@cache
def seeds():
    """One message of every kind that the fuzzer mutates, parsed: formats, coders, heads, parameterizations."""
    spec = importlib.util.spec_from_file_location("fuzz_messages_seeds", FUZZER)
    fuzz_messages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz_messages)
    return fuzz_messages.seeds()


def spooled(data, folder, dtype=torch.float32):
    message = parse_message(data)
    source = spool_message(message, spoolable_card(message), folder / "model.safetensors", dtype)
    return {name: source.read(name) for name in source.shapes}


def test_every_format_streams_the_decoder_s_values(tmp_path):
    kinds = set()
    for data in seeds():
        message = parse_message(data)
        described = message.header["model"]
        if described.get("family") in ("markov", "online") or "parameterization" in described:
            assert spoolable_card(message) is None
            continue
        model = decode_message(data)
        kinds.add((message.header["quantizer"]["kind"], message.header["coder"]))
        expected = {name: value.detach() for name, value in coded_parameters(model).items()}
        found = spooled(data, tmp_path)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        rounded = spooled(data, tmp_path, torch.bfloat16)
        assert all(torch.equal(rounded[name], value.to(torch.bfloat16)) for name, value in expected.items())
    formats = {kind for kind, each in FORMATS.items() if each.holds_values} - {"refinement", "counts", "online"}
    assert {kind for kind, _ in kinds} == formats and ("uniform", "static") in kinds


def test_one_tensor_at_a_time(monkeypatch, tmp_path):
    """Each tensor is written before the next one is decoded."""
    (data,) = [data for data in seeds() if b"scaled" in json.dumps(parse_message(data).header).encode()][:1]
    alive, most = [], []
    real = adaptive.code_plane

    def watched(stream, model, tables, plane, done):
        alive.append(plane.codes.size)
        return real(stream, model, tables, plane, done)

    def written(values):
        most.append(len(alive))
        alive.clear()
        return values

    monkeypatch.setattr(adaptive, "code_plane", watched)
    monkeypatch.setattr("tokenbounds.messages.spool.np.ascontiguousarray", written)
    spooled(data, tmp_path)
    assert max(most[1:]) == 1  # the first comes after all scales


@pytest.mark.parametrize("change", ["longer", "setting", "head"])
def test_what_the_decoder_refuses_is_refused(change, tmp_path):
    for data in seeds()[:2]:
        message = parse_message(data)
        header, parts = dict(message.header), list(message.parts)
        if change == "longer":
            parts = [Part(part.kind, part.data + 300 * b"\x01" * (part.kind == "symbols")) for part in parts]
        elif change == "setting":
            header["quantizer"] = header["quantizer"] | {"more": 1}
        else:
            header["more"] = 1
        damaged = render_message(header, parts)
        with pytest.raises(MessageError):
            decode_message(damaged)
        with pytest.raises(MessageError):
            spooled(damaged, tmp_path)


def test_a_full_disk_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("tokenbounds.messages.spool.shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(MessageError, match="TMPDIR"):
        spooled(seeds()[0], tmp_path)
