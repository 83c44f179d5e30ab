"""Rows over labelled tokens: the bounds of those tokens alone, a joint delta, and the risk that they bound."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from tokenbounds.certificates.averages.passes import Sample
from tokenbounds.certificates.rows.setting import Setting
from tokenbounds.certificates.rows.subsets import Subset, find_subsets, share_delta, state_subsets
from tokenbounds.certificates.rows.tokens import state_bounds
from tokenbounds.certificates.rows.units import Units
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError

SPEC = BoundsSpec(top_k=(1,), bounds=("azuma", "betting"), alphas=(0.01, 0.1), lambdas=8, subsets=("region",))
REGIONS = ("none", "FWR1", "2", "3", "4", "5", "CDR3")
NAMES = {"region": REGIONS}


@dataclass
class Labelled:
    """Scores in memory, in batches of a few rows."""

    columns: dict
    rows_per_batch: int = 7

    def iter_batches(self, columns=None):
        table = pa.table({name: self.columns[name] for name in columns or self.columns})
        yield from table.to_batches(self.rows_per_batch)


def make_scores(size=500, seed=0):
    generator = np.random.default_rng(seed)
    region = generator.choice([0, 1, 6], size, p=[0.1, 0.7, 0.2]).astype(np.int8)
    loss = generator.gamma(2.0, 0.5 + 0.2 * region).astype(np.float32)
    document = np.sort(generator.integers(0, 20, size))
    return Labelled(
        {
            "block": document,
            "document": document,
            "nll_bits": loss,
            "rank": 1 + (loss > 1.5).astype(np.int32),
            "region": region,
            "half": (np.arange(size) % 2).astype(np.int8),
        }
    )


def select(scores, column, code):
    chosen = scores.columns[column] == code
    return Labelled({name: values[chosen] for name, values in scores.columns.items()})


def state(scores, names=NAMES, bits=300, **changes):
    setting = Setting(SPEC if not changes else BoundsSpec(**changes), len(scores.columns["rank"]), 29, None)
    subsets = find_subsets(scores, names)
    whole, inner = share_delta(setting, subsets, names)
    return setting, whole, inner, subsets, state_subsets(scores, subsets, inner, bits, name="m")


def test_subsets_are_the_labels_that_occur():
    scores = make_scores()
    region = scores.columns["region"]
    assert find_subsets(scores, NAMES) == [
        Subset("region", code, REGIONS[code], int((region == code).sum())) for code in (0, 1, 6)
    ]
    assert find_subsets(scores, {}) == []


def test_rows_are_those_of_the_subset_alone():
    scores = make_scores()
    _, _, inner, _, records = state(scores)
    assert [(record.column, record.label) for record in records] == [("region", REGIONS[code]) for code in (0, 1, 6)]
    for record, code, setting in zip(records, (0, 1, 6), inner, strict=True):
        alone = select(scores, "region", code)
        assert record.tokens == setting.tokens == len(alone.columns["rank"])
        assert record.rows == state_bounds(alone, setting, 300, name="m").rows
        empirical = alone.columns["nll_bits"].astype(float)
        alpha = record.rows[0].alpha
        smoothed = -np.log2((1 - alpha) * 2.0**-empirical + alpha / 29)
        assert record.rows[0].empirical == pytest.approx(smoothed.mean(), abs=1e-9)


def test_many_labels_take_several_passes_and_give_the_same():
    scores = make_scores()
    scores.columns["region"] = (np.arange(500) % 19).astype(np.int8)
    _, _, _, subsets, records = state(scores, {"region": tuple(map(str, range(19)))})
    assert len(records) == 19
    for record, subset in zip(records, subsets, strict=True):
        assert record.label == str(subset.code)
        chosen = select(scores, "region", subset.code).columns["rank"]
        assert record.rows[2].empirical == pytest.approx((chosen > 1).mean())


def test_delta_is_divided_by_the_labels_that_are_declared():
    setting, whole, inner, _, records = state(make_scores(), {**NAMES, "half": ("first", "second")})
    assert whole.delta == Fraction(1, 60)
    assert [each.delta for each in inner] == [Fraction(1, 60 * 7)] * 3 + [Fraction(1, 60 * 2)] * 2
    assert [row.delta for row in records[0].rows] == [float(Fraction(1, 60 * 7 * 4))] * 4
    assert share_delta(setting, [], {}) == (setting, [])


@pytest.mark.parametrize("columns", [("region",), ("region", "half")])
def test_no_share_depends_on_which_labels_occur(columns):
    names = {"region": REGIONS, "half": ("first", "second")}
    names = {column: names[column] for column in columns}
    scores, other = make_scores(), make_scores()
    other.columns["region"][:] = 0
    shares = []
    for each in (scores, other):
        _, whole, inner, subsets, _ = state(each, names)
        shares.append({(one.column, one.label): part.delta for one, part in zip(subsets, inner, strict=True)})
        assert whole.delta == Fraction(1, 20) / (1 + len(columns))
    assert all(shares[0].get(label, share) == share for label, share in shares[1].items())
    assert len(shares[1]) < len(shares[0])


def by_occurrence(setting, subsets, columns):
    """The rule that is wrong: delta evenly over the labels that occur."""
    each = Fraction(str(setting.spec.delta)) / (1 + len(subsets))
    return replace(setting, delta=each), [replace(setting, delta=each) for _ in subsets]


def worst_chance(share, delta="0.2"):
    """Exact chance that some row is false, for the source of benchmarks/_coverage_labels.py, which knows the rule."""
    names = {"mark": tuple(map(str, range(31)))}
    setting = Setting(BoundsSpec(delta=float(delta), top_k=(), bounds=("betting",)), 400, 29, None)
    one, many = ([Subset("mark", code, str(code), 1) for code in range(size)] for size in (1, 31))
    ahead = share(setting, one, names)[0].delta
    behind = [part.delta for part in share(setting, many, names)[1]]
    none_of_those = math.prod(1 - float(part) for part in behind)
    return float(ahead) + (1 - float(ahead) ** 0.75) * (1 - none_of_those)


def test_a_source_that_chooses_its_labels_gains_nothing():
    assert worst_chance(share_delta) < 0.2
    assert worst_chance(by_occurrence) == pytest.approx(0.245, abs=0.001)


def test_labels_with_the_same_tokens_pay_for_their_rows_once():
    scores = make_scores()
    scores.columns["twin"] = (scores.columns["region"] == 6).astype(np.int8)  # 1 where the region is the last
    names = {**NAMES, "twin": ("no", "yes"), "half": ("even", "odd")}
    _, whole, inner, subsets, records = state(scores, names)
    found = {(record.column, record.label): record for record in records}
    assert [(one.column, one.label) for one in records] == [(one.column, one.label) for one in subsets]
    own, twin = found["region", REGIONS[6]], found["twin", "yes"]
    assert (own.repeats, twin.repeats, found["twin", "no"].repeats) == (None, ("region", REGIONS[6]), None)
    assert (twin.rows, twin.ledger) == (own.rows, own.ledger)
    # A column has a quarter of delta; of it the regions have a seventh each, the two values of the twin a half.
    part = Fraction(str(SPEC.delta)) / 4
    assert whole.delta == part and Fraction(own.ledger.delta) == part / len(REGIONS) + part / 2
    once = [record for record in records if record.repeats is None]
    assert len(once) == len(inner) == len(records) - 1
    assert sum(Fraction(record.ledger.delta) for record in once) < 3 * part
    # Other rows of the same number are no twins.
    assert len({subset.members for subset in subsets}) == len(subsets) - 1


def test_each_row_pays_for_the_whole_message():
    _, _, _, _, records = state(make_scores())
    for record in records:
        for row in record.rows:
            assert row.complexity >= 300 * math.log(2) - math.log(row.delta)


def test_chains_and_sequences_have_no_rows_over_subsets():
    changes = {"bounds": ("telescoped", "betting", "sequences", "documents"), "subsets": ("region",), "top_k": ()}
    scores = make_scores()
    setting = Setting(BoundsSpec(**changes), 500, 29, None, Units(20, 20, False))
    subsets = find_subsets(scores, NAMES)
    _, inner = share_delta(setting, subsets, NAMES)
    records = state_subsets(scores, subsets, inner, 0, name="m")
    assert [row.bound for row in records[2].rows] == ["betting", "documents"]
    chosen = select(scores, "region", 6).columns
    smoothed = -np.log2((1 - 1e-4) * 2.0 ** -chosen["nll_bits"].astype(float) + 1e-4 / 29)
    means = [smoothed[chosen["document"] == document].mean() for document in np.unique(chosen["document"])]
    units = next(entry for entry in records[2].ledger.rows[1].entries if entry.name == "units")
    assert units.amount == len(means)
    assert records[2].rows[1].alpha in setting.alphas


def test_a_sample_is_refused():
    sample = Sample(np.arange(3), np.ones(3, int), np.ones(3, int), np.arange(3))
    setting = Setting(SPEC, 500, 29, sample)
    with pytest.raises(CertificateError, match="every token scored"):
        state_subsets(make_scores(), [Subset("region", 1, "FWR1", 9)], [setting], 0, name="m")


# --- validity ---------------------------------------------------------------------------------------------------------


def coin_study(seed, size=300):
    """Independent uniform tokens out of 8; the label of a token is whether it, or the one after it, is below 4.

    The model is one of 256, each a set of tokens that it holds to be likely, chosen for its loss on the labelled ones.
    """
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, 8, size)
    label = (tokens < 4) | (np.append(tokens[1:], 0) < 4)
    models = (np.arange(256)[:, None] >> np.arange(8)) & 1
    weights = 1.0 + 3.0 * models
    losses = -np.log2(weights / weights.sum(axis=1, keepdims=True))
    best = int(np.argmin(losses[:, tokens[label]].mean(axis=1)))
    return tokens, label, losses[best]


def known_risk(tokens, label, losses):
    """Average over labelled tokens of E[loss | all labels, tokens before], by a backward recursion over the labels.

    Besides what comes before, a token must fit its own label and the one before it, and what follows must fit it.
    """
    low = np.arange(8) < 4
    either = low[:, None] | low[None, :]
    # Chance of the labels from a place on, given its token; the last token counts as followed by one below 4.
    ahead = np.ones(8)
    risks = []
    for place in range(len(tokens) - 1, -1, -1):
        if place < len(tokens) - 1:
            ahead = ((either == label[place]) * ahead).mean(axis=1)
        fits = either[tokens[place - 1]] == label[place - 1] if place else np.ones(8, dtype=bool)
        if label[place]:
            risks.append(losses @ (ahead * fits) / (ahead * fits).sum())
    return float(np.mean(risks))


def certify_coins(tokens, label, losses, bits=8):
    scores = Labelled(
        {
            "nll_bits": losses[tokens].astype(np.float32),
            "rank": np.ones(len(tokens), np.int32),
            "mark": label.astype(np.int8),
        },
        rows_per_batch=1000,
    )
    spec = {"top_k": (), "bounds": ("betting",), "alphas": (0.001,), "lambdas": 8, "delta": 0.05}
    setting = Setting(BoundsSpec(**spec), len(tokens), 8, None)
    subsets = [subset for subset in find_subsets(scores, {"mark": ("no", "yes")}) if subset.code == 1]
    inner = [Setting(BoundsSpec(**spec), subset.tokens, 8, None, delta=Fraction(1, 20)) for subset in subsets]
    assert setting.tokens >= inner[0].tokens
    return state_subsets(scores, subsets, inner, bits, name="m")[0].rows[0].value


def test_the_certificate_holds_for_the_risk_given_the_labels():
    misses = 0
    for seed in range(40):
        tokens, label, losses = coin_study(seed)
        misses += certify_coins(tokens, label, losses) < known_risk(tokens, label, losses)
    assert misses <= 3


def test_the_certificate_does_not_hold_for_the_risk_without_the_labels():
    """What docs/bounds.md calls false is false: tokens chosen by their values look easier than they were."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(0, 8, 4000)
    losses = np.where(np.arange(8) < 4, 0.5, 5.0)
    label = tokens < 4
    unconditional = float(losses.mean())
    assert certify_coins(tokens, label, losses) < unconditional
