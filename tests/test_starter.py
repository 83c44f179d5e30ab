"""From a checkpoint and a text to a study, by one command: what `tokenbounds init` writes and `certify` runs."""

import shlex

import pytest
import yaml
from tokenbounds import starter
from tokenbounds.cli import app
from tokenbounds.config import parse_study
from tokenbounds.errors import ConfigError
from tokenbounds.starter import Choices, row_name, starter_study, write_starter
from typer.testing import CliRunner

BECAUSE = "The model is of 2024-11-02; the text, “all of it”: written after 2025-01-31."


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a checkpoint and texts of all kinds."""
    monkeypatch.chdir(tmp_path)
    for name in ("My Model", "notes", "rows", "saved"):
        (tmp_path / name).mkdir()
    for name in ("notes/a.txt", "rows/a.jsonl.gz", "rows/b.jsonl", "a.parquet", "m.Q4.gguf", "saved/dataset_info.json"):
        (tmp_path / name).touch()
    return tmp_path


def parsed(**choices):
    text = starter_study(Choices(**{"model": "My Model", "corpus": ("notes",), "results": "results/x", **choices}))
    return parse_study(yaml.safe_load(text)), text


@pytest.mark.parametrize(
    ("corpus", "source"),
    [
        (("notes",), {"kind": "text", "paths": ("notes",)}),
        (("notes/a.txt", "no*/*.md"), {"kind": "text", "paths": ("notes/a.txt", "no*/*.md")}),
        (("rows",), {"kind": "jsonl", "paths": ("rows",)}),
        (("rows/a.jsonl.gz", "rows/b.jsonl"), {"kind": "jsonl", "paths": ("rows/a.jsonl.gz", "rows/b.jsonl")}),
        (("a.parquet",), {"kind": "parquet", "paths": ("a.parquet",)}),
        (("org/set",), {"kind": "huggingface", "name": "org/set"}),
        (("saved",), {"kind": "huggingface", "name": "saved"}),
    ],
)
def test_the_kind_of_a_corpus_is_known_from_its_names(here, corpus, source):
    found = parsed(corpus=corpus)[0].corpora["text"].source
    assert {key: getattr(found, key) for key in source} == source


@pytest.mark.parametrize(
    ("model", "row", "keys"),
    [
        ("My Model", "my-model", {"name": "My Model", "gguf_file": None}),
        ("m.Q4.gguf", "m-q4", {"name": ".", "gguf_file": "m.Q4.gguf"}),
        ("Org/SmolLM2-135M", "smollm2-135m", {"name": "Org/SmolLM2-135M", "gguf_file": None}),
    ],
)
def test_a_model_is_a_folder_a_gguf_file_or_a_hub_name(here, model, row, keys):
    study, _ = parsed(model=model)
    assert row_name(model) == row
    assert {key: getattr(study.models[row], key) for key in keys} == keys
    assert {key: getattr(study.corpora["text"].tokenizer, key) for key in keys} == keys


def test_a_message_is_paid_for_unless_a_reason_says_that_the_model_is_held_out(here):
    study, _ = parsed()
    assert study.certificates["my-model"].prior == "message"
    assert study.messages["my-model"].quantizer.target.bits_per_weight == 2
    study, _ = parsed(held_out_because=BECAUSE, sample_tokens=0)
    assert study.certificates["my-model"].held_out_because == BECAUSE
    assert study.messages["my-model"].quantizer.kind == "reference"
    assert study.evaluations["default"].sample_tokens is None


@pytest.mark.parametrize(
    ("target", "key", "value"),
    [("1.5", "bits_per_weight", 1.5), ("25MB", "message_megabits", 200), ("best", "bound", "best")],
)
def test_targets(here, target, key, value):
    assert getattr(parsed(target=target)[0].messages["my-model"].quantizer.target, key) == value


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"model": "no/such/model"}, "no/such/model is neither a folder"),
        ({"model": "a.parquet"}, "a.parquet"),
        ({"model": "x.gguf"}, "there is no GGUF file x.gguf"),
        ({"corpus": ()}, "name the text"),
        ({"corpus": ("no/such/text",)}, "no/such/text is neither a path nor a name"),
        ({"corpus": ("notes", "gone.txt")}, "there is no gone.txt"),
        ({"corpus": ("notes", "a.parquet")}, "mixes kinds of files: parquet, text"),
        ({"target": "small"}, "--target small"),
        ({"held_out_because": "I say so."}, "names no date"),
        ({"target": "99"}, "bits_per_weight"),
    ],
)
def test_what_cannot_be_a_study_is_refused_and_nothing_is_written(here, choices, words):
    if choices.get("model") == "a.parquet":
        (here / "a.parquet").rename(here / "no hub name.bin")
        choices, words = {"model": "no hub name.bin"}, "is a file. Name the checkpoint's folder"
    path = here / "out/study.yaml"
    with pytest.raises(ConfigError, match=words):
        write_starter(
            starter_study(Choices(**{"model": "My Model", "corpus": ("notes",), "results": "r", **choices})), path
        )
    assert not path.parent.exists()


def test_certify_writes_the_study_says_so_and_runs_it(here, monkeypatch):
    ran = []
    monkeypatch.setattr(starter, "run_study", lambda path, cores: ran.append((path, cores)) or 0)
    arguments = ["certify", "My Model", "--corpus", "notes", "--because", BECAUSE, "--cores", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    path = starter.Path("results/my-model/study.yaml")
    assert ran == [(path, "3")] and str(path) in done.output
    # The same words again run the same study; other words do not replace what may have been edited.
    assert CliRunner().invoke(app, arguments).exit_code == 0
    path.write_text(path.read_text() + "# mine\n")
    with pytest.raises(ConfigError, match="has other content"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert path.read_text().endswith("# mine\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--prior", "held_out"], "needs --because"), (["--prior", "message", "--because", BECAUSE], "alone")],
)
def test_certify_needs_a_reason_for_held_out_models_and_only_for_them(here, options, words):
    with pytest.raises(ConfigError, match=words):
        CliRunner().invoke(app, ["certify", "My Model", "--corpus", "notes", *options], catch_exceptions=False)


def test_init_asks_for_what_is_not_given(here):
    done = CliRunner().invoke(app, ["init", "mine.yaml"], input="My Model\nrows/a.jsonl.gz rows/b.jsonl\n")
    assert done.exit_code == 0, done.output
    study = parse_study(yaml.safe_load((here / "mine.yaml").read_text()))
    assert study.results == "results/mine" and study.corpora["text"].source.kind == "jsonl"


def test_the_workflow_is_found_beside_the_package_or_where_a_wheel_puts_it(here, monkeypatch):
    commands = []
    monkeypatch.setattr(
        starter.subprocess, "run", lambda command, **_: commands.append(command) or type("", (), {"returncode": 0})
    )
    assert starter.run_study(here / "s.yaml") == 0
    snakefile = starter.Path(commands[0][commands[0].index("--snakefile") + 1])
    assert snakefile.is_file() and (snakefile.parent / "workflow/scripts/certify_bound.py").is_file()
    monkeypatch.setattr(starter, "__file__", str(here / "site-packages/tokenbounds/starter.py"))
    monkeypatch.setattr(starter, "_SHARE", here / "share")
    with pytest.raises(ConfigError, match="Install tokenbounds again"):
        starter.run_study(here / "s.yaml")


def test_the_command_that_is_printed_names_the_workflow_where_there_is_no_checkout(here, monkeypatch):
    words = shlex.split(starter.command_of(here / "my study.yaml"))
    assert words[:2] == ["snakemake", "--snakefile"] and starter.Path(words[2]).is_file()
    assert words[-2:] == ["--configfile", str(here / "my study.yaml")]
    monkeypatch.chdir(starter.Path(words[2]).parent)
    assert starter.command_of(starter.Path("s.yaml")) == "snakemake --cores all --configfile s.yaml"
