"""Rows of networks that contain their tolerance: what they state, and how they are compared with new losses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from certified_study import VOCABULARY, with_link
from forged_messages import write_message
from json_certificates import write_certificate
from test_functionals import SPEC, Honest, SpreadStudy, certify, forge
from tokenbounds.certificates import stated_tolerances
from tokenbounds.certificates.stated_tolerances import STATED, StatedTolerance
from tokenbounds.certificates.verify import ALL_BLOCKS, verify_certificate
from tokenbounds.errors import CertificateError
from tokenbounds.messages.container import Part

TOLERANT = replace(SPEC, include_tolerance=True)


class NetworkStudy(SpreadStudy):
    """A message whose header names a network."""

    def _build_message(self):
        model = {"family": "gpt2", "context": 32, "start_id": 0, "vocabulary_size": VOCABULARY}
        header = {"coder": "static", "model": model, "quantizer": {"kind": "uniform"}}
        write_message(self.inputs.certified.message, header, [Part("symbols", b"0123456789")])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return NetworkStudy(tmp_path_factory.mktemp("network")).build()


def rows_of(path):
    return {(row["metric"], row["bound"]): row for row in json.loads(path.read_text())["rows"]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_row_is_its_bound_and_what_its_arithmetic_may_change(network, tmp_path, monkeypatch, dtype):
    scores = forge(network.inputs.certified, tmp_path / "scores", lambda losses: 0 * losses, dtype)
    inputs = with_link(network.inputs, scores=scores)
    plain, tolerant = (rows_of(certify(inputs, tmp_path, name, spec)) for name, spec in (("p", SPEC), ("t", TOLERANT)))
    tokens = json.loads((tmp_path / "t.json").read_text())["scored_tokens"]
    for key, row in tolerant.items():
        bound = plain[key]["value"]
        more = STATED[dtype].bits
        if key[0] != "bpd":
            more = bound * min(1, (1 + int(STATED[dtype].error_share * tokens)) / tokens / row["empirical"])
        assert "tolerance" not in plain[key] and row["tolerance"] == pytest.approx(more, rel=1e-12)
        assert row["value"] == bound + row["tolerance"] and row["gap"] == row["value"] - row["empirical"]
    Honest.of(inputs).install(monkeypatch)
    verify_certificate(tmp_path / "t.json", rescore=ALL_BLOCKS)


def test_models_that_count_get_nothing(tmp_path):
    chain = SpreadStudy(tmp_path / "chain").build()
    plain, tolerant = (certify(chain.inputs, tmp_path, name, spec) for name, spec in (("p", SPEC), ("t", TOLERANT)))
    assert rows_of(plain) == rows_of(tolerant)


def test_new_losses_are_compared_without_a_tolerance(network, tmp_path, monkeypatch):
    """Losses that are stored 0.00005 bits too low: what is stated covers them, or it is refused."""
    lower = forge(network.inputs.certified, tmp_path / "lower", lambda losses: 0 * losses - 5e-5)
    drifted = with_link(network.inputs, scores=lower)
    Honest.of(network.inputs).install(monkeypatch)
    checks = verify_certificate(certify(drifted, tmp_path, "t", TOLERANT), rescore=ALL_BLOCKS)
    assert "(tolerances up to 0)" in next(each.detail for each in checks if each.name == "rows made again")
    # With a smaller one they are not covered, which the other comparison does not mind.
    monkeypatch.setitem(stated_tolerances.STATED, "float32", StatedTolerance(1e-5, 1e-4))
    verify_certificate(certify(drifted, tmp_path, "p", SPEC), rescore=ALL_BLOCKS)
    with pytest.raises(CertificateError, match="; 0 of the difference may be rounding"):
        verify_certificate(certify(drifted, tmp_path, "s", TOLERANT), rescore=ALL_BLOCKS)


def test_values_without_their_tolerance_are_refused(network, tmp_path):
    """By both verifiers (conftest)."""
    path = certify(network.inputs, tmp_path, "t", TOLERANT)
    content = json.loads(path.read_text())
    for row in content["rows"]:
        assert np.isclose(row["value"] - row["tolerance"], row["empirical"] + row["gap"] - row.pop("tolerance"))
    write_certificate(path, content)
    with pytest.raises(CertificateError):
        verify_certificate(path)
