"""Zero-shot questions: reading and drawing them, likelihoods of choices, shares of right ones beside certificates."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from tokenbounds.bounds.kinds import BPD
from tokenbounds.config import MissingWord, NextIdentifier, QuestionFiles, ZeroShotTask
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.tokenizers import Bytes
from tokenbounds.errors import TokenboundsError
from tokenbounds.report.tasks.generation import Answers
from tokenbounds.report.tasks.section import task_sections
from tokenbounds.report.tasks.zero_shot import (
    PUBLISHED_GPT2,
    correlate,
    correlation_table,
    draw_zero_shot,
    zero_shot_table,
)
from tokenbounds.tasks.questions import Question, draw_questions, read_questions, write_questions
from tokenbounds.tasks.zero_shot import answer_questions, bootstrap_mean, summarize
from transformers import GPT2Config, GPT2LMHeadModel

torch.set_num_threads(1)
CODE = '''def add_numbers(first_number, second_number):
    """Add."""
    total_value = first_number + second_number
    if total_value > largest_value:
        return largest_value
    return total_value + first_number - second_number

print(add_numbers(first_number, largest_value))
'''
PROSE = (
    "A model predicts the next token of a document from what precedes it in the same document. The bits that it needs "
    "are few if the model is good. Whoever reads the document knows more than the model. And so does the document. "
)


# --- where questions come from ----------------------------------------------------------------------------------------


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return QuestionFiles(kind="files", paths=(str(path),))


def test_files_hold_questions_of_both_forms(tmp_path):
    rows = [{"context": "a", "choices": ["b", "c"], "answer": 1}, {"context": "d", "answer": " e"}]
    wanted = [Question("a", ("b", "c"), 1), Question("d", (" e",), 0)]
    assert read_questions(write(tmp_path / "q.jsonl", *rows)) == wanted
    write_questions(wanted, tmp_path / "again.jsonl")
    assert read_questions(QuestionFiles("files", (str(tmp_path / "again.jsonl"),))) == wanted
    columns = {"context": ["a"], "choices": [["b", "c"]], "answer": [1]}
    pl.DataFrame(columns).write_parquet(tmp_path / "q.parquet")
    assert read_questions(QuestionFiles("files", (str(tmp_path / "q.parquet"),))) == wanted[:1]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"answer": "b"}, "line 1: a question has the key 'context'"),
        ({"context": "a", "answer": 0}, "without 'choices', 'answer' is the text"),
        ({"context": "a", "choices": ["b"], "answer": 0}, "a list of two texts or more"),
        ({"context": "a", "choices": ["b", "c"], "answer": 2}, "from 0 to 1"),
        ({"context": "a", "choices": ["b", "c"], "answer": True}, "from 0 to 1"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, row, fault):
    with pytest.raises(TokenboundsError, match=fault):
        read_questions(write(tmp_path / "q.jsonl", row))


def corpus(*texts):
    return MemoryCorpus(Bytes().encode(texts), 256, 0)


def test_the_next_identifier_and_the_others_occur_in_the_context():
    source = NextIdentifier(kind="next_identifier", corpus="c", questions=4)
    questions = draw_questions(source, corpus(CODE, "x = 1\n"), Bytes())
    assert 0 < len(questions) <= 4
    for one in questions:
        assert len(set(one.choices)) == 4
        assert all(choice in one.context for choice in one.choices)
        assert CODE.count(one.context + one.choices[one.answer]) == 1
    assert questions == draw_questions(source, corpus(CODE, "x = 1\n"), Bytes())
    answers = {
        one.answer
        for seed in range(9)
        for one in draw_questions(NextIdentifier("next_identifier", "c", 4, seed), corpus(CODE), Bytes())
    }
    assert len(answers) > 1  # their places are random


def test_a_missing_word_ends_a_sentence_and_occurred_before():
    found = draw_questions(MissingWord(kind="missing_word", corpus="c"), corpus(PROSE), Bytes())
    assert {one.choices for one in found} == {(" model",), (" document",)}
    assert all((one.context + one.choices[0] + ".") in PROSE for one in found)
    with pytest.raises(TokenboundsError, match="no document of the corpus allows"):
        draw_questions(MissingWord(kind="missing_word", corpus="c"), corpus(CODE), Bytes())


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_embd=16, n_layer=2, n_head=2, n_positions=24, initializer_range=0.6)
    ).eval()


def by_hand(network, context, text):
    """Log-likelihood in bits of the text after as much of its context as fits, and whether it is the greedy one."""
    tokens = [0, *(context + text).encode()[-24:]]
    with torch.no_grad():
        logs = network(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)[-len(text.encode()) :]
    wanted = list(text.encode())
    bits = sum(float(row[token]) for row, token in zip(logs, wanted, strict=True)) / np.log(2)
    return bits, [int(row.argmax()) for row in logs] == wanted


def test_likelihoods_are_those_of_the_choice_after_its_context(network):
    contexts = ["short", "a context that is longer than the window of the model is"]
    questions = [Question(context, (" no", " yes!"), 1) for context in contexts]
    frame = answer_questions(network, questions, Bytes())
    for row in frame.to_dicts():
        bits, greedy = by_hand(network, contexts[row["question"]], row["text"])
        assert row["log2_likelihood"] == pytest.approx(bits, abs=1e-4)
        assert (row["greedy"], row["tokens"], row["bytes"]) == (greedy, len(row["text"]), len(row["text"]))
        assert row["is_answer"] == (row["text"] == " yes!")
    with pytest.raises(TokenboundsError, match="more than the model's window of 24"):
        answer_questions(network, [Question("a", ("b" * 25,), 0)], Bytes())


def test_spaces_at_the_end_of_a_context_belong_to_what_follows(network):
    frames = [answer_questions(network, [Question(*parts, 0)], Bytes()) for parts in (("ab ", ("c",)), ("ab", (" c",)))]
    assert frames[0]["log2_likelihood"].to_list() == frames[1]["log2_likelihood"].to_list()


def test_greedy_words_are_those_that_the_model_would_write(network):
    with torch.no_grad():
        word = chr(int(network(torch.tensor([[0, *b"ab"]])).logits[0, -1, :128].argmax()))
    first = answer_questions(network, [Question("ab", (word,), 0)], Bytes())
    assert first["greedy"][0] == by_hand(network, "ab", word)[1]
    other = chr((ord(word) + 1) % 128)
    assert not answer_questions(network, [Question("ab", (other,), 0)], Bytes())["greedy"][0]


def rows(*choices):
    """Answers by question: lists of (log-likelihood, tokens, bytes, whether it is the right one)."""
    found = [(number, place, *choice) for number, some in enumerate(choices) for place, choice in enumerate(some)]
    names = ("question", "choice", "log2_likelihood", "tokens", "bytes", "is_answer")
    frame = pl.DataFrame(found, schema=names, orient="row")
    return frame.with_columns(pl.lit("").alias("text"), (pl.col("log2_likelihood") > -3.5).alias("greedy"))


def test_the_right_choice_depends_on_how_length_counts():
    frame = rows([(-4.0, 1, 2, False), (-6.0, 2, 2, True)], [(-1.0, 1, 1, True), (-2.0, 1, 1, False)])
    found = {row["measure"]: row for row in summarize(frame, resamples=50, seed=0)}
    assert {name: row["value"] for name, row in found.items()} == {
        "accuracy": 0.5,
        "accuracy_per_token": 1.0,
        "accuracy_per_byte": 0.5,
    }
    assert found["accuracy"]["guess"] == 0.5
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == (0.0, 1.0)


def test_single_texts_are_predicted_or_not():
    found = {
        row["measure"]: row for row in summarize(rows([(-3.0, 1, 1, True)], [(-5.0, 2, 2, True)]), resamples=9, seed=0)
    }
    assert (found["predicted"]["value"], found["bits_per_answer"]["value"]) == (0.5, 4.0)


def test_bootstrap_intervals_cover_as_often_as_they_say():
    draw = np.random.default_rng(1)
    covered = 0
    for seed in range(150):
        low, high = bootstrap_mean((draw.random(120) < 0.6).astype(float), 300, seed)
        covered += low <= 0.6 <= high
    assert covered > 130


# --- beside certificates ----------------------------------------------------------------------------------------------


def certificate(name, message, value, prior="message", corpus="code"):
    row = SimpleNamespace(value=value, empirical=value - 0.5)
    kind = SimpleNamespace(kind=prior, held_out=prior == "held_out")
    shown = SimpleNamespace(name=message)
    return SimpleNamespace(
        name=name,
        corpus=corpus,
        message=shown,
        prior=kind,
        scored_tokens=99,
        row=lambda metric: row if metric == BPD else None,
    )


def table(count=5):
    task = ZeroShotTask(kind="zero_shot", questions=MissingWord("missing_word", "c"), messages=("m",), resamples=20)
    results, certificates = [], []
    for number in range(count):
        right = [(-1.0, 1, 1, place <= number) for place in range(1)] + [(-2.0, 1, 1, False)]
        wrong = [(-2.0, 1, 1, True), (-1.0, 1, 1, False)]
        frame = rows(*[right] * (number + 1), *[wrong] * (6 - number))
        results.append(Answers("words", task, f"m{number}", frame, 8))
        certificates += [certificate(f"c{number}", f"m{number}", 4.0 - 0.1 * number)]
        certificates += [certificate(f"h{number}", f"m{number}", 9.0 - 0.1 * number, "held_out", "prose")]
    return zero_shot_table(results, certificates)


def test_every_measure_stands_beside_its_message_s_certificate():
    found = table()
    first = found.filter((pl.col("message") == "m1") & (pl.col("measure") == "accuracy")).to_dicts()[0]
    assert first["certified_bpd"] == pytest.approx(3.9)
    assert first["value"] == pytest.approx(2 / 7)
    held = found.filter((pl.col("task") == "held out, prose") & (pl.col("message") == "m1")).to_dicts()[0]
    assert (held["value"], held["questions"]) == (pytest.approx(8.4), 99)
    both = {row["task"]: row for row in correlation_table(found).to_dicts() if row["measure"] != "accuracy_per_token"}
    assert both["words"]["pearson"] == pytest.approx(-1.0)
    assert both["held out, prose"]["pearson"] == pytest.approx(1.0)
    assert both["words"]["models"] == 5
    assert correlation_table(table(3))["pearson"].null_count() == correlation_table(table(3)).height


def test_fisher_s_interval_covers_as_often_as_it_says():
    draw = np.random.default_rng(0)
    shared = draw.standard_normal((400, 8))
    others = 0.8 * shared + 0.6 * draw.standard_normal((400, 8))
    spans = [correlate(one, other) for one, other in zip(shared, others, strict=True)]
    assert np.mean([low <= 0.8 <= high for _, low, high in spans]) > 0.9
    assert np.mean([abs(value - 0.8) < 0.05 for value, _, _ in spans]) < 0.5  # a point alone would not do


def test_the_page_shows_tasks_and_correlations(tmp_path):
    for name, frame in (
        ("generation", pl.DataFrame()),
        ("memorization", pl.DataFrame()),
        ("samples", pl.DataFrame()),
        ("zero_shot", table()),
        ("correlation", correlation_table(table())),
    ):
        frame.write_parquet(tmp_path / f"{name}.parquet")
    (section,) = task_sections(tmp_path)
    text = " ".join(section.body.split())
    assert "held out, prose" in text
    assert "-1.000" in text


def test_axes_of_shares_begin_at_zero_even_if_every_share_is_zero():
    nothing = table().with_columns(pl.lit(0.0).alias("value"), pl.lit(0.0).alias("low"), pl.lit(0.0).alias("high"))
    panels = draw_zero_shot(nothing).axes
    shares = [axes.get_ylim() for axes in panels if axes.get_ylabel().endswith("right choices, %")]
    assert shares
    assert all(low == 0.0 and high >= 5.0 for low, high in shares)


def test_the_published_models_are_those_of_the_paper_in_order_of_size():
    perplexities, accuracies = ([row[place] for row in PUBLISHED_GPT2] for place in (1, 2))
    assert perplexities == sorted(perplexities, reverse=True)
    assert accuracies == sorted(accuracies)
