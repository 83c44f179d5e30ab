"""Files that a study reads from outside its results are found once, or named with their key."""

import pytest
from tokenbounds.config import parse_study
from tokenbounds.errors import CorpusError
from tokenbounds.external_files import ExternalFiles, is_dry_run


@pytest.fixture
def study(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "checkpoint").mkdir()
    for name in ("texts/b.txt", "texts/a.txt", "table.csv", "checkpoint/model.safetensors", "checkpoint/notes.md"):
        (tmp_path / name).write_text("x")
    affinity = {"kind": "affinity", "messages": ["m"], "value": "kd", "higher_is_better": False, "sequence": "s"}
    return parse_study(
        {
            "study": "s",
            "corpora": {
                "texts.of": {"source": {"kind": "text", "paths": [str(tmp_path / "texts")]}},
                "none": {"source": {"kind": "python_stdlib"}},
                "table": {
                    "source": {"kind": "csv", "paths": [str(tmp_path / "table.csv")], "heavy": "vh"},
                    "tokenizer": {"kind": "antibody"},
                },
            },
            "models": {
                "p": {"kind": "pretrained", "name": str(tmp_path / "checkpoint")},
                "hub": {"kind": "pretrained", "name": "some/model"},
                "m": {"kind": "markov", "corpus": "table"},
            },
            "messages": {"m": {"model": "m", "quantizer": {"kind": "counts"}}},
            "certificates": {"m": {"message": "m", "corpus": "table"}},
            "tasks": {"t": {**affinity, "paths": [str(tmp_path / "table.csv")]}},
        }
    )


def test_files_of_each_kind_of_row(study, tmp_path):
    external = ExternalFiles(study)
    external.find_all()
    assert external.corpus("texts.of").inputs == [str(tmp_path / "texts" / name) for name in ("a.txt", "b.txt")]
    assert external.corpus("none").inputs == []
    assert external.checkpoint("p").inputs == [str(tmp_path / "checkpoint/model.safetensors")]
    assert external.checkpoint("hub").paths == external.checkpoint("m").paths == ()
    assert external.tables("t").inputs == [str(tmp_path / "table.csv")]


def test_names_that_snakemake_would_read_otherwise_count_by_the_fingerprint(study, tmp_path):
    before = ExternalFiles(study).corpus("texts.of")
    (tmp_path / "texts" / "{c}<d>.txt").write_text("x")
    after = ExternalFiles(study).corpus("texts.of")
    assert after.inputs == before.inputs
    assert after.fingerprint != before.fingerprint


def test_missing_files_end_a_run_and_not_a_dry_run(study, tmp_path, capsys):
    for path in (tmp_path / "texts").iterdir():
        path.unlink()
    with pytest.raises(CorpusError, match=r"^corpora\.texts\.of\.source: .*texts holds no \*\.txt file\. Name other"):
        ExternalFiles(study).find_all()
    dry = ExternalFiles(study, dry_run=True)
    dry.find_all()
    assert dry.corpus("texts.of").paths == ()
    assert capsys.readouterr().err.count("corpora.texts.of.source") == 1


@pytest.mark.parametrize("arguments", ["-n", "--dry-run", "--dryrun", "-pn", "--cores 1 -n"])
def test_a_dry_run_is_known_from_the_arguments(arguments):
    assert is_dry_run(["snakemake", *arguments.split()])


@pytest.mark.parametrize("arguments", ["--cores 4", "--until none", "-j 4", "results/n"])
def test_other_arguments_are_no_dry_run(arguments):
    assert not is_dry_run(["snakemake", *arguments.split()])
