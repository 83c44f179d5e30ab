"""Answers to prompts: what is asked, what is written, when it is right, and what a bound says of new prompts."""

import json
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats
from tokenbounds.bounds.betting import binary_kl
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import (
    ArithmeticSource,
    ByteTokenizer,
    CorpusSpec,
    GenerationTask,
    MarkovModel,
    MessageSpec,
    graph,
    parse_study,
)
from tokenbounds.config.quantizers import CountsQuantizer
from tokenbounds.corpus.arithmetic import arithmetic_documents
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.corpus.tokenizers import Bytes
from tokenbounds.errors import ConfigError, TokenboundsError
from tokenbounds.models.markov.counts import fit_markov
from tokenbounds.report.tasks.generation import generation_table
from tokenbounds.report.tasks.section import Answers, task_sections, write_task_results
from tokenbounds.tasks.generation import answer_prompts, draw_prompts, gumbel_noise
from tokenbounds.tasks.measure import Materials, measure_task

BYTES = {"kind": "bytes"}
BECAUSE = "Drawn on 2026-01-31 by another seed."


def task(**changes):
    return GenerationTask(**{"kind": "generation", "corpus": "sums", "messages": ("chain",), "tokens": 3, **changes})


def source(**changes):
    return ArithmeticSource(**{"kind": "arithmetic", "digits": 1, "documents": 3000, **changes})


def in_memory(*texts):
    return MemoryCorpus(Bytes().encode(texts), 256, 0)


# --- the corpus -------------------------------------------------------------------------------------------------------


def test_documents_are_sums_and_differences_written_from_the_last_digit_on():
    texts = [text for _, text in arithmetic_documents(source(answers=("sum", "difference"), digits=2))]
    sums = 0
    for text in texts:
        first, second, answer = int(text[:2]), int(text[3:5]), int(text[6:9][::-1])
        assert (text[2], text[5], text[9:]) == ("?", "=", "\n")
        assert answer in (first + second, abs(first - second))
        sums += answer == first + second
    assert 1400 < sums < 1650  # each rule as often; a few follow both
    assert all(
        int(text[:2]) + int(text[3:5]) == int(text[6:9][::-1]) for _, text in arithmetic_documents(source(digits=2))
    )


def test_pairs_of_numbers_are_uniform_and_follow_from_the_seed():
    pairs = [text[:3] for _, text in arithmetic_documents(source())]
    counts = np.unique(pairs, return_counts=True)[1]
    assert len(counts) == 100
    assert stats.chisquare(counts).pvalue > 1e-4
    assert pairs == [text[:3] for _, text in arithmetic_documents(source())]
    assert pairs != [text[:3] for _, text in arithmetic_documents(source(seed=1))]


# --- prompts and answers ----------------------------------------------------------------------------------------------


def test_a_document_is_a_prompt_and_its_answer():
    corpus = in_memory("1?2=30\n", "a = b = c\nmore", "x=")
    found = draw_prompts(corpus, Bytes(), task())
    assert [(each.prompt, each.answer) for each in found] == [("1?2=", "30"), ("a =", "b = c"), ("x=", "")]
    with pytest.raises(TokenboundsError, match="document 0 does not hold '#'"):
        draw_prompts(corpus, Bytes(), task(prompt_end="#"))
    with pytest.raises(TokenboundsError, match="3 documents, fewer than 4"):
        draw_prompts(corpus, Bytes(), task(prompts=4))


def test_prompts_are_drawn_by_seed_without_replacement():
    corpus = in_memory(*(f"{number}=" for number in range(40)))
    drawn = [
        [each.document for each in draw_prompts(corpus, Bytes(), task(prompts=9, seed=seed))] for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 9


class Wheel:
    """A chain that writes 7 and then the end of an answer, and gives 8 a third of the first probability."""

    vocabulary_size, order = 256, 1

    def score(self, tokens, start_id):
        raise NotImplementedError

    def distribution(self, context):
        chances = {ord("="): {ord("7"): 0.75, ord("8"): 0.25}}.get(int(context[-1]), {ord("\n"): 1.0})
        return np.array([chances.get(token, 0.0) for token in range(256)])


def test_an_answer_is_right_if_it_is_the_document_s_letter_for_letter():
    prompts = draw_prompts(in_memory("a=7\n", "b=77\n", "c=8\n", "d=7"), Bytes(), task())
    frame = answer_prompts(Wheel(), prompts, Bytes(), task())
    assert frame["written"].to_list() == ["7"] * 4
    assert frame["correct"].to_list() == [True, False, False, True]


def test_at_a_temperature_tokens_are_drawn_from_the_model_s_distribution():
    prompts = draw_prompts(in_memory(*["a=7\n"] * 1000), Bytes(), task())
    shares = [answer_prompts(Wheel(), prompts, Bytes(), task(temperature=t))["correct"].mean() for t in (1.0, 0.5)]
    assert shares[0] == pytest.approx(0.75, abs=0.05)
    assert shares[1] == pytest.approx(0.9, abs=0.04)  # 9 : 1 at half the temperature
    again = answer_prompts(Wheel(), prompts, Bytes(), task(temperature=1.0))["correct"].mean()
    assert (
        again == shares[0] != answer_prompts(Wheel(), prompts, Bytes(), task(temperature=1.0, seed=1))["correct"].mean()
    )


def test_noise_has_gumbel_s_distribution_and_is_new_for_each_prompt_and_step():
    noise = gumbel_noise(0, 1, 2, 4000)
    assert stats.kstest(noise, stats.gumbel_r.cdf).pvalue > 1e-4
    assert (noise == gumbel_noise(0, 1, 2, 4000)).all()
    others = [gumbel_noise(*place, 4000) for place in ((1, 1, 2), (0, 2, 2), (0, 1, 3))]
    assert all(abs(np.corrcoef(noise, other)[0, 1]) < 0.06 for other in others)


# --- from files to bounds ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A study: a chain of sums of one digit, asked the prompts that it was counted on, and others."""
    root = tmp_path_factory.mktemp("study")
    for name, seed in (("sums", 0), ("fresh", 1)):
        spec = CorpusSpec(source=source(seed=seed), tokenizer=ByteTokenizer(kind="bytes"), shards=1)
        tokenize_corpus(spec, name, root / "corpora" / name)
    fit_markov(MarkovModel("markov", "sums", 5), Corpus.open(root / "corpora/sums"), root / "models/chain")
    message = root / "messages" / "chain.tbm"
    counts = CountsQuantizer(kind="counts", threshold=1)
    encode_model(
        root / "models/chain", MessageSpec(model="chain", quantizer=counts), message, message.with_suffix(".json")
    )
    tasks = {
        "own": task(prompts=800),
        "new": task(corpus="fresh", prompts=500, prior="held_out", held_out_because=BECAUSE),
    }
    named = {}
    for name, row in tasks.items():
        out = root / "tasks" / name / "chain.parquet"
        tokenizers = dict.fromkeys(("model", "corpus"), ByteTokenizer(kind="bytes"))
        measure_task(row, Materials(message, (), tokenizers, root / "corpora" / row.corpus), out)
        named[name] = (row, [out])
    write_task_results(named, root / "tasks")
    return root


def test_the_bound_is_the_inverse_kl_with_the_message_s_bits(answered):
    own, new = pl.read_parquet(answered / "tasks/generation.parquet").to_dicts()
    assert 0.6 < new["accuracy"] < 0.9 > own["accuracy"] > 0.6
    assert own["errors"] == round(800 * (1 - own["accuracy"]))
    assert (own["prompts"], new["prompts"]) == (800, 500)
    assert own["paid_bits"] == 8 * (answered / "messages/chain.tbm").stat().st_size
    for row in (own, new):
        complexity = row["paid_bits"] * math.log(2) + math.log(1 / 0.05)
        least = binary_kl(row["errors"] / row["prompts"], 1.0 - row["certified_accuracy"]) * row["prompts"]
        assert complexity < least < complexity + 10  # what averaging over bets may cost
    assert new["paid_bits"] == 0
    assert own["certified_accuracy"] < new["certified_accuracy"]


def test_a_bound_that_forgot_the_message_would_be_noticed(answered):
    answers = Answers.read("own", task(), answered / "tasks/own/chain.parquet")
    row = generation_table([answers]).to_dicts()[0]
    free = generation_table([Answers("own", task(), "chain", answers.frame, 0)]).to_dicts()[0]
    assert free["certified_accuracy"] > row["certified_accuracy"] + 0.1


def test_the_page_shows_measured_and_certified_shares(answered):
    (section,) = task_sections(answered / "tasks")
    text = " ".join(section.body.split())
    assert f"{math.floor(1000 * own_accuracy(answered)) / 10}&nbsp;%" in text
    assert "nothing, held out" in text
    assert BECAUSE in text
    assert (answered / "tasks/figure_generation.csv").is_file()


def own_accuracy(root):
    return pl.read_parquet(root / "tasks/generation.parquet")["accuracy"][0]


def test_bounds_hold_for_new_prompts_as_often_as_they_say():
    """Of prompts that are answered rightly with probability 0.7, at most a tenth of samples may certify more."""
    draw = np.random.default_rng(0)
    failures = 0
    for _ in range(200):
        frame = pl.DataFrame({"correct": draw.random(60) < 0.7})
        (row,) = generation_table([Answers("t", task(delta=0.1), "m", frame, 0)]).to_dicts()
        failures += row["certified_accuracy"] > 0.7
    assert failures <= 20


# --- studies ----------------------------------------------------------------------------------------------------------


def study(**row):
    kinds = {"kind": "arithmetic"}
    return {
        "study": "s",
        "corpora": {"open": {"source": kinds}, "sums": {"source": kinds}},
        "models": {
            "base": {"kind": "trained", "corpus": "open"},
            "tuned": {"kind": "finetuned", "base": "base", "corpus": "sums", "parameterization": {"kind": "tiny"}},
            "online": {"kind": "online"},
        },
        "messages": {
            "base": {"model": "base", "quantizer": {"kind": "reference"}},
            "tuned": {"model": "tuned", "quantizer": {"kind": "uniform"}},
            "online": {"model": "online", "quantizer": {"kind": "no_values"}},
        },
        "certificates": {"tuned": {"message": "tuned", "corpus": "sums"}},
        "tasks": {"t": {"kind": "generation", "corpus": "sums", "messages": ["base", "tuned"], **row}},
    }


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prior": "held_out", "held_out_because": BECAUSE}, "prior: 'tuned' was trained on corpus 'sums' itself"),
        ({"corpus": "open"}, "corpus: the base of 'base' was trained on corpus 'open' itself"),
        ({"messages": ["online"]}, "'online' knows nothing before it reads a corpus"),
        ({"prior": "held_out"}, "held_out_because: say in a sentence"),
        ({"prior": "held_out", "held_out_because": "They are new."}, "held_out_because: names no date"),
        ({"prior": "held_out", "held_out_because": "On 2025-02-30."}, "held_out_because: names no date"),
        ({"held_out_because": BECAUSE}, "held_out_because: the messages are paid for"),
        ({"messages": ["tuned", "tuned"]}, "messages: a message appears twice"),
    ],
)
def test_tasks_that_would_not_hold_are_refused(row, fault):
    with pytest.raises(ConfigError, match=fault):
        parse_study(study(**row))


def test_the_graph_knows_what_a_task_reads_and_writes():
    found = parse_study(study())
    report = graph.report(found)
    assert report.measured == ["results/tasks/t/base.parquet", "results/tasks/t/tuned.parquet"]
    tables = ("generation", "memorization", "samples", "zero_shot", "correlation")
    assert report.task_tables == [f"results/tasks/{table}.{form}" for table in tables for form in ("parquet", "csv")]
    assert report.answers == report.antibodies == []
    assert json.loads(graph.task_tokenizers(found, "t", "tuned")) == {"model": BYTES, "corpus": BYTES}
    assert set(json.loads(graph.tasks_spec(found, of_text=True))) == {"t"}
    assert graph.tasks_spec(found) == "{}"
