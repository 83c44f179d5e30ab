"""The frame around every job: its log, its one-line errors, its thread limit."""

import logging
import os
import warnings

import pytest
from tokenbounds.errors import CorpusError
from tokenbounds.jobs import job


@pytest.fixture(autouse=True)
def untouched_process(monkeypatch):
    """Leave threads, log level and environment as they were."""
    import torch

    level, threads = logging.getLogger().level, torch.get_num_threads()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    yield
    logging.getLogger().setLevel(level)
    logging.captureWarnings(False)
    torch.set_num_threads(threads)


def test_messages_and_warnings_go_to_the_log(tmp_path):
    log = tmp_path / "logs" / "deep" / "job.log"
    with job(log) as logger:
        logger.info("counted %d documents", 3)
        logging.getLogger("some.library").warning("beware")
        warnings.warn("old habits", stacklevel=1)
    text = log.read_text()
    assert "INFO tokenbounds: counted 3 documents" in text
    assert "WARNING some.library: beware" in text
    assert "old habits" in text
    assert text.splitlines()[-1].split(": ")[1].startswith("done in ")


def test_a_known_error_is_one_line_on_stderr_and_in_the_log(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_, job(tmp_path / "job.log"):
        raise CorpusError("corpus x is empty. Check its paths.")
    assert exit_.value.code == 1
    assert capsys.readouterr().err == "error: corpus x is empty. Check its paths.\n"
    text = (tmp_path / "job.log").read_text()
    assert "ERROR tokenbounds: corpus x is empty. Check its paths." in text
    assert "Traceback" not in text


def test_an_unexpected_error_leaves_its_traceback_in_the_log_and_goes_on(tmp_path):
    with pytest.raises(ZeroDivisionError), job(tmp_path / "job.log"):
        _ = 1 / 0
    text = (tmp_path / "job.log").read_text()
    assert "Traceback" in text
    assert "ZeroDivisionError" in text


def test_a_second_run_replaces_the_log(tmp_path):
    for message in ("first", "second"):
        with job(tmp_path / "job.log") as logger:
            logger.info(message)
    assert "first" not in (tmp_path / "job.log").read_text()


def test_threads_are_limited_here_and_in_children(tmp_path):
    import torch

    with job(tmp_path / "job.log", threads=2):
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "2"


def test_the_log_is_closed_after_an_error(tmp_path):
    before = list(logging.getLogger().handlers)
    with pytest.raises(SystemExit), job(tmp_path / "job.log"):
        raise CorpusError("no")
    assert logging.getLogger().handlers == before
