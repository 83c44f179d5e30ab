"""The public functions: quick to import, and mistakes end in the errors that the documentation names."""

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tokenbounds as tb

HEAVY = ("torch", "transformers", "numba", "numpy", "pyarrow", "pydantic")


def loaded(statement):
    program = f"import sys\n{statement}\nprint(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded("import tokenbounds") == []
    assert "numpy" in loaded("import tokenbounds, numpy")


def test_every_public_function_states_types_and_is_documented():
    functions = [value for value in vars(tb).values() if inspect.isfunction(value)]
    assert {function.__name__ for function in functions} <= set(tb.__all__)
    assert len(functions) == 7
    for function in functions:
        documented = inspect.getdoc(function)
        for name, parameter in inspect.signature(function).parameters.items():
            assert parameter.annotation is not parameter.empty, (function, name)
            assert re.search(rf"^{name}(,|$)", documented, re.MULTILINE), (function, name)
        assert "Raises\n------" in documented and "Returns\n-------" in documented


def test_the_installed_package_says_that_it_is_typed():
    package = Path(tb.__file__).parent
    project = tomllib.loads((package.parents[1] / "pyproject.toml").read_text())
    assert (package / "py.typed").exists()
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["tokenbounds"]


def test_the_tree_of_errors_is_the_documented_one():
    errors = {value for value in vars(tb).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert all(issubclass(error, tb.TokenboundsError) for error in errors)
    tree = inspect.getmodule(tb.TokenboundsError).__doc__
    assert set(re.findall(r"\w+Error", tree)) == {error.__name__ for error in errors}


def test_bounds_of_an_array_and_of_a_file_are_the_same(tmp_path):
    import polars as pl

    losses = np.random.default_rng(0).exponential(2.0, size=5000)
    ranks = np.arange(5000) % 7 + 1
    pl.DataFrame({"loss": losses * np.log(2), "place": ranks}).write_parquet(tmp_path / "losses.parquet")
    array = tb.bound(losses, 100, 256, ranks=ranks)
    file = tb.bound(tmp_path / "losses.parquet", 100, 256, ranks="place", column="loss", nats=True)
    assert [row.value for row in array.rows] == pytest.approx([row.value for row in file.rows], abs=1e-9)
    assert {row.metric for row in array.rows} == {"bpd", "top1_error", "top10_error", "top100_error"}
    assert {row.metric for row in tb.bound(losses, 100, 256).rows} == {"bpd"}


def test_mistakes_are_named(tmp_path):
    losses = np.ones(100)
    with pytest.raises(tb.ConfigError, match="delt"):
        tb.bound(losses, 100, 256, bounds={"delt": 0.1})
    with pytest.raises(tb.ScoreError):
        tb.bound(-losses, 100, 256)
    with pytest.raises(tb.ConfigError, match="stepratio"):
        tb.encode(tmp_path / "nowhere", tmp_path / "out.tbm", quantizer={"kind": "uniform", "stepratio": 1.0})
    with pytest.raises(tb.ModelError, match="nowhere"):
        tb.encode(tmp_path / "nowhere", tmp_path / "out.tbm", quantizer={"kind": "uniform", "step_ratio": 1.0})
    with pytest.raises(tb.MessageError):
        tb.decode(tmp_path / "nowhere.tbm")
    with pytest.raises(tb.CertificateError):
        tb.verify(tmp_path / "nowhere.json")
    with pytest.raises(tb.CorpusError):
        tb.tokenize([tmp_path / "*.txt"], tmp_path / "corpus")


def test_held_out_certificates_state_betting_alone_as_in_a_study(monkeypatch):
    from types import SimpleNamespace

    from tokenbounds.certificates import certify

    stated = []
    monkeypatch.setattr(certify, "certify_bound", lambda *arguments, **_: stated.append(arguments[3].bounds))
    scored = SimpleNamespace(plan=Path("plan.parquet"), scores=())
    for named in ({}, {"held_out_because": "Published on 2025-01-31."}):
        for bounds in ({"delta": 0.01}, {"bounds": ["azuma"]}):
            tb.certify("m.tbm", "corpus", scored, "c.json", bounds=bounds, **named)
    assert stated == [("azuma", "betting"), ("azuma",), ("betting",), ("azuma",)]
