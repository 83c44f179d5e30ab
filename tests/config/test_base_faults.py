"""Fine-tunes, references and refinements that cannot work are refused before any job starts."""

import copy

import pytest
from tokenbounds.config import parse_study
from tokenbounds.config.graph import base_corpora, base_model, coarse_message, training_corpora
from tokenbounds.errors import ConfigError

BECAUSE = {"held_out_because": "Published on 2025-01-31, before the text was written."}

UNIFORM = {"kind": "uniform"}
STUDY = {
    "study": "s",
    "corpora": {name: {"source": {"kind": "text", "paths": [name]}} for name in ("here", "there")},
    "models": {
        "published": {"kind": "pretrained", "name": "folder"},
        "elsewhere": {"kind": "trained", "corpus": "there"},
        "lora": {"kind": "trained", "corpus": "there", "parameterization": {"kind": "lora"}},
        "markov": {"kind": "markov", "corpus": "there"},
        "tuned": {"kind": "finetuned", "base": "published", "corpus": "here"},
        "moved": {"kind": "finetuned", "base": "elsewhere", "corpus": "here"},
    },
    "messages": {
        "coarse": {"model": "elsewhere", "quantizer": UNIFORM},
        "fine": {"model": "elsewhere", "quantizer": {"kind": "refinement", "of": "coarse"}},
        "published": {"model": "published", "quantizer": {"kind": "reference"}},
        "tuned": {"model": "tuned", "quantizer": UNIFORM},
        "moved": {"model": "moved", "quantizer": {"kind": "codebook", "straight_through": {"steps": 3}}},
        "markov": {"model": "markov", "quantizer": {"kind": "counts"}},
    },
    "certificates": {"c": {"message": "tuned", "corpus": "here"}},
}


def parse(section="certificates", name="c", **row):
    raw = copy.deepcopy(STUDY)
    raw[section].setdefault(name, {}).update(row)
    return parse_study(raw)


def test_fine_tunes_references_and_refinements_that_work():
    study = parse(message="moved", chain=["published", "coarse", "fine"], bounds={"bounds": ["telescoped"]})
    assert [base_model(study, name) for name in study.messages] == [
        *(None, None),
        *("published", "published", "elsewhere", None),
    ]
    assert [coarse_message(study, name) for name in study.messages] == [None, "coarse", None, None, None, None]
    row = study.certificates["c"]
    assert base_corpora(study, row) == ["there"]
    assert training_corpora(study, row) == ["there", "here"]
    with pytest.raises(ConfigError, match="'fine' refines 'coarse', which must stand before it"):
        parse(message="moved", chain=["fine", "coarse"], bounds={"bounds": ["telescoped"]})
    parse(message="published", prior="held_out", **BECAUSE)
    assert base_corpora(parse(), parse().certificates["c"]) == []


REFINEMENT = {"kind": "refinement", "of": "coarse"}


@pytest.mark.parametrize(
    ("section", "name", "row", "complaint"),
    [
        ("models", "tuned", {"base": "publishd"}, "tuned.base: there is no row 'publishd', did you mean 'published'"),
        (
            "models",
            "tuned",
            {"base": "markov"},
            "tuned.base: 'markov' is neither pretrained nor trained densely",
        ),
        ("models", "tuned", {"base": "lora"}, "tuned.base: 'lora' is neither pretrained"),
        ("models", "tuned", {"base": "moved"}, "tuned.base: 'moved' is neither pretrained"),
        ("models", "tuned", {"corpus": "nowhere"}, "tuned.corpus: there is no row 'nowhere'"),
        ("models", "tuned", {"parameterization": {"kind": "dense"}}, "parameterization.kind"),
        ("messages", "tuned", {"quantizer": {"kind": "counts"}}, "needs a quantizer of kind other than counts"),
        ("messages", "tuned", {"quantizer": {"kind": "reference"}}, "cannot be named by hash"),
        ("messages", "markov", {"quantizer": {"kind": "reference"}}, "needs a quantizer of kind counts"),
        ("messages", "fine", {"quantizer": {**REFINEMENT, "of": "corse"}}, "there is no row 'corse', did you mean"),
        ("messages", "fine", {"quantizer": {**REFINEMENT, "of": "moved"}}, "of: 'moved' is of kind codebook"),
        ("messages", "fine", {"quantizer": {**REFINEMENT, "of": "fine"}}, "of: 'fine' is of kind refinement"),
        (
            "messages",
            "fine",
            {"quantizer": {**REFINEMENT, "of": "tuned"}},
            "message of model 'tuned', not of 'elsewhere'",
        ),
        ("messages", "fine", {"quantizer": {**REFINEMENT, "factor": 1}}, "factor"),
        ("messages", "fine", {"coder": "static"}, "only the adaptive coder"),
        ("certificates", "c", {"message": "moved", "corpus": "there"}, "trained on corpus 'there' itself"),
        ("certificates", "c", {"message": "tuned", "prior": "held_out", **BECAUSE}, "trained on corpus 'here' itself"),
        (
            "certificates",
            "c",
            {"chain": ["moved"], "corpus": "there", "bounds": {"bounds": ["mixture"]}},
            "a base of its messages was trained on corpus 'there' itself",
        ),
    ],
)
def test_rows_that_cannot_work(section, name, row, complaint):
    with pytest.raises(ConfigError) as caught:
        parse(section, name, **row)
    assert complaint in str(caught.value)


def test_windows_longer_than_the_base_s_are_refused():
    raw = copy.deepcopy(STUDY)
    raw["models"]["elsewhere"]["architecture"] = {"context": 128}
    raw["certificates"]["c"]["message"] = "moved"
    raw["evaluations"] = {"default": {"context": 256}}
    with pytest.raises(ConfigError, match="has 128 positions"):
        parse_study(raw)
