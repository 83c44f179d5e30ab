"""Certificates whose centres are what online n-grams expect a network to lose, with a network that takes seconds."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from certified_study import VOCABULARY, TinyStudy
from json_certificates import certify_bound
from small_checkpoints import save_noisy
from tokenbounds.bounds.centred import bound_centred
from tokenbounds.bounds.smoothing import loss_ceiling, smooth
from tokenbounds.certificates.audit import audit_blocks, export_blocks
from tokenbounds.certificates.verify import ALL_BLOCKS, verify_certificate
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import BoundsSpec, MessageSpec, parse_row
from tokenbounds.errors import CertificateError
from tokenbounds.models.card import ModelCard
from tokenbounds.scores.provenance import Provenance
from tokenbounds.scores.scoring import score_message
from tokenbounds.scores.store import score_writer

SPEC = BoundsSpec(bounds=("azuma", "betting"), top_k=(1,), lambdas=16, alphas=(0.1, 0.3), centre_order=2)
PLAIN = replace(SPEC, centre_order=None)


@dataclass(frozen=True)
class CrossedStudy(TinyStudy):
    """The tiny study with a network, scored beside n-grams."""

    message: str = "net"
    order: int = 2

    def _build_message(self):
        card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, VOCABULARY, 0, 32)
        save_noisy(self.root / "models" / "net", card, 0.3)
        row = {"model": "net", "quantizer": {"kind": "rtn", "target": {"scale": 0.5}}}
        self.inputs.certified.message.parent.mkdir(parents=True, exist_ok=True)
        spec = parse_row(MessageSpec, json.dumps(row))
        encode_model(self.root / "models" / "net", spec, self.inputs.certified.message, self.root / "net.json")

    def _build_scores(self):
        for shard, path in enumerate(self.inputs.certified.scores):
            path.parent.mkdir(parents=True, exist_ok=True)
            score_message(
                self.inputs.certified.message,
                self.inputs.corpus,
                self.inputs.plan,
                shard,
                path,
                centre_order=self.order,
            )


def certify(study, spec=SPEC):
    path = study.root / "certificates" / f"{study.evaluation}.json"
    return path, certify_bound("c", "s", study.inputs, spec, path, model="net")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return CrossedStudy(tmp_path_factory.mktemp("crossed") / "results").build()


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole.root, tmp_path / "results")
    return replace(whole, root=tmp_path / "results")


def row_of(certificate, metric, bound):
    return next(row for row in certificate["rows"] if (row["metric"], row["bound"]) == (metric, bound))


def test_the_row_is_the_bound_with_cross_entropies_in_the_place_of_entropies(whole):
    path, certificate = certify(whole)
    table = pa.concat_tables(pq.read_table(each) for each in whole.inputs.certified.scores)
    nll, own, crossed = (table[name].to_numpy() for name in ("nll_bits", "entropy_bits", "cross_entropy_bits"))
    assert not np.array_equal(own, crossed) and np.all(crossed <= 8.0)
    entries = {each["name"]: each["amount"] for each in certificate["ledger"]["rows"][1]["entries"]}
    nats = (entries["message"] + math.log2(2)) * math.log(2.0) + entries["confidence"]
    for centres, spec in ((crossed, SPEC), (own, PLAIN)):
        row = row_of(certify(whole, spec)[1], "bpd", "betting")
        values = [
            bound_centred(
                smooth(nll, alpha, VOCABULARY),
                centres,
                loss_ceiling(alpha, VOCABULARY),
                nats,
                kappas=SPEC.kappas,
                lambdas=16,
            ).value
            for alpha in SPEC.alphas
        ]
        assert row["value"] == pytest.approx(min(values), abs=1e-6)
    path, certificate = certify(whole)
    assert any("n-grams of order 2" in each for each in certificate["assumptions"])
    checks = {check.name: check.detail for check in verify_certificate(path, rescore=ALL_BLOCKS)}
    assert "rows made again" in checks


def test_a_certificate_that_does_not_ask_for_them_is_what_it_was(whole, tmp_path):
    without = replace(whole, root=tmp_path / "results", order=0)
    shutil.copytree(whole.root, without.root, ignore=shutil.ignore_patterns("scores"))
    without._build_scores()
    ours, theirs = (certify(study, PLAIN)[1] for study in (whole, without))
    assert "centre_order" not in ours["bounds"] and "cross_entropy_bits" not in theirs["blocks"]["columns"]
    for key in ("rows", "ledger", "assumptions", "bounds"):
        assert ours[key] == theirs[key]


def test_a_sample_bounds_the_centre_too_and_its_blocks_can_be_audited(whole):
    study = replace(whole, evaluation="sampled", sample_tokens=900).build()
    path, _ = certify(study)
    verify_certificate(path, rescore=3)
    blocks = study.root / "all.blocks"
    export_blocks(path, blocks)
    assert "scored again" in {check.name for check in audit_blocks(path, str(blocks), draws=3, seed=1)}


def test_scores_of_another_order_are_refused(whole):
    with pytest.raises(CertificateError, match=r"order 3 \(centre_order\), and has those of order 2"):
        certify(whole, replace(SPEC, centre_order=3))


def test_cross_entropies_that_have_seen_their_token_are_found(copy):
    for path in copy.inputs.certified.scores:
        table = pq.read_table(path)
        provenance = Provenance.from_metadata(table.schema.metadata, path)
        values = table["cross_entropy_bits"].to_numpy()
        later = pa.array(np.roll(values, -1))  # that of the next token
        place = table.schema.names.index("cross_entropy_bits")
        forged = table.set_column(place, table.schema.field(place), later)
        with score_writer(path, provenance) as writer:
            for batch in forged.combine_chunks().to_batches():
                writer.write(batch)
    path, _ = certify(copy)
    with pytest.raises(CertificateError, match=r"cross_entropy_bits .* but the decoded message gives"):
        verify_certificate(path, rescore=ALL_BLOCKS)
