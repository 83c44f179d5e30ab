"""Forecasts: on its own pilot a forecast is the certificate; samples and limits are where the formulas put them."""

import math

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.bounds.ratio import upper_ratio
from tokenbounds.bounds.sampling import draws_for_width, width_of_draws
from tokenbounds.certificates.external import ExternalScores, bound_scores
from tokenbounds.certificates.forecast import BOUNDS, Forecast
from tokenbounds.certificates.pilot import find_bits, find_pilot, find_tokens, guess_pilot, read_pilot
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import TokenboundsError

SIZE = 5000
SPEC = BoundsSpec(bounds=("azuma", "freedman", "betting"))


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    path = tmp_path_factory.mktemp("pilot") / "scores.parquet"
    rng = np.random.default_rng(0)
    level = np.repeat(rng.gamma(9.0, 1 / 9.0, 400), 100)
    nll = (level * rng.gamma(1.0, 3.0, 40_000)).astype(np.float32)
    table = {"block": np.repeat(np.arange(400), 100), "nll_bits": nll, "rank": np.ones(40_000, np.int32)}
    pq.write_table(pa.table(table), path)
    return path


@pytest.fixture(scope="module")
def forecast(scores):
    return Forecast(read_pilot(scores), SIZE, SPEC, 100)


def test_with_every_token_scored_it_is_the_certificate(scores, forecast):
    stated = bound_scores(ExternalScores((scores,), rank_column="rank"), 2000, SIZE, SPEC)
    for row in stated.rows:
        if row.metric == "bpd":
            expected = forecast.expect(row.bound, 2000, 40_000)
            assert row.value - 1e-9 <= expected.value <= row.value + 1e-3
            assert expected.alpha == row.alpha


def test_a_pilot_knows_how_blocks_spread(scores, tmp_path):
    frame = pl.read_parquet(scores)
    ratio = frame.group_by("block").agg(pl.col("nll_bits").mean())["nll_bits"].std(ddof=0) / frame["nll_bits"].std()
    assert read_pilot(scores).ratio(100) == pytest.approx(ratio, rel=1e-3) and ratio > 2 / math.sqrt(100)
    frame.select("nll_bits").write_parquet(tmp_path / "plain.parquet")
    assert read_pilot(tmp_path / "plain.parquet").ratio(100) == 0.1


def test_a_guess_has_the_mean_and_deviation_asked_for():
    pilot = guess_pilot(3.74, 3.87)
    assert np.average(pilot.losses, weights=pilot.weights) == pytest.approx(3.74, rel=1e-3)
    assert pilot.losses.std() == pytest.approx(3.87, rel=1e-2)


@pytest.mark.parametrize("bound", BOUNDS)
def test_larger_samples_help_and_the_needed_one_suffices(forecast, bound):
    everything = forecast.expect(bound, 2000, 10**6).value
    values = [forecast.expect(bound, 2000, 10**6, draws).value for draws in (10, 100, 10_000, 10**7)]
    assert values == sorted(values, reverse=True) and values[-1] >= everything - 1e-9
    needed = forecast.draws_needed(bound, 2000, 10**6, 0.1)
    assert forecast.expect(bound, 2000, 10**6, 2 * needed).value - everything <= 0.1
    assert forecast.expect(bound, 2000, 10**6, needed // 4).value - everything >= 0.1


@pytest.mark.parametrize("bound", BOUNDS)
def test_limits_separate_vacuous_from_not(forecast, bound):
    guess = math.log2(SIZE)
    bits = forecast.most_bits(bound, 10**6)
    assert forecast.expect(bound, bits, 10**6).value < guess <= forecast.expect(bound, bits + 1, 10**6).value
    tokens = forecast.fewest_tokens(bound, 2000)
    assert forecast.expect(bound, 2000, tokens).value < guess <= forecast.expect(bound, 2000, tokens - 1).value


def test_a_model_no_better_than_guessing_has_no_limits():
    hopeless = Forecast(guess_pilot(30.0, 1.0), 4, SPEC, 100)
    assert (
        hopeless.most_bits(BoundKind.BETTING, 10**6) is None and hopeless.fewest_tokens(BoundKind.BETTING, 10) is None
    )


@pytest.mark.parametrize("draws", [3, 1000, 10**7])
def test_width_and_draws_are_inverse(draws):
    assert draws_for_width(0.4, 12.0, width_of_draws(0.4, 12.0, draws, 0.01), 0.01) == pytest.approx(draws, abs=1)


def test_inputs_are_numbers_or_files(scores, tmp_path):
    assert find_bits("80") == 80 and find_tokens("12") == 12
    assert find_pilot(str(scores)).block_ratio and find_pilot("2.5, 3").block_ratio is None
    for call, text in [
        (find_pilot, "a,b"),
        (find_pilot, "-1,2"),
        (find_pilot, "no.parquet"),
        (find_bits, "no.tbm"),
        (find_tokens, str(tmp_path)),
        (find_tokens, "0"),
        (find_tokens, "1" + "0" * 400),
        (find_tokens, "²"),
        (find_bits, "9" * 5000),
    ]:
        with pytest.raises(TokenboundsError):
            call(text)
    pq.write_table(pa.table({"nll_bits": pa.array([], pa.float32())}), tmp_path / "empty.parquet")
    with pytest.raises(TokenboundsError, match="no scores"):
        read_pilot(tmp_path / "empty.parquet")


def test_a_draw_of_documents_is_about_as_wide_as_forecast():
    """One block of each document; a third of them are four times as long as the others."""
    rng = np.random.default_rng(3)
    draws, delta = 2000, 0.001
    blocks = np.where(rng.random(draws) < 1 / 3, 4, 1)  # that each document has, of which one was scored
    sums = 10 * blocks * rng.beta(2, 6, draws)  # of blocks of ten tokens
    width = upper_ratio(sums, 10 * blocks, 0.0, 1.0, 40, delta) - sums.sum() / (10 * blocks).sum()
    uneven = 40 / 20  # cut after 40 tokens, 20 on average
    deviation = math.sqrt(2 * 6 / (8**2 * 9) * uneven)
    assert 0.7 < width / width_of_draws(deviation, uneven, draws, delta) < 1.3


def test_blocks_of_long_documents_widen_a_forecast(scores, forecast):
    uneven = Forecast(read_pilot(scores), SIZE, SPEC, 100, 1.5)
    for bound in BOUNDS:
        alike, wider = (each.expect(bound, 2000, 10**8, 500).value for each in (forecast, uneven))
        whole = forecast.expect(bound, 2000, 10**8).value
        assert 1.2 < (wider - whole) / (alike - whole) < 1.6
        assert uneven.expect(bound, 2000, 10**8).value == whole
        assert uneven.draws_needed(bound, 2000, 10**8, 0.05) > forecast.draws_needed(bound, 2000, 10**8, 0.05)
    with pytest.raises(TokenboundsError, match="at least as long"):
        Forecast(read_pilot(scores), SIZE, SPEC, 100, 0.9)
