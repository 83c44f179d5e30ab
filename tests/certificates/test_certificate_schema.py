"""The generated schema, and the page that explains every field."""

from pathlib import Path

import jsonschema
import pytest
from tokenbounds.certificates.assumptions import state_assumptions
from tokenbounds.certificates.certify import certify_bound
from tokenbounds.certificates.schema import SCHEMA_FILE, certificate_schema, render_schema
from tokenbounds.certificates.sentence import confidence_percent, state_result
from tokenbounds.config import BoundsSpec

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


def test_the_sentence_of_top_k_and_vacuous_certificates():
    row = {"metric": "top10_error", "bound": "azuma", "value": 0.97, "random_guess": 0.96, "vacuous": True}
    told = {"prior": {"kind": "message", "trained_on": []}, "plan": {"visible_tokens": None}}
    text = state_result({"rows": [row], "delta": 0.05, "corpus": "c", "tokens": 1234, **told})
    assert "with 10 guesses" in text and "97.00 %" in text and text.endswith("vacuous.")


def test_assumptions_follow_from_what_was_certified():
    plan = {"mode": "sampled", "seed": 3, "visible_tokens": None}
    lora = {"model": {"family": "gpt2", "parameterization": {"kind": "lora"}}}
    text = " ".join(state_assumptions(lora, {"identity": "bytes"}, plan, "bfloat16", 0.05))
    assert "seed (3)" in text and "'lora'" in text and "bfloat16" in text and "tokenizer (bytes)" in text
    plan = {"mode": "exhaustive", "visible_tokens": None}
    chain = " ".join(state_assumptions({"model": {"family": "markov"}}, {}, plan, "float32", 0.05))
    assert "sampling seed" not in chain and "Markov" in chain and "lora" not in chain
