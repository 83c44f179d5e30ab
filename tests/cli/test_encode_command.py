"""`tokenbounds encode`: folders and published checkpoints to messages and reports; mistakes in one line."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tokenbounds.compression.checkpoint import read_text
from tokenbounds.messages.decode import decode_message
from tokenbounds.scores.documents import score_documents
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.append(str(Path(__file__).parents[1] / "models"))
from gguf_files import write_gguf
from quip_checkpoints import published_checkpoint

torch.set_num_threads(1)


@pytest.fixture
def run(run, monkeypatch):
    """Run `tokenbounds encode`."""
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: run("encode", *arguments)


@pytest.fixture
def folder(tmp_path):
    """A random GPT-2 over bytes."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=256, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("the cat sat on the mat and " * 30)
    return tmp_path


def test_a_folder_becomes_a_message_and_a_report(run, folder):
    out = folder / "m.tbm"
    options = ("--quantizer", "uniform", "--option", "step_ratio=0.25", "--text", folder / "text.txt")
    status, text, error = run(folder / "model", "-o", out, *options)
    assert status == 0, error
    report = json.loads((folder / "m.json").read_text())
    assert report["size_bits"] == 8 * out.stat().st_size
    assert report["message"]["quantizer"]["step_ratio"] == 0.25
    assert set(report["symbols_compressed_bits"]) == {"gzip", "xz", "zstd"}
    losses = report["scored"]["loss_bits"]
    assert report["scored"]["tokens"] == 810 and 7 < losses["before"] < 9
    assert abs(losses["after"] - losses["before"]) < 0.2
    assert 0 < report["scored"]["kl_bits"] < 0.2 and 0 < report["scored"]["changed_first_choices"] < 1
    assert "KL to the original" in text
    assert f"{report['size_bits']:,} bits" in text and f"{losses['after']:.4f}" in text
    assert decode_message(out).config.n_embd == 16


def test_calibrated_quantizers_take_a_text_and_a_row_from_a_file(run, folder):
    (folder / "row.yaml").write_text("quantizer: {kind: gptq, target: {bits_per_weight: 3}}\ncoder: static\n")
    status, _, error = run(
        folder / "model", "-o", folder / "m.tbm", "--config", folder / "row.yaml",
        "--calibrate", folder / "text.txt", "--report", folder / "r.json",
    )  # fmt: skip
    assert status == 0, error
    report = json.loads((folder / "r.json").read_text())
    assert report["message"]["coder"] == "static" and report["quantization"]["calibration"]["tokens"] > 700


def test_without_a_quantizer_the_best_one_is_taken_at_two_bits(run, folder):
    status, _, error = run(folder / "model", "-o", folder / "m.tbm", "--calibrate", folder / "text.txt")
    assert status == 0, error
    report = json.loads((folder / "m.json").read_text())
    quantizer = report["message"]["quantizer"]
    assert (quantizer["kind"], quantizer["trellis"], quantizer["target"]["bits_per_weight"]) == ("watersic", 8, 2.0)
    assert report["quantization"]["linear"]["bits_per_weight"] == pytest.approx(2.0, abs=0.2)


def test_nested_options_and_lattices(run, folder):
    arguments = ("--quantizer", "rtn", "--option", "target.scale=0.5", "--option", "steps=tensor")
    assert run(folder / "model", "-o", folder / "r.tbm", *arguments)[0] == 0
    arguments = ("--quantizer", "quip_sharp", "--option", "bits=3", "--calibrate", folder / "text.txt")
    assert run(folder / "model", "-o", folder / "q.tbm", *arguments)[0] == 0
    assert json.loads((folder / "q.json").read_text())["header"]["quantizer"]["bits"] == 3


def test_published_codes_are_kept(run, tmp_path):
    published_checkpoint(tmp_path / "hub", "E8P12")
    status, _, error = run(tmp_path / "hub", "-o", tmp_path / "m.tbm", "--quantizer", "published")
    assert status == 0, error
    assert json.loads((tmp_path / "m.json").read_text())["header"]["quantizer"]["kind"] == "published"


def test_a_gguf_file_becomes_a_message_that_decodes_to_what_the_report_says(run, tmp_path):
    (tmp_path / "model").mkdir()
    tensors = write_gguf(tmp_path / "model" / "tiny.gguf")
    (tmp_path / "text.txt").write_text("a cab on a lane and a good meal " * 5)
    arguments = ("--gguf", "tiny.gguf", "--quantizer", "rtn", "--option", "target.scale=0.1")
    status, _, error = run(tmp_path / "model", "-o", tmp_path / "m.tbm", *arguments, "--text", tmp_path / "text.txt")
    assert status == 0, error
    report, decoded = json.loads((tmp_path / "m.json").read_text()), decode_message(tmp_path / "m.tbm")
    assert report["size_bits"] == 8 * (tmp_path / "m.tbm").stat().st_size
    assert (report["header"]["model"]["family"], decoded.config.num_hidden_layers) == ("llama", 1)
    for ours, theirs in (("embed_tokens", "token_embd"), ("layers.0.mlp.down_proj", "blk.0.ffn_down")):
        value, expected = decoded.get_parameter(f"model.{ours}.weight"), torch.from_numpy(tensors[theirs])
        steps = 0.1 * expected.square().mean(1, keepdim=True).sqrt()
        assert ((value - expected).abs() <= 0.55 * steps).all()
        assert not torch.equal(value, expected)
    text = read_text(tmp_path / "text.txt", str(tmp_path / "model"), "tiny.gguf", 20)
    assert report["scored"]["tokens"] == text.tokens > 100
    losses = score_documents(decoded, text, context=1024, stride=1024)[0].nll_bits
    assert report["scored"]["loss_bits"]["after"] == losses.mean(dtype=float)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((), "--calibrate"),
        (("--quantizer", "uniform", "--config", "row.yaml"), "--quantizer or --config"),
        (("--config", "missing.yaml"), "missing.yaml"),
        (("--quantizer", "zip"), "zip"),
        (("--quantizer", "counts"), "Markov"),
        (("--quantizer", "uniform", "--option", "step"), "key=value"),
        (("--quantizer", "uniform", "--option", "steps=1"), "steps"),
        (("--quantizer", "uniform", "--option", "step_ratio=[1"), "YAML"),
        (("--quantizer", "uniform", "--option", "step_ratio=1", "--option", "step_ratio.x=1"), "step_ratio"),
        (("--quantizer", "watersic", "--option", "target.scale=1"), "--calibrate"),
        (("--quantizer", "published"), "QuIP#"),
        (("--quantizer", "uniform", "--gguf", "no.gguf"), "gguf"),
        (("--quantizer", "uniform", "--text", "missing.txt"), "missing.txt"),
    ],
)
def test_mistakes_end_in_one_line(run, folder, monkeypatch, arguments, fault):
    monkeypatch.chdir(folder)
    status, _, error = run("model", "-o", "m.tbm", *arguments)
    assert status == 1
    assert fault in error and error.count("\n") <= 2 and "Traceback" not in error


@pytest.mark.parametrize(
    ("out", "more", "fault"),
    [
        ("m.json", [], "m.json. Name them apart"),
        ("m.tbm", ["--report", "m.tbm"], "m.tbm. Name them apart"),
        ("link.tbm", ["--report", "m.tbm"], "Name them apart"),
        ("text.txt", ["--text", "text.txt"], "text.txt is read"),
        ("m.tbm", ["--text", "text.txt", "--report", "text.txt"], "text.txt is read"),
        ("model/model.safetensors", [], "model.safetensors is read"),
        ("m.tbm", ["--report", "model/config.json"], "config.json is read"),
        ("model", [], "model is a folder"),
    ],
)
def test_nothing_is_written_over_what_is_read_or_written(run, folder, monkeypatch, out, more, fault):
    monkeypatch.chdir(folder)
    Path("link.tbm").symlink_to("m.tbm")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    status, _, error = run("model", "-o", out, "--quantizer", "uniform", *more)
    assert status == 1 and fault in error and error.count("\n") == 1
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_of_a_checkpoint_is_not_its_folder(run, folder, file):
    status, _, error = run(folder / "model" / file, "-o", folder / "m.tbm", "--quantizer", "uniform")
    assert status == 1 and f"{file} is a file. Give its folder" in error.replace("\n", " ")


def test_a_folder_without_a_model_is_refused(run, tmp_path):
    status, _, error = run(tmp_path, "-o", tmp_path / "m.tbm", "--quantizer", "uniform")
    assert status == 1 and str(tmp_path) in error


def test_a_size_in_megabytes_is_met_and_named_once(run, folder):
    arguments = ("--quantizer", "rtn", "--target-megabytes", "0.003")
    status, _, error = run(folder / "model", "-o", folder / "m.tbm", *arguments, "--resume")
    assert status == 0, error
    assert (folder / "m.tbm").stat().st_size == pytest.approx(3000, abs=30 + 50 + 100)  # 1 %, 50 bytes, and the header
    assert not (folder / "m.tbm.work").exists()
    status, _, error = run(folder / "model", "-o", folder / "n.tbm", *arguments, "--option", "target.scale=1")
    assert status == 1 and "--target-megabytes" in error
