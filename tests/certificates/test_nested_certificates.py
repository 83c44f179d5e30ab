"""Certificates of refinements: both messages are paid for, in a chain that holds both once, and checked by hash."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from certified_study import VOCABULARY, TinyStudy
from chain_study import LargeMessage, chain_inputs
from forged_messages import write_message
from json_certificates import certify_bound
from tokenbounds.certificates import verify
from tokenbounds.certificates.evidence import LinkEvidence
from tokenbounds.certificates.rows.chain_candidates import ChainProblem
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError
from tokenbounds.messages.container import Part, read_message

SPEC = BoundsSpec(bounds=("betting", "telescoped"), top_k=(1,), lambdas=8, alphas=(0.01, 0.1))


@dataclass(frozen=True)
class FineMessage(LargeMessage):
    """The large message as a refinement of the cheap one: the same scores."""

    message: str = "fine"
    message_bytes: int = 900

    def _build_message(self) -> None:
        cheap = read_message(TinyStudy(self.root).inputs.certified.message)
        model = {"family": "markov", "order": 0, "start_id": 0, "vocabulary_size": VOCABULARY}
        header = {"model": model, "quantizer": {"kind": "refinement", "factor": 3}}
        data = np.random.default_rng(77).bytes(self.message_bytes)
        coarse = Part("side_information", bytes.fromhex(cheap.sha256))
        write_message(self.inputs.certified.message, header, [coarse, Part("symbols", data)])


@pytest.fixture
def cheap(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_decode", lambda *_: None)
    return TinyStudy(tmp_path).build()


def certify(inputs, folder, name):
    return certify_bound(name, "s", inputs, SPEC, folder / "certificates" / f"{name}.json", model="m")


def entries(certificate, bound):
    (row,) = [one for one in certificate["ledger"]["rows"] if (one["metric"], one["bound"]) == ("bpd", bound)]
    return {
        (entry["link"], entry["name"]) if "link" in entry else entry["name"]: entry["amount"]
        for entry in row["entries"]
    }


def sizes(*studies):
    return [8 * study.inputs.certified.message.stat().st_size for study in studies]


def test_a_refinement_pays_for_both_messages_and_a_chain_over_both_once(cheap):
    fine, folder = FineMessage(cheap.root).build(), cheap.root
    coarse_bits, fine_bits = sizes(cheap, fine)
    nested = certify(chain_inputs(cheap, fine), folder, "nested")
    assert entries(nested, "betting")["message"] == coarse_bits + fine_bits
    paid = entries(nested, "telescoped")
    assert paid[1, "message"] == coarse_bits
    assert paid[2, "message"] == coarse_bits + fine_bits
    record = nested["message"]["coarse"]
    assert (record["name"], record["size_bits"]) == ("chain", coarse_bits)
    assert "coarse message that it refines" in " ".join(nested["assumptions"])

    with pytest.raises(
        CertificateError, match=r"chain\.tbm is the coarse message of .*fine\.tbm, which stands before it"
    ):
        certify(chain_inputs(fine, cheap), folder, "backwards")
    separate = LargeMessage(cheap.root, message_bytes=fine.message_bytes + coarse_bits // 8).build()
    (large_bits,) = sizes(separate)
    apart = certify(chain_inputs(cheap, separate), folder, "apart")
    assert large_bits > fine_bits
    assert entries(apart, "telescoped")[2, "message"] == coarse_bits + large_bits
    values = [{row["bound"]: row["value"] for row in one["rows"] if row["metric"] == "bpd"} for one in (nested, apart)]
    assert values[0]["telescoped"] < values[1]["telescoped"]


def test_a_chain_without_the_coarse_message_still_pays_for_it():
    messages = ({"a": 100}, {"b": 40}, {"a": 100, "c": 30})
    problem = ChainProblem(
        message_bits=(100, 40, 130),
        vocabulary_sizes=(256,) * 3,
        alphas=(0.1,),
        link_alphas=(0.1,),
        link_betas=(1.0,),
        lambdas=4,
        tokens=1000,
        delta_generalization=Fraction(1, 20),
        delta_sampling=Fraction(0),
        messages=messages,
    )
    assert problem.bits((2,)) == (130,)
    assert problem.bits((0, 2)) == (100, 130)
    assert problem.bits((1, 2)) == (40, 170)
    assert problem.bits((0, 1, 2)) == (100, 140, 170)
    assert replace(problem, whole=True).bits((0, 1, 2)) == (170,)
    assert replace(problem, messages=()).bits((0, 1, 2)) == (100, 140, 270)


def test_a_certificate_that_does_not_pay_for_the_coarse_message_is_caught(cheap, monkeypatch):
    fine, folder = FineMessage(cheap.root).build(), cheap.root
    honest = certify(chain_inputs(cheap, fine), folder, "honest")
    own = property(lambda self: {self.message.sha256: self.message.size_bits})
    monkeypatch.setattr(LinkEvidence, "paid_messages", own)
    cheating = certify(fine.inputs, folder, "cheating")
    assert min(row["value"] for row in cheating["rows"]) < min(row["value"] for row in honest["rows"])
    monkeypatch.undo()
    monkeypatch.setattr(verify, "_decode", lambda *_: None)
    with pytest.raises(CertificateError, match="not what its files give"):
        verify_certificate(folder / "certificates" / "cheating.json")


def test_verification_names_a_coarse_message_that_was_changed_or_is_gone(cheap):
    fine, folder = FineMessage(cheap.root).build(), cheap.root
    certify(fine.inputs, folder, "fine")
    path = folder / "certificates" / "fine.json"
    verify_certificate(path)
    data = bytearray(cheap.inputs.certified.message.read_bytes())
    data[-1] ^= 1
    cheap.inputs.certified.message.write_bytes(bytes(data))
    with pytest.raises(CertificateError, match=r"chain\.tbm is not the file"):
        verify_certificate(path)
    cheap.inputs.certified.message.unlink()
    with pytest.raises(CertificateError, match=r"chain\.tbm does not exist"):
        verify_certificate(path)
    with pytest.raises(CertificateError, match="which was not found"):
        certify(fine.inputs, folder, "again")
