"""A whole run of the tiny study, from text to report, and what later runs repeat of it."""

import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import cycle, islice

import pytest
import yaml
from tiny_study import ROOT, TINY, environment, parse_jobs, tiny_config
from tokenbounds.certificates.published import published_files, verify_published
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.errors import CertificateError

pytestmark = pytest.mark.workflow

REPORT_JOBS = {"tabulate_certificates", "draw_figures", "write_report", "sum_published"}


def test_a_full_run_leaves_every_kind_of_result(finished):
    folder = finished[0].folder / "results"
    expected = {
        "corpora/letters/manifest.json",
        "corpora/letters/shard-00001.arrow",
        "models/transformer/model.safetensors",
        "models/chain/counts.arrow",
        "messages/transformer-codebook.tbm",
        "messages/chain.json",
        "plans/letters/sampled.parquet",
        "scores/letters/default/transformer-codebook/shard-00001.parquet",
        "certificates/transformer-uniform.json",
        "tables/certificates.parquet",
        "tables/certificates.md",
        "tables/compression.parquet",
        "figures/bound_by_size.svg",
        "figures/training.png",
        "report.html",
        "SHA256SUMS",
    }
    assert {path for path in expected if not (folder / path).is_file()} == set()
    rows = list(csv.DictReader((folder / "tables" / "certificates.csv").open()))
    assert {row["certificate"] for row in rows} == set(tiny_config()["certificates"])
    assert {row["metric"] for row in rows if row["certificate"] == "chain"} == {"bpd", "top1_error", "top3_error"}


def test_a_full_run_ends_with_the_table_and_the_place_of_the_report(finished):
    output = finished[1]
    assert all(name in output for name in tiny_config()["certificates"])
    assert "results/report.html" in output


def test_every_job_leaves_a_log_and_its_cost(finished):
    folder = finished[0].folder
    for rule in ("tokenize_corpus", "train_model", "fit_markov", "encode_model", "score_shard", "certify_bound"):
        assert list((folder / "logs" / rule).rglob("*.log")), rule
        assert list((folder / "results" / "benchmarks" / rule).rglob("*.tsv")), rule


def test_all_that_is_published_verifies_from_the_command_line(finished, run):
    results = finished[0].folder / "results"
    status, printed, error = run("verify", results)
    assert status == 0, error
    assert printed.count("certificate intact") == 3
    assert "published files intact" in printed
    command = [sys.executable, "-I", str(ROOT / "verifier/second_verifier.py")]
    paths = map(str, sorted((results / "certificates").glob("*.json")))
    done = subprocess.run([*command, *paths], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count(": right: ")) == (0, 3), done.stdout + done.stderr


@pytest.mark.adversary
def test_every_flipped_byte_of_what_is_published_is_found_and_named(copied):
    """TOKENBOUNDS_FLIPS says how many; the short form takes each file in turn until there are 60."""
    results, draw = copied.folder / "results", random.Random(0)
    certificates = [read_certificate(path) for path in sorted((results / "certificates").glob("*.json"))]
    records = [one.locate(record).resolve() for one in certificates for _, record in one.files()]
    files = sorted({*records, results / "SHA256SUMS", *(results / name for name in published_files(results))})
    assert len(files) > 40
    draw.shuffle(files)
    for path in islice(cycle(files), int(os.environ.get("TOKENBOUNDS_FLIPS", "60"))):
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CertificateError) as error:
            verify_published(results)
            for certificate in certificates:
                verify_certificate(certificate.path)
        path.write_bytes(whole)
        assert path.name in str(error.value)
    verify_published(results)


def test_messages_are_what_certificates_pay_for(finished):
    folder = finished[0].folder / "results"
    for path in (folder / "certificates").glob("*.json"):
        message = json.loads(path.read_text())["message"]
        assert message["size_bits"] == 8 * (path.parent / message["file"]).stat().st_size
        assert sum(message["breakdown"].values()) == message["size_bits"]


# --- what a change of the configuration repeats -----------------------------------------------------------------------


def test_nothing_is_repeated_after_a_full_run(finished):
    done = finished[0].snakemake("--dry-run")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr
    assert parse_jobs(done.stdout + done.stderr) == set()


@pytest.mark.parametrize(
    ("result", "job"),
    [
        ("certificates/chain.json", "certify_bound certificate=chain"),
        ("tables/compression.csv", "tabulate_certificates"),
        ("figures/training.csv", "draw_figures"),
        ("report.html", "write_report"),
        ("SHA256SUMS", "sum_published"),
    ],
)
def test_a_deleted_result_is_made_again(copied, result, job):
    (copied.folder / "results" / result).unlink()
    assert job in copied.planned_jobs(tiny_config())


def test_comments_and_the_order_of_keys_repeat_nothing(copied):
    config = tiny_config()
    shuffled = {key: config[key] for key in reversed(config)}
    for section in ("corpora", "models", "messages", "evaluations", "certificates"):
        shuffled[section] = {name: config[section][name] for name in reversed(config[section])}
    path = copied.folder / "shuffled.yaml"
    path.write_text("# A new comment.\n" + yaml.safe_dump(shuffled, sort_keys=False))
    done = copied.snakemake("--dry-run", config=path)
    assert parse_jobs(done.stdout + done.stderr) == set(), done.stdout


def test_writing_out_a_default_repeats_nothing(copied):
    config = tiny_config()
    config["messages"]["chain"]["coder"] = "adaptive"
    config["certificates"]["chain"]["bounds"]["delta"] = 0.05
    assert copied.planned_jobs(config) == set()


@pytest.mark.parametrize("change", [{"delta": 0.01}, {"alphas": [0.001, 0.05]}, {"lambdas": 5}, {"top_k": [2]}])
def test_a_change_of_bounds_repeats_certification_alone(copied, change):
    config = tiny_config()
    config["certificates"]["chain"]["bounds"] = {"top_k": [1, 3], **change}
    assert copied.planned_jobs(config) == REPORT_JOBS | {"certify_bound certificate=chain"}


def test_a_change_of_a_quantizer_repeats_its_message_s_branch_alone(copied):
    config = tiny_config()
    config["messages"]["transformer-codebook"]["quantizer"]["levels"] = 4
    assert copied.planned_jobs(config) == REPORT_JOBS | {
        "encode_model message=transformer-codebook",
        "score_shard corpus=letters evaluation=default message=transformer-codebook shard=00000",
        "score_shard corpus=letters evaluation=default message=transformer-codebook shard=00001",
        "certify_bound certificate=transformer-codebook",
    }


def test_the_number_of_shards_repeats_tokenization_and_what_follows(copied):
    config = tiny_config()
    config["corpora"]["numbers"]["shards"] = 3
    assert copied.planned_jobs(config) == REPORT_JOBS | {
        "tokenize_corpus corpus=numbers",
        "fit_markov model=chain",
        "encode_model message=chain",
        "plan_scoring corpus=numbers evaluation=sampled",
        "score_shard corpus=numbers evaluation=sampled message=chain shard=00000",
        "certify_bound certificate=chain",
    }


def test_a_new_certificate_of_scored_tokens_only_certifies(copied):
    config = tiny_config()
    config["certificates"]["strict"] = {"message": "chain", "corpus": "numbers", "evaluation": "sampled"}
    config["certificates"]["strict"]["bounds"] = {"delta": 0.001}
    assert copied.planned_jobs(config) == REPORT_JOBS | {"certify_bound certificate=strict"}


def test_a_changed_document_is_tokenized_again(copied):
    with (copied.folder / "numbers" / "00.txt").open("a") as stream:
        stream.write("1+1=2\n")
    jobs = copied.planned_jobs(tiny_config())
    assert "tokenize_corpus corpus=numbers" in jobs
    assert "tokenize_corpus corpus=letters" not in jobs


def test_scoring_needs_the_message_and_not_the_checkpoint(copied):
    results = copied.folder / "results"
    (results / "models" / "transformer" / "model.safetensors").unlink()
    scores = results / "scores/letters/sampled/transformer-uniform/shard-00000.parquet"
    before = scores.read_bytes()
    scores.unlink()
    done = copied.snakemake(str(scores.relative_to(copied.folder)), config=TINY)
    assert done.returncode == 0, done.stderr
    assert parse_jobs(done.stdout + done.stderr) == {
        "score_shard corpus=letters evaluation=sampled message=transformer-uniform shard=00000"
    }
    assert not (results / "models" / "transformer" / "model.safetensors").exists()
    assert scores.read_bytes() == before


def test_training_and_encoding_again_give_the_same_bytes(copied):
    results = copied.folder / "results"
    files = [results / "models/transformer/model.safetensors", results / "messages/transformer-codebook.tbm"]
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    done = copied.snakemake(str(files[1].relative_to(copied.folder)), config=TINY)
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in files] == before


# --- a run that is killed ---------------------------------------------------------------------------------------------


def digests(folder):
    """SHA-256 of every result that is a function of the study alone: all but costs and training's own checkpoints."""
    paths = [path for path in (folder / "results").rglob("*") if path.is_file()]
    relative = {path.relative_to(folder / "results").as_posix(): path for path in paths}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in relative.items()
        if not name.startswith(("benchmarks/", "work/"))
    }


def kill_when(process, condition):
    """Kill Snakemake and its jobs with SIGKILL as soon as `condition` holds; fail if the run ends before."""
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_run_goes_on_to_the_same_results(finished, fresh):
    target = "results/certificates/transformer-codebook.json"
    command = fresh.command(target, "--quiet", "all")
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    work = fresh.folder / "results" / "work"
    kill_when(process, lambda: any(work.glob("*/checkpoint-*/trainer_state.json")))
    assert not (fresh.folder / "results/models/transformer/model.safetensors").exists()

    assert fresh.snakemake("--unlock").returncode == 0
    done = fresh.snakemake(target, "--rerun-incomplete")
    assert done.returncode == 0, done.stdout + done.stderr
    made, expected = digests(fresh.folder), digests(finished[0].folder)
    assert (fresh.folder / target).is_file() and made == {name: expected[name] for name in made}


# --- chains and held-out models ---------------------------------------------------------------------------------------


def _with_chain(config):
    row = {"message": "transformer-uniform", "corpus": "letters", "evaluation": "sampled"}
    bounds = {"bounds": ["betting", "telescoped"], "top_k": [1]}
    config["certificates"]["chained"] = {**row, "chain": ["transformer-codebook"], "bounds": bounds}
    config["certificates"]["elsewhere"] = {
        "message": "chain",
        "corpus": "letters",
        "evaluation": "sampled",
        "prior": "held_out",
        "held_out_because": "Counted on other texts, on 2026-01-31.",
        "bounds": {"top_k": [1]},
    }
    return config


def test_chains_and_held_out_models_are_scored_certified_and_verified(copied, run):
    config = _with_chain(tiny_config())
    scored = "score_shard corpus=letters evaluation=sampled message={} shard=00000"
    assert copied.planned_jobs(config) == REPORT_JOBS | {
        scored.format("transformer-codebook"),
        scored.format("chain"),
        "certify_bound certificate=chained",
        "certify_bound certificate=elsewhere",
    }
    done = copied.snakemake(config=copied.write_config(config))
    assert done.returncode == 0, done.stderr
    folder = copied.folder / "results" / "certificates"
    chained, elsewhere = (json.loads((folder / f"{name}.json").read_text()) for name in ("chained", "elsewhere"))
    assert [link["message"]["name"] for link in chained["chain"]] == ["transformer-codebook"]
    assert [record["corpus"] for record in elsewhere["prior"]["trained_on"]] == ["numbers"]
    status, _, error = run("verify", "--rescore", 2, folder)
    assert status == 0, error
    rows = list(csv.DictReader((copied.folder / "results/tables/certificates.csv").open()))
    assert {row["prior"] for row in rows if row["certificate"] == "elsewhere"} == {"held_out"}
    assert {row["paid_bits"] for row in rows if row["certificate"] == "elsewhere"} == {"0"}

    assert copied.planned_jobs(config) == set()
    config["certificates"]["elsewhere"]["prior"] = "message"
    del config["certificates"]["elsewhere"]["held_out_because"]
    assert copied.planned_jobs(config) == REPORT_JOBS | {"certify_bound certificate=elsewhere"}
    config = _with_chain(tiny_config())
    config["messages"]["transformer-codebook"]["quantizer"]["levels"] = 4
    assert "certify_bound certificate=chained" in copied.planned_jobs(config)
