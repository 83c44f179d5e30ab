"""Nothing in a verifier's working folder is run, or changes what is computed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "workflow"
pytestmark = pytest.mark.adversary

DECODER = """
from tokenbounds.messages.coding import kernels
from tokenbounds.compiled import compiled, config
function = compiled()(lambda x: x + 1)
assert function(1) == 2
print(config.CACHE_DIR or "unset", kernels._compiled(lambda x: x)._cache.cache_path)
"""
PLAIN = """
from numba import njit
print(njit(cache=True)(lambda x: x)._cache.cache_path)
"""


def run(folder, program, **more):
    names = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment = {**names, "PYTHONPATH": str(LIBRARY), "XDG_CACHE_HOME": str(folder.parent / "cache"), **more}
    script = folder.parent / "program.py"
    script.write_text(program)
    return subprocess.run([sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def hostile(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / ".numba_config.yaml").write_text(f"cache_dir: {folder / 'forged'}\n")
    (folder / "matplotlibrc").write_text("figure.figsize: 1, 1\ntext.usetex: true\nbackend: nonsense\n\xff\n", "latin1")
    return folder


def test_numba_looks_for_machine_code_where_the_folder_does_not_say(hostile):
    done = run(hostile, DECODER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("unset ")
    assert str(hostile) not in done.stdout and not (hostile / "forged").exists()


def test_numba_was_imported_before(hostile):
    done = run(hostile, f"import numba\n{DECODER}")
    assert done.returncode == 0, done.stderr
    assert str(hostile) not in done.stdout and not (hostile / "forged").exists()


def test_numba_alone_would_have_looked_there(hostile):
    assert str(hostile / "forged") in run(hostile, PLAIN).stdout


def test_a_relative_cache_folder_of_the_environment_is_not_used(hostile):
    program = "from tokenbounds.compiled import compiled\nprint(compiled()(lambda x: x + 1)(1))"
    done = run(hostile, program, NUMBA_CACHE_DIR="forged")
    assert done.stdout == "2\n" and not (hostile / "forged").exists()


def test_matplotlib_reads_no_settings_of_the_folder(hostile):
    program = "from tokenbounds.report import figures\nimport matplotlib\nprint(matplotlib.rcParams['text.usetex'])"
    done = run(hostile, program)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_matplotlib_alone_would_have_read_them(hostile):
    done = run(hostile, "import matplotlib\nprint(matplotlib.rcParams['text.usetex'])")
    assert done.stdout != "False\n"


def test_the_working_folder_is_the_same_afterwards(hostile):
    done = run(hostile, "import os, tokenbounds.compiled, tokenbounds.report.figures\nprint(os.getcwd())")
    assert done.stdout.strip() == str(hostile.resolve())


@pytest.mark.parametrize("package, door", [("numba", "compiled.py"), ("matplotlib", "report/drawing.py")])
def test_both_are_imported_in_one_place_alone(package, door):
    importers = {
        path.relative_to(LIBRARY / "tokenbounds").as_posix()
        for path in (LIBRARY / "tokenbounds").rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if line.strip().startswith((f"import {package}", f"from {package}"))
    }
    assert importers == {door}
