"""Held-out certificates, and rows over documents and sequences."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from chain_study import LargeMessage
from json_certificates import certify_bound, parse_certificate, write_certificate
from tokenbounds.bounds.betting import lambda_grid
from tokenbounds.certificates import verify
from tokenbounds.certificates.external import ExternalScores, bound_scores
from tokenbounds.certificates.sentence import state_result
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError

REASON = "Published on 2025-01-31, before the text was written."

V = 256
SPEC = BoundsSpec(top_k=(1,), alphas=(0.1, 0.3), lambdas=8)
UNITS = ("documents", "documents_betting", "sequences", "sequences_betting")


@pytest.fixture(autouse=True)
def messages_without_a_model(monkeypatch):
    """The synthetic messages hold random bytes; decoding has its own tests."""
    monkeypatch.setattr(verify, "_decode", lambda *_: None)


def row_of(certificate, metric, bound):
    return next(row for row in certificate["rows"] if (row["metric"], row["bound"]) == (metric, bound))


def entries_of(certificate, bound):
    row = next(row for row in certificate["ledger"]["rows"] if row["bound"] == bound)
    return {entry["name"]: entry["amount"] for entry in row["entries"]}


# --- held out ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_elsewhere(study, tmp_path_factory):
    """Folder of another corpus, with other documents, next to the certified one."""
    return replace(study, corpus="elsewhere", corpus_seed=50).build().inputs.corpus


@pytest.fixture
def held_out(study, trained_elsewhere, tmp_path):
    inputs = replace(study.inputs, held_out=(trained_elsewhere,), held_out_because=REASON)
    return certify_bound("h", "tiny", inputs, SPEC, tmp_path / "h.json", model="m"), tmp_path / "h.json"


def test_held_out_models_pay_for_delta_and_grids_alone(study, held_out, tmp_path):
    certificate, _ = held_out
    paid = certify_bound("p", "tiny", study.inputs, SPEC, tmp_path / "p.json", model="m")
    row = row_of(certificate, "bpd", "azuma")
    assert row["complexity"] == pytest.approx(math.log(2) + math.log(4 / 0.05), rel=1e-12)
    assert entries_of(certificate, "azuma")["message"] == 0
    for bound in ("azuma", "betting"):
        assert row_of(certificate, "bpd", bound)["value"] < row_of(paid, "bpd", bound)["value"]
    assert paid["prior"] == {"kind": "message", "trained_on": []}


def test_a_held_out_certificate_says_why_and_verifies(held_out):
    certificate, path = held_out
    text = " ".join(certificate["assumptions"])
    assert f"“{REASON}”" in text
    assert "held out (C = 0" in text and "'elsewhere' (manifest" in text
    assert "not chosen by its scores on this corpus" in text
    assert "Any message may be chosen with the corpus in view" not in text
    assert "the held-out model's expected loss" in state_result(parse_certificate(certificate))
    assert verify_certificate(path)


def test_models_published_before_name_no_corpus(study, tmp_path):
    inputs = replace(study.inputs, held_out=(), held_out_because=REASON)
    certificate = certify_bound("h", "tiny", inputs, SPEC, tmp_path / "h.json", model="m")
    assert certificate["prior"] == {"kind": "held_out", "trained_on": [], "because": REASON}
    assert "published before this corpus was drawn" in " ".join(certificate["assumptions"])
    verify_certificate(tmp_path / "h.json")


@pytest.mark.parametrize("reason", ["", "It never saw it.", "Since 2025-13-01.", "Since 2025-01-31.\nReally."])
def test_held_out_without_a_dated_reason_is_refused(study, reason, tmp_path):
    inputs = replace(study.inputs, held_out=(), held_out_because=reason)
    with pytest.raises(CertificateError, match="held_out_because"):
        certify_bound("h", "tiny", inputs, SPEC, tmp_path / "h.json", model="m")


def test_a_shared_document_is_refused(study, tmp_path):
    inputs = replace(study.inputs, held_out=(study.inputs.corpus,))
    with pytest.raises(CertificateError, match="share 6 documents"):
        certify_bound("h", "tiny", inputs, SPEC, tmp_path / "h.json", model="m")
    assert not (tmp_path / "h.json").exists()


def test_only_the_table_of_documents_decides_about_overlap(study, trained_elsewhere, tmp_path):
    """One document in common, found by its hash alone; an altered table is refused."""
    from tokenbounds.config import ByteTokenizer, CorpusSpec, TextSource
    from tokenbounds.corpus.shards import tokenize_corpus

    texts = study.root / "texts"
    paths = (str(texts / "elsewhere" / "0.txt"), str(texts / "letters" / "4.txt"))
    spec = CorpusSpec(source=TextSource(kind="text", paths=paths), tokenizer=ByteTokenizer(kind="bytes"), shards=1)
    tokenize_corpus(spec, "mixed", tmp_path / "mixed")
    inputs = replace(study.inputs, held_out=(trained_elsewhere, tmp_path / "mixed"))
    refused = re.escape(f"{tmp_path / 'mixed'}, on which a model was trained, share 1")
    with pytest.raises(CertificateError, match=refused):
        certify_bound("h", "tiny", inputs, SPEC, tmp_path / "h.json", model="m")
    table = tmp_path / "mixed" / "documents.parquet"
    pl.read_parquet(table).head(1).write_parquet(table)
    with pytest.raises(CertificateError, match=re.escape(str(table))):
        certify_bound("h", "tiny", inputs, SPEC, tmp_path / "h.json", model="m")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["prior"].update(kind="message"),
        lambda c: c["prior"].update(because="Drawn on 2026-01-02 from texts that no model had seen."),
        lambda c: c["prior"].pop("because"),
        lambda c: c["prior"]["trained_on"].clear(),
        lambda c: c["prior"]["trained_on"][0].update(corpus="another"),
        lambda c: c["prior"]["trained_on"][0].update(sha256="0" * 64),
    ],
)
def test_forged_priors(held_out, change):
    path = held_out[1]
    forged = json.loads(path.read_text())
    change(forged)
    write_certificate(path, forged)
    with pytest.raises(CertificateError):
        verify_certificate(path)


# --- documents and sequences ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """Windows that do not overlap, every token scored, and the certificate's file."""
    root = tmp_path_factory.mktemp("units")
    inputs = LargeMessage(root, stride=32).build().inputs
    spec = replace(SPEC, bounds=("betting", *UNITS))
    return inputs, certify_bound("u", "tiny", inputs, spec, root / "certificates/u.json", model="m"), root


def unit_means(inputs, unit, values):
    frame = pl.concat([pl.read_parquet(path) for path in inputs.certified.scores])
    frame = frame.with_columns(pl.Series("x", values(frame)))
    return frame.group_by(unit).agg(pl.col("x").mean())["x"].to_numpy()


def smoothed(alpha):
    return lambda frame: -np.log2((1 - alpha) * 2.0 ** -frame["nll_bits"].to_numpy().astype(float) + alpha / V)


@pytest.mark.parametrize(("name", "unit"), [("documents", "document"), ("sequences", "block")])
def test_unit_rows_by_hand(units, name, unit):
    inputs, certificate, _ = units
    bits, delta = 8 * inputs.certified.message.stat().st_size, 0.05 / 10
    budget = (bits + 1) * math.log(2) + math.log(1 / delta)
    azuma, betting = [], []
    for alpha in SPEC.alphas:
        means = unit_means(inputs, unit, smoothed(alpha))
        width = math.log2(1 + (1 - alpha) * V / alpha)
        azuma.append(means.mean() + width * math.sqrt(budget / (2 * len(means))))
        for x in lambda_grid(8, math.log2(V / alpha)):
            logs = np.mean(np.log1p(-x * means))
            betting.append((1 - math.exp(logs - (budget + math.log(8)) / len(means))) / x)
    assert row_of(certificate, "bpd", name)["value"] == pytest.approx(min(azuma), rel=1e-9)
    assert row_of(certificate, "bpd", f"{name}_betting")["value"] == pytest.approx(min(betting), rel=1e-9)
    assert entries_of(certificate, name)["units"] == len(means)
    errors = unit_means(inputs, unit, lambda frame: (frame["rank"] > 1).cast(pl.Float64))
    row = row_of(certificate, "top1_error", name)
    budget = bits * math.log(2) + math.log(1 / delta)
    assert row["value"] == pytest.approx(errors.mean() + math.sqrt(budget / (2 * len(errors))), rel=1e-9)


def test_unit_rows_verify_and_state_their_assumption(units):
    _, certificate, root = units
    text = " ".join(certificate["assumptions"])
    assert "documents with at least one token are independent draws" in text
    assert "although neighbours come from one document" in text
    assert verify_certificate(root / "certificates/u.json")


def test_the_sentence_prefers_what_is_said_of_the_corpus_s_tokens(units):
    _, certificate, _ = units
    flattered = json.loads(json.dumps(certificate))
    row_of(flattered, "bpd", "documents")["value"] = 0.0
    assert "tokens given what precedes each" in state_result(parse_certificate(flattered))
    flattered["rows"] = [row for row in flattered["rows"] if row["bound"] == "documents"]
    assert "averaged over the tokens of a new document" in state_result(parse_certificate(flattered))


@pytest.mark.parametrize("bound", UNITS)
def test_a_sample_has_no_unit_rows(sampled_study, tmp_path, bound):
    spec = replace(SPEC, bounds=(bound,))
    with pytest.raises(CertificateError, match=f"'{bound}' needs every token scored"):
        certify_bound("u", "tiny", sampled_study.inputs, spec, tmp_path / "u.json", model="m")


def test_overlapping_windows_are_no_independent_sequences(study, tmp_path):
    with pytest.raises(CertificateError, match="windows of this plan overlap"):
        certify_bound("u", "tiny", study.inputs, replace(SPEC, bounds=("sequences",)), tmp_path / "u.json", model="m")


@pytest.mark.parametrize("bound", ["documents", "sequences_betting", "telescoped"])
def test_bare_losses_have_no_documents_and_no_chain(study, bound):
    scores = ExternalScores(study.inputs.certified.scores)
    with pytest.raises(CertificateError, match=f"'{bound}' needs score files"):
        bound_scores(scores, 100, V, replace(SPEC, bounds=(bound,)))


def test_the_fixture_s_corpora_share_no_document(study, trained_elsewhere):
    """The refusal above must not be an accident."""
    folders = (study.inputs.corpus, trained_elsewhere)
    ours, theirs = (pl.read_parquet(folder / "documents.parquet").filter(pl.col("bytes") > 0) for folder in folders)
    assert not set(ours["sha256"]) & set(theirs["sha256"])
