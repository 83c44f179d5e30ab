"""A pretrained checkpoint in a folder, from import to a verified certificate, in a results folder of its own."""

import json

import pytest
from tiny_study import parse_jobs, tiny_config

pytestmark = pytest.mark.workflow


def _save_random_gpt2(folder):
    """Save one layer of random values for a vocabulary of bytes; a corpus of bytes needs no tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel, set_seed

    set_seed(0)
    size = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 256}
    GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)


def _pretrained_config():
    """The numbers of the tiny study, scored with the checkpoint and nothing else."""
    config = tiny_config()
    return {
        **config,
        "results": "results/pretrained",
        "corpora": {"numbers": config["corpora"]["numbers"]},
        "models": {"published": {"kind": "pretrained", "name": "checkpoint"}},
        "messages": {"published": {"model": "published", "quantizer": {"kind": "uniform"}}},
        "evaluations": {"sampled": config["evaluations"]["sampled"]},
        "certificates": {"published": {"message": "published", "corpus": "numbers", "evaluation": "sampled"}},
    }


def test_a_checkpoint_in_a_folder_is_imported_certified_and_verified(fresh, run):
    _save_random_gpt2(fresh.folder / "checkpoint")
    config = _pretrained_config()
    certificate = fresh.folder / "results/pretrained/certificates/published.json"
    path = fresh.write_config(config)
    done = fresh.snakemake(str(certificate.relative_to(fresh.folder)), config=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "import_model model=published" in parse_jobs(done.stdout + done.stderr)
    assert json.loads(certificate.read_text())["message"]["size_bits"] > 0
    status, _, error = run("verify", "--rescore", 2, certificate)
    assert status == 0, error

    assert (fresh.folder / "results/pretrained/logs/import_model/published.log").is_file()
    assert not (fresh.folder / "logs").exists()
    with (fresh.folder / "checkpoint/config.json").open("a") as stream:
        stream.write("\n")
    assert "import_model model=published" in fresh.planned_jobs(config)
