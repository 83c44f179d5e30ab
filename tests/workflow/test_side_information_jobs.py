"""A fine-tune over a base and nested messages, from the rows of a study to verified certificates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_pretrained import _save_random_gpt2
from tiny_study import environment, parse_jobs, tiny_config

BECAUSE = {"held_out_because": "Published on 2025-01-31, before the text was written."}

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

ROW = {"corpus": "numbers", "evaluation": "sampled"}
CHAINED = {"bounds": ["betting", "telescoped"], "top_k": [1]}


def side_information_config():
    """The numbers of the tiny study: a published base, its fine-tune, and a coarse and a fine message of a model."""
    config = tiny_config()
    tuned = {"kind": "finetuned", "base": "published", "corpus": "numbers", "context": 16}
    training = {"steps": 6, "batch_tokens": 64, "save_steps": 3}
    return {
        **config,
        "results": "results/side_information",
        "corpora": {"numbers": config["corpora"]["numbers"]},
        "models": {
            "published": {"kind": "pretrained", "name": "checkpoint"},
            "tuned": {**tuned, "parameterization": {"kind": "lora", "rank": 1}, "training": training},
        },
        "messages": {
            "base": {"model": "published", "quantizer": {"kind": "reference"}},
            "tuned": {"model": "tuned", "quantizer": {"kind": "uniform"}},
            "fine": {"model": "tuned", "quantizer": {"kind": "refinement", "of": "tuned"}},
        },
        "evaluations": {"sampled": config["evaluations"]["sampled"]},
        "certificates": {
            "base": {"message": "base", **ROW, "prior": "held_out", **BECAUSE, "bounds": {"top_k": [1]}},
            "tuned": {"message": "tuned", **ROW, "chain": ["base"], "bounds": CHAINED},
            "fine": {"message": "fine", **ROW, "chain": ["base", "tuned"], "bounds": CHAINED},
        },
    }


def tokenbounds(*arguments):
    command = [str(Path(sys.executable).parent / "tokenbounds"), *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def test_a_fine_tune_and_its_refinement_are_certified_and_verified(fresh):
    _save_random_gpt2(fresh.folder / "checkpoint")
    config, results = side_information_config(), fresh.folder / "results/side_information"
    done = fresh.snakemake(config=fresh.write_config(config))
    assert done.returncode == 0, done.stdout + done.stderr
    certificates = {path.stem: json.loads(path.read_text()) for path in (results / "certificates").glob("*.json")}
    base, coarse = certificates["tuned"]["message"]["base"], certificates["fine"]["message"]["coarse"]
    assert (base["name"], coarse["name"]) == ("published", "tuned")
    assert "Base fixed before and independently of the corpus" in " ".join(certificates["tuned"]["assumptions"])
    size = {path.stem: 8 * path.stat().st_size for path in (results / "messages").glob("*.tbm")}
    paid = {row["bound"]: row for row in certificates["fine"]["ledger"]["rows"] if row["metric"] == "bpd"}
    amounts = {entry["name"]: entry["amount"] for entry in paid["betting"]["entries"]}
    assert amounts["message"] == size["tuned"] + size["fine"]

    # Decoding, scoring and verifying need the base and the messages, not the fine-tuned checkpoint.
    (results / "models/tuned/model.safetensors").unlink()
    scores = results / "scores/numbers/sampled/fine/shard-00000.parquet"
    before = scores.read_bytes()
    scores.unlink()
    again = fresh.snakemake(str(scores.relative_to(fresh.folder)), config=fresh.folder / "changed.yaml")
    assert again.returncode == 0, again.stderr
    assert parse_jobs(again.stdout + again.stderr) == {
        "score_shard corpus=numbers evaluation=sampled message=fine shard=00000"
    }
    assert scores.read_bytes() == before
    verified = tokenbounds("verify", "--rescore", 1, results / "certificates")
    assert verified.returncode == 0, verified.stderr
    assert "base intact" in verified.stdout

    shown = tokenbounds("inspect", results / "messages/fine.tbm")
    assert base["sha256"][:32] in shown.stdout
    assert coarse["sha256"][:32] in shown.stdout
    (results / "models/published").rename(fresh.folder / "moved")
    missing = tokenbounds("verify", results / "certificates/tuned.json")
    assert missing.returncode == 1
    assert "--base" in missing.stderr
    elsewhere = tokenbounds("verify", results / "certificates/tuned.json", "--base", fresh.folder / "checkpoint")
    assert elsewhere.returncode == 0, elsewhere.stderr
    (fresh.folder / "moved").rename(results / "models/published")
    data = bytearray((results / "messages/tuned.tbm").read_bytes())
    data[20] ^= 1
    (results / "messages/tuned.tbm").write_bytes(bytes(data))
    flipped = tokenbounds("verify", results / "certificates/fine.json")
    assert flipped.returncode == 1
    assert "tuned.tbm" in flipped.stderr


def test_editing_the_base_repeats_what_depends_on_it_alone(fresh):
    _save_random_gpt2(fresh.folder / "checkpoint")
    _save_random_gpt2(fresh.folder / "other")
    config = side_information_config()
    config["models"]["chain"] = {"kind": "markov", "corpus": "numbers", "order": 0}
    config["messages"]["chain"] = {"model": "chain", "quantizer": {"kind": "counts"}}
    config["certificates"] = {
        "tuned": {"message": "tuned", **ROW, "bounds": {"top_k": [1]}},
        "chain": {"message": "chain", **ROW, "bounds": {"top_k": [1]}},
    }
    done = fresh.snakemake(config=fresh.write_config(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert fresh.planned_jobs(config) == set()
    config["models"]["published"]["name"] = "other"
    jobs = fresh.planned_jobs(config)
    assert {job for job in jobs if "tuned" in job or "=published" in job} == {
        "import_model model=published",
        "finetune_model model=tuned",
        "encode_model message=tuned",
        "score_shard corpus=numbers evaluation=sampled message=tuned shard=00000",
        "certify_bound certificate=tuned",
    }
    assert not any("chain" in job for job in jobs)
