"""The command line's manners: help, lazy imports, one-line errors, and the commands that need no certificate."""

import subprocess
import sys
from pathlib import Path

import pytest
from tokenbounds import __version__
from tokenbounds.messages.container import Part, write_message

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
study: tiny
corpora:
  words: {source: {kind: text, paths: ["*.txt"]}}
models:
  chain: {kind: markov, corpus: words, order: 1}
messages:
  coarse: {model: chain, quantizer: {kind: counts, levels: 8}}
certificates:
  first: {message: coarse, corpus: words}
"""


@pytest.fixture
def message(tmp_path):
    model = {"family": "markov", "order": 0, "start_id": 0, "vocabulary_size": 256}
    header = {"coder": "static", "model": model, "quantizer": {"kind": "counts", "levels": 16, "threshold": 2}}
    return tmp_path / "m.tbm", write_message(tmp_path / "m.tbm", header, [Part("symbols", bytes(99))])


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys; sys.argv = ['tokenbounds', '--version']\n"
        "from tokenbounds import cli\n"
        "try:\n    cli.main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'numba'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [__version__, "[]"]


def test_every_command_is_listed_and_documented(run):
    _, out, _ = run("--help")
    for command in ("verify", "show", "inspect", "decode", "bound", "config"):
        assert command in out
        status, text, _ = run(command, "--help")
        assert status == 0 and len(text.split()) > 10


def test_inspect_prints_the_header_and_every_bit(run, message):
    path, content = message
    status, out, _ = run("inspect", path)
    assert status == 0
    assert "model.family" in out and "markov" in out and "quantizer.levels" in out
    assert f"{content.size_bits:,} bits" in out and f"{content.breakdown['symbols']:,} bits" in out


def test_inspect_refuses_a_damaged_message(run, message):
    path, _ = message
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    status, out, err = run("inspect", path)
    assert (status, out) == (1, "") and err.startswith(f"error: {path}") and err.count("\n") == 1


def test_decode_of_what_is_no_transformer_is_refused(run, message, tmp_path):
    status, _, err = run("decode", message[0], "-o", tmp_path / "model")
    assert status == 1 and err.startswith("error: ") and not (tmp_path / "model").exists()


@pytest.mark.parametrize("command", ["verify", "show", "inspect", "config"])
def test_a_missing_file_is_named(run, command, tmp_path):
    status, _, err = run(command, tmp_path / "nowhere")
    assert status == 1 and str(tmp_path / "nowhere") in err and "Traceback" not in err


def test_config_lists_the_rows(run, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(STUDY)
    status, out, _ = run("config", path)
    assert status == 0
    for word in ("tiny", "words", "chain", "coarse", "first", "source=text", "quantizer=counts"):
        assert word in out


def test_config_names_the_nearest_key(run, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(STUDY.replace("order: 1", "ordre: 1"))
    status, _, err = run("config", path)
    assert status == 1 and "did you mean 'order'?" in err


def test_brackets_in_messages_are_printed_as_they_are(run, tmp_path):
    status, _, err = run("show", tmp_path / "[red]x")
    assert status == 1 and "[red]x" in err
