"""A fine-tune over a base and nested messages, from the rows of a study to verified certificates."""

import json

import pytest
from test_pretrained import _save_random_gpt2
from tiny_study import Run, make_corpora, parse_jobs, tiny_config

BECAUSE = {"held_out_because": "Published on 2025-01-31, before the text was written."}

pytestmark = pytest.mark.workflow

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
            "chain": {"kind": "markov", "corpus": "numbers", "order": 0},
        },
        "messages": {
            "base": {"model": "published", "quantizer": {"kind": "reference"}},
            "tuned": {"model": "tuned", "quantizer": {"kind": "uniform"}},
            "fine": {"model": "tuned", "quantizer": {"kind": "refinement", "of": "tuned"}},
            "chain": {"model": "chain", "quantizer": {"kind": "counts"}},
        },
        "evaluations": {"sampled": config["evaluations"]["sampled"]},
        "certificates": {
            "base": {"message": "base", **ROW, "prior": "held_out", **BECAUSE, "bounds": {"top_k": [1]}},
            "tuned": {"message": "tuned", **ROW, "chain": ["base"], "bounds": CHAINED},
            "fine": {"message": "fine", **ROW, "chain": ["base", "tuned"], "bounds": CHAINED},
            "chain": {"message": "chain", **ROW, "bounds": {"top_k": [1]}},
        },
    }


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    """The study after a full run; the last test of this file may damage it."""
    run = Run(tmp_path_factory.mktemp("side_information"))
    make_corpora(run.folder)
    _save_random_gpt2(run.folder / "checkpoint")
    done = run.snakemake(config=run.write_config(side_information_config()))
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def test_editing_the_base_repeats_what_depends_on_it_alone(finished_once):
    _save_random_gpt2(finished_once.folder / "other")
    config = side_information_config()
    assert finished_once.planned_jobs(config) == set()
    config["models"]["published"]["name"] = "other"
    jobs = finished_once.planned_jobs(config)
    of_messages = {
        job.format(name)
        for name in ("base", "tuned", "fine")
        for job in (
            "encode_model message={}",
            "score_shard corpus=numbers evaluation=sampled message={} shard=00000",
            "certify_bound certificate={}",
        )
    }
    reports = {"tabulate_certificates", "draw_figures", "write_report", "sum_published"}
    assert jobs - reports == of_messages | {"import_model model=published", "finetune_model model=tuned"}
    assert not any("chain" in job for job in jobs)


def test_a_fine_tune_and_its_refinement_are_certified_and_verified(finished_once, run):
    study, results = finished_once, finished_once.folder / "results/side_information"
    config = study.write_config(side_information_config())
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
    again = study.snakemake(str(scores.relative_to(study.folder)), config=config)
    assert again.returncode == 0, again.stderr
    assert parse_jobs(again.stdout + again.stderr) == {
        "score_shard corpus=numbers evaluation=sampled message=fine shard=00000"
    }
    assert scores.read_bytes() == before
    status, printed, error = run("verify", "--rescore", 1, results / "certificates")
    assert status == 0, error
    assert "base intact" in printed

    _, shown, _ = run("inspect", results / "messages/fine.tbm")
    assert base["sha256"][:32] in shown
    assert coarse["sha256"][:32] in shown
    (results / "models/published").rename(study.folder / "moved")
    status, _, error = run("verify", results / "certificates/tuned.json")
    assert status == 1 and "--base" in error
    status, _, error = run("verify", results / "certificates/tuned.json", "--base", study.folder / "checkpoint")
    assert status == 0, error
    (study.folder / "moved").rename(results / "models/published")
    data = bytearray((results / "messages/tuned.tbm").read_bytes())
    data[20] ^= 1
    (results / "messages/tuned.tbm").write_bytes(bytes(data))
    status, _, error = run("verify", results / "certificates/fine.json")
    assert status == 1 and "tuned.tbm" in error
