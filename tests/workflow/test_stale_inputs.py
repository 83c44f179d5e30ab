"""A corpus is tokenized again when any file that it is made from is replaced, whatever its modification time."""

import json
import os

import datasets
import pytest
from tiny_study import Run
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

pytestmark = pytest.mark.workflow

NAMES = ["a.txt", "br{ace}.txt", "{corpus}.txt", "a<b>c.txt", "a b.txt"]


def save_tokenizer(folder, words):
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", bos_token="?").save_pretrained(folder)


def save_rows(folder, texts):
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(folder))


@pytest.fixture
def study(tmp_path):
    (tmp_path / "data").mkdir()
    for name in NAMES:
        (tmp_path / "data" / name).write_text(f"hello {name}")
    save_tokenizer(tmp_path / "tok", ["?", "hello", "cat"])
    save_rows(tmp_path / "saved", ["one", "two"])
    corpora = {
        "files": {"source": {"kind": "text", "paths": ["data"]}, "shards": 1},
        "words": {
            "source": {"kind": "text", "paths": ["data/a.txt"]},
            "tokenizer": {"kind": "transformers", "name": "tok"},
            "shards": 1,
        },
        "rows": {"source": {"kind": "huggingface", "name": "saved"}, "shards": 1},
    }
    config = {
        "study": "stale",
        "corpora": corpora,
        "models": {"m": {"kind": "markov", "corpus": "files", "order": 1}},
        "messages": {"m": {"model": "m", "quantizer": {"kind": "counts"}}},
        "certificates": {"m": {"message": "m", "corpus": "files"}},
    }
    run = Run(tmp_path)
    return run, run.write_config(config), [f"results/corpora/{name}/manifest.json" for name in corpora]


def replaced(path, write):
    """Let `write` change a file, then restore the file's old times."""
    times = path.stat()
    write(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_whatever_a_corpus_is_made_from(study):
    run, config, manifests = study
    done = run.snakemake(*manifests, config=config)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((run.folder / manifests[0]).read_text())
    assert manifest["documents"] == len(NAMES)

    def planned():
        done = run.snakemake("--dry-run", *manifests, config=config)
        assert done.returncode == 0, done.stderr
        output = done.stdout + done.stderr
        return {name for name in ("files", "words", "rows") if f"corpus={name}" in output}

    assert planned() == set()
    replaced(run.folder / "data" / "br{ace}.txt", lambda path: path.write_text("HELLO br{ace}.txt"))
    assert planned() == {"files"}
    replaced(
        run.folder / "tok" / "tokenizer.json", lambda path: path.write_text(path.read_text().replace("cat", "dog"))
    )
    assert planned() == {"files", "words"}
    save_rows(run.folder / "saved", ["one", "six"])
    assert planned() == {"files", "words", "rows"}


def test_a_run_of_one_rule_ends_well(study):
    run, config, _ = study
    done = run.snakemake("--until", "tokenize_corpus", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
