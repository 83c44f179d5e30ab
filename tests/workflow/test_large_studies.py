"""The large studies: `llama2` lists its jobs without any of its files, and its shape runs end to end on a stand-in.

So does that of `smollm2_scale`, which has some of its kinds of rows; the rows of `gpt2_openwebtext` are those of the
tiny study (test_study.py).

The stand-in takes the rows of `llama2` as they are, and replaces what they are about: two random models instead of
twenty, small files instead of a trillion tokens, bytes instead of a tokenizer. Scoring goes block by block.
"""

import json
import random

import polars as pl
import pytest
import quip_checkpoints
import yaml
from tiny_study import ROOT, Run, parse_jobs
from tokenbounds.corpus.pins import pin_files

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

STUDIES = ROOT / "config" / "studies"


def test_llama2_lists_its_jobs_before_anything_is_there(tmp_path):
    (tmp_path / "config").symlink_to(ROOT / "config")  # studies run where the repository is
    done = Run(tmp_path).snakemake("--dry-run", config=STUDIES / "llama2.yaml")
    assert done.returncode == 0, done.stderr
    rules = [job.split()[0] for job in parse_jobs(done.stdout + done.stderr)]
    assert {rule: rules.count(rule) for rule in ("import_model", "certify_bound")} == {
        "import_model": 40,
        "certify_bound": 60,
    }


def make_files(folder, monkeypatch):
    """Documents to draw from, pinned; one file to calibrate on; a dense checkpoint and a published QuIP# one."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    draw = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "more", "bird", "in", "the", "old", "tree"]
    texts = [" ".join(draw.choices(words, k=draw.randrange(8, 40))) + "." for _ in range(200)]
    (folder / "data").mkdir()
    for number in range(2):
        pl.DataFrame({"text": texts[80 * number : 80 * number + 80]}).write_parquet(folder / f"data/{number}.parquet")
    with (folder / "data" / "calibration.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in texts[160:])
    pin_files([str(folder / "data" / "*.parquet")], folder / "pins.json")
    sizes = quip_checkpoints.SIZES | {"vocab_size": 256}
    monkeypatch.setattr(quip_checkpoints, "SIZES", sizes)
    quip_checkpoints.published_checkpoint(folder / "quip", "E8P12")
    set_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder / "dense")


def stand_in():
    """`llama2`, of one model and two messages."""
    study = yaml.safe_load((STUDIES / "llama2.yaml").read_text())
    model, kept = "llama2-7b", ("llama2-7b-quip-2", "llama2-7b-ours-2")
    redpajama, calibration = study["corpora"]["redpajama"], study["corpora"]["calibration"]
    redpajama["source"] |= {"pins": "pins.json", "documents": 30, "max_tokens": 100}
    calibration["source"]["paths"] = ["data/calibration.jsonl"]
    redpajama["tokenizer"] = calibration["tokenizer"] = {"kind": "bytes"}
    study["models"] = {
        model: study["models"][model] | {"name": "dense"},
        kept[0]: study["models"][kept[0]] | {"name": "quip"},
    }
    study["calibrations"] = {model: study["calibrations"][model] | {"tokens": 512, "context": 32, "dtype": "float32"}}
    study["messages"] = {name: study["messages"][name] for name in kept}
    small = {"context": 32, "stride": 16, "shards": 1, "batch_tokens": 512, "placement": "blocks"}
    study["evaluations"]["default"] |= small
    study["certificates"] = {name: study["certificates"][name] for name in kept}
    for row in study["certificates"].values():
        row["bounds"] = row["bounds"] | {"certificates_per_sample": 2}
    study["published_numbers"] = str(ROOT / study["published_numbers"])
    return study


def test_the_shape_of_llama2_runs_end_to_end(tmp_path, monkeypatch):
    make_files(tmp_path, monkeypatch)
    run = Run(tmp_path)
    done = run.snakemake("--show-failed-logs", config=run.write_config(stand_in()))
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "results" / "llama2"
    for name in ("quip-2", "ours-2"):
        certificate = json.loads((results / "certificates" / f"llama2-7b-{name}.json").read_text())
        assert certificate["reference"] is not None and certificate["message"]["size_bits"] > 0
        log = results / "logs" / "score_shard" / "redpajama" / "default" / f"llama2-7b-{name}" / "00000.log"
        assert "placement blocks" in log.read_text()
    beside = pl.read_parquet(results / "figures" / "beside_published.parquet")
    assert beside.filter(pl.col("series") == "this study").height == 2
    assert "Beside published numbers" in (results / "report.html").read_text()
