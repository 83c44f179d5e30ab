"""A verifier that a file takes over, fills, hangs or breaks: one line, and nothing is left of it."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tokenbounds import confinement
from tokenbounds.errors import MessageError, TokenboundsError
from tokenbounds.sandbox import Limits, confine

pytestmark = pytest.mark.adversary
HERE = Path(__file__).parent
LIMITS = Limits(memory_gib=1, seconds=30)


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1] / "workflow")]))


def call(name, limits=LIMITS, **arguments):
    return confine(f"hostile_reader:{name}", arguments, limits, "c.json")


def test_honest_work_is_done():
    done = call("work", text="a note")
    assert done.value == ["a note", True]
    assert len(done.confined) == 3


def test_an_error_of_the_library_is_the_same_outside():
    with pytest.raises(MessageError, match=r"^m\.tbm: refused$"):
        call("refuse")


FAULTS = {
    "fill": "takes more memory",
    "crash": "ended with SIGSEGV, without an answer",
    "fail": r"a fault of this program \(ValueError: .*not expected\)",
    "run": "subprocess.Popen is refused",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_that_names_the_file(name):
    if name == "fill" and sys.platform != "linux":
        pytest.skip("memory is not limited here")
    with pytest.raises(TokenboundsError, match=FAULTS[name]) as error:
        call(name)
    assert str(error.value).startswith("c.json: ") and "\n" not in str(error.value)


def test_what_takes_too_long_is_stopped():
    with pytest.raises(TokenboundsError, match=r"^c\.json: this takes longer than 1 seconds"):
        call("loop", Limits(1, 1))


def test_there_is_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(TokenboundsError, match="is refused in a confined process"):
            call("connect", port=port)
        done = call("connect_in_c", port=port)
    assert done.value == (-1 if "no network" in done.confined else 0)


def test_nothing_is_written_but_to_a_temporary_folder(tmp_path):
    with pytest.raises(TokenboundsError, match="is refused in a confined process"):
        call("write", path=tmp_path / "file")
    done = call("write_in_c", path=tmp_path / "file")
    assert (done.value < 0) == ("written is a temporary folder alone" in done.confined)
    assert (done.value < 0) == (not (tmp_path / "file").exists())
    confine("hostile_reader:write", {"path": tmp_path / "file"}, LIMITS, "c.json", [tmp_path])
    assert (tmp_path / "file").read_text() == "written"


def test_the_command_line_is_confined(tmp_path):
    (tmp_path / "tokenbounds").mkdir()
    (tmp_path / "tokenbounds/__init__.py").write_text("raise SystemExit('code of the working folder ran')")
    command = [Path(sys.executable).with_name("tokenbounds"), "verify", "nowhere.json", "--max-memory", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: ") and "nowhere.json" in done.stderr and done.stderr.count("\n") == 1


def test_what_a_system_cannot_do_is_said(monkeypatch, tmp_path):
    class Refusing:
        def __getattr__(self, name):
            return lambda *_: -1

    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append(kind))
    monkeypatch.setattr(confinement.ctypes, "CDLL", lambda *_, **__: Refusing())
    for platform in ("linux", "darwin"):
        monkeypatch.setattr(sys, "platform", platform)
        assert confinement.leave_network().startswith("no network for Python (")
        assert confinement.give_up_writing([tmp_path]).endswith("(the system cannot enforce it)")
    assert confinement.limit_memory(1 << 30) == "memory is not limited on this system"
    assert limits == [resource.RLIMIT_CORE]
