"""Every mistake in a configuration is one line: the key, what is wrong, and what to do."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from tokenbounds.config import ModelSpec, load_study, parse_row, parse_study, row_json
from tokenbounds.config.yaml_file import read_yaml
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
        (
            "models.t.kind",
            "traind",
            "models.t.kind: there is no kind 'traind', did you mean 'trained'? Known kinds: trained, pretrained, ",
        ),
        ("models.t.training", {"steps": 0}, "models.t.training.steps: give an integer (≥ 1), not 0."),
        ("messages.t4.model", "tt", "messages.t4.model: there is no row 'tt', did you mean 't'? Known rows: m, p, t."),
        ("certificates.t4.corpus", "other", "certificates.t4.corpus: there is no row 'other'. Known rows: c."),
        ("certificates.t4.bounds", {"delta": 2}, "certificates.t4.bounds.delta: give a number (> 0, < 1), not 2."),
        ("messages.t4.quantizer", {"kind": "counts"}, "messages.t4.quantizer: model 't' needs a quantizer of kind"),
        ("messages.m4.quantizer", {"kind": "uniform"}, "messages.m4.quantizer: model 'm' needs a quantizer of kind c"),
        (
            "messages.p4.quantizer.straight_through",
            {"steps": 5},
            "messages.p4.quantizer.straight_through: model 'p' is pretrained",
        ),
        ("messages.m4.smoothing_head", {}, "messages.m4.smoothing_head: model 'm' is a Markov chain"),
        ("messages.p4.smoothing_head", {}, "messages.p4.smoothing_head: model 'p' names no corpus"),
        (
            "messages.t4.smoothing_head",
            {"grid_size": 17},
            "messages.t4.smoothing_head.grid_size: give an integer (≥ 1, ≤ 16), not 17.",
        ),
        ("models.p.package", "too", "models.p: give exactly one of 'name' and 'package'."),
        ("models.t.start", "x", "models.t.start: there is no row 'x'"),
        ("models.t.start", "m", "models.t.start: 'm' is a Markov chain. Name a transformer."),
        ("models.t.start", "t", "models.t.start: these models start from each other in a circle."),
        (
            "models.t2",
            {"kind": "trained", "corpus": "c", "start": "t", "parameterization": {"kind": "sublora"}},
            "models.t2.start: a sublora model keeps its random values",
        ),
        (
            "models.t.parameterization",
            {"kind": "monach"},
            "models.t.parameterization.kind: there is no kind 'monach', did you mean 'monarch'?",
        ),
        (
            "models.t.parameterization",
            {"kind": "kronecker", "left_shapes": {"mlp": [4]}},
            "models.t.parameterization.left_shapes.mlp: give a list of integers (≥ 1) (exactly 2), not [4].",
        ),
        (
            "models.t.parameterization",
            {"kind": "kronecker", "left_shapes": {"mpl": [4, 4]}},
            "models.t.parameterization.left_shapes.mpl: give 'attention' or 'mlp' or 'head' or 'embedding', not "
            "\"mpl\", did you mean 'mlp'?",
        ),
        ("corpora.c.source.paths", "a.txt", 'corpora.c.source.paths: give a list of files (at least 1), not "a.txt".'),
        ("corpora.c.source.paths", [], "corpora.c.source.paths: give a list of files (at least 1), not []."),
        ("corpora.c.source.paths", [3], "corpora.c.source.paths.0: give a file, not 3."),
        ("corpora.c.source", {"paths": ["a"]}, "corpora.c.source: give 'kind', one of python_stdlib, python_topics, "),
        ("messages.t4.quantizer", "uniform", "messages.t4.quantizer: give 'kind', one of codebook, uniform, "),
        ("models", [], "models: give rows, at least one: each a name and its keys, not []."),
        ("models", {}, "models: give rows, at least one: each a name and its keys, not {}."),
        ("models.t.training", 5, "models.t.training: give keys, of steps, batch_tokens, learning_rate, "),
        (
            "models.t.architecture.tied_embedding",
            "si",
            "models.t.architecture.tied_embedding: give 'true' or 'false', ",
        ),
        (
            "models.t.training.dtype",
            "float",
            "models.t.training.dtype: give 'float32' or 'bfloat16', not \"float\", did",
        ),
        (
            "certificates.t4.chain",
            "m4",
            "certificates.t4.chain: give a list of rows of 'messages' (at most 5), not \"m4\".",
        ),
        ("models.t.training.batch", 5, "models.t.training.batch: unknown key, did you mean 'batch_tokens'?"),
        ("models.m.architecture", {}, "models.m.architecture: unknown key."),
        ("messages.t4.quantizer.corpus", "c", "messages.t4.quantizer.corpus: unknown key."),
        ("certificates.t4.message", None, "certificates.t4.message: give a row of 'messages', not null."),
        ("results", "", "results: '' is not a folder of its own. Name one, e.g. results/faults."),
        ("results", ".", "results: '.' is not a folder of its own."),
        ("results", "a/..", "results: 'a/..' is not a folder of its own."),
        ("results", "/", "results: '/' is not a folder of its own."),
        ("results", "a{b}", "results: 'a{b}' holds one of"),
        ("results", "a<b>", "results: 'a<b>' holds one of"),
        ("models.t.architecture.hidden", 130, "models.t.architecture: hidden 130 is not a multiple of heads."),
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
        ("models.a/b", {"kind": "markov", "corpus": "c"}, "models.a/b: use at most 100 letters, digits"),
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
        (lambda path: path.write_text("study: s", encoding="utf-16"), "is not UTF-8 text. Save it"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_text("a: 1\nb: {c: 1}\na: 2\n"), "the key 'a' occurs twice, in line 1 and in line 3"),
        (lambda path: path.write_text("b:\n  c: 1\n  d: 1\n  c: 1\n"), "'c' occurs twice, in line 2 and in line 4"),
        (lambda path: path.write_text("a: {b: 1, b: 1}\n"), "'b' occurs twice, in line 1 and in line 1"),
        (lambda path: path.write_text("[" * 5000), "is not valid YAML"),
        (lambda path: path.write_text("a: \x07"), "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_study_is_named(tmp_path, write: Callable[[Any], Any], line: str):
    path = tmp_path / "study.yaml"
    write(path)
    with pytest.raises(ConfigError, match=line) as caught:
        load_study(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_may_stand_again_elsewhere_and_in_a_merged_mapping(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "shared: &shared {a: 1, b: 2}\nfirst: {<<: *shared, a: 3}\nsecond: {<<: *shared}\n", encoding="utf-8-sig"
    )
    assert read_yaml(path) == {
        "shared": {"a": 1, "b": 2},
        "first": {"a": 3, "b": 2},
        "second": {"a": 1, "b": 2},
    }


def test_a_guess_is_a_key_of_this_kind_and_never_the_word_itself():
    """`threshold` is a key of another quantizer; `corpus` is one of models, and of certificates too."""
    for path, word in (("messages.t4.quantizer.threshold", "threshold"), ("evaluations.e.corpus", "corpus")):
        with pytest.raises(ConfigError) as caught:
            parse_study(edited(path, 1))
        assert f"{word}: unknown key." in str(caught.value)
