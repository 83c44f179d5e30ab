"""The study at the published scale lists its jobs before its data are there, and does not start without them."""

import pytest
from tiny_study import ROOT, snakemake

pytestmark = pytest.mark.workflow
STUDY = ROOT / "config" / "studies" / "antibody-paper.yaml"


def run(folder, *options):
    return snakemake(
        folder, ["--snakefile", str(ROOT / "Snakefile"), "--cores", "2", "--configfile", str(STUDY), *options]
    )


def test_a_dry_run_lists_every_job_without_the_data(tmp_path):
    done = run(tmp_path, "-n")
    assert done.returncode == 0, done.stderr
    assert "data/oas matches no file" in done.stderr
    assert "train_model                  3" in done.stdout + done.stderr
    assert "run_task                     4" in done.stdout + done.stderr


def test_a_real_run_names_what_is_missing(tmp_path):
    done = run(tmp_path)
    assert done.returncode != 0
    assert "corpora.families.source: data/oas matches no file" in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()
