"""Certificates of messages with a smoothing head: numbers by hand, what they pay, forgeries."""

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from certified_study import with_link
from json_certificates import certify_bound
from tokenbounds.bounds.betting import lambda_grid
from tokenbounds.bounds.sampling import draw_order, lower_mean, upper_mean
from tokenbounds.bounds.smoothing import TokenAlphas
from tokenbounds.certificates.averages.passes import Sample
from tokenbounds.certificates.rows.setting import Setting
from tokenbounds.certificates.rows.tokens import state_bounds
from tokenbounds.certificates.tolerances import TOLERANCES, compare_alphas
from tokenbounds.certificates.verify import ALL_BLOCKS, verify_certificate
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import BoundsSpec, MessageSpec
from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.errors import CertificateError
from tokenbounds.files import write_bytes
from tokenbounds.messages.container import read_message, render_message
from tokenbounds.messages.smoothing_head import SmoothingHead
from tokenbounds.models.build import build_model, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.scoring import score_message
from tokenbounds.scores.store import open_scores

V, LEVELS = 256, (0.0625, 0.125, 0.25, 0.5)
# The one weight for all tokens is a bad one, so that rows take the tokens' own.
SPEC = BoundsSpec(bounds=("azuma", "freedman", "betting"), top_k=(1,), alphas=(1e-9,), lambdas=16, kappas=(0.0,))
ROWS = 6


def make(study, root, **settings):
    """A tiny transformer with a head of four weights, scored; the head's numbers are made up."""
    torch.set_num_threads(1)
    real = replace(study, root=root, message="real", **settings)
    if not real.inputs.corpus.exists():
        real._build_corpus()
    real._build_plan()
    config = {"n_embd": 8, "n_head": 2, "n_inner": 16, "n_layer": 1, "tie_word_embeddings": True}
    card = ModelCard("gpt2", config, vocabulary_size=V, start_id=0, context=32, parameterization={"kind": "dense"})
    model = build_model(card)
    initialize(model, seed=1)
    save_checkpoint(root / "model", model, card)
    spec = MessageSpec(model="m", quantizer=UniformQuantizer(kind="uniform"))
    message = encode_model(root / "model", spec, real.inputs.certified.message, root / "m.json")
    head = SmoothingHead(grid_size=4, step_exponent=-8, codes=np.array([2, -1, 1, 0, 3, -2, 1, 1, 3], np.int32))
    write_bytes(real.inputs.certified.message, render_message(message.header, [*message.parts, head.to_part()]))
    for shard, path in enumerate(real.inputs.certified.scores):
        score_message(real.inputs.certified.message, real.inputs.corpus, real.inputs.plan, shard, path)
    certify_bound("c", "tiny", real.inputs, SPEC, root / "certificates/c.json", model="m")
    return real


@pytest.fixture(scope="module")
def headed(study, tmp_path_factory):
    return make(study, tmp_path_factory.mktemp("headed"))


@pytest.fixture(scope="module")
def sampled(study, tmp_path_factory):
    return make(study, tmp_path_factory.mktemp("sampled"), evaluation="sampled", sample_tokens=900)


def certificate_of(study):
    return json.loads((study.root / "certificates/c.json").read_text())


def row_of(certificate, bound, metric="bpd"):
    return next(row for row in certificate["rows"] if (row["metric"], row["bound"]) == (metric, bound))


def entries_of(certificate, bound):
    row = next(row for row in certificate["ledger"]["rows"] if (row["metric"], row["bound"]) == ("bpd", bound))
    return {entry["name"]: entry["amount"] for entry in row["entries"]}


def tokens_of(study):
    """Losses under each token's own weight, squared ranges, and blocks."""
    frame = pl.concat([pl.read_parquet(path) for path in study.inputs.certified.scores])
    nll, alpha = (frame[name].to_numpy().astype(np.float64) for name in ("nll_bits", "alpha"))
    losses = -np.log2((1 - alpha) * 2.0**-nll + alpha / V)
    return losses, np.log2(1 + (1 - alpha) * V / alpha) ** 2, frame["block"].to_numpy()


def budget_of(study, share=1.0, lambdas=16):
    """C, log2(1 + 1) bits for the choice between one weight and the tokens' own, lambda, confidence."""
    bits = 8 * study.inputs.certified.message.stat().st_size + 1
    return bits * math.log(2) + math.log(ROWS / (SPEC.delta * share)) + math.log(lambdas)


def guesses():
    widths = [math.log2(1 + (1 - alpha) * V / alpha) for alpha in LEVELS]
    return np.geomspace(widths[-1], widths[0], 16)


def test_the_tokens_have_weights_of_their_own(headed):
    files = [pq.read_table(path, partitioning=None) for path in headed.inputs.certified.scores]
    found = np.concatenate([table["alpha"].to_numpy() for table in files])
    assert set(found.tolist()) == set(LEVELS)
    assert {table.schema.metadata[b"schema_version"] for table in files} == {b"5"}
    assert json.loads(files[0].schema.metadata[b"alphas"]) == list(LEVELS)


def test_azuma_with_each_token_s_range_by_hand(headed):
    losses, squares, _ = tokens_of(headed)
    row, m, total = row_of(certificate_of(headed), "azuma"), len(losses), budget_of(headed)
    by_hand = [losses.mean() + (d + squares.mean() / d) / 2 * math.sqrt(total / (2 * m)) for d in guesses()]
    assert row["value"] == pytest.approx(min(by_hand), rel=1e-9)
    assert row["empirical"] == pytest.approx(losses.mean(), rel=1e-9)
    assert row["range"] == pytest.approx(math.sqrt(squares.mean()), rel=1e-9)
    # As the documentation says: empirical + L / (lambda m) + lambda range^2 / 8.
    stated = row["empirical"] + row["complexity"] / (row["lambda"] * m) + row["lambda"] * row["range"] ** 2 / 8
    assert row["value"] == pytest.approx(stated, rel=1e-9)
    assert (row["alpha"], tuple(row["alphas"])) == (None, LEVELS)


@pytest.mark.parametrize("bound", ["betting", "freedman"])
def test_betting_and_freedman_take_the_least_weight_s_ceiling(headed, bound):
    losses, _, _ = tokens_of(headed)
    row, m, total = row_of(certificate_of(headed), bound), len(losses), budget_of(headed)
    exponents = {lam: total / m - np.mean(np.log(1 - lam * losses)) for lam in lambda_grid(16, math.log2(V / 0.0625))}
    values = {lam: (x if bound == "freedman" else 1 - math.exp(-x)) / lam for lam, x in exponents.items()}
    assert row["value"] == pytest.approx(min(values.values()), rel=1e-9)
    assert row["range"] == pytest.approx(12.0)
    assert row["complexity"] == pytest.approx(total, rel=1e-12)
    assert tuple(row["alphas"]) == LEVELS


def test_the_head_is_one_more_candidate_and_priced_so(headed, tmp_path):
    """Among three weights for all tokens, one of which suits: two bits for the choice of four, and no `alphas`."""
    spec = replace(SPEC, alphas=(0.003, 0.03, 0.3))
    found = certify_bound("c", "tiny", headed.inputs, spec, tmp_path / "c.json", model="m")
    assert {entries_of(found, bound)["alpha_grid"] for bound in SPEC.bounds} == {2.0}
    assert entries_of(certificate_of(headed), "azuma")["alpha_grid"] == 1.0
    assert entries_of(certificate_of(headed), "azuma")["lambda_grid"] == pytest.approx(math.log(16))
    for row in found["rows"]:
        assert (row["alpha"] is None) == ("alphas" in row or row["metric"] != "bpd")
        if row["metric"] == "bpd":
            assert row["value"] <= row_of(certificate_of(headed), row["bound"])["value"] + 0.02
    assert {row["alpha"] for row in found["rows"] if row["metric"] == "bpd"} & {0.003, 0.03, 0.3}
    assert any("a smoothing weight for each token" in sentence for sentence in found["assumptions"])


def test_a_sample_bounds_losses_and_squared_ranges(sampled):
    losses, squares, blocks = tokens_of(sampled)
    plan, found = pl.read_parquet(sampled.inputs.plan).sort("block"), certificate_of(sampled)
    order = draw_order(plan["draws"].to_numpy(), 5)

    def draws(values):
        means = pl.DataFrame({"block": blocks, "x": values}).group_by("block").agg(pl.col("x").mean()).sort("block")
        return means["x"].to_numpy()[order]

    # A quarter, as four certificates may share the sample.
    share, m = SPEC.delta / ROWS * SPEC.sampling_share / 4, found["tokens"]
    total, low = budget_of(sampled, 1 - SPEC.sampling_share), -math.log2(1 - 0.0625 * (1 - 1 / V))
    ends = guesses()[[0, -1]] ** 2
    # The losses and the squares of ranges: two averages, of the draws after the pilot.
    after = len(order) // 10
    upper = upper_mean(draws(losses)[after:], low, 12.0, share / 2)
    square = upper_mean(draws(squares)[after:], *ends, share / 2)
    row = row_of(found, "azuma")
    by_hand = min(upper + (d + square / d) / 2 * math.sqrt(total / (2 * m)) for d in guesses())
    assert row["value"] == pytest.approx(by_hand, rel=1e-6)
    assert row["sampling"] > 0
    lam = row_of(found, "betting")["lambda"]
    span = math.log1p(-lam * 12.0), math.log1p(-lam * low)
    value = (1 - math.exp(lower_mean(draws(np.log1p(-lam * losses))[after:], *span, share) - total / m)) / lam
    assert row_of(found, "betting")["value"] == pytest.approx(value, rel=1e-9)
    assert entries_of(found, "azuma")["sampling_cells"] == 2 * 4
    assert entries_of(found, "betting")["sampling_cells"] == 4
    assert verify_certificate(sampled.root / "certificates/c.json", rescore=3, seed=1)


def test_it_verifies_and_scores_again(headed):
    checks = verify_certificate(headed.root / "certificates/c.json", rescore=ALL_BLOCKS, seed=3)
    assert [check.name for check in checks[-3:]] == ["scored again", "averages of rows", "rows made again"]


def test_show_and_the_page_say_by_token(headed, run, tmp_path):
    path = headed.root / "certificates/c.json"
    status, out, _ = run("show", path)
    assert status == 0 and "by token" in out and "from 0.0625 to 0.5" in " ".join(out.split())
    assert run("show", path, "--html", tmp_path / "c.html")[0] == 0
    assert "by token" in (tmp_path / "c.html").read_text()


def test_rows_do_not_depend_on_batches_and_are_monotone(headed, sampled):
    for each in (headed, sampled):
        plan = read_plan(each.inputs.plan)
        scores = open_scores(each.inputs.certified.scores, plan=plan)
        setting = Setting(SPEC, plan.tokens, V, Sample.of(plan), token_alphas=TokenAlphas(LEVELS))

        class Small:
            def iter_batches(self, columns=None, scores=scores):
                return scores.iter_batches(columns, batch_rows=37)

        def values(stream, setting, bits=900):
            return [row.value for row in state_bounds(stream, setting, bits).rows]

        base = values(scores, setting)
        assert values(Small(), setting) == pytest.approx(base, rel=1e-12)
        for harder in (values(scores, setting, 1000), values(scores, replace(setting, spec=replace(SPEC, delta=0.01)))):
            assert all(one >= other - 1e-12 for one, other in zip(harder, base, strict=True))
        easier = values(scores, replace(setting, tokens=2 * setting.tokens))
        assert all(one <= other + 1e-12 for one, other in zip(easier, base, strict=True))


# --- forgeries --------------------------------------------------------------------------------------------------------


def rewrite(headed, folder, change):
    """Score files with another column alpha, and a certificate of them."""
    paths = []
    for old in headed.inputs.certified.scores:
        table = pq.read_table(old, partitioning=None)
        pq.write_table(change(table), folder / old.name)
        paths.append(folder / old.name)
    inputs = with_link(headed.inputs, scores=tuple(paths))
    certify_bound("c", "tiny", inputs, SPEC, folder / "c.json", model="m")
    return folder / "c.json"


def with_alpha(table, alpha):
    index = table.schema.get_field_index("alpha")
    return table.set_column(index, table.schema.field(index), [np.asarray(alpha, np.float32)])


def test_weights_that_peek_at_their_token_are_caught(headed, tmp_path):
    """More smoothing where the loss was large: it flatters every average, and no hash reveals it."""

    def peek(table):
        return with_alpha(table, np.where(table["nll_bits"].to_numpy() > 8.0, 0.5, 0.0625))

    path = rewrite(headed, tmp_path, peek)
    assert row_of(json.loads(path.read_text()), "betting")["value"] < row_of(certificate_of(headed), "betting")["value"]
    verify_certificate(path)
    with pytest.raises(CertificateError, match="smoothing weight"):
        verify_certificate(path, rescore=ALL_BLOCKS)


def test_the_tolerance_leaves_no_room_for_peeking():
    """A few weights may end on the next level; picked by their tokens they would move the average."""
    alpha = np.full(20_000, 0.125, np.float32)
    rows = {"alpha": alpha, "nll_bits": np.zeros(20_000, np.float32), "document": alpha, "position": alpha}
    few, many, far = alpha.copy(), alpha.copy(), alpha.copy()
    few[:5], many[:60], far[0] = 0.25, 0.25, 0.5
    tolerance = TOLERANCES["float32"]
    compare_alphas({**rows, "alpha": few}, rows, V, tolerance, headed_files())
    for bad in (many, far):
        with pytest.raises(CertificateError, match="smoothing weight"):
            compare_alphas({**rows, "alpha": bad}, rows, V, tolerance, headed_files())
    shifted = np.where(np.arange(20_000) < 3_900, np.float32(0.25), alpha)
    with pytest.raises(CertificateError, match="average loss differs"):
        compare_alphas({**rows, "alpha": shifted}, rows, V, TOLERANCES["bfloat16"], headed_files())


def headed_files():
    from pathlib import Path

    return (Path("scores/shard-00000.parquet"),)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda table: with_alpha(table, np.full(table.num_rows, 0.03)), "not among the weights"),
        (lambda table: with_alpha(table, np.full(table.num_rows, np.nan)), "not among the weights"),
        (lambda table: table.drop_columns(["alpha"]), "does not have the columns"),
        (
            lambda table: table.replace_schema_metadata({**table.schema.metadata, b"alphas": b"[0.0625,0.25]"}),
            "smoothing weights",
        ),
        (
            lambda table: table.replace_schema_metadata({**table.schema.metadata, b"alphas": b"[0.5,0.25]"}),
            "no readable provenance",
        ),
        (
            lambda table: table.drop_columns(["alpha", "entropy_bits"]).replace_schema_metadata(
                {**table.schema.metadata, b"schema_version": b"1"}
            ),
            "has smoothing weights",
        ),
    ],
)
def test_columns_that_do_not_fit_the_message_are_refused(headed, tmp_path, change, complaint):
    with pytest.raises(CertificateError, match=complaint):
        rewrite(headed, tmp_path, change)


def test_a_flipped_byte_of_the_head_is_named(headed):
    path = headed.inputs.certified.message
    original = path.read_bytes()
    start = original.rindex(read_message(path).part("smoothing_head"))
    try:
        for place in range(start, len(original)):
            path.write_bytes(original[:place] + bytes([original[place] ^ 4]) + original[place + 1 :])
            with pytest.raises(CertificateError, match=path.name):
                verify_certificate(headed.root / "certificates/c.json")
    finally:
        path.write_bytes(original)
