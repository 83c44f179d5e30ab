"""Intervals from the samples that lm-evaluation-harness logs: `tokenbounds lm-eval`."""

import json
import math

import numpy as np
import pytest
from tokenbounds.bounds.ratio import lower_ratio, upper_ratio
from tokenbounds.bounds.sampling import lower_mean, upper_mean
from tokenbounds.certificates.lm_eval import Question, Unit, lm_eval_intervals
from tokenbounds.cli import app
from tokenbounds.errors import CertificateError, ScoreError
from typer.testing import CliRunner

# 30 documents of 8, 16 or 24 bytes and 1, 2 or 3 words that cost 1, 2 or 3 bits per byte.
BYTES = np.tile([8, 16, 24], 10)
BITS = BYTES * np.repeat([1.0, 2.0, 3.0], 10)
UNITS = {"byte": Unit(32, 8.0), "word": Unit(4, 64.0)}


def rolling(document):
    """A line of a rolling task, as lm_eval 0.4.13 writes it."""
    nats, size = -float(BITS[document]) * math.log(2), int(BYTES[document])
    pairs = {"word_perplexity": [nats, size // 8], "byte_perplexity": [nats, size], "bits_per_byte": [nats, size]}
    return {"doc_id": document, "doc": {"text": "…"}, "filter": "none", "metrics": list(pairs), **pairs}


def choice(document, name="none"):
    """A line of a multiple-choice task: every third is right, all are by length."""
    values = {"acc": float(document % 3 == 0), "acc_norm": True, "f1": [0, 1]}
    return {"doc_id": document, "filter": name, "metrics": list(values), **values}


def write(folder, lines):
    path = folder / "samples_task.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_losses_are_ratios_of_expectations(tmp_path):
    answer = lm_eval_intervals(write(tmp_path, map(rolling, range(30))), Question(0.1, UNITS))
    found = {each.metric: each for each in answer.intervals}
    # Two quantities of two sides: bits per byte and byte perplexity are one.
    low, high = (bound(BITS, BYTES, 0.0, 8.0, 32, 0.025) for bound in (lower_ratio, upper_ratio))
    assert [found["bits_per_byte"].low, found["bits_per_byte"].high] == pytest.approx([low, high])
    assert [found["byte_perplexity"].low, found["byte_perplexity"].high] == pytest.approx([2**low, 2**high])
    assert found["word_perplexity"].high == pytest.approx(2 ** upper_ratio(BITS, BYTES / 8, 0.0, 64.0, 4, 0.025))
    # As lm-evaluation-harness prints them: all bits over all bytes, not the mean of the documents' means.
    assert found["bits_per_byte"].estimate == pytest.approx(BITS.sum() / BYTES.sum())
    assert found["word_perplexity"].estimate == pytest.approx(math.exp(BITS.sum() * math.log(2) / (BYTES.sum() / 8)))
    assert answer.documents == 30 and answer.without == []


def test_accuracies_are_means_over_documents_by_filter(tmp_path):
    lines = [choice(document, name) for name in ("none", "strict") for document in range(30)]
    answer = lm_eval_intervals(write(tmp_path, lines), Question(0.1))
    found = {each.metric: each for each in answer.intervals}
    right = np.arange(30) % 3 == 0
    for title in ("acc", "acc (strict)"):  # four quantities of two sides
        ends = lower_mean(right, 0.0, 1.0, 0.1 / 8), upper_mean(right, 0.0, 1.0, 0.1 / 8)
        assert [found[title].low, found[title].high] == pytest.approx(ends)
        assert found[title].estimate == pytest.approx(1 / 3)
    assert found["acc_norm"].high == 1.0
    assert answer.without == ["f1", "f1 (strict)"] and answer.documents == 30


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"doc_id": 1}, "line 3: document 1 occurs twice"),
        ({"doc_id": "x"}, "no number under doc_id"),
        ({"filter": ["none"]}, "no name under filter"),
        ({"acc": 1.5}, "acc of document 2 is not a number from 0 to 1"),
        ({"acc": "1"}, "acc of document 2"),
        ({"acc": math.nan}, "acc of document 2"),
        ({"bits_per_byte": [0.5, 8]}, "bits_per_byte of document 2 is not a finite log-likelihood"),
        ({"bits_per_byte": [-math.inf, 8]}, "bits_per_byte of document 2"),
        ({"bits_per_byte": [-(10**400), 8]}, "bits_per_byte of document 2"),
        ({"word_perplexity": [-1.0, -1]}, "number of words"),
        ({"byte_perplexity": [-1.0, 9]}, "differ"),
    ],
)
def test_a_broken_line_is_named(tmp_path, change, words):
    lines = [rolling(document) | choice(document) for document in range(3)]
    lines[2] |= change
    with pytest.raises(ScoreError, match=words):
        lm_eval_intervals(write(tmp_path, lines), Question(0.05, UNITS))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("{", "line 1 is not JSON"),
        ("\n[]", "line 2 is not a JSON object"),
        ('{"doc_id": 0, "doc_id": 1}', "occurs twice"),
        ("\xff", "not JSON"),
        ('{"doc_id": 0, "acc": 1}\n{"doc_id": 1}', "line 2: document 1 has no acc"),
        ('{"doc_id": 0, "metrics": 7}', "--longest-document"),
        ('{"doc_id": 0, "metrics": ["f1"], "bits_per_byte": [-1, 9]}', "It has f1, bits_per_byte"),
    ],
)
def test_a_file_without_samples_is_refused(tmp_path, text, words):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ScoreError, match=words):
        lm_eval_intervals(path, Question(0.05))
    with pytest.raises(ScoreError, match="is no file"):
        lm_eval_intervals(tmp_path, Question(0.05))


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ({"byte": Unit(23, 8.0)}, "has 24 bytes, but --longest-document states at most 23"),
        ({"word": Unit(2, 64.0)}, "has 3 words, but --longest-words states at most 2"),
        ({"byte": Unit(32, 2.9)}, r"costs 72\.0 bits for 24 bytes.*--ceiling"),
        ({"word": Unit(4, 20.0)}, "--word-ceiling"),
    ],
)
def test_documents_outside_what_was_stated_are_refused(tmp_path, units, words):
    with pytest.raises(CertificateError, match=words):
        lm_eval_intervals(write(tmp_path, map(rolling, range(30))), Question(0.05, units))


def test_a_chosen_model_pays_for_its_bits_on_each_side(tmp_path):
    lines = [rolling(document) | choice(document) for document in range(30)]
    samples = write(tmp_path, lines)
    # A message of b bits is one of at most 2^b: the same as 2^-b of delta, where a float holds that.
    paid, shared = (
        lm_eval_intervals(samples, question) for question in (Question(0.1, UNITS, 9), Question(0.1 / 512, UNITS))
    )
    assert [(each.metric, each.low, each.high) for each in paid.intervals] == [
        (each.metric, pytest.approx(each.low), pytest.approx(each.high)) for each in shared.intervals
    ]
    # So many that 2^-bits is no float: nothing is known, and nothing overflows.
    found = {each.metric: each for each in lm_eval_intervals(samples, Question(0.1, UNITS, 10**6)).intervals}
    assert (found["acc"].low, found["acc"].high, found["bits_per_byte"].high) == (0.0, 1.0, 8.0)


def test_the_command_prints_intervals_and_what_they_assume(tmp_path):
    command = ["lm-eval", str(write(tmp_path, map(rolling, range(30)))), "--longest-document", "32"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "at most 32 bytes in a document" in done.output and "Without interval: word_perplexity" in done.output
    as_bounds = CliRunner().invoke(app, ["bound", "--lm-eval", *command[1:]])
    assert as_bounds.output == done.output
    done = CliRunner().invoke(app, [*command, "--bits", "1200"])
    assert "the model of a message of 1,200 bits" in done.output and "does not depend" not in done.output
    with pytest.raises(CertificateError, match="--ceiling"):
        CliRunner().invoke(app, [*command, "--ceiling", "2"], catch_exceptions=False)
