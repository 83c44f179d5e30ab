"""The large studies: `llama2` lists its jobs without any of its files, and all three run end to end on stand-ins.

The stand-ins take rows of the studies as they are, and replace what they are about: random models, small files instead
of a trillion tokens, bytes instead of a tokenizer, a few steps of training. All are one study, so that they share
Snakemake, the corpora and the report. Scoring goes block by block where it can.
"""

import json
import random

import gguf
import polars as pl
import pytest
import quip_checkpoints
import yaml
from tiny_study import ROOT, Run, parse_jobs
from tokenbounds.corpus.pins import pin_files
from tokenbounds.models.pretrained.gguf_export import write_gguf

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
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    model.save_pretrained(folder / "dense")
    write_quantized_gguf(model, folder / "gguf" / "m.gguf", monkeypatch)


def write_quantized_gguf(model, path, monkeypatch):
    """The model as a GGUF file whose matrices are of the type Q4_1, as SmolLM2's in the package."""
    plain, kind = gguf.GGUFWriter.add_tensor, gguf.GGMLQuantizationType.Q4_1

    def add(self, name, value):
        if value.ndim == 2:
            return plain(self, name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        return plain(self, name, value)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", add)
    path.parent.mkdir()
    write_gguf(model, path)


def read_study(name):
    return yaml.safe_load((STUDIES / f"{name}.yaml").read_text())


def add_smollm2(study):
    """`smollm2_scale`, of one message: a GGUF file, on the reference that is there already."""
    rows = read_study("smollm2_scale")
    assert rows["models"]["smollm2"]["gguf_file"].endswith("Q4_1.gguf")
    study["models"]["smollm2"] = {"kind": "pretrained", "name": "gguf", "gguf_file": "m.gguf"}
    study["calibrations"]["web"] = rows["calibrations"]["web"] | {"tokens": 256, "context": 32}
    study["messages"]["ours-1"] = rows["messages"]["ours-1"]
    study["certificates"]["ours-1"] = rows["certificates"]["ours-1"] | {"corpus": "redpajama"}


def add_gpt2(study):
    """`gpt2_openwebtext`, of one parameterization, on the text that is there already."""
    rows, name = read_study("gpt2_openwebtext"), "kronecker-subspace-5000"
    model, message = rows["models"][name], rows["messages"][name]
    model["corpus"] = "calibration"
    model["architecture"] = {"family": "gpt2", "layers": 1, "hidden": 16, "heads": 2, "context": 32}
    model["parameterization"] |= {"dimension": 50, "terms": 2}
    model["training"] |= {"steps": 4, "batch_tokens": 64, "dtype": "float32"}
    message["quantizer"]["straight_through"] = {"steps": 2, "batch_tokens": 64}
    study["models"][name], study["messages"][name] = model, message
    sample = rows["evaluations"]["default"] | {"context": 32, "stride": 16, "sample_tokens": 100, "shards": 1}
    study["evaluations"]["sampled"] = sample | {"dtype": "float32", "batch_tokens": 512}
    certificate = rows["certificates"][name] | {"corpus": "calibration", "evaluation": "sampled"}
    study["certificates"][name] = certificate | {"bounds": certificate["bounds"] | {"certificates_per_sample": 1}}


def stand_in():
    """`llama2`, of one model and two messages, and rows of the two other studies."""
    study = read_study("llama2")
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
    add_smollm2(study)
    for row in study["certificates"].values():
        row["bounds"] = row["bounds"] | {"certificates_per_sample": 3}
    add_gpt2(study)
    study["published_numbers"] = str(ROOT / study["published_numbers"])
    return study


def test_the_shapes_of_the_large_studies_run_end_to_end(tmp_path, monkeypatch):
    make_files(tmp_path, monkeypatch)
    run = Run(tmp_path)
    done = run.snakemake("--show-failed-logs", config=run.write_config(stand_in()))
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "results" / "llama2"
    for name in ("llama2-7b-quip-2", "llama2-7b-ours-2", "ours-1"):
        certificate = json.loads((results / "certificates" / f"{name}.json").read_text())
        assert certificate["reference"] is not None and certificate["message"]["size_bits"] > 0
        log = results / "logs" / "score_shard" / "redpajama" / "default" / name / "00000.log"
        assert "placement blocks" in log.read_text()
    for name in ("llama2-7b", "llama2-7b-quip-2", "smollm2"):  # nothing is copied
        assert {path.name for path in (results / "models" / name).iterdir()} == {"card.json", "original.json"}
    trained = json.loads((results / "certificates" / "kronecker-subspace-5000.json").read_text())
    assert "reference" not in trained and trained["message"]["size_bits"] > 0
    beside = pl.read_parquet(results / "figures" / "beside_published.parquet")
    assert beside.filter(pl.col("series") == "this study").height == 4
    assert "Beside published numbers" in (results / "report.html").read_text()
