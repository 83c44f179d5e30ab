"""Rows `control_variates`: a model by itself, whose loss is bounded by way of others'; by hand, and what they pay."""

import importlib.util
import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from certified_study import DOCUMENT_LENGTHS, TinyStudy, with_losses
from chain_study import LargeMessage, chain_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from json_certificates import certify_bound, write_certificate
from test_chain_rows import Stream
from tokenbounds.bounds.betting import bound_betting, lambda_grid
from tokenbounds.bounds.kinds import BPD, BoundKind
from tokenbounds.bounds.ledger import split_delta
from tokenbounds.bounds.smoothing import loss_ceiling, smooth
from tokenbounds.certificates import verify
from tokenbounds.certificates.functionals import name_functionals
from tokenbounds.certificates.rows.chains import ChainModel, bound_chains
from tokenbounds.certificates.rows.variates import VariateProblem
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.certificates.sentence import name_models, state_result
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.report.plain_words import plain_words

V = 256
GRIDS = {"alphas": (0.01, 0.1), "link_alphas": (0.05, 0.2, 0.4), "link_betas": (0.4, 0.8), "lambdas": 12}
SPEC = BoundsSpec(bounds=("betting", "control_variates"), top_k=(), **GRIDS)
CANDIDATES = 2 + 3 * 2 * (2 * 2)  # the model alone; or with the other one: two weights, two coefficients, three splits


@pytest.fixture(autouse=True)
def messages_without_a_model(monkeypatch):
    """The synthetic messages hold random bytes; decoding has its own tests."""
    monkeypatch.setattr(verify, "_decode", lambda *_: None)


def problem(models=3, sizes=None, entropies=()):
    deltas = {"delta_generalization": Fraction(1, 20), "delta_sampling": Fraction(0)}
    centres = {"kappas": (0.0, 0.5, 1.0), "entropies": entropies}
    bits = tuple(10**model for model in range(models))
    return VariateProblem(bits, sizes or (V,) * models, **GRIDS, tokens=1000, **deltas, **centres)


def test_candidates_are_counted_one_by_one():
    for known in ((), (True, False, True)):
        each, counted = problem(3, entropies=known), 0
        for path in each.paths():
            places = range(len(path))
            grids = [[grid(place) for place in places] for grid in (each.grid, each.betas)]
            kappas = [each.centres(path, place) for place in places]
            counted += math.prod(map(len, itertools.chain(*grids, kappas))) * len(each.ratios(path))
        assert each.candidates == counted
    assert problem(2).candidates == CANDIDATES
    assert problem(3).candidates == 2 + 2 * (2 * 4 * 3) + 2 * 4 * 4 * 3


def test_a_reference_pays_for_its_own_message_alone_and_the_rest_for_all():
    assert problem(3).bits((0, 1, 2)) == (1, 10, 111)
    assert problem(3).bits((1, 2)) == (10, 110)
    shared = replace(problem(3), messages=({"a": 5}, {"a": 5, "b": 7}, {"c": 9}))
    assert shared.bits((0, 1, 2)) == (5, 12, 21)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 60), min_size=3, max_size=3),
    st.lists(st.floats(0.001, 0.9), min_size=3, max_size=3),
    st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3),
)
def test_links_stay_in_their_intervals_and_add_up_to_the_model_s_own_loss(nll, alphas, betas):
    sizes = (64, V, 512)
    each = problem(3, sizes)
    for path in each.paths():
        chosen = alphas[: len(path)], (0.0, *betas)[: len(path)]
        streams = each.streams(path, *chosen, [np.array([loss]) for loss in nll])
        for stream, (low, high) in zip(streams, each.intervals(path, *chosen), strict=True):
            assert low - 1e-9 <= stream[0] <= high + 1e-9
        total = sum(weight * stream[0] for weight, stream in zip(each.weights(chosen[1]), streams, strict=True))
        assert total == pytest.approx(smooth(nll[2], chosen[0][-1], 512), abs=1e-9)


def state(streams, bits, spec=SPEC):
    (budget,) = split_delta(0.05, [(BPD, BoundKind.CONTROL_VARIATES)], message_bits=0, alphas=1, lambdas=1).rows
    named = zip("abc", bits, streams, strict=False)
    models = [ChainModel(name, size, V, Stream(each)) for name, size, each in named]
    return bound_chains([budget], models, spec, len(streams[0]), None)[budget.bound]


def test_references_that_know_different_things_beat_either_and_a_useless_one_costs_its_price():
    rng = np.random.default_rng(3)
    parts = rng.exponential(2.0, (2, 12_000))
    model, noise = parts.sum(axis=0) + rng.exponential(0.5, 12_000), rng.exponential(2.0, 12_000)
    chains = [[*parts, model], [parts[0], model], [noise, model]]
    both, first, useless = (state(chain, (60,) * (len(chain) - 1) + (1000,)).bound for chain in chains)
    assert both.empirical == pytest.approx(first.empirical, rel=1e-6)  # the model is not mixed with anything
    assert both.gap < first.gap - 0.05
    spent = 1000 * math.log(2) + math.log(CANDIDATES / 0.05)
    alone = min(bound_betting(smooth(model, a, V), loss_ceiling(a, V), spent, lambdas=12).value for a in SPEC.alphas)
    assert first.value < alone - 0.05
    assert useless.value == pytest.approx(alone, rel=1e-6)


def test_a_row_by_hand():
    rng = np.random.default_rng(4)
    shared = rng.exponential(2.0, 20_000)
    raw = [np.float32(shared + rng.exponential(0.5, 20_000)) for _ in range(2)]
    row = state(raw, (60, 2000))
    first, second = row.links
    assert (first.messages, second.messages) == (("a",), ("a", "b"))
    assert first.alphas == second.alphas[:1]
    assert (first.beta, second.beta, second.weight) == (0.0, 0.0, 1.0)
    beta = first.weight
    assert beta in SPEC.link_betas
    reference, model = (smooth(each, alpha, V) for each, alpha in zip(raw, second.alphas, strict=True))
    total = 0.0
    parts = zip((first, second), (reference, model - beta * reference), (60, 2060), (beta, 1.0), strict=True)
    for link, stream, bits, factor in parts:
        assert link.range == pytest.approx(math.log2(V / link.alphas[-1]), rel=1e-12)
        paid = bits * math.log(2) + math.log(CANDIDATES * SPEC.lambdas / link.delta)
        assert link.complexity == pytest.approx(paid, rel=1e-12)
        assert np.isclose(lambda_grid(12, link.range), link.lambda_).any()
        value = (1 - math.exp(np.mean(np.log1p(-link.lambda_ * stream)) - paid / len(stream))) / link.lambda_
        assert link.value == pytest.approx(value, rel=1e-9)
        total += factor * value
    assert row.bound.value == pytest.approx(total, rel=1e-9)
    assert row.bound.empirical == pytest.approx(model.mean(), rel=1e-9)
    assert sum(link.delta for link in row.links) == pytest.approx(0.05, rel=1e-12)


# --- certificates -----------------------------------------------------------------------------------------------------


class Cheap(TinyStudy):
    """Losses that vary widely, so that on few tokens their variance decides what a message costs, not their range."""

    def _score_rows(self, corpus, plan, shard):
        rows = super()._score_rows(corpus, plan, shard)
        return with_losses(rows, 4 * rows["nll_bits"].to_numpy())


class Alike(LargeMessage):
    """A message whose losses are nearly the cheap one's."""

    def _score_rows(self, corpus, plan, shard):
        rows = Cheap(self.root)._score_rows(corpus, plan, shard)
        less = np.random.default_rng([79, shard]).uniform(0.0, 0.5, rows.num_rows)
        return with_losses(rows, np.maximum(rows["nll_bits"].to_numpy() - less, 0.01).astype(np.float32))


def build(root, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("certified_study.DOCUMENT_LENGTHS", tuple(12 * length for length in DOCUMENT_LENGTHS))
        cheap = Cheap(root, **settings).build()
        return chain_inputs(cheap, Alike(root, message_bytes=250, **settings).build())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return build(tmp_path_factory.mktemp("variates"))


@pytest.fixture(scope="module")
def certificate(inputs):
    return certify_bound("c", "tiny", inputs, SPEC, inputs.corpus.parents[1] / "certificates/c.json", model="m")


def row_of(certificate):
    return next(row for row in certificate["rows"] if row["bound"] == "control_variates")


def test_both_verifiers_agree_and_a_forged_coefficient_is_refused(inputs, certificate):
    path = inputs.corpus.parents[1] / "certificates/c.json"
    assert verify_certificate(path)
    spec = importlib.util.spec_from_file_location("again", Path(__file__).parents[2] / "verifier/second_verifier.py")
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    content = again.verify(path)
    assert "2 rows" in content[0]
    forged = json.loads(json.dumps(certificate))
    row_of(forged)["links"][0]["weight"] += 0.1
    write_certificate(path.with_name("forged.json"), forged)
    with pytest.raises(again.Refused, match="no candidate of its chain"):
        again.verify(path.with_name("forged.json"))


def test_the_sentence_and_the_assumptions_are_about_the_model_by_itself(inputs, certificate):
    found = read_certificate(inputs.corpus.parents[1] / "certificates/c.json")
    assert found.best.bound == "control_variates"
    assert found.best.mixed_messages == () and found.best.cheaper_messages == ("chain",)
    assert "mixed" not in state_result(found)
    assert not any("mixed" in sentence for sentence in plain_words(found).says)
    reference, rest = (name_models(found.best, link) for link in found.best.links)
    weight, (first, second) = found.best.links[0].weight, found.best.links[1].alphas
    assert (reference, rest) == (f"chain ({first:g})", f"large ({second:g}) − {weight:g} × chain ({first:g})")
    assert any("is about the certified model by itself" in each for each in certificate["assumptions"])
    assert not any("mixed with" in each for each in certificate["assumptions"])


def test_what_is_scored_again_is_compared_link_by_link(inputs):
    found = read_certificate(inputs.corpus.parents[1] / "certificates/c.json")
    known = [type("Known", (), {"vocabulary_size": V}) for _ in inputs.links]
    reference, rest = name_functionals(found.best, known, ["chain", "large"])
    raw = [{"nll_bits": np.array([2.0, 8.0])}, {"nll_bits": np.array([1.0, 3.0])}]
    link = found.best.links[1]
    smoothed = [smooth(each["nll_bits"], alpha, V) for each, alpha in zip(raw, link.alphas, strict=True)]
    assert reference.messages == (0,) and rest.messages == (0, 1)
    np.testing.assert_allclose(reference.losses(raw[:1]), smoothed[0])
    np.testing.assert_allclose(rest.losses(raw), smoothed[1] - found.best.links[0].weight * smoothed[0])


def test_on_a_sample_the_links_are_bounded_in_one_piece(tmp_path):
    inputs = build(tmp_path, evaluation="sampled", sample_tokens=20_000)
    found = certify_bound("s", "tiny", inputs, SPEC, tmp_path / "certificates/s.json", model="m")
    row = row_of(found)
    assert len(row["links"]) == 2 and row["sampling"] > 0
    assert row["value"] == pytest.approx(sum(link["weight"] * link["value"] for link in row["links"]), rel=1e-12)
    assert verify_certificate(tmp_path / "certificates/s.json")
