"""Certificates of messages that are decoded with a base: named by hash, found anywhere, refused if different."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import pytest
from certified_study import VOCABULARY, TinyStudy
from forged_messages import write_message
from json_certificates import certify_bound
from tokenbounds.certificates import verify
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError
from tokenbounds.messages.container import Part
from tokenbounds.models.build import build_model, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint
from tokenbounds.models.identity import checkpoint_sha256

SPEC = BoundsSpec(bounds=("betting",), top_k=(1,), lambdas=8, alphas=(0.01, 0.1))


def make_base(folder, seed=0):
    card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, VOCABULARY, 0, 32)
    model = build_model(card)
    initialize(model, seed)
    save_checkpoint(folder, model, card)
    return folder


@dataclass(frozen=True)
class ReferenceStudy(TinyStudy):
    """The tiny study, its message the hash of models/base."""

    message: str = "reference"

    def _build_message(self) -> None:
        model = {"family": "given", "vocabulary_size": VOCABULARY}
        header = {"coder": "adaptive", "model": model, "quantizer": {"kind": "reference"}}
        base = Part("side_information", bytes.fromhex(checkpoint_sha256(make_base(self.root / "models" / "base"))))
        write_message(self.inputs.certified.message, header, [base])


@pytest.fixture
def certified(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_decode", lambda *_: None)
    study = ReferenceStudy(tmp_path).build()
    path = tmp_path / "certificates" / "c.json"
    certificate = certify_bound("c", "s", study.inputs, SPEC, path, model="m")
    return study, path, certificate


def test_the_base_is_named_by_hash_and_assumed_to_be_fixed_before(certified):
    study, path, certificate = certified
    sha256 = checkpoint_sha256(study.root / "models" / "base")
    assert certificate["message"]["base"] == {"name": "base", "place": "../models/base", "sha256": sha256}
    (sentence,) = [each for each in certificate["assumptions"] if each.startswith("Base fixed before")]
    assert "'base'" in sentence
    assert sha256[:16] in sentence
    paid = {entry["name"]: entry["amount"] for entry in certificate["ledger"]["rows"][0]["entries"]}
    assert paid["message"] == 8 * study.inputs.certified.message.stat().st_size
    assert "base intact" in [check.name for check in verify_certificate(path)]


def test_the_base_may_lie_elsewhere_but_must_be_the_same(certified):
    study, path, _ = certified
    elsewhere = shutil.move(study.root / "models" / "base", study.root / "elsewhere")
    with pytest.raises(CertificateError, match=r"base does not exist.*--base"):
        verify_certificate(path)
    verify_certificate(path, bases=[elsewhere])
    make_base(study.root / "models" / "base", seed=1)
    for bases in ([], [study.root / "models" / "base"]):
        with pytest.raises(CertificateError, match="was not found"):
            verify_certificate(path, bases=bases)


def test_a_base_trained_on_a_document_of_the_corpus_was_not_fixed_before(certified):
    study, path, _ = certified
    other = TinyStudy(study.root, corpus="others", corpus_seed=50, message="other").build()
    inputs = replace(study.inputs, base_corpora=(other.inputs.corpus,))
    certificate = certify_bound("c", "s", inputs, SPEC, path, model="m")
    assert certificate["prior"]["kind"] == "message"
    assert [record["corpus"] for record in certificate["prior"]["trained_on"]] == ["others"]
    assert "trained in this study were trained on 'others'" in " ".join(certificate["assumptions"])
    verify_certificate(path)
    with pytest.raises(CertificateError, match="the base was not fixed before the corpus"):
        certify_bound("c", "s", replace(study.inputs, base_corpora=(study.inputs.corpus,)), SPEC, path, model="m")
