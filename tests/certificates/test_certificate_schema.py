"""The generated schema, and the page that explains every field."""

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from json_certificates import certify_bound, read_certificate, write_certificate
from tokenbounds.bounds.kinds import Metric
from tokenbounds.certificates import certify
from tokenbounds.certificates.assumptions import state_assumptions
from tokenbounds.certificates.file_records import PlanRecord, PriorRecord
from tokenbounds.certificates.schema import SCHEMA_FILE, certificate_schema, render_schema
from tokenbounds.certificates.sealing import to_json
from tokenbounds.certificates.sentence import confidence_percent, state_result
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_schema_is_what_the_types_say():
    message = "run `python -m tokenbounds.certificates.schema`"
    assert (ROOT / SCHEMA_FILE).read_bytes() == render_schema(), message


def test_certificates_keep_to_the_schema(study, sampled_study, tmp_path):
    for each in (study, sampled_study):
        certificate = certify_bound("c", "t", each.inputs, BoundsSpec(), tmp_path / "c.json", model="m")
        jsonschema.validate(certificate, certificate_schema())
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**certificate, "extra": 1}, certificate_schema())


def test_every_field_is_documented():
    text = (ROOT / "docs/certificates.md").read_text(encoding="utf-8")
    schema = certificate_schema()
    types = [schema, *schema["$defs"].values()]
    missing = [key for each in types for key in each["properties"] if f"`{key}`" not in text]
    assert not missing


@pytest.mark.parametrize(("delta", "text"), [(0.05, "95"), (0.01, "99"), (0.125, "87.5"), (1e-9, "99.9999999")])
def test_confidence_is_never_rounded_to_certainty(delta, text):
    assert confidence_percent(delta) == text


def test_the_sentence_of_top_k_and_vacuous_certificates(study, tmp_path):
    certificate = certify.certify_bound("c", "t", study.inputs, BoundsSpec(), tmp_path / "c.json", model="m")
    row = replace(certificate.best, metric=Metric.top(10), value=0.97, random_guess=0.96, vacuous=True)
    text = state_result(replace(certificate, rows=(row,)))
    assert "with 10 guesses" in text and "97.00 %" in text and text.endswith("vacuous.")


def test_assumptions_follow_from_what_was_certified():
    plan = PlanRecord(
        **{"file": "p", "sha256": "0" * 64, "mode": "sampled", "blocks": 9, "draws": 9, "seed": 3},
        **{"context": 8, "stride": 8, "visible_tokens": None},
    )
    paid = PriorRecord(kind="message", trained_on=())
    lora = {"model": {"family": "gpt2", "parameterization": {"kind": "lora"}}}
    text = " ".join(
        state_assumptions(lora, {"identity": "bytes"}, plan, "bfloat16", BoundsSpec(), paid, derived_seed=False)
    )
    assert "seed (3)" in text and "'lora'" in text and "bfloat16" in text and "tokenizer (bytes)" in text
    assert "At most 4 certificates share it" in text
    assert "was not changed after scores were seen" in text
    derived = state_assumptions(lora, {"identity": "bytes"}, plan, "float32", BoundsSpec(), paid, derived_seed=True)
    assert "seed (3) follows from the hashes" in " ".join(derived)
    plan = replace(plan, mode="exhaustive")
    chain = " ".join(
        state_assumptions({"model": {"family": "markov"}}, {}, plan, "float32", BoundsSpec(), paid, derived_seed=True)
    )
    assert "sampling seed" not in chain and "Markov" in chain and "lora" not in chain


def test_what_the_writer_would_not_have_written_is_refused(study, tmp_path):
    """With a matching hash of itself: names of no bound or metric, empty fields that are left out, and `path`."""
    content = certify_bound("c", "t", study.inputs, BoundsSpec(), tmp_path / "c.json", model="m")
    first, *others = content["rows"]
    path = tmp_path / "forged.json"
    for change in (
        {"rows": [{**first, "bound": "hope"}, *others]},
        {"rows": [{**first, "metric": "top0_error"}, *others]},
        {"rows": [{**first, "links": []}, *others]},
        {"rows": [{**first, "gap": 0}, *others]},
        {"message": {**content["message"], "coarse": None}},
        {"path": str(path)},
    ):
        write_certificate(path, {**content, **change})
        with pytest.raises(CertificateError, match=r"forged\.json"):
            read_certificate(path)
    write_certificate(path, content)
    assert read_certificate(path) == content


def test_every_hash_of_a_certificate_is_among_its_files(study, tmp_path):
    """Every named file must be checked by verification; JSON is walked, so that a new record cannot hide."""

    def hashes(value):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key == "sha256" and "file" in value:
                yield inner
            elif isinstance(inner, dict | list):
                yield from hashes(inner)

    certificate = certify.certify_bound("c", "t", study.inputs, BoundsSpec(), tmp_path / "c.json", model="m")
    assert {record.sha256 for _, record in certificate.files()} == set(hashes(to_json(certificate)))
