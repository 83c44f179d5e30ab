"""Sequences of integers, structured and random, and how much of them a model reproduces."""

import itertools
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from tokenbounds.bounds.kinds import BPD
from tokenbounds.config import IntegerSequenceSource, MemorizationTask
from tokenbounds.corpus.integer_sequences import draw_tree, evaluate, sequence_documents
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.tokenizers import Bytes
from tokenbounds.errors import CorpusError, TokenboundsError
from tokenbounds.report.tasks.generation import Answers
from tokenbounds.report.tasks.memorization import draw_memorization, memorization_table
from tokenbounds.report.tasks.section import task_sections
from tokenbounds.tasks.memorization import reproduce


def sequences(**changes):
    settings = {"terms": "structured", "sequences": 40, "length": 12, "modulus": 100}
    source = IntegerSequenceSource(**{"kind": "integer_sequences", **settings, **changes})
    texts = [text for _, text in sequence_documents(source)]
    assert all(text.endswith(",\n") for text in texts)
    return [[int(term) for term in text[:-2].split(",")] for text in texts]


def task(**changes):
    return MemorizationTask(**{"kind": "memorization", "corpus": "c", "messages": ("m",), **changes})


# --- sequences --------------------------------------------------------------------------------------------------------


def test_terms_follow_from_an_expression_of_the_term_before_and_the_place():
    squares = ("*", "place", "place")
    assert evaluate(squares, 5, 1000) == [1, 4, 9, 16, 25]
    assert evaluate(("+", "term", ("*", 2, "place")), 4, 1000) == [3, 7, 13, 21]
    assert evaluate(("-", 1, "place"), 3, 10) == [0, 9, 8]


def leaves(tree):
    return leaves(tree[1]) + leaves(tree[2]) if isinstance(tree, tuple) else 1


def test_trees_have_the_leaves_that_are_asked_for_in_every_shape():
    draws = iter(np.random.default_rng(0).integers(0, 1 << 30, 20000).tolist())
    trees = [draw_tree(4, draws) for _ in range(500)]
    assert {leaves(tree) for tree in trees} == {4}
    assert {leaves(tree[1]) for tree in trees} == {1, 2, 3}
    assert {tree[0] for tree in trees} == {"+", "-", "*"}


def test_structured_sequences_are_distinct_and_follow_from_the_seed():
    found = sequences()
    assert len({tuple(each) for each in found}) == 40
    assert {len(each) for each in found} == {12}
    assert max(map(max, found)) < 100
    assert found == sequences() != sequences(seed=1)
    with pytest.raises(CorpusError, match="distinct sequences, fewer than 5000"):
        sequences(complexity=1, sequences=5000)


def test_random_sequences_have_the_same_integers_and_no_rule():
    structured, random = sequences(), sequences(terms="random")
    integers = {term for each in structured for term in each}
    assert {term for each in random for term in each} <= integers

    def repeats(found):
        """Share of pairs of neighbours that occur again: many if the next term follows from the one before."""
        pairs = [pair for each in found for pair in itertools.pairwise(each)]
        return 1 - len(set(pairs)) / len(pairs)

    assert repeats(structured) > 2 * repeats(random)


# --- what is reproduced -----------------------------------------------------------------------------------------------


class Knows:
    """Gives rank 1 to every token but those of certain texts at certain places."""

    vocabulary_size = 256
    order = 0

    def __init__(self, wrong):
        self._wrong = wrong

    def score(self, tokens, start_id):
        rank = np.ones(len(tokens), np.int32)
        rank[list(self._wrong.get(bytes(tokens.tolist()), ()))] = 2
        return np.zeros(len(tokens), np.float32), rank


def corpus(*texts):
    return MemoryCorpus(Bytes().encode(texts), 256, 0)


def test_a_term_is_reproduced_if_all_of_its_tokens_and_its_end_are():
    wrong = {b"1,20,3,45,\n": [3, 8], b"1,2,3,4,\n": [0, 8]}  # "0" of 20 and "5" of 45; "1", and the line feed
    texts = ["1,20,3,45,\n", "1,2,3,4,\n", "7,8,9,10,\n"]
    frame = reproduce(Knows(wrong), corpus(*texts), Bytes(), task(given=1))
    assert frame["terms"].to_list() == [3, 3, 3]
    assert frame["reproduced"].to_list() == [1, 3, 3]
    assert frame["whole"].to_list() == [False, True, True]
    ends = reproduce(Knows({b"1,20,3,45,\n": [4]}), corpus("1,20,3,45,\n"), Bytes(), task(given=1))
    assert ends["reproduced"].to_list() == [2]  # the comma after 20


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(TokenboundsError, match="has 2 terms, and 3 are given"):
        reproduce(Knows({}), corpus("1,2,\n"), Bytes(), task())
    with pytest.raises(TokenboundsError, match="is 2 tokens"):
        reproduce(Knows({}), corpus("1,2,\n"), Bytes(), task(delimiter=", "))


# --- beside certificates ----------------------------------------------------------------------------------------------


def certificate(message, corpus_name, value, prior="message"):
    row = SimpleNamespace(value=value, empirical=value / 2, random_guess=8.0)
    shown, kind = SimpleNamespace(name=message), SimpleNamespace(kind=prior)
    return SimpleNamespace(
        name=f"on-{corpus_name}",
        corpus=corpus_name,
        message=shown,
        prior=kind,
        row=lambda metric: row if metric == BPD else None,
    )


def test_shares_stand_beside_the_certificate_on_the_same_sequences(tmp_path):
    frame = pl.DataFrame({"document": [0, 1], "terms": [10, 10], "reproduced": [10, 5], "whole": [True, False]})
    results = [Answers("structured", task(), name, frame, bits) for name, bits in (("small", 800), ("large", 1600))]
    certificates = [certificate("large", "c", 6.0), certificate("large", "other", 1.0), certificate("small", "c", 9.0)]
    table = memorization_table(results, certificates, {"small": 1.0, "large": 2.0})
    assert table["message"].to_list() == ["large", "small"]
    assert table["terms_reproduced"].to_list() == [0.75, 0.75]
    assert table["sequences_reproduced"].to_list() == [0.5, 0.5]
    assert table["certified_bpd"].to_list() == [6.0, 9.0]
    draw_memorization(table)
    for name in ("generation", "samples", "zero_shot", "correlation"):
        pl.DataFrame().write_parquet(tmp_path / f"{name}.parquet")
    table.write_parquet(tmp_path / "memorization.parquet")
    (section,) = task_sections(tmp_path)
    text = " ".join(section.body.split())
    assert "75.0&nbsp;%" in text
    assert '<span class="vacuous">9.000' in text
