"""Certificates of chains: the numbers by hand, what they pay, and mix-ups of their files."""

import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from certified_study import TinyStudy
from chain_study import LargeMessage, build_chain, chain_inputs
from json_certificates import certify_bound, write_certificate
from tokenbounds.bounds.betting import lambda_grid
from tokenbounds.bounds.sampling import draw_order, upper_mean
from tokenbounds.certificates import verify
from tokenbounds.certificates.evidence import LinkInputs
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError

V = 256
SPEC = BoundsSpec(
    bounds=("betting", "telescoped", "mixture"),
    top_k=(1,),
    alphas=(0.01, 0.1, 0.3),
    link_alphas=(0.05, 0.2),
    link_betas=(0.5, 1.0),
    lambdas=16,
)
ROWS = 4
# Sub-chains: the certified model alone, or both; the second with two weights, two betas and three splits of delta.
CANDIDATES = {"telescoped": 3 + 3 * 2 * 2 * 3, "mixture": 3 + 3 * 2}


@pytest.fixture(autouse=True)
def messages_without_a_model(monkeypatch):
    """The synthetic messages hold random bytes; decoding has its own tests."""
    monkeypatch.setattr(verify, "_decode", lambda *_: None)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return build_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def certificate(inputs):
    return certify_bound("c", "tiny", inputs, SPEC, inputs.corpus.parents[1] / "certificates/c.json", model="m")


@pytest.fixture
def copy(inputs, certificate, tmp_path):
    """A certified chain that a test may spoil; its folder."""
    shutil.copytree(inputs.corpus.parents[1], tmp_path / "results")
    return tmp_path / "results"


def row_of(certificate, bound, metric="bpd"):
    return next(row for row in certificate["rows"] if (row["metric"], row["bound"]) == (metric, bound))


def entries_of(certificate, bound):
    row = next(row for row in certificate["ledger"]["rows"] if row["bound"] == bound)
    """Amounts by name; those of a link by its number and name."""
    return {
        (entry["link"], entry["name"]) if "link" in entry else entry["name"]: entry["amount"]
        for entry in row["entries"]
    }


def losses(inputs):
    """Raw losses of the cheap and of the large message, token by token."""
    return [
        pl.concat([pl.read_parquet(path) for path in files])["nll_bits"].to_numpy().astype(np.float64)
        for files in (inputs.links[0].scores, inputs.certified.scores)
    ]


def mixed(inputs, alphas):
    """-log2 of p1 = (1-a1) cheap + a1/V and of p2 = (1-a2) large + a2 p1."""
    cheap, large = losses(inputs)
    first = (1 - alphas[0]) * 2**-cheap + alphas[0] / V
    second = (1 - alphas[1]) * 2**-large + alphas[1] * first
    return -np.log2(first), -np.log2(second)


def link_value(values, lambda_, complexity):
    return (1 - math.exp(np.mean(np.log1p(-lambda_ * values)) - complexity / len(values))) / lambda_


def paid_bits(inputs, part):
    sizes = [8 * path.stat().st_size for path in (inputs.links[0].message, inputs.certified.message)]
    return sizes[0] if part == 0 else sum(sizes)


def stated_by_hand(inputs, row, price=None, bits=paid_bits):
    """The telescoped value of a certificate's weights, lambdas and shares of delta, from the score files."""
    price = math.log(CANDIDATES["telescoped"]) if price is None else price
    alphas, beta = row["links"][1]["alphas"], row["links"][1]["beta"]
    first, second = mixed(inputs, alphas)
    total = 0.0
    for part, (values, factor) in enumerate(((first, beta), (second - beta * first, 1.0))):
        link = row["links"][part]
        complexity = bits(inputs, part) * math.log(2) + price + math.log(SPEC.lambdas) - math.log(link["delta"])
        total += factor * link_value(values, link["lambda"], complexity)
    return total


def test_a_chain_of_two_by_hand(inputs, certificate):
    row = row_of(certificate, "telescoped")
    assert [link["messages"] for link in row["links"]] == [["chain"], ["chain", "large"]]
    assert row["value"] == pytest.approx(stated_by_hand(inputs, row), rel=1e-9)
    assert row["empirical"] == pytest.approx(mixed(inputs, row["links"][1]["alphas"])[1].mean(), rel=1e-9)
    assert sum(link["weight"] * link["value"] for link in row["links"]) == pytest.approx(row["value"], rel=1e-12)
    assert [link["beta"] for link in row["links"]] == [0.0, row["links"][0]["weight"]]
    assert row["value"] < row_of(certificate, "betting")["value"] - 0.2
    assert row["alpha"] is None and row["lambda"] is None


def test_a_control_variate_by_hand(inputs, tmp_path):
    """The link may subtract only three quarters of the cheap model's loss."""
    spec = replace(SPEC, link_betas=(0.75,))
    row = row_of(certify_bound("h", "tiny", inputs, spec, tmp_path / "h.json", model="m"), "telescoped")
    assert [(link["beta"], link["weight"]) for link in row["links"]] == [(0.0, 0.75), (0.75, 1.0)]
    assert row["value"] == pytest.approx(stated_by_hand(inputs, row, price=math.log(3 + 3 * 2 * 3)), rel=1e-9)
    assert row["empirical"] == pytest.approx(mixed(inputs, row["links"][1]["alphas"])[1].mean(), rel=1e-9)
    high = math.log2(V / row["links"][0]["alphas"][0])
    assert row["links"][1]["range"] == pytest.approx(-math.log2(row["links"][1]["alphas"][1]) + 0.25 * high)


def test_dropping_the_price_of_the_search_or_a_link_s_bits_is_noticed(inputs, certificate):
    row = row_of(certificate, "telescoped")
    sound = pytest.approx(row["value"], rel=1e-9)
    assert stated_by_hand(inputs, row) == sound
    assert stated_by_hand(inputs, row, price=0.0) != sound
    assert stated_by_hand(inputs, row, bits=lambda inputs, part: part * paid_bits(inputs, 1)) != sound
    assert stated_by_hand(inputs, row, bits=lambda inputs, part: paid_bits(inputs, 1) - paid_bits(inputs, 0)) != sound


def test_the_search_finds_the_best_candidate(inputs, certificate):
    shares = {ratio: Fraction(1, 80) / (1 + ratio) for ratio in (Fraction(1, 8), Fraction(1), Fraction(8))}
    price = math.log(CANDIDATES["telescoped"] * 16)
    found = {}
    for a1, a2, beta, ratio in itertools.product(SPEC.alphas, SPEC.link_alphas, SPEC.link_betas, shares):
        first, second = mixed(inputs, (a1, a2))
        high, total = math.log2(V / a1), 0.0
        parts = ((first, high, beta), (second - beta * first, math.log2(1 / a2) + (1 - beta) * high, 1.0))
        for part, (values, most, factor) in enumerate(parts):
            share = shares[ratio] * ratio**part
            complexity = paid_bits(inputs, part) * math.log(2) + price - math.log(share)
            total += factor * min(link_value(values, x, complexity) for x in lambda_grid(16, most))
        found[a1, a2, beta, ratio] = total
    assert row_of(certificate, "telescoped")["value"] == pytest.approx(min(found.values()), rel=1e-9)


def test_a_mixture_of_held_out_models_by_hand(inputs, tmp_path):
    held_out = replace(inputs, held_out=(), held_out_because="Published on 2025-01-31.")
    row = row_of(certify_bound("m", "tiny", held_out, SPEC, tmp_path / "m.json", model="m"), "mixture")
    (link,) = row["links"]
    assert link["messages"] == ["chain", "large"]
    loss = mixed(inputs, link["alphas"])[1]
    complexity = math.log(CANDIDATES["mixture"] * 16) - math.log(Fraction(1, 80))
    assert row["value"] == pytest.approx(link_value(loss, link["lambda"], complexity), rel=1e-9)
    assert row["range"] == pytest.approx(math.log2(V) - sum(math.log2(alpha) for alpha in link["alphas"]), rel=1e-12)


@pytest.mark.parametrize("bound", ["telescoped", "mixture"])
def test_the_ledger_prices_every_candidate_once(inputs, certificate, bound):
    entries = entries_of(certificate, bound)
    assert entries["chain_candidates"] == CANDIDATES[bound]
    assert entries["chain_choice"] == math.log2(CANDIDATES[bound])
    shares = [Fraction(amount) for name, amount in entries.items() if name[1:] == ("delta",)]
    assert sum(shares) == Fraction(entries["delta"]) == Fraction(1, 20 * ROWS)
    last = len(shares)
    alone = row_of(certificate, bound)["links"][-1]["messages"] == ["large"]
    assert entries[last, "message"] == (8 * inputs.certified.message.stat().st_size if alone else paid_bits(inputs, 1))
    parts = [(entries[last, "message"] + entries["chain_choice"]) * math.log(2)]
    parts += [entries[last, "lambda_grid"], entries[last, "confidence"]]
    assert entries[last, "complexity"] == pytest.approx(sum(parts), rel=1e-12)


def test_a_chain_of_one_is_the_betting_bound(inputs, tmp_path):
    for spec in (SPEC, replace(SPEC, alphas=(0.1,), lambdas=3)):
        alone = certify_bound(
            "a", "tiny", replace(inputs, links=inputs.links[-1:]), spec, tmp_path / "a.json", model="m"
        )
        betting = row_of(alone, "betting")
        for bound in ("telescoped", "mixture"):
            row = row_of(alone, bound)
            assert row["value"] == pytest.approx(betting["value"], rel=1e-9)
            assert row["complexity"] == pytest.approx(betting["complexity"], rel=1e-12)
            assert (row["links"][0]["alphas"], row["links"][0]["lambda"]) == ([betting["alpha"]], betting["lambda"])


def test_errors_are_not_telescoped_and_the_note_says_why(certificate):
    assert {row["bound"] for row in certificate["rows"] if row["metric"] == "top1_error"} == {"betting"}
    assert any("Top-k errors have no row for telescoped" in note for note in certificate["notes"])


def test_the_assumptions_name_the_chain(certificate):
    text = " ".join(certificate["assumptions"])
    assert "are about the certified model mixed with cheaper ones of the chain ('chain')" in text


# --- a sample ---------------------------------------------------------------------------------------------------------


def test_a_sampled_chain_bounds_its_links_in_one_piece(tmp_path):
    inputs = build_chain(tmp_path, message_bytes=900, evaluation="sampled", sample_tokens=900)
    found = certify_bound("s", "tiny", inputs, SPEC, tmp_path / "certificates/s.json", model="m")
    row, entries = row_of(found, "telescoped"), entries_of(found, "telescoped")
    plan = pl.read_parquet(inputs.plan).sort("block")
    blocks = pl.concat([pl.read_parquet(path) for path in inputs.certified.scores])["block"].to_numpy()
    order = draw_order(plan["draws"].to_numpy(), 5)
    pilot = len(order) // 10
    assert entries["sampling_cells"] == 4  # certificates per sample
    assert len(row["links"]) == 2
    a1, a2 = row["links"][1]["alphas"]
    beta = row["links"][1]["beta"]
    first, second = mixed(inputs, (a1, a2))
    ends = (
        (math.log2(V / a1), -math.log2(1 - a1 * (1 - 1 / V))),
        (math.log2(1 / a2) + (1 - beta) * math.log2(V / a1), -math.log2((1 - a2) * V / a1 + a2)),
    )
    # Each link's bound is replaced by its tangent at the pilot's average logarithm.
    known, low, high, parts = 0.0, 0.0, 0.0, np.zeros(len(order))
    for part, (values, (most, least)) in enumerate(zip((first, second - beta * first), ends, strict=True)):
        link = row["links"][part]
        logs = np.log1p(-link["lambda"] * values)
        means = pl.DataFrame({"block": blocks, "x": logs}).group_by("block").agg(pl.col("x").mean()).sort("block")
        draws = means["x"].to_numpy()[order]
        guess = draws[:pilot].mean()
        weight = link["weight"] * math.exp(guess - link["complexity"] / found["tokens"]) / link["lambda"]
        known += link["weight"] / link["lambda"] - weight * (1 - guess)
        parts -= weight * draws
        low -= weight * math.log1p(-link["lambda"] * least)
        high -= weight * math.log1p(-link["lambda"] * most)
    share = float(Fraction(entries["delta_sampling"]) / 4)
    # The pilot's averages were guessed in bins of 1/64 bit, which moves the tangents by next to nothing.
    assert row["value"] == pytest.approx(known + upper_mean(parts[pilot:], low, high, share), abs=2e-3)
    assert row["value"] == pytest.approx(sum(link["weight"] * link["value"] for link in row["links"]), rel=1e-12)
    assert row["sampling"] > 0
    assert verify_certificate(tmp_path / "certificates/s.json")


# --- tampering --------------------------------------------------------------------------------------------------------


def test_verification_checks_every_message_of_the_chain(copy):
    names = [check.name for check in verify_certificate(copy / "certificates/c.json")]
    assert names.count("scored tokens are the corpus's") == names.count("message decodes") == 2


@pytest.mark.parametrize("file", ["messages/chain.tbm", "scores/letters/default/chain/shard-00001.parquet"])
def test_a_damaged_or_missing_file_of_a_link_is_named(copy, file):
    target = copy / file
    original = target.read_bytes()
    for damaged in (original[:-1], original[:40] + bytes([original[40] ^ 1]) + original[41:], b""):
        target.write_bytes(damaged)
        with pytest.raises(CertificateError, match=re.escape(str(target))):
            verify_certificate(copy / "certificates/c.json")
    target.unlink()
    with pytest.raises(CertificateError, match=re.escape(str(target))):
        verify_certificate(copy / "certificates/c.json")


def test_scores_of_another_message_are_refused_for_a_link(inputs, tmp_path):
    swapped = replace(inputs, links=(LinkInputs(inputs.links[0].message, inputs.certified.scores), inputs.certified))
    with pytest.raises(CertificateError, match=re.escape(str(inputs.certified.scores[0])) + " was made with message"):
        certify_bound("c", "tiny", swapped, SPEC, tmp_path / "c.json", model="m")


def test_scores_of_another_plan_or_corpus_are_refused_for_a_link(inputs, tmp_path):
    root = inputs.corpus.parents[1]
    cheap, large = TinyStudy(root), LargeMessage(root)
    other_plan = replace(cheap, evaluation="again", sample_tokens=900).build()
    elsewhere = TinyStudy(tmp_path, corpus_seed=9).build()
    for other in (other_plan, elsewhere):
        with pytest.raises(CertificateError, match=re.escape(str(other.inputs.certified.scores[0].parent))):
            certify_bound("c", "tiny", chain_inputs(other, large), SPEC, tmp_path / "c.json", model="m")


def test_one_message_twice_is_refused(inputs, tmp_path):
    doubled = replace(inputs, links=(inputs.certified, inputs.certified))
    with pytest.raises(CertificateError, match="same message twice"):
        certify_bound("c", "tiny", doubled, SPEC, tmp_path / "c.json", model="m")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["chain"].clear(),
        lambda c: row_of(c, "telescoped")["links"][0].update(value=0.0),
        lambda c: row_of(c, "telescoped")["links"].pop(),
        lambda c: row_of(c, "mixture").pop("links"),
        lambda c: c["prior"].update(kind="held_out"),
        lambda c: c["chain"][0]["message"].update(size_bits=8),
    ],
)
def test_forged_chains_with_a_matching_hash(copy, change):
    path = copy / "certificates/c.json"
    forged = json.loads(path.read_text())
    change(forged)
    write_certificate(path, forged)
    with pytest.raises(CertificateError, match=re.escape(str(path))):
        verify_certificate(path)
