"""The command line's behaviour: help, lazy imports, one-line errors, and the commands that need no certificate."""

import subprocess
import sys
from pathlib import Path

import pytest
from forged_messages import write_message
from safetensors import SafetensorError
from tokenbounds import __version__
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import MessageSpec
from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.messages.container import Part
from tokenbounds.models.build import build_model
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint
from transformers import GPT2LMHeadModel

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


@pytest.fixture
def transformer(tmp_path):
    """The message of a tiny GPT-2."""
    card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, 16, 0, 8)
    save_checkpoint(tmp_path / "model", build_model(card), card)
    spec = MessageSpec(model="m", quantizer=UniformQuantizer(kind="uniform"))
    encode_model(tmp_path / "model", spec, tmp_path / "m.tbm", tmp_path / "m.json")
    return tmp_path / "m.tbm"


def test_decode_writes_no_folder_over_a_file(run, transformer, tmp_path):
    (tmp_path / "precious").write_text("precious")
    status, out, err = run("decode", transformer, "-o", tmp_path / "precious")
    assert status == 1 and "is a file, and the model is written as a folder" in err and "decoded" not in out
    assert (tmp_path / "precious").read_text() == "precious"
    assert run("decode", transformer, "-o", tmp_path / "a" / "folder")[0] == 0
    assert (tmp_path / "a" / "folder" / "config.json").is_file()
    assert run("decode", transformer, "-o", tmp_path / "a" / "folder")[0] == 0


def test_decode_writes_a_gguf_file(run, transformer, tmp_path):
    pytest.importorskip("gguf")
    status, out, err = run("decode", transformer, "--gguf", tmp_path / "a" / "m.gguf")
    assert status == 0, err
    assert (tmp_path / "a" / "m.gguf").read_bytes()[:4] == b"GGUF" and "m.gguf" in out
    status, _, err = run("decode", transformer)
    assert status == 1 and "--gguf" in err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_decode_leaves_no_half_folder_on_a_full_disk(run, transformer, tmp_path, monkeypatch, error):
    def fail(self, folder, **_):
        Path(folder).mkdir()
        (Path(folder) / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr(GPT2LMHeadModel, "save_pretrained", fail)
    before = sorted(tmp_path.iterdir())
    status, _, err = run("decode", transformer, "-o", tmp_path / "out")
    assert status == 1 and "No space left on device" in err and "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


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
