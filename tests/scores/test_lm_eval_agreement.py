"""lm-evaluation-harness measures on a decoded message what our stored losses say; runs where it is installed."""

import json
import re

import polars as pl
import pytest
import tokenbounds as tb
import torch
from tokenbounds.certificates.lm_eval import Question, Unit, lm_eval_intervals
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

lm_eval = pytest.importorskip("lm_eval", reason="pip install lm_eval")
pytestmark = pytest.mark.lm_eval

TEXTS = ["The length of a message is paid for.\nNothing else is.", "Ünïcode, 2 words", " spaces  twice "] * 3
QUESTIONS = [("The length of a", [" message", " text", " proof"], number % 3) for number in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A message of a random network, what it decodes to, and texts: `model.tbm`, `decoded`, `tokenizer`, `texts`."""
    folder = tmp_path_factory.mktemp("lm_eval")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: place for place, letter in enumerate([*alphabet, "<s>"])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.4}
    config = GPT2Config(vocab_size=257, bos_token_id=256, eos_token_id=256, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder / "original")
    (folder / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "texts" / f"{number}.txt").write_text(text)
    rows = [json.dumps({"page": text}) for text in TEXTS]
    (folder / "texts.jsonl").write_text("\n".join(rows))
    rows = [json.dumps(dict(zip(("context", "choices", "answer"), one, strict=True))) for one in QUESTIONS]
    (folder / "questions.jsonl").write_text("\n".join(rows))
    tb.encode(folder / "original", folder / "model.tbm", quantizer={"kind": "uniform", "step_ratio": 0.3})
    tb.decode(folder / "model.tbm", folder / "decoded")
    return folder


def evaluate(folder, task, data):
    """What lm_eval prints for a task on the decoded message, and the samples that it logs, as a file."""
    files = {"data_files": {"test": str(folder / data)}, "cache_dir": str(folder / "cache")}
    task = {"task": "mine", "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", **task}
    # Its float32 softmax of a large vocabulary makes losses too low (docs/certificates.md).
    arguments = f"pretrained={folder / 'decoded'},tokenizer={folder / 'tokenizer'},softmax_dtype=float64"
    options = {"device": "cpu", "batch_size": 1, "bootstrap_iters": 0, "log_samples": True}
    found = lm_eval.simple_evaluate(model="hf", model_args=arguments, tasks=[task], **options)
    samples = folder / "samples.jsonl"
    samples.write_text("".join(json.dumps(row, default=str) + "\n" for row in found["samples"]["mine"]))
    return {name.removesuffix(",none"): value for name, value in found["results"]["mine"].items()}, samples


def test_its_three_losses_follow_from_our_parquet(folder):
    task = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{page}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    }
    printed, samples = evaluate(folder, task, "texts.jsonl")
    tb.tokenize([folder / "texts"], folder / "corpus", tokenizer=folder / "tokenizer")
    scored = tb.score(folder / "model.tbm", folder / "corpus", folder / "scores", evaluation={"context": 64})
    bits = pl.concat(map(pl.read_parquet, scored.scores))["nll_bits"].cast(pl.Float64).sum()
    size = pl.read_parquet(folder / "corpus" / "documents.parquet")["bytes"].sum()
    words = sum(len(re.split(r"\s+", text)) for text in TEXTS)
    assert printed["bits_per_byte"] == pytest.approx(bits / size, abs=1e-6)
    assert printed["byte_perplexity"] == pytest.approx(2 ** (bits / size), rel=1e-6)
    assert printed["word_perplexity"] == pytest.approx(2 ** (bits / words), rel=1e-5)
    assert abs(printed["bits_per_byte"] - (bits + 1) / size) > 1e-4  # one bit more or less is seen
    # What it logs is read again: the estimates are what it printed.
    found = lm_eval_intervals(samples, Question(units={"byte": Unit(100, 50.0), "word": Unit(50, 1000.0)}))
    assert {one.metric: one.estimate for one in found.intervals} == pytest.approx(
        {name: printed[name] for name in ("bits_per_byte", "byte_perplexity", "word_perplexity")}, rel=1e-9
    )


def test_its_logged_accuracies_get_intervals(folder):
    task = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    printed, samples = evaluate(folder, task, "questions.jsonl")
    for one in lm_eval_intervals(samples, Question()).intervals:
        assert one.low <= one.estimate <= one.high and one.estimate == pytest.approx(printed[one.metric])
