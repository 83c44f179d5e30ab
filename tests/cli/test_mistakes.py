"""Plausible mistakes in studies and on the command line: one line answers each, with the place and the remedy."""

import copy

import pytest
import yaml
from tokenbounds import cli

STUDY = yaml.safe_load(
    """
    study: mine
    corpora: {notes: {source: {kind: text, paths: [notes]}, tokenizer: {kind: bytes}}}
    models:
      chain: {kind: markov, corpus: notes, order: 2}
      net:
        kind: trained
        corpus: notes
        architecture: {family: gpt2, layers: 2, hidden: 32, heads: 2, context: 64}
        training: {steps: 10}
    messages:
      chain: {model: chain, quantizer: {kind: counts}}
      net: {model: net, quantizer: {kind: uniform, step_ratio: 1.0}}
    evaluations: {default: {context: 64}}
    certificates: {c: {message: net, corpus: notes}}
    """
)

# The key that is set, its value (None: the key is left out), and what the answer says.
MISTAKES = [
    ("corpora.notes.source.path", ["notes"], "corpora.notes.source.path: unknown key, did you mean 'paths'?"),
    ("corpora.notes.source.paths", "notes", 'notes.source.paths: give a list of files (at least 1), not "notes"'),
    ("corpora.notes.source.kind", "txt", "corpora.notes.source.kind: there is no kind 'txt', did you mean 'text'?"),
    ("corpora.notes.tokenizer", "bytes", "corpora.notes.tokenizer: give 'kind', one of bytes, transformers,"),
    ("corpora.notes.source", None, "corpora.notes.source: this key is required and missing."),
    ("corpora", None, "corpora: this key is required and missing."),
    ("study", None, "study: this key is required and missing."),
    ("result", "x", "result: unknown key, did you mean 'results'?"),
    ("results", ".", "results: '.' is not a folder of its own. Name one, e.g. results/mine."),
    ("models.chain.order", "two", 'models.chain.order: give an integer (≥ 0, ≤ 6), not "two".'),
    ("models.chain.order", -1, "models.chain.order: give an integer (≥ 0, ≤ 6), not -1."),
    ("models.chain.corpus", "note", "models.chain.corpus: there is no row 'note', did you mean 'notes'?"),
    ("models.net.architecture.heads", 5, "models.net.architecture: hidden 32 is not a multiple of heads."),
    ("models.net.architecture.family", "gpt", "not \"gpt\", did you mean 'gpt2'?"),
    ("models.net.training.step", 10, "models.net.training.step: unknown key, did you mean 'steps'?"),
    ("models.net.training.learning_rate", "fast", 'learning_rate: give a number (> 0), not "fast".'),
    ("messages.net.model", "nett", "messages.net.model: there is no row 'nett', did you mean 'net'?"),
    ("messages.net.quantizer", "uniform", "messages.net.quantizer: give 'kind', one of"),
    ("messages.net.quantizer.step_ratio", 0, "messages.net.quantizer.step_ratio: give a number (> 0), not 0."),
    ("messages.chain.quantizer", {"kind": "uniform"}, "model 'chain' needs a quantizer of kind counts."),
    ("messages.a b", {"model": "chain", "quantizer": {"kind": "counts"}}, "letters, digits, '.', '_' and '-' in names"),
    ("evaluations.default.context", 128, "has windows of 128 tokens, but model 'net' has 64 positions. Shorten"),
    ("evaluations.default.stride", 100, "evaluations.default.stride: 100 is longer than the context 64."),
    ("certificates.c.message", "c", "certificates.c.message: there is no row 'c'. Known rows: chain, net."),
    ("certificates.c.evaluation", "sampled", "c.evaluation: there is no row 'sampled'. Known rows: default."),
    ("certificates.c.bounds", {"delta": 5}, "certificates.c.bounds.delta: give a number (> 0, < 1), not 5."),
    ("certificates.c.bounds", {"delta": "5%"}, 'certificates.c.bounds.delta: give a number (> 0, < 1), not "5%".'),
    ("certificates.c.bounds", {"bounds": ["azumaa"]}, "not \"azumaa\", did you mean 'azuma'?"),
    ("certificates.c.bounds", {"bounds": "azuma"}, "certificates.c.bounds.bounds: give a list of"),
    ("certificates.c.bounds", {"bounds": ["telescoped"]}, "bound 'telescoped' needs a 'chain' of cheaper messages."),
    ("certificates.c.prior", "heldout", "not \"heldout\", did you mean 'held_out'?"),
    ("certificates", [], "certificates: give rows, at least one: each a name and its keys, not []."),
]  # fmt: skip


def answer(capsys, monkeypatch, *arguments):
    """What the command prints to standard error, without its first word; it must fail."""
    monkeypatch.setattr("sys.argv", ["tokenbounds", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    return error.removeprefix("error: ")


@pytest.mark.parametrize(("key", "value", "words"), MISTAKES, ids=[f"{key}={value}" for key, value, _ in MISTAKES])
def test_a_mistake_in_a_study_is_named_with_its_place_and_remedy(tmp_path, capsys, monkeypatch, key, value, words):
    study = copy.deepcopy(STUDY)
    *path, last = key.split(".")
    section = study
    for part in path:
        section = section[part]
    if value is None:
        del section[last]
    else:
        section[last] = value
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    told = answer(capsys, monkeypatch, "config", str(tmp_path / "study.yaml")).strip().splitlines()
    assert told[0] == "the configuration is not valid:"
    assert len(told) == 2 and words in told[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config", "gone.yaml"], "gone.yaml"),
        (["verify", "gone.json"], "gone.json"),
        (["verify", "."], "holds no certificate (*.json). Run the study, or name another folder."),
        (["show", "notes.txt"], "notes.txt"),
        (["inspect", "notes.txt"], "notes.txt"),
        (["decode", "gone.tbm", "-o", "out"], "gone.tbm"),
        (["bound", "gone.parquet", "--bits", "8", "-V", "256"], "gone.parquet"),
        (["bound", "notes.txt", "--bits", "8", "-V", "256"], "cannot be read as Parquet"),
        (["bound", "gone.parquet", "-V", "256"], "give --bits"),
        (["bound", "gone.parquet", "--bits", "8", "-V", "256", "--delta", "5"], "choose a probability between 0 and 1"),
        (["certify", "gone/a/b", "--corpus", "notes.txt"], "gone/a/b is neither a folder"),
        (["pin", "notes.txt", "-o", "pins.json"], "neither Parquet nor Arrow nor JSON lines"),
        (["studies", "."], "holds no study (*.yaml)"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("a note")
    told = answer(capsys, monkeypatch, *arguments)
    assert words in told and len(told.strip().splitlines()) == 1
