"""Certificates of how far a compressed model strays from the original, with a network that takes seconds."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from certified_study import VOCABULARY, TinyStudy
from json_certificates import certify_bound, read_certificate, write_certificate
from small_checkpoints import save_noisy
from tokenbounds.bounds.sampling import upper_mean
from tokenbounds.certificates.audit import audit_blocks, export_blocks
from tokenbounds.certificates.averages.passes import Sample
from tokenbounds.certificates.faithfulness import state_faithfulness
from tokenbounds.certificates.file_records import BaseRecord
from tokenbounds.certificates.sealing import read_certificate as read_types
from tokenbounds.certificates.sentence import state_faithfulness_in_words
from tokenbounds.certificates.verify import ALL_BLOCKS, verify_certificate
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import BoundsSpec, MessageSpec, parse_row
from tokenbounds.errors import CertificateError
from tokenbounds.models.card import ModelCard
from tokenbounds.models.identity import checkpoint_sha256
from tokenbounds.scores.divergence import DIVERGENCE_ALPHA, most_divergence
from tokenbounds.scores.provenance import Provenance
from tokenbounds.scores.scoring import score_message
from tokenbounds.scores.store import score_writer

SPEC = BoundsSpec(bounds=("betting", "documents_betting"), top_k=(1,), lambdas=8, alphas=(0.1,), faithfulness=True)
SINGLE = replace(SPEC, bounds=("betting",))
REASON = "The model was published on 2024-11-02, the text written after 2025-01-31."


@dataclass(frozen=True)
class FaithfulStudy(TinyStudy):
    """The tiny study, its message a coarse one of models/net, scored beside it."""

    message: str = "net"

    @property
    def original(self):
        return self.root / "models" / "net"

    @property
    def inputs(self):
        return replace(super().inputs, original=self.original)

    def _build_message(self):
        card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, VOCABULARY, 0, 32)
        save_noisy(self.original, card, 0.3)
        row = {"model": "net", "quantizer": {"kind": "rtn", "target": {"scale": 0.5}}}
        self.inputs.certified.message.parent.mkdir(parents=True, exist_ok=True)
        spec = parse_row(MessageSpec, json.dumps(row))
        encode_model(self.original, spec, self.inputs.certified.message, self.root / "messages" / "net.json")

    def _build_scores(self):
        for shard, path in enumerate(self.inputs.certified.scores):
            path.parent.mkdir(parents=True, exist_ok=True)
            inputs = self.inputs
            score_message(inputs.certified.message, inputs.corpus, inputs.plan, shard, path, original=inputs.original)


def certify(study, spec=SPEC, **changes):
    path = study.root / "certificates" / f"{study.evaluation}.json"
    return path, certify_bound("c", "s", replace(study.inputs, **changes), spec, path, model="net")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return FaithfulStudy(tmp_path_factory.mktemp("faithful") / "results").build()


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole.root, tmp_path / "results")
    return replace(whole, root=tmp_path / "results")


def columns(study):
    table = pa.concat_tables(pq.read_table(path) for path in study.inputs.certified.scores)
    return {name: table[name].to_numpy().astype(float) for name in ("document", "kl_bits", "first_choice_changed")}


def test_over_a_corpus_that_was_scored_whole_nothing_is_bounded_or_paid(whole):
    path, certificate = certify(whole)
    stated, stored = certificate["faithfulness"], columns(whole)
    assert [row["over"] for row in stated["rows"]] == ["tokens", "tokens"]  # no message pays for the original
    for row in stated["rows"]:
        assert row["value"] == row["empirical"] == pytest.approx(stored[row["metric"]].mean(), rel=1e-12)
        assert row["delta"] == stated["delta"] == "0"
    assert 0.01 < stated["rows"][0]["value"] < most_divergence(VOCABULARY) == stated["rows"][0]["range"]
    assert stated["original"]["sha256"] == checkpoint_sha256(whole.original)
    assert certificate["batch_tokens"] == 16384
    without = certify(whole, replace(SPEC, faithfulness=False), original=None)[1]
    assert without["rows"] == certificate["rows"] and "faithfulness" not in without["bounds"]
    path, _ = certify(whole)
    checks = {check.name: check.detail for check in verify_certificate(path, rescore=ALL_BLOCKS)}
    assert "rows made again" in checks and "divergences from the original by at most" in checks["scored again"]
    sentence = state_faithfulness_in_words(read_types(path))
    assert "'net'" in sentence and "With probability" not in sentence
    assert any("rows about faithfulness" in each for each in certificate["assumptions"])


def test_a_sample_bounds_both_averages_with_its_part_of_delta(whole):
    study = replace(whole, evaluation="sampled", sample_tokens=900).build()
    path, certificate = certify(study, SINGLE)
    stated = certificate["faithfulness"]
    assert Fraction(stated["delta"]) == Fraction("0.05") / 10
    assert sum(Fraction(row["delta"]) for row in stated["rows"]) == Fraction(stated["delta"])
    assert Fraction(certificate["ledger"]["delta"]) == Fraction("0.05") * Fraction(9, 10)
    assert all(row["empirical"] < row["value"] < row["range"] for row in stated["rows"])
    verify_certificate(path, rescore=3)
    assert state_faithfulness_in_words(read_types(path)).startswith("With probability at least 95 %")


def test_new_documents_are_bounded_where_neither_model_saw_them(whole):
    study = replace(whole, evaluation="held_out").build()
    path, certificate = certify(study, held_out=(), held_out_because=REASON)
    rows = certificate["faithfulness"]["rows"]
    assert [row["over"] for row in rows] == ["tokens"] * 2 + ["documents"] * 2
    stored = columns(study)
    present = np.unique(stored["document"])
    means = [stored["kl_bits"][stored["document"] == each].mean() for each in present]
    assert rows[2]["empirical"] == pytest.approx(np.mean(means), rel=1e-9)
    nats = math.log(8) - math.log(float(Fraction(rows[2]["delta"])))
    wealth = np.log1p(-rows[2]["lambda"] * np.array(means)).mean()
    assert rows[2]["value"] == pytest.approx(-math.expm1(wealth - nats / len(means)) / rows[2]["lambda"], rel=1e-9)
    verify_certificate(path)
    assert "of a new document" in state_faithfulness_in_words(read_types(path))


def forge(path, **changes):
    content = read_certificate(path)
    content["faithfulness"]["rows"][0].update(changes)
    write_certificate(path, content)


@pytest.mark.adversary
@pytest.mark.parametrize("changes", [{"value": 0.001}, {"empirical": 0.0}, {"range": 1.0}, {"delta": "1/100"}])
def test_a_forged_row_is_refused(copy, changes):
    path, _ = certify(copy)
    forge(path, **changes)
    with pytest.raises(CertificateError, match=r"faithfulness|ledger spends"):
        verify_certificate(path)


def falsify(study, change):
    """Write the scores again with other columns; `change` takes and returns a dictionary of arrays."""
    for path in study.inputs.certified.scores:
        table = pq.read_table(path)
        provenance = Provenance.from_metadata(table.schema.metadata, path)
        values = change({name: table[name].to_numpy() for name in table.column_names})
        arrays = [pa.array(values[field.name]).cast(field.type) for field in provenance.schema]
        with score_writer(path, provenance) as writer:
            writer.write(pa.RecordBatch.from_arrays(arrays, schema=provenance.schema))


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c | {"kl_bits": 0.5 * c["kl_bits"]}, "is stored with a divergence of"),
        (lambda c: c | {"kl_bits": np.maximum(c["kl_bits"] - 5e-4, 0)}, "more on average"),
        (lambda c: c | {"first_choice_changed": c["first_choice_changed"] & False}, "first choices compared again"),
        (lambda c: c | {"kl_bits": c["kl_bits"] + 99}, "column kl_bits has a value outside"),
    ],
    ids=["halved", "a little less", "unchanged", "too large"],
)
def test_falsified_comparisons_are_found_when_blocks_are_scored_again(copy, change, said):
    falsify(copy, change)
    with pytest.raises(CertificateError, match=said):
        verify_certificate(certify(copy)[0], rescore=ALL_BLOCKS)


def test_the_original_may_lie_elsewhere_but_must_be_the_same(copy):
    path, _ = certify(copy)
    elsewhere = shutil.move(copy.original, copy.root / "elsewhere")
    with pytest.raises(CertificateError, match=r"net does not exist.*--base"):
        verify_certificate(path)
    verify_certificate(path, bases=[elsewhere], rescore=2)
    card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, VOCABULARY, 0, 32)
    save_noisy(copy.original, card, 0.1)
    with pytest.raises(CertificateError, match="was not found"):
        verify_certificate(path)


def test_blocks_are_audited_with_their_comparison(copy):
    path, _ = certify(copy)
    export_blocks(path, copy.root / "c.blocks")
    assert "scored again" in [check.name for check in audit_blocks(path, str(copy.root / "c.blocks"), draws=3, seed=0)]


def test_where_memory_is_small_both_models_are_verified_block_by_block(copy, monkeypatch):
    path, _ = certify(copy)
    whole = verify_certificate(path, rescore=ALL_BLOCKS, seed=0)
    placed = []
    monkeypatch.setattr("tokenbounds.scores.placement.choose_placement", lambda sizes: placed.append(sizes) or "blocks")
    assert verify_certificate(path, rescore=ALL_BLOCKS, seed=0) == whole
    assert len(placed) == 2  # the decoded model, and the original
    assert "scored again" in [check.name for check in whole]


@pytest.mark.parametrize("stated", ["", "0", "-1", "9" * 12, "٣", "1e3", "16384\n"])
def test_an_impossible_number_of_tokens_at_once_is_not_recorded(stated):
    origin = {"message_sha256": "", "manifest_sha256": "", "plan_sha256": "", "shard": 0, "dtype": "float32"}
    assert Provenance(**origin, vocabulary_size=2, software={"batch_tokens": stated}).batch_tokens is None


def test_scores_without_a_comparison_state_none(copy):
    for shard, path in enumerate(copy.inputs.certified.scores):
        score_message(copy.inputs.certified.message, copy.inputs.corpus, copy.inputs.plan, shard, path)
    with pytest.raises(CertificateError, match="compares no predictions"):
        certify(copy)
    with pytest.raises(CertificateError, match="is not named"):
        certify(copy, original=None)


class Stream:
    """Scores of one block each of a few tokens, drawn from a long list of blocks."""

    def __init__(self, blocks, values):
        self.blocks, self.values = blocks, values

    def iter_batches(self, columns):
        tokens = [self.blocks, self.blocks, self.values, self.values > 1]
        yield pa.RecordBatch.from_arrays([pa.array(each) for each in tokens], names=list(columns))


def test_bounds_from_samples_hold_as_often_as_they_say_and_averages_alone_do_not():
    """A few blocks diverge a lot; most samples hold too few of them, so that their averages are too low."""
    rng, size, delta = np.random.default_rng(0), 20_000, Fraction(1, 5)
    corpus = np.where(rng.random(size) < 0.01, 9.0, 0.01).astype(np.float32)
    record, failures = BaseRecord(name="o", place="o", sha256="0" * 64), {"bound": 0, "average": 0}
    for seed in range(120):
        blocks, draws = np.unique(rng.integers(0, size, 100), return_counts=True)
        order = np.repeat(np.arange(len(blocks)), draws)
        sample = Sample(blocks, draws, np.ones_like(blocks), np.random.default_rng(seed).permutation(order))
        row = state_faithfulness(
            Stream(blocks, corpus[blocks]), record, delta=delta, sample=sample, documents=None,
            vocabulary_size=256, certificates=1, lambdas=8,
        ).rows[0]  # fmt: skip
        assert row.value == pytest.approx(upper_mean(corpus[blocks][order], 0.0, row.range, 0.1), rel=1e-9)
        failures["bound"] += row.value < corpus.mean()
        failures["average"] += row.empirical < corpus.mean()
    assert failures["bound"] <= 0.1 * 120 < 0.25 * 120 < failures["average"]
    assert math.log2(256 / DIVERGENCE_ALPHA) == most_divergence(256)


def over_documents(values, delta=Fraction(2, 5)):
    """The row on divergence over new documents, from one token of each document."""
    record = BaseRecord(name="o", place="o", sha256="0" * 64)
    found = state_faithfulness(
        Stream(np.arange(len(values)), values.astype(np.float32)), record, delta=delta, sample=None,
        documents=len(values), vocabulary_size=256, certificates=1, lambdas=8,
    )  # fmt: skip
    return found.rows[2]


def test_rows_over_documents_hold_unless_the_original_knows_the_documents():
    """Why they are stated for held-out models alone: predictions may agree just where both were trained."""
    rng, mean, false = np.random.default_rng(0), 0.02 * 9, 0
    for _ in range(200):
        false += over_documents(np.where(rng.random(60) < 0.02, 9.0, 0.0)).value < mean
    assert false <= 0.2 * 200
    agreeing = np.zeros(2000)  # on all that it was trained on; elsewhere they diverge
    assert over_documents(agreeing).value < mean
