"""Certificates with rows over labels: what they state, that they are verified, and that forged labels are found."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from antibody_study import BOUNDS
from json_certificates import certify_bound, write_certificate
from tokenbounds.antibodies.labels import Region
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.certificates.verify import ALL_BLOCKS, verify_certificate
from tokenbounds.config import BoundsSpec, EvaluationSpec
from tokenbounds.corpus.annotations import Annotations
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError

COLUMNS = ("residue", "region", "germline")


@pytest.fixture(scope="module")
def certificate(study):
    return study.certify("labelled", 2, subsets=COLUMNS)


def load(path):
    return json.loads(path.read_text())


def test_every_label_of_the_corpus_has_rows_with_its_tokens(study, certificate):
    corpus = Corpus.open(study.corpus())
    annotations = Annotations.open(study.corpus(), corpus)
    labels = [annotations.document(number) for number in range(corpus.documents)]
    subsets = load(certificate)["subsets"]
    regions = np.concatenate([each["region"] for each in labels])
    found = {each["label"]: each["tokens"] for each in subsets if each["column"] == "region"}
    assert found == {
        name: int((regions == code).sum())
        for code, name in enumerate(["none", "FWR1", "CDR1", "FWR2", "CDR2", "FWR3", "CDR3", "FWR4"])
    }
    for column in COLUMNS:
        assert sum(each["tokens"] for each in subsets if each["column"] == column) == corpus.tokens
    residues = next(each for each in subsets if (each["column"], each["label"]) == ("residue", "residue"))
    assert residues["tokens"] == corpus.tokens - corpus.documents  # one separator per document
    assert {each["label"] for each in subsets if each["column"] == "germline"} >= {"germline", "non_germline"}


def test_positions_are_called_by_their_number(study):
    path = study.certify("positions", 2, subsets=("imgt",), top_k=(), bounds=("betting",))
    positions = {each["label"] for each in load(path)["subsets"]}
    assert {"1", "104", "128", "none"} <= positions
    assert not {"10", "73"} & positions


def test_measured_values_are_averages_over_the_labelled_tokens(study, certificate):
    subsets = load(certificate)["subsets"]
    corpus = Corpus.open(study.corpus())
    annotations = Annotations.open(study.corpus(), corpus)
    scores = pa.concat_tables([pq.read_table(path) for path in study.inputs(2).certified.scores])
    labels = annotations.at(scores["document"].to_numpy(), scores["position"].to_numpy())
    chosen = labels["region"] == 6
    row = next(each for each in subsets if (each["column"], each["label"]) == ("region", "CDR3"))["rows"]
    top1 = next(each for each in row if (each["metric"], each["bound"]) == ("top1_error", "betting"))
    assert top1["empirical"] == pytest.approx((scores["rank"].to_numpy()[chosen] > 1).mean())
    bpd = next(each for each in row if (each["metric"], each["bound"]) == ("bpd", "betting"))
    raw = scores["nll_bits"].to_numpy()[chosen].astype(float)
    smoothed = -np.log2((1 - bpd["alpha"]) * 2.0**-raw + bpd["alpha"] / 29)
    assert smoothed.mean() <= bpd["empirical"] + 1e-12 <= smoothed.mean() + 1e-7  # rounded up


def test_rows_of_regions_hold_jointly_with_all_others(study, certificate):
    raw = load(certificate)
    columns = {each["column"] for each in raw["subsets"]}
    part = Fraction(1, 20) / (1 + len(columns))
    assert Fraction(raw["ledger"]["delta"]) == part
    # A column's part is divided by its declared labels, and labels with the same tokens spend theirs together, once.
    declared = {label.name: len(label.categories) for label in Corpus.open(study.corpus()).manifest.labels}
    spent = {}
    for each in raw["subsets"]:
        first = tuple(each.get("repeats", (each["column"], each["label"])))
        spent[first] = spent.get(first, 0) + part / declared[each["column"]]
    stated = {(each["column"], each["label"]): Fraction(each["ledger"]["delta"]) for each in raw["subsets"]}
    assert len(spent) < len(stated)
    assert spent == {first: stated[first] for first in spent}
    (given,) = (text for text in raw["assumptions"] if "given the labels" in text)
    assert "none of these rows holds for one that its collector ends at will" in given
    assert any("'documents_betting' of a subset" in text for text in raw["assumptions"])


def test_a_certificate_without_subsets_says_nothing_of_them(study):
    raw = load(study.certify("plain", 2))
    assert "subsets" not in raw
    assert not any("given the labels" in text for text in raw["assumptions"])


def test_verification_recomputes_rows_over_labels(certificate):
    checks = {check.name: check.detail for check in verify_certificate(certificate)}
    raw = load(certificate)
    assert (
        f"over {sum(len(group['rows']) for group in (raw, *raw['subsets']) if 'repeats' not in group)} rows"
        in checks["ledger adds up"]
    )
    assert "recomputed" in checks


def test_rows_over_labels_are_made_again_from_the_message(certificate):
    checks = {check.name: check.detail for check in verify_certificate(certificate, rescore=ALL_BLOCKS)}
    raw = load(certificate)
    rows = [row for group in (raw, *raw["subsets"]) for row in group["rows"]]
    compared = sum(row["metric"] == "bpd" or "kappa" in row for row in rows)  # a rate of errors follows from ranks
    assert checks["averages of rows"].startswith(f"{compared}, ")
    assert checks["rows made again"].startswith(f"{len(rows)} rows from the new losses: understated by at most 0 ")


@pytest.mark.parametrize(
    ("forge", "complaint"),
    [
        (lambda raw: raw["subsets"][1]["rows"][0].update(value=0.5, vacuous=False), "subsets.1.rows.0.value"),
        (lambda raw: raw["subsets"][2].update(label="CDR9"), "subsets.2.label"),
        (lambda raw: raw["subsets"].pop(), "is in only one of them"),
        (lambda raw: raw["subsets"][0]["rows"].pop(), "do not name the same"),
        (lambda raw: raw.pop("subsets"), "is in only one of them"),
        (lambda raw: raw["ledger"].update(delta="1/20"), "the ledger spends"),
    ],
)
def test_forged_rows_are_found(certificate, forge, complaint):
    raw = load(certificate)
    forge(raw)
    path = certificate.parent / "forged.json"
    write_certificate(path, raw)
    with pytest.raises(CertificateError, match=complaint):
        verify_certificate(path)


def test_labels_changed_after_certification_are_found(study, certificate, tmp_path):
    path = study.corpus() / "annotations.parquet"
    kept = path.read_bytes()
    try:
        table = pq.read_table(path)
        region = np.where(table["region"].to_numpy() == 6, 5, table["region"].to_numpy()).astype(np.int8)
        place = table.schema.get_field_index("region")
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(region)), path)
        with pytest.raises(CertificateError, match=r"annotations\.parquet is not the file"):
            verify_certificate(certificate)
    finally:
        path.write_bytes(kept)


def test_every_scored_row_carries_the_labels_of_its_token(study):
    corpus = Corpus.open(study.corpus())
    annotations = Annotations.open(study.corpus(), corpus)
    scores = pa.concat_tables([pq.read_table(path) for path in study.inputs(2).certified.scores])
    assert scores.num_rows == corpus.tokens
    labels = annotations.at(scores["document"].to_numpy(), scores["position"].to_numpy())
    for name in ("chain", "region", "germline", "imgt"):
        np.testing.assert_array_equal(scores[name].to_numpy(), labels[name])
    metadata = pq.read_schema(study.inputs(2).certified.scores[0]).metadata
    names = {column["name"]: column["categories"] for column in json.loads(metadata[b"labels"])}
    assert tuple(names) == ("chain", "region", "germline", "imgt") and names["region"][Region.CDR3] == "CDR3"


def test_scores_with_other_labels_than_the_corpus_are_refused(study, tmp_path):
    inputs = study.inputs(2)
    table = pq.read_table(inputs.certified.scores[1])
    region = table["region"].to_numpy().copy()
    region[17] = Region.FWR1 if region[17] == Region.CDR3 else Region.CDR3
    place = table.schema.get_field_index("region")
    edited = tmp_path / "shard-00001.parquet"
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(region)), edited)
    forged = replace(inputs, links=(replace(inputs.certified, scores=(inputs.certified.scores[0], edited)),))
    spec = BoundsSpec(**{**BOUNDS, "subsets": ("region",)})
    with pytest.raises(CertificateError, match="column region has other labels"):
        certify_bound("forged", "antibodies", forged, spec, tmp_path / "forged.json", model="m")


def test_a_held_out_chain_is_certified_region_by_region(study):
    study.corpus("other", seed=5)
    path = study.certify("held-out", 2, corpus="other", trained_on="heavy", subsets=("region",))
    assert len(verify_certificate(path)) > 5
    one = read_certificate(path)
    assert one.prior.held_out
    cdr3, fwr2 = (one.subset("region", name).row("bpd") for name in ("CDR3", "FWR2"))
    assert fwr2.value < cdr3.value


def test_bounds_settings_and_samples(study):
    with pytest.raises(ValueError, match="subsets"):
        BoundsSpec(subsets=("a colour",))
    with pytest.raises(CertificateError, match=r"declares no label 'colour'.*region"):
        study.certify("colours", 2, subsets=("colour",))
    assert EvaluationSpec().sample_tokens is None
