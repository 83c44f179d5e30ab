import shutil
from pathlib import Path

import pytest
from tiny_study import Run, make_corpora


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """The tiny study after a full run, and what the run printed. Tests must not change it; `copied` is theirs."""
    folder = tmp_path_factory.mktemp("finished")
    make_corpora(folder)
    run = Run(folder)
    done = run.snakemake("--show-failed-logs")
    assert done.returncode == 0, done.stdout + done.stderr
    return run, done.stdout


@pytest.fixture
def copied(finished: tuple[Run, str], tmp_path: Path) -> Run:
    """A copy of the finished study, times of modification and Snakemake's memory included."""
    folder = tmp_path / "copy"
    shutil.copytree(finished[0].folder, folder, symlinks=True)
    return Run(folder)


@pytest.fixture
def fresh(tmp_path: Path) -> Run:
    """A folder with the corpora and nothing else."""
    make_corpora(tmp_path)
    return Run(tmp_path)
