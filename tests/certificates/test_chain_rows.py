"""Searched chains on score streams in memory: what they cost, how they behave, and how streams are aligned."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.bounds.betting import bound_betting
from tokenbounds.bounds.centred import bound_centred
from tokenbounds.bounds.kinds import BPD, BoundKind
from tokenbounds.bounds.ledger import split_delta
from tokenbounds.bounds.smoothing import loss_ceiling, smooth
from tokenbounds.bounds.telescoped import link_ceilings, link_losses
from tokenbounds.certificates.averages.alignment import align_scores
from tokenbounds.certificates.rows.chain_candidates import ChainProblem
from tokenbounds.certificates.rows.chain_search import SEARCHED_TOKENS, ChainSearch, thin_rows
from tokenbounds.certificates.rows.chains import ChainModel, bound_chains
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import ScoreError

V = 512
GRIDS = {"alphas": (0.01, 0.1), "link_alphas": (0.05, 0.2, 0.4), "link_betas": (0.5, 1.0), "lambdas": 12}
SPEC = BoundsSpec(bounds=("telescoped",), **GRIDS)


class Stream:
    """Losses, and perhaps entropies, in memory, cut into batches of some size."""

    def __init__(self, nll_bits, batch=1000, first=0, entropy_bits=None):
        self.nll_bits, self.batch, self.first = np.asarray(nll_bits, np.float32), batch, first
        self.entropy_bits = None if entropy_bits is None else np.asarray(entropy_bits, np.float32)

    def iter_batches(self, columns=None):
        for start in range(0, len(self.nll_bits), self.batch):
            part = self.nll_bits[start : start + self.batch]
            rows = self.first + start + np.arange(len(part))
            every = {"block": rows // 16, "document": rows // 256, "position": rows % 256, "nll_bits": part}
            if self.entropy_bits is not None:
                every["entropy_bits"] = self.entropy_bits[start : start + self.batch]
            yield pa.RecordBatch.from_pydict({name: pa.array(every[name]) for name in columns})


def losses(m, seed=0):
    """A cheap model, a better one and the best, which follow each other."""
    rng = np.random.default_rng(seed)
    cheap = rng.gamma(2.0, 2.0, m)
    middle = np.maximum(cheap - rng.normal(0.8, 0.4, m), 0.0)
    best = np.maximum(middle - rng.normal(0.3, 0.2, m), 0.0)
    best[rng.random(m) < 0.01] = 20.0
    return [cheap, middle, best]


def bound(streams, bits=(50, 400, 3000), delta=0.05, whole=False, spec=SPEC, sizes=(V, V, V)):
    kind = BoundKind.MIXTURE if whole else BoundKind.TELESCOPED
    (budget,) = split_delta(delta, [(BPD, kind)], message_bits=bits[-1], alphas=1, lambdas=1).rows
    named = zip("abcdef", bits, sizes, streams, strict=False)
    models = []
    for name, size_bits, size, each in named:
        stream = each if isinstance(each, Stream) else Stream(each)
        models.append(ChainModel(name, size_bits, size, stream, entropies=stream.entropy_bits is not None))
    tokens = len(models[0].scores.nll_bits)
    return bound_chains([budget], models, spec, tokens, None)[budget.bound].bound.value


def problem(models=3, whole=False, entropies=()):
    deltas = {"delta_generalization": Fraction(1, 20), "delta_sampling": Fraction(0)}
    centres = {"kappas": (0.0, 0.5, 1.0), "entropies": entropies}
    return ChainProblem((10,) * models, (V,) * models, **GRIDS, tokens=1000, **deltas, whole=whole, **centres)


def test_candidates_are_counted_one_by_one():
    for models, whole in itertools.product((1, 2, 3, 4), (False, True)):
        counted = 0
        for path in problem(models, whole).paths():
            assert list(path) == sorted(set(path)) and path[-1] == models - 1
            each = problem(models, whole)
            counted += sum(1 for _ in points(each, path)) * len(each.ratios(path))
        assert problem(models, whole).candidates == counted
        known = problem(models, whole, [model % 2 == 1 for model in range(models)])
        counted = sum(sum(1 for _ in points(known, path)) * len(known.ratios(path)) for path in known.paths())
        assert known.candidates == counted
    assert problem(3).candidates == 2 + 2 * (2 * 6 * 3) + 2 * 6 * 6 * 3
    assert problem(3, whole=True).candidates == 2 + 2 * (2 * 3) + 2 * 3 * 3
    # Of two models with entropies each link has three centres; of a loss in one piece the last model has.
    assert problem(2, entropies=(True, True)).candidates == 2 * 3 + 2 * 6 * 9 * 3
    assert problem(2, whole=True, entropies=(True, True)).candidates == 2 * 3 + 2 * 3 * 3


def points(each, path):
    """Every tuple of smoothing weights, of coefficients and of centres of a sub-chain, one after the other."""
    places = range(len(path))
    alphas, betas = ([grid(place) for place in places] for grid in (each.grid, each.betas))
    return itertools.product(*alphas, *betas, *(each.centres(path, place) for place in places))


def test_shares_of_delta_add_up_exactly_for_every_candidate():
    each = problem(4)
    for path in each.paths():
        for ratio in each.ratios(path):
            assert sum(each.shares(path, ratio)) == Fraction(1, 20)


def test_no_link_pays_more_than_the_number_of_candidates():
    each = problem(3)
    for path in each.paths():
        for ratio in each.ratios(path):
            found = zip(each.complexities(path, ratio), each.bits(path), each.shares(path, ratio), strict=True)
            for complexity, bits, share in found:
                choice = complexity - bits * math.log(2) + math.log(share)
                assert choice == pytest.approx(math.log(each.candidates), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 60), min_size=4, max_size=4),
    st.lists(st.floats(0.001, 0.9), min_size=4, max_size=4),
    st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
    st.booleans(),
)
def test_links_stay_in_their_intervals_and_add_up_whatever_the_data(nll, alphas, betas, whole):
    each = problem(4, whole)
    for path in each.paths():
        chosen = alphas[: len(path)], (betas if not whole else [1.0] * 4)[: len(path)]
        streams = each.streams(path, *chosen, [np.array([loss]) for loss in nll])
        for stream, (low, high) in zip(streams, each.intervals(path, *chosen), strict=True):
            assert low - 1e-9 <= stream[0] <= high + 1e-9
        mixed = 1.0 / V
        for model, alpha in zip(path, chosen[0], strict=True):
            mixed = (1 - alpha) * 2.0 ** -nll[model] + alpha * mixed
        parts = zip(each.weights(chosen[1]), streams, strict=True)
        assert sum(weight * stream[0] for weight, stream in parts) == pytest.approx(-math.log2(mixed), abs=1e-9)


def test_a_chain_of_one_is_the_betting_bound():
    best = losses(3000)[2]
    complexity = 3000 * math.log(2) + math.log(2 / 0.05)
    single = min(
        bound_betting(smooth(best, a, V), loss_ceiling(a, V), complexity, lambdas=12).value for a in SPEC.alphas
    )
    for whole in (False, True):
        assert bound([best], bits=(3000,), whole=whole) == pytest.approx(single, rel=1e-6)


def test_a_useful_chain_beats_the_model_alone_and_a_useless_one_costs_its_price():
    streams = losses(10_000)
    alone = bound(streams[2:], bits=(3000,))
    assert bound(streams) < alone - 0.2
    # The search sees none of the tokens that the model errs on; the best cell of the model alone is still found.
    tokens = 2 * SEARCHED_TOKENS
    wrong = np.where(thin_rows(0, tokens, tokens), 1.0, 40.0)
    complexity = 3000 * math.log(2) + math.log(problem(2).candidates / 0.05)
    every = [bound_betting(smooth(wrong, a, V), loss_ceiling(a, V), complexity, lambdas=12).value for a in SPEC.alphas]
    assert alone < bound([np.full(tokens, 30.0), wrong], bits=(10**6, 3000)) == pytest.approx(min(every), rel=1e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_order_of_magnitude_properties(whole):
    streams = losses(4000)
    value = bound(streams, whole=whole)
    assert bound(streams, bits=(50, 400, 3500), whole=whole) > value
    assert bound(streams, delta=0.001, whole=whole) > value
    assert bound([np.tile(stream, 3) for stream in streams], whole=whole) < value
    assert value == bound(
        [Stream(each, batch) for each, batch in zip(streams, (7, 999, 4000), strict=True)], whole=whole
    )


def test_a_control_variate_beats_subtracting_all_or_nothing():
    """A noisy cheap model: subtracting half of its loss is better than all of it, and than none (the mixture)."""
    rng = np.random.default_rng(1)
    shared = rng.gamma(1.0, 4.0, 8000)
    cheap = np.maximum(shared + rng.gamma(1.0, 4.0, 8000) - 2.0, 0.0)
    streams, bits, sizes = [cheap, 0.5 * shared + rng.gamma(1.0, 1.5, 8000)], (20, 1500), (V, V)
    value = {betas: bound(streams, bits, spec=replace(SPEC, link_betas=betas), sizes=sizes) for betas in BETAS}
    assert value[0.5, 1.0] < value[1.0,] - 0.2
    assert value[0.5, 1.0] < bound(streams, bits, whole=True, sizes=sizes) - 0.2


@pytest.mark.parametrize("whole", [False, True])
def test_a_link_with_a_centre_is_the_betting_bound_of_the_rest(whole):
    """And if the entropy knows how hard a token is, it is worth more than the price of the choice."""
    rng = np.random.default_rng(2)
    hard = np.rint(8 * rng.gamma(1.0, 2.0, 9000).clip(0, 8)) / 8
    cheap, best = (each.astype(np.float32) for each in (rng.gamma(2.0, 2.0, 9000), hard + rng.gamma(1.0, 0.5, 9000)))
    spec = replace(SPEC, alphas=(0.05,), link_alphas=(0.1,), link_betas=(0.5,))
    settings = {"bits": (20, 900), "sizes": (V, V), "whole": whole}
    streams = [Stream(cheap), Stream(best, entropy_bits=hard)]
    found = bound(streams, spec=replace(spec, kappas=(0.5,)), **settings)

    # Two sub-chains, the longer one with three splits of delta where there are links; each of all pays for all.
    paid = math.log(2 if whole else 4) + math.log(20)
    grids = {"kappas": (0.5,), "lambdas": 12}
    alone = smooth(best, 0.05, V)
    values = [bound_centred(alone, hard, loss_ceiling(0.05, V), 900 * math.log(2) + paid, **grids).value]
    links = link_losses([cheap, best], (0.05, 0.1), V, (0.0, 1.0 if whole else 0.5))
    first_ceiling, second_ceiling = link_ceilings((0.05, 0.1), V, (0.0, 0.5))
    if whole:
        total = 920 * math.log(2) + paid
        values.append(bound_centred(sum(links), hard, math.log2(V / 0.05 / 0.1), total, **grids).value)
    for share in () if whole else (1 / 9, 1 / 2, 8 / 9):
        first, second = 20 * math.log(2) + paid - math.log(share), 920 * math.log(2) + paid - math.log(1 - share)
        below = bound_betting(links[0], first_ceiling, first, lambdas=12).value
        values.append(0.5 * below + bound_centred(links[1], hard, second_ceiling, second, **grids).value)
    assert found == pytest.approx(min(values), abs=1e-8)
    plain = bound([cheap, best], spec=spec, **settings)
    assert bound(streams, spec=replace(spec, kappas=(0.0, 0.5, 1.0)), **settings) < plain - 0.02


BETAS = ((1.0,), (0.5, 1.0))


def test_a_smaller_vocabulary_at_the_bottom_is_used():
    streams = losses(4000)
    assert bound(streams, sizes=(64, V, V)) < bound(streams)


def test_streams_of_other_tokens_are_refused():
    cheap, middle, best = losses(500)
    with pytest.raises(ScoreError, match="block 1 where the first scores of the chain have 0"):
        bound([Stream(cheap), Stream(middle, first=1), Stream(best)])
    for shorter in ([cheap, middle, best[:-1]], [cheap[:-1], middle, best]):
        with pytest.raises(ScoreError, match="ends before the other scores"):
            list(align_scores([Stream(each) for each in shorter]))


def test_rows_are_aligned_whatever_the_batches():
    first, second = np.arange(100.0), np.arange(100.0) + 0.5
    for batches in ((100, 100), (7, 13), (1, 100)):
        parts = list(align_scores([Stream(first, batches[0]), Stream(second, batches[1])]))
        assert np.array_equal(np.concatenate([losses[0] for _, losses, _ in parts]), first)
        assert np.array_equal(np.concatenate([losses[1] for _, losses, _ in parts]), second)


def test_the_searched_part_is_spread_evenly_and_independent_of_batches():
    total = 40 * SEARCHED_TOKENS
    whole = thin_rows(0, total, total)
    assert 0.99 * SEARCHED_TOKENS < whole.sum() < 1.01 * SEARCHED_TOKENS
    parts = [thin_rows(start, 1000, total) for start in range(0, 10_000, 1000)]
    assert np.array_equal(np.concatenate(parts), whole[:10_000])
    classes = np.bincount(np.flatnonzero(whole) % 256, minlength=256)
    assert classes.min() > 0.8 * classes.mean()
    assert thin_rows(0, 1000, 1000).all()


def test_the_search_finds_what_trying_everything_finds():
    streams = losses(2000)
    each = replace(problem(3), message_bits=(50, 400, 3000), tokens=2000)
    search = ChainSearch(each, streams, np.ones(2000))
    everything = min(search._guess(path, point).guess for path in each.paths() for point in points(each, path))
    assert search.best(1)[0].guess == pytest.approx(everything, rel=1e-12)
