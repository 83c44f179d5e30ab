"""Every mistake in a configuration is one line: the key, what is wrong, and what to do."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from tokenbounds.config import ModelSpec, load_study, parse_row, parse_study, row_json
from tokenbounds.errors import ConfigError

STUDY: dict[str, Any] = {
    "study": "faults",
    "corpora": {"c": {"source": {"kind": "text", "paths": ["a.txt"]}}},
    "models": {
        "t": {"kind": "trained", "corpus": "c", "architecture": {"context": 64}},
        "m": {"kind": "markov", "corpus": "c"},
        "p": {"kind": "pretrained", "name": "folder"},
    },
    "messages": {
        "t4": {"model": "t", "quantizer": {"kind": "uniform"}},
        "m4": {"model": "m", "quantizer": {"kind": "counts"}},
        "p4": {"model": "p", "quantizer": {"kind": "codebook"}},
    },
    "evaluations": {"e": {"context": 64}},
    "certificates": {"t4": {"message": "t4", "corpus": "c", "evaluation": "e"}},
}


def edited(path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(STUDY)
    *parents, last = path.split(".")
    row = raw
    for key in parents:
        row = row.setdefault(key, {})
    row[last] = value
    return raw


def test_few_visible_tokens_need_few_positions():
    """A model with 64 positions in blocks of 256 tokens; a chain of higher order than what is visible is refused."""
    parse_study(edited("evaluations.e", {"context": 256, "visible_tokens": 8}))
    raw = edited("evaluations.e", {"context": 256, "visible_tokens": 1})
    raw["models"]["m"]["order"] = 2
    raw["certificates"]["m4"] = {"message": "m4", "corpus": "c", "evaluation": "e"}
    with pytest.raises(ConfigError, match="'e' shows 1 tokens, but model 'm' is a chain of order 2"):
        parse_study(raw)


def test_the_study_without_fault_is_accepted():
    study = parse_study(copy.deepcopy(STUDY))
    row = study.models["t"]
    assert parse_row(ModelSpec, row_json(row)) == row


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("models.t.corpsu", "c", "models.t.corpsu: unknown key, did you mean 'corpus'?"),
        ("models.t.architecture.hiden", 8, "models.t.architecture.hiden: unknown key, did you mean 'hidden'?"),
        ("corpora.c.source.zzzzzz", 1, "corpora.c.source.zzzzzz: unknown key."),
        ("models.t.kind", "traind", "models.t: Input tag 'traind'"),
        ("models.t.training", {"steps": 0}, "models.t.training.steps: Input should be greater than or equal to 1"),
        ("messages.t4.model", "tt", "messages.t4.model: there is no row 'tt', did you mean 't'? Known rows: m, p, t."),
        ("certificates.t4.corpus", "other", "certificates.t4.corpus: there is no row 'other'. Known rows: c."),
        ("certificates.t4.bounds", {"delta": 2}, "certificates.t4.bounds.delta: Input should be less than 1"),
        ("messages.t4.quantizer", {"kind": "counts"}, "messages.t4.quantizer: model 't' needs a quantizer of kind"),
        ("messages.m4.quantizer", {"kind": "uniform"}, "messages.m4.quantizer: model 'm' needs a quantizer of kind c"),
        (
            "messages.p4.quantizer.straight_through",
            {"steps": 5},
            "messages.p4.quantizer.straight_through: model 'p' is pretrained",
        ),
        ("messages.m4.smoothing_head", {}, "messages.m4.smoothing_head: model 'm' is a Markov chain"),
        ("messages.p4.smoothing_head", {}, "messages.p4.smoothing_head: model 'p' names no corpus"),
        ("messages.t4.smoothing_head", {"levels": 17}, "messages.t4.smoothing_head.levels: Input should be less than"),
        ("models.p.package", "too", "models.p: give exactly one of 'name' and 'package'."),
        ("models.t.start", "x", "models.t.start: there is no row 'x'"),
        ("models.t.start", "m", "models.t.start: 'm' is a Markov chain. Name a transformer."),
        ("models.t.start", "t", "models.t.start: these models start from each other in a circle."),
        (
            "models.t2",
            {"kind": "trained", "corpus": "c", "start": "t", "parameterization": {"kind": "sublora"}},
            "models.t2.start: a sublora model keeps its drawn values",
        ),
        ("models.t.parameterization", {"kind": "monach"}, "models.t.parameterization: Input tag 'monach'"),
        (
            "models.t.parameterization",
            {"kind": "kronecker", "left_shapes": {"mlp": [4]}},
            "models.t.parameterization.left_shapes.mlp: ",
        ),
        ("models.t.architecture.hidden", 130, "models.t.architecture: hidden 130 is no multiple of heads."),
        ("evaluations.e.stride", 65, "evaluations.e.stride: 65 is longer than the context 64."),
        ("evaluations.e", {"context": 8, "stride": 4, "visible_tokens": 2}, "evaluations.e.stride: 'visible_tokens'"),
        (
            "evaluations.e",
            {"context": 8, "visible_tokens": 65},
            "certificates.t4.evaluation: 'e' has windows of 65 tokens, but model 't'",
        ),
        (
            "evaluations.e.context",
            128,
            "certificates.t4.evaluation: 'e' has windows of 128 tokens, but model 't'",
        ),
        (
            "corpora.c.tokenizer",
            {"kind": "transformers", "name": "x", "trained_on": "c"},
            "corpora.c.tokenizer.trained_on: a tokenizer trained on the corpus it tokenizes",
        ),
        ("models.a/b", {"kind": "markov", "corpus": "c"}, "models.a/b: use letters, digits"),
    ],
)
def test_a_fault_is_one_line_that_names_key_and_remedy(path: str, value: Any, line: str):
    with pytest.raises(ConfigError) as caught:
        parse_study(edited(path, value))
    lines = str(caught.value).splitlines()[1:]
    assert any(found.strip().startswith(line) for found in lines), lines


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("a: [", encoding="utf-8"), "is not valid YAML"),
        (lambda path: path.write_text("- 1", encoding="utf-8"), "holds no mapping"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_study_is_named(tmp_path, write: Callable[[Any], Any], line: str):
    path = tmp_path / "study.yaml"
    write(path)
    with pytest.raises(ConfigError, match=line) as caught:
        load_study(path)
    assert str(path) in str(caught.value)
