"""What the tests of several areas share."""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fresh_decoder import FreshDecoder
from tokenbounds import cli, confinement, sandbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that start Snakemake first: they take longest, and last they would leave the other worker idle."""
    items.sort(key=lambda item: item.get_closest_marker("workflow") is None)


def pytest_collection_finish() -> None:
    """Take what the imports made out of garbage collection: each would take a second to walk through all of it."""
    gc.collect()
    gc.freeze()


def call_here(function: str, arguments: dict[str, Any], *_: object) -> sandbox.Outcome:
    """What a confined process would be asked to do, in this one; `tests/adversary/test_sandbox.py` starts real ones."""
    module, _, name = function.partition(":")
    value = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments, default=str)))
    return sandbox.Outcome(json.loads(json.dumps(value, default=confinement.plain)), ())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; its exit status and what it wrote to stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("tokenbounds.sandbox.confine", call_here)

    def run_command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tokenbounds", *map(str, arguments)])
        status = 0
        capsys.readouterr()  # what fixtures wrote
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        output = capsys.readouterr()
        return status, output.out, output.err

    return run_command


@pytest.fixture(scope="session")
def decoded_afresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshDecoder]:
    """A function (paths of messages) -> digests of what they decode to in another process; see `fresh_decoder`."""
    decoder = FreshDecoder(tmp_path_factory.mktemp("nothing"))
    yield decoder
    decoder.close()
