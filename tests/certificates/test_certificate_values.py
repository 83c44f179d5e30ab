"""The numbers of a certificate, against a short independent computation from its files."""

import itertools
import json
import math
from dataclasses import replace

import duckdb
import numpy as np
import polars as pl
import pytest
import second_verifier
from certified_study import with_link
from json_certificates import certify_bound
from tokenbounds.bounds.betting import lambda_grid
from tokenbounds.bounds.sampling import draw_order, lower_mean, upper_mean
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError

V = 256
SPEC = BoundsSpec(bounds=("azuma", "freedman", "betting"), top_k=(1, 10), alphas=(0.01, 0.1, 0.3), lambdas=16)
ROWS = 3 * len(SPEC.bounds)


@pytest.fixture(scope="module")
def certificate(study):
    return certify_bound("exhaustive", "tiny", study.inputs, SPEC, study.root / "certificates/a.json", model="m")


@pytest.fixture(scope="module")
def sampled(sampled_study):
    return certify_bound(
        "sampled", "tiny", sampled_study.inputs, SPEC, sampled_study.root / "certificates/b.json", model="m"
    )


def read_scores(study):
    return pl.concat([pl.read_parquet(path) for path in study.inputs.certified.scores])


def row_of(certificate, metric, bound):
    return next(row for row in certificate["rows"] if (row["metric"], row["bound"]) == (metric, bound))


def smoothed(nll_bits, alpha):
    return -np.log2((1 - alpha) * 2.0 ** -np.asarray(nll_bits, np.float64) + alpha / V)


def complexity_nats(study, share=1.0, alphas=3, lambdas=1.0):
    """C ln 2 + ln(1/delta_row), with the grids' prices."""
    message_bits = 8 * study.inputs.certified.message.stat().st_size
    return (message_bits + math.log2(alphas)) * math.log(2) + math.log(ROWS / (SPEC.delta * share)) + math.log(lambdas)


def betting_at(losses, lam, budget, m):
    return (1 - math.exp(np.mean(np.log(1 - lam * losses)) - budget / m)) / lam


def test_azuma_row_is_the_formula(study, certificate):
    losses = read_scores(study)["nll_bits"].to_numpy()
    m, budget = len(losses), complexity_nats(study)
    values = {
        a: smoothed(losses, a).mean() + math.log2(1 + (1 - a) * V / a) * math.sqrt(budget / (2 * m))
        for a in SPEC.alphas
    }
    row = row_of(certificate, "bpd", "azuma")
    assert row["alpha"] == min(values, key=values.get)
    assert row["value"] == pytest.approx(min(values.values()), rel=1e-9)
    assert row["complexity"] == pytest.approx(budget, rel=1e-12)
    assert row["empirical"] == pytest.approx(smoothed(losses, row["alpha"]).mean(), rel=1e-9)


def test_betting_and_freedman_rows_are_the_best_of_their_grids(study, certificate):
    losses = read_scores(study)["nll_bits"].to_numpy()
    m, budget = len(losses), complexity_nats(study, lambdas=16)
    betting, freedman = {}, {}
    for a in SPEC.alphas:
        each = smoothed(losses, a)
        for lam in lambda_grid(16, math.log2(V / a)):
            betting[a, lam] = betting_at(each, lam, budget, m)
            freedman[a, lam] = (budget / m - np.mean(np.log(1 - lam * each))) / lam
    for name, values in (("betting", betting), ("freedman", freedman)):
        row = row_of(certificate, "bpd", name)
        assert row["value"] == pytest.approx(values[row["alpha"], row["lambda"]], rel=1e-9)
        assert row["value"] == pytest.approx(min(values.values()), rel=1e-9)
    assert row_of(certificate, "bpd", "betting")["value"] <= row_of(certificate, "bpd", "freedman")["value"]


@pytest.mark.parametrize("bound", ["betting", "freedman"])
def test_rows_with_centres_are_the_best_of_all_cells(centred_study, tmp_path, bound):
    spec = replace(SPEC, top_k=(), bounds=("azuma", bound), kappas=(0.0, 0.5, 1.0))
    # Held out, so that L/m is small, as it is where centres help.
    inputs = replace(centred_study.inputs, held_out=(), held_out_because="The letters were drawn on 2026-11-27.")
    found = certify_bound("c", "tiny", inputs, spec, tmp_path / "c.json", model="m")
    scores, row = read_scores(centred_study), row_of(found, "bpd", bound)
    losses, entropy = (scores[name].to_numpy().astype(float) for name in ("nll_bits", "entropy_bits"))
    # Two rows share delta; three alphas, three kappas and sixteen lambdas are paid for.
    budget = math.log(2 / spec.delta * 3 * 3 * 16)
    values = {}
    for a, kappa in itertools.product(spec.alphas, spec.kappas):
        for lam in lambda_grid(16, math.log2(V / a)):
            x = budget / len(losses) - np.mean(np.log(1 - lam * (smoothed(losses, a) - kappa * entropy)))
            values[a, kappa, lam] = kappa * entropy.mean() + (x if bound == "freedman" else 1 - math.exp(-x)) / lam
    assert row["kappa"] > 0 and row["complexity"] == pytest.approx(budget, rel=1e-12)
    assert row["value"] == pytest.approx(values[row["alpha"], row["kappa"], row["lambda"]], abs=1e-6)
    assert row["value"] == pytest.approx(min(values.values()), abs=1e-6)
    assert "kappa" not in row_of(found, "bpd", "azuma")
    ledger = {entry["name"]: entry["amount"] for entry in found["ledger"]["rows"][1]["entries"]}
    assert ledger["centre_grid"] == pytest.approx(math.log2(3))


def test_errors_with_centres_average_the_wealth_of_all(centred_study, tmp_path):
    spec = replace(SPEC, top_k=(1,), bounds=("betting",))
    inputs = replace(centred_study.inputs, held_out=(), held_out_because="The letters were drawn on 2026-11-27.")
    found = certify_bound("c", "tiny", inputs, spec, tmp_path / "c.json", model="m")
    scores, row = read_scores(centred_study), row_of(found, "top1_error", "betting")
    wrong, entropy, m = scores["rank"].to_numpy() > 1, scores["entropy_bits"].to_numpy().astype(float), len(scores)
    bets, wealth = np.exp(np.linspace(-0.5 * math.log(m), 0, 4096))[:-1], 0.0
    for kappa in spec.kappas:
        centre = 1 - 2.0 ** (-kappa * entropy)
        logs = np.array([np.log1p(-bet * (wrong - centre)).sum() for bet in bets[::16]])
        wealth += np.exp(logs - m * np.log1p(-bets[::16] * (row["value"] - centre.mean()))).sum() * 16 / 4096 / 5
    # One bet in sixteen stands for all.
    assert math.log(wealth) == pytest.approx(math.log(2 / spec.delta), abs=0.02)
    assert row["kappa"] > 0 and row["empirical"] == wrong.mean()


def test_scores_without_entropies_certify_as_if_there_were_no_centres(study, certificate, tmp_path):
    spec = replace(SPEC, kappas=(0.0,))
    found = certify_bound("exhaustive", "tiny", study.inputs, spec, tmp_path / "c.json", model="m")
    assert (found["rows"], found["ledger"]) == (certificate["rows"], certificate["ledger"])


def test_error_rows(study, certificate):
    rank = read_scores(study)["rank"].to_numpy()
    m, budget = len(rank), complexity_nats(study, alphas=1)
    for k in SPEC.top_k:
        row = row_of(certificate, f"top{k}_error", "azuma")
        assert row["empirical"] == np.mean(rank > k)
        assert row["value"] == pytest.approx(np.mean(rank > k) + math.sqrt(budget / (2 * m)), rel=1e-12)
        assert row["random_guess"] == 1 - k / V
        betting = row_of(certificate, f"top{k}_error", "betting")
        # The average wealth of the bets, at the value, is what Markov's inequality allows.
        bets = np.exp(np.linspace(-0.5 * math.log(m), 0, 4096))[:-1]
        wealth = np.exp(m * (np.mean(rank > k) * np.log1p(-bets) - np.log1p(-bets * betting["value"])))
        assert math.log(wealth.sum() / 4096) == pytest.approx(budget, rel=1e-6)


def test_a_dropped_complexity_or_halved_range_would_be_noticed(study, certificate):
    losses = read_scores(study)["nll_bits"].to_numpy()
    row = row_of(certificate, "bpd", "azuma")
    width = math.log2(1 + (1 - row["alpha"]) * V / row["alpha"])
    for scale, budget in ((0.5, complexity_nats(study)), (1.0, math.log(ROWS / SPEC.delta))):
        broken = smoothed(losses, row["alpha"]).mean() + scale * width * math.sqrt(budget / (2 * len(losses)))
        assert row["value"] > broken + 0.1


def block_averages(study, value):
    """One value per draw: the average of `value` over each drawn block, in the library's exchangeable order."""
    plan = pl.read_parquet(study.inputs.plan).sort("block")
    means = (
        read_scores(study).with_columns(pl.Series("x", value)).group_by("block").agg(pl.col("x").mean()).sort("block")
    )
    assert means["block"].to_list() == plan["block"].to_list()
    return means["x"].to_numpy()[draw_order(plan["draws"].to_numpy(), 5)]


def test_sampled_rows_pay_for_the_sample(sampled_study, sampled):
    """The first tenth of the draws chooses the cell, and the others bound it with all that sampling may spend."""
    losses, m = read_scores(sampled_study)["nll_bits"].to_numpy(), sampled["tokens"]
    row = row_of(sampled, "bpd", "azuma")
    a, low, high = row["alpha"], -math.log2(1 - row["alpha"] * (1 - 1 / V)), math.log2(V / row["alpha"])
    draws = block_averages(sampled_study, smoothed(losses, a))
    pilot = len(draws) // 10
    share = SPEC.delta / ROWS * SPEC.sampling_share / 4  # four certificates may share the sample
    upper = upper_mean(draws[pilot:], low, high, share)
    width = math.log2(1 + (1 - a) * V / a)
    budget = complexity_nats(sampled_study, share=1 - SPEC.sampling_share)
    assert row["empirical"] == pytest.approx(draws.mean(), rel=1e-12)
    assert row["sampling"] == pytest.approx(upper - draws.mean(), rel=1e-9)
    assert row["value"] == pytest.approx(upper + width * math.sqrt(budget / (2 * m)), rel=1e-12)

    row = row_of(sampled, "bpd", "betting")
    a, lam, high = row["alpha"], row["lambda"], math.log2(V / row["alpha"])
    low = -math.log2(1 - a * (1 - 1 / V))
    logs = block_averages(sampled_study, np.log(1 - lam * smoothed(losses, a)))
    lower = lower_mean(logs[pilot:], math.log(1 - lam * high), math.log(1 - lam * low), share)
    budget = complexity_nats(sampled_study, share=1 - SPEC.sampling_share, lambdas=16)
    assert row["value"] == pytest.approx((1 - math.exp(lower - budget / m)) / lam, rel=1e-9)
    assert all(row["sampling"] > 0 for row in sampled["rows"])


@pytest.mark.parametrize(("metric", "bound"), [("bpd", "betting"), ("bpd", "freedman"), ("top2_error", "betting")])
def test_a_centre_on_a_sample_is_bounded_with_the_logarithm(sampled_study, tmp_path, metric, bound):
    """Both are averages over the sample; the tangent of the bound makes one of them."""
    study = replace(sampled_study, evaluation="sampled_centred", entropies=True).build()
    top_k = (2,) if metric == "top2_error" else ()
    spec = replace(SPEC, top_k=top_k, bounds=(bound,), alphas=(0.1,), kappas=(0.5,), lambdas=1)
    spec = replace(spec, certificates_per_sample=1)
    found = certify_bound("c", "tiny", study.inputs, spec, tmp_path / "c.json", model="m")
    row, m, scores = row_of(found, metric, bound), found["tokens"], read_scores(study)
    entropy = scores["entropy_bits"].to_numpy().astype(float)
    if top_k:  # entropies of 256 tokens have up to 8 bits
        losses, (low, high) = (scores["rank"].to_numpy() > 2).astype(float), (0.0, 1.0)
        centre, most = 1 - 2 ** (-0.5 * np.maximum(0, entropy - 1)), 1 - 2**-3.5
    else:
        losses = smoothed(scores["nll_bits"].to_numpy(), 0.1)
        low, high = -math.log2(0.9 + 0.1 / V), math.log2(V / 0.1)
        centre, most = 0.5 * entropy, 4.0
    lam, delta = row["lambda"], spec.delta / len(found["rows"])
    logs = np.log(1 - lam * (losses - centre))
    message_bits = 8 * study.inputs.certified.message.stat().st_size
    budget = message_bits * math.log(2) + math.log(1 / (delta * (1 - spec.sampling_share)))
    each = block_averages(study, logs)
    pilot = len(each) // 10
    guess = each[:pilot].mean()
    slope = 1 / lam if bound == "freedman" else math.exp(guess - budget / m) / lam
    known = budget / m / lam if bound == "freedman" else (1 - lam * slope * (1 - guess)) / lam
    parts = block_averages(study, centre) - slope * each
    # Its ends by trying many losses and centres.
    tried = [c - slope * np.log1p(-lam * (np.array([low, high]) - c)) for c in np.linspace(0, most, 100_001)]
    ends = np.min(tried), np.max(tried)
    value = known + upper_mean(parts[pilot:], *ends, delta * spec.sampling_share)
    assert row["kappa"] == 0.5 and row["value"] == pytest.approx(value, rel=1e-6)
    exact = centre.mean() + (1 - math.exp(np.mean(logs) - budget / m)) / lam
    assert row["value"] > (exact if bound == "betting" else 0.0)
    assert not any(each.startswith("ROW") for each in second_verifier.verify(tmp_path / "c.json")[1])


@pytest.mark.parametrize(("kappas", "centred"), [((0.0, 0.5), False), ((0.25, 0.5), True)])
def test_bets_on_errors_of_a_sample_pay_for_the_choice_of_a_centre(sampled_study, tmp_path, kappas, centred):
    """The pilot takes one; without a centre all lambdas share one wealth, with one a lambda is chosen, too."""
    study = replace(sampled_study, evaluation="sampled_centred", entropies=True).build()
    spec = replace(SPEC, bounds=("betting",), top_k=(1,), kappas=kappas)
    found = certify_bound("c", "tiny", study.inputs, spec, tmp_path / "c.json", model="m")
    paid = found["ledger"]["rows"][1]
    amounts = {entry["name"]: entry["amount"] for entry in paid["entries"]}
    assert paid["metric"] == "top1_error" and ("kappa" in row_of(found, "top1_error", "betting")) == centred
    assert amounts["centre_grid"] == 1.0 and (amounts["lambda_grid"] == pytest.approx(math.log(16))) == centred
    assert not any(each.startswith("ROW") for each in second_verifier.verify(tmp_path / "c.json")[1])


def test_a_single_draw_is_bounded_though_it_leaves_none_for_a_pilot(study, tmp_path):
    single = replace(study, evaluation="single", sample_tokens=1, entropies=True).build()
    found = certify_bound("c", "tiny", single.inputs, SPEC, tmp_path / "c.json", model="m")
    assert found["plan"]["draws"] == 1 and all(row["sampling"] > 0 for row in found["rows"])
    chained = replace(SPEC, bounds=("telescoped",), top_k=())
    with pytest.raises(CertificateError, match="two draws at least"):
        certify_bound("c", "tiny", single.inputs, chained, tmp_path / "c.json", model="m")


def test_exhaustive_rows_owe_nothing_to_sampling(certificate):
    assert {row["sampling"] for row in certificate["rows"]} == {0.0}


def test_documented_queries_reproduce_the_empirical_risk(study, certificate):
    row = row_of(certificate, "bpd", "betting")
    files = [str(path) for path in study.inputs.certified.scores]
    loss = f"-log2((1 - {row['alpha']}) * pow(2, -nll_bits::DOUBLE) + {row['alpha']} / {V})"
    found = duckdb.sql(f"SELECT avg({loss}) FROM read_parquet({files})").fetchall()[0][0]
    assert found == pytest.approx(row["empirical"], rel=1e-9)
    alpha = row["alpha"]
    bits = -((1 - alpha) * 2.0 ** -pl.col("nll_bits").cast(pl.Float64) + alpha / V).log(2)
    assert pl.scan_parquet(files).select(bits.mean()).collect().item() == pytest.approx(row["empirical"], rel=1e-9)


def test_documented_query_of_a_sample(sampled_study, sampled):
    row = row_of(sampled, "bpd", "azuma")
    files, plan = [str(path) for path in sampled_study.inputs.certified.scores], str(sampled_study.inputs.plan)
    loss = f"-log2((1 - {row['alpha']}) * pow(2, -nll_bits::DOUBLE) + {row['alpha']} / {V})"
    found = duckdb.sql(
        f"SELECT sum(draws / length * {loss}) / {sampled['plan']['draws']} "
        f"FROM read_parquet({files}) JOIN (SELECT block, draws, length FROM read_parquet('{plan}')) USING (block)"
    ).fetchall()[0][0]
    assert found == pytest.approx(row["empirical"], rel=1e-9)


def test_the_file_is_what_was_returned_and_says_everything(study, certificate):
    assert json.loads((study.root / "certificates/a.json").read_text()) == certificate
    assert certificate["message"]["size_bits"] == 8 * study.inputs.certified.message.stat().st_size
    assert sum(certificate["message"]["breakdown"].values()) == certificate["message"]["size_bits"]
    assert certificate["tokens"] == certificate["scored_tokens"] == len(read_scores(study))
    assert (certificate["corpus"], certificate["study"], certificate["model"]) == ("letters", "tiny", "m")


def test_values_do_not_depend_on_shards(study, certificate, tmp_path):
    """The same losses in one file, by a plan of one shard."""
    from tokenbounds.scores.plan_file import PLAN_SCHEMA, read_plan, write_plan
    from tokenbounds.scores.provenance import Provenance
    from tokenbounds.scores.store import open_scores, score_writer

    plan = read_plan(study.inputs.plan)
    metadata = {**plan.table.schema.metadata, b"shards": b"1"}
    columns = [
        plan.table[name] if name != "shard" else np.zeros(plan.table.num_rows, np.int32) for name in PLAN_SCHEMA.names
    ]
    table = plan.table.from_arrays([*columns], schema=PLAN_SCHEMA.with_metadata(metadata))
    write_plan(table, tmp_path / "plan.parquet", manifest_sha256=plan.manifest_sha256)
    scores = open_scores(study.inputs.certified.scores, plan=plan)
    provenance = replace(scores.provenance, plan_sha256=read_plan(tmp_path / "plan.parquet").sha256)
    assert isinstance(provenance, Provenance)
    with score_writer(tmp_path / "scores.parquet", provenance) as writer:
        for batch in scores.iter_batches(batch_rows=100):
            writer.write(batch)
    inputs = with_link(replace(study.inputs, plan=tmp_path / "plan.parquet"), scores=(tmp_path / "scores.parquet",))
    again = certify_bound("one", "tiny", inputs, SPEC, tmp_path / "one.json", model="m")
    assert again["rows"] == certificate["rows"]


def test_top_k_beyond_the_vocabulary_is_left_out_with_a_note(study, tmp_path):
    spec = replace(SPEC, top_k=(1, 256, 1000), bounds=("azuma",))
    certificate = certify_bound("c", "tiny", study.inputs, spec, tmp_path / "c.json", model="m")
    assert [row["metric"] for row in certificate["rows"]] == ["bpd", "top1_error"]
    assert len(certificate["notes"]) == 2 and "256 guesses" in certificate["notes"][0]


def test_a_vacuous_bound_says_so(study, tmp_path):
    big = replace(study, root=tmp_path, message="big")
    big._build_corpus()
    from forged_messages import write_message
    from tokenbounds.messages.container import Part

    model = {"family": "markov", "order": 0, "start_id": 0, "vocabulary_size": V}
    header = {"coder": "static", "model": model, "quantizer": {"kind": "counts", "levels": 16, "threshold": 2}}
    write_message(big.inputs.certified.message, header, [Part("symbols", bytes(10_000))])
    big.build()
    certificate = certify_bound("c", "tiny", big.inputs, SPEC, tmp_path / "c.json", model="m")
    assert all(row["vacuous"] and row["value"] >= row["random_guess"] for row in certificate["rows"])
