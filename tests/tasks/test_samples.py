"""Text from a decoded model beside the original's: same noise, same text until they disagree, and the page."""

import polars as pl
import pytest
import torch
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import ByteTokenizer, MessageSpec, SamplesTask
from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.build import build_model, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint, save_checkpoint
from tokenbounds.report.tasks.generation import Answers
from tokenbounds.report.tasks.samples import sample_table, shown_samples
from tokenbounds.report.tasks.section import task_sections, write_task_results
from tokenbounds.scores.sample_text import sample_text
from tokenbounds.tasks.measure import Materials, measure_task

torch.set_num_threads(1)


def task(**changes):
    return SamplesTask(**{"kind": "samples", "messages": ("m",), "prompts": ("", "ab"), "tokens": 12, **changes})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A network of bytes, and messages of it at fine and at coarse steps."""
    root = tmp_path_factory.mktemp("study")
    card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 16, "n_head": 2}, 256, 0, 24)
    model = build_model(card)
    initialize(model, 4)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(6.0)
    save_checkpoint(root / "models/network", model, card)
    for name, ratio in (("fine", 0.0005), ("coarse", 1.5)):
        row = MessageSpec(model="network", quantizer=UniformQuantizer(kind="uniform", step_ratio=ratio))
        out = root / "messages" / f"{name}.tbm"
        encode_model(root / "models/network", row, out, out.with_suffix(".json"))
    return root


def measure(study, name, row, original=True):
    out = study / "tasks" / "t" / f"{name}.parquet"
    tokenizers = {"model": ByteTokenizer(kind="bytes")}
    folder = study / "models/network" if original else None
    return measure_task(row, Materials(study / f"messages/{name}.tbm", (), tokenizers, original=folder), out)


def test_greedy_text_is_what_the_decoded_model_and_the_original_would_write(study):
    frame = measure(study, "coarse", task(temperature=0.0))
    message = study / "messages/coarse.tbm"
    for row in frame.to_dicts():
        assert row["prompt"] + row["decoded"] == sample_text(message, row["prompt"], tokens=12, temperature=0.0)
        with torch.no_grad():
            tokens = [0, *row["prompt"].encode()]
            for _ in range(12):
                tokens.append(
                    int(load_checkpoint(study / "models/network")[0](torch.tensor([tokens])).logits[0, -1].argmax())
                )
        assert row["original"] == bytes(tokens[1 + len(row["prompt"]) :]).decode("utf-8", errors="replace")


def test_a_fine_message_writes_the_same_text_and_a_coarse_one_departs_from_it(study):
    fine, coarse = (measure(study, name, task()) for name in ("fine", "coarse"))
    assert fine["agreeing"].to_list() == [12, 12]
    assert fine["decoded"].to_list() == fine["original"].to_list() == coarse["original"].to_list()
    assert coarse["agreeing"].max() < 12
    assert measure(study, "fine", task(seed=1))["decoded"].to_list() != fine["decoded"].to_list()
    assert fine["decoded"][0] != fine["decoded"][1]


def test_without_an_original_there_is_only_the_decoded_text(study):
    frame = measure(study, "fine", task(), original=False)
    assert frame["original"].null_count() == frame["agreeing"].null_count() == 2
    assert "ab" not in frame["decoded"][1][:0]
    assert decode_message(study / "messages/fine.tbm") is not None


def test_the_page_shows_both_texts_without_what_would_control_it(study, tmp_path):
    frame = pl.DataFrame(
        {"prompt": ["<b>"], "decoded": ["x\x1b[2J"], "original": ["y"], "tokens": [12], "agreeing": [0]}
    )
    table = sample_table([Answers("t", task(), "m", frame, 8)])
    assert shown_samples(table)[0]["decoded"] == "x\ufffd[2J"
    frame.write_parquet(tmp_path / "m.parquet", metadata={"paid_bits": "8"})
    write_task_results({"t": (task(), [tmp_path / "m.parquet"])}, tmp_path)
    (section,) = task_sections(tmp_path)
    assert "<strong>&lt;b&gt;</strong>x\ufffd[2J" in section.body
    assert "the first 0 of 12 tokens agree" in section.body
