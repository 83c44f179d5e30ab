"""What jobs pass to each other besides scores: a flipped bit anywhere is one error that names the file."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenbounds.compression.calibration.store import Calibration, calibration_writer
from tokenbounds.config import ByteTokenizer, CorpusSpec, EvaluationSpec, JsonLinesSource, RecoveryTask
from tokenbounds.corpus.annotations import Annotations
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.errors import TokenboundsError
from tokenbounds.models.blockwise import BlockwiseModel
from tokenbounds.models.build import build_model
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint, open_checkpoint, save_checkpoint
from tokenbounds.models.identity import checkpoint_sha256
from tokenbounds.models.markov.counts import load_counts, save_counts
from tokenbounds.models.markov.grams import MarkovCard
from tokenbounds.scores.plan import plan_corpus
from tokenbounds.scores.scoring import score_message
from tokenbounds.tasks.recovery import draw_questions

CARD = ModelCard("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, 16, 0, 8)


def checkpoint(folder):
    save_checkpoint(folder, build_model(CARD), CARD)
    return folder / "model.safetensors"


def counts(folder):
    save_counts(folder, MarkovCard(1, 16, 0), np.arange(90, dtype=np.uint64), np.arange(1, 91))
    return folder / "counts.arrow"


def calibration(folder):
    path = folder / "c.safetensors"
    with calibration_writer(path, {"loss_bits": (1,), "moments/a": (8, 8)}, {"corpus": "c"}) as writer:
        writer.write("loss_bits", np.ones(1))
        writer.write("moments/a", np.eye(8))
    return path


def annotations(folder):
    rows = [{"text": "ab" * 20, "year": year} for year in ("1901", "1902", "1901")]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = JsonLinesSource(kind="jsonl", paths=(str(folder / "rows.jsonl"),), labels=("year",))
    tokenize_corpus(CorpusSpec(source=source, tokenizer=ByteTokenizer(kind="bytes"), shards=1), "c", folder / "c")
    return folder / "c" / "annotations.parquet"


ARTEFACTS = {
    "checkpoint": (checkpoint, lambda path: load_checkpoint(path.parent)),
    "base by its hash": (checkpoint, lambda path: checkpoint_sha256(path.parent)),
    "checkpoint, block by block": (
        checkpoint,
        lambda path: BlockwiseModel(*open_checkpoint(path.parent), torch.device("cpu"), torch.float32),
    ),
    "counts": (counts, lambda path: load_counts(path.parent)),
    "calibration": (calibration, Calibration.open),
}


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_a_flipped_bit_is_one_error_that_names_the_file(tmp_path, kind):
    make, read = ARTEFACTS[kind]
    path = make(tmp_path)
    read(path)
    original = path.read_bytes()
    mark = original.index(b"tokenbounds-sha256:")
    missed = []
    for place in range(3, len(original), len(original) // 60):
        damaged = bytearray(original)
        damaged[place] ^= 4
        path.write_bytes(bytes(damaged))
        try:
            read(path)
            missed.append(place)
        except TokenboundsError as error:
            assert path.name in str(error)
    # A mark that is no mark any more says nothing; the values are then what they were.
    assert all(mark <= place < mark + 19 for place in missed)


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_equal_content_gives_equal_bytes(tmp_path, kind):
    make, _ = ARTEFACTS[kind]
    found = set()
    for name in map(str, range(8)):
        (tmp_path / name).mkdir()
        found.add(make(tmp_path / name).read_bytes())
    assert len(found) == 1


def test_a_flipped_bit_in_a_corpus_is_one_error_of_every_job_that_reads_it(tmp_path):
    folder = annotations(tmp_path).parent
    evaluation = EvaluationSpec(context=8)
    plan_corpus(folder, evaluation, tmp_path / "plan.parquet")
    task = RecoveryTask(kind="recovery", corpus="c", messages=("m",))
    jobs = {
        "shard-00000.arrow": [
            lambda: plan_corpus(folder, evaluation, tmp_path / "again.parquet"),
            lambda: score_message(tmp_path / "m.tbm", folder, tmp_path / "plan.parquet", 0, tmp_path / "s.parquet"),
            lambda: draw_questions(folder, task),
        ],
        "annotations.parquet": [lambda: Annotations.open(folder, Corpus.open(folder))],
    }
    for name, readers in jobs.items():
        original = (folder / name).read_bytes()
        for place in range(0, len(original), len(original) // 20):
            damaged = bytearray(original)
            damaged[place] ^= 4
            (folder / name).write_bytes(bytes(damaged))
            for read in readers:
                with pytest.raises(TokenboundsError, match=f"{name} differs from its manifest"):
                    read()
        (folder / name).write_bytes(original)


def test_no_script_reads_a_corpus_without_comparing_it_with_its_manifest():
    scripts = Path(__file__).parent.parent / "workflow" / "scripts"
    lines = [line for path in scripts.glob("*.py") for line in path.read_text().splitlines() if "Corpus.open(" in line]
    assert len(lines) >= 5 and all("verify=True" in line for line in lines)


@pytest.mark.parametrize("kind", ["checkpoint", "counts"])
def test_a_card_that_was_changed_is_refused(tmp_path, kind):
    make, read = ARTEFACTS[kind]
    path = make(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(card | {"start_id": 3}))
    with pytest.raises(TokenboundsError, match=r"card\.json is not the card that .* was written with"):
        read(path)


def test_artefacts_of_earlier_releases_are_read(tmp_path):
    path = checkpoint(tmp_path)
    save_file(load_file(path), path, metadata={"format": "pt"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    load_checkpoint(tmp_path)
    path = counts(tmp_path)
    table = pa.ipc.open_file(path).read_all().replace_schema_metadata(None)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    load_counts(tmp_path)
