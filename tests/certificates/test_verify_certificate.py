"""What verification must notice: any flipped byte, any mix-up, any forged number."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from certified_study import with_link
from json_certificates import certify_bound, read_certificate, write_certificate
from tokenbounds.certificates import verify
from tokenbounds.certificates.checks import find_certificates
from tokenbounds.certificates.sealing import render
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file
from tokenbounds.scores.block_tree import blocks_root
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.provenance import Provenance
from tokenbounds.scores.store import open_scores, score_writer

SPEC = BoundsSpec(top_k=(1,), alphas=(0.1, 0.3), lambdas=8)
FLIPPED = {
    "message": "messages/chain.tbm",
    "manifest": "corpora/letters/manifest.json",
    "documents": "corpora/letters/documents.parquet",
    "shard": "corpora/letters/shard-00002.arrow",
    "plan": "plans/letters/default.parquet",
    "scores": "scores/letters/default/chain/shard-00001.parquet",
    "certificate": "certificates/c.json",
}


@pytest.fixture(autouse=True)
def message_without_a_model(monkeypatch):
    """The synthetic message of these tests holds random bytes; decoding has its own tests."""
    monkeypatch.setattr(verify, "_decode", lambda *_: None)


@pytest.fixture
def copy(study, tmp_path):
    """A certified copy of the tiny study that a test may spoil."""
    shutil.copytree(study.root, tmp_path / "results", ignore=shutil.ignore_patterns("certificates", "texts"))
    spoiled = replace(study, root=tmp_path / "results")
    certify_bound("c", "tiny", spoiled.inputs, SPEC, path_of(spoiled), model="m")
    return spoiled


def path_of(study) -> Path:
    return study.root / "certificates/c.json"


def reseal(study, change) -> None:
    """Forge a certificate: change it and give it a matching hash of itself."""
    certificate = json.loads(path_of(study).read_text())
    change(certificate)
    write_certificate(path_of(study), certificate)


def rewrite_scores(study, change) -> None:
    """Forge the second score file, and a certificate computed from it."""
    path = study.inputs.certified.scores[1]
    table = pq.read_table(path)
    schema = table.schema
    columns = {name: table[name].to_numpy().copy() for name in schema.names}
    change(columns)
    origin = Provenance.from_metadata(schema.metadata, path)
    with score_writer(path, origin) as writer:
        writer.write(pa.record_batch(list(columns.values()), schema=origin.schema))


def test_an_intact_certificate_passes_and_says_what_was_checked(copy):
    checks = verify_certificate(path_of(copy))
    names = [check.name for check in checks]
    assert names == [
        "certificate intact",
        "ledger adds up",
        "files intact",
        "files belong together",
        "table of documents agrees",
        "plan made again",
        "scored tokens are the corpus's",
        "recomputed",
        "message decodes",
        "not scored again",
    ]
    assert "identical" in checks[7].detail
    assert [check.made for check in checks] == [True] * 9 + [False]


def test_a_sampled_certificate_passes(sampled_study, tmp_path):
    certify_bound("s", "tiny", sampled_study.inputs, SPEC, tmp_path / "s.json", model="m")
    assert "draws of seed 5" in " ".join(check.detail for check in verify_certificate(tmp_path / "s.json"))


def test_the_whole_folder_may_move(copy, tmp_path):
    copy.root.rename(tmp_path / "elsewhere")
    verify_certificate(tmp_path / "elsewhere/certificates/c.json")


@pytest.mark.parametrize("kind", FLIPPED)
def test_any_flipped_byte_is_noticed_and_its_file_named(copy, kind):
    target = copy.root / FLIPPED[kind]
    original = target.read_bytes()
    rng = np.random.default_rng(len(original))
    positions = {0, len(original) - 1, len(original) // 2, *rng.integers(len(original), size=8).tolist()}
    for position in sorted(positions):
        for mask in (0x01, 0x80, int(rng.integers(1, 256))):
            damaged = bytearray(original)
            damaged[position] ^= mask
            target.write_bytes(damaged)
            with pytest.raises(CertificateError, match=re.escape(str(target))):
                verify_certificate(path_of(copy))
    target.write_bytes(original)
    verify_certificate(path_of(copy))


@pytest.mark.parametrize("kind", FLIPPED)
def test_truncated_extended_and_missing_files(copy, kind):
    target = copy.root / FLIPPED[kind]
    original = target.read_bytes()
    for damaged in (b"", original[:-1], original + b"\n"):
        target.write_bytes(damaged)
        with pytest.raises(CertificateError, match=re.escape(str(target))):
            verify_certificate(path_of(copy))
    target.unlink()
    with pytest.raises(CertificateError, match=re.escape(str(target))):
        verify_certificate(path_of(copy))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["rows"][0].update(value=c["rows"][0]["value"] - 0.01), "rows.0.value"),
        (lambda c: c["rows"][0].update(empirical=1.0), "rows.0.empirical"),
        (lambda c: c["rows"].pop(), "the ledger and the rows"),
        (lambda c: c["rows"][0].update(alpha=0.3 if c["rows"][0]["alpha"] == 0.1 else 0.1), "rows.0"),
        (lambda c: c.update(delta=0.01), "delta"),
        (lambda c: c["rows"][0].update(delta=0.001), "does not add up"),
        (lambda c: c["bounds"].update(delta=0.5), "recomputed .* 50 %"),
        (lambda c: c["bounds"].update(alphas=[0.1]), "'bounds|ledger|rows"),
        (lambda c: c["bounds"].update(colour="red"), "bounds"),
        (lambda c: c["message"].update(size_bits=c["message"]["size_bits"] - 80), "message.size_bits"),
        (lambda c: c["message"]["breakdown"].update(symbols=1), "message.breakdown.symbols"),
        (lambda c: c.update(tokens=10 * c["tokens"]), "'tokens'"),
        (lambda c: c.update(vocabulary_size=10**6), "vocabulary_size"),
        (lambda c: c.update(corpus="another"), "'corpus'"),
        (lambda c: c["assumptions"].pop(0), "assumptions"),
        (lambda c: c["manifest"].update(licence="public domain"), "manifest.licence"),
        (lambda c: c["manifest"]["shards"].pop(), "manifest.shards"),
        (lambda c: c["scores"].pop(), "missing"),
        (lambda c: c["scores"].append(c["scores"][0]), "both shard 0"),
    ],
)
def test_forged_certificates_with_a_matching_hash(copy, change, complaint):
    reseal(copy, change)
    with pytest.raises(CertificateError, match=complaint):
        verify_certificate(path_of(copy))


def test_forged_ledgers(copy):
    def spend_twice(certificate):
        for row in certificate["ledger"]["rows"]:
            for entry in row["entries"]:
                if entry["name"] in ("delta", "delta_generalization"):
                    entry["amount"] = "1/10"

    reseal(copy, spend_twice)
    with pytest.raises(CertificateError, match="ledger"):
        verify_certificate(path_of(copy))


def test_extra_keys_wrong_types_and_other_versions_are_refused(copy):
    original = json.loads(path_of(copy).read_text())
    for change in ({"note": "trust me"}, {"rows": []}, {"tokens": 1.5}, {"schema_version": 2}, {"delta": "0.05"}):
        with pytest.raises(CertificateError, match=re.escape(str(path_of(copy)))):
            write_certificate(path_of(copy), {**original, **change})
            verify_certificate(path_of(copy))


def test_only_canonical_bytes_count(copy):
    certificate = json.loads(path_of(copy).read_text())
    for text in (
        json.dumps(certificate),
        json.dumps(certificate, indent=2, sort_keys=True),
        "[]",
        "{",
        "NaN",
        "1" * 9999,
    ):
        path_of(copy).write_text(text)
        with pytest.raises(CertificateError, match=re.escape(str(path_of(copy)))):
            read_certificate(path_of(copy))
    path_of(copy).write_bytes(render(certificate))
    read_certificate(path_of(copy))


def test_altered_losses_are_noticed_even_with_matching_hashes(copy):
    def halve(columns):
        columns["nll_bits"] *= np.float32(0.5)
        columns["rank"][:] = 1  # which a loss of any size may have

    rewrite_scores(copy, halve)
    path = copy.inputs.certified.scores[1]
    reseal(copy, lambda c: c["scores"][1].update(sha256=sha256_file(path)))
    with pytest.raises(CertificateError, match=r"blocks\.root"):
        verify_certificate(path_of(copy))
    plan = read_plan(copy.inputs.plan)
    root = blocks_root(open_scores(copy.inputs.certified.scores, plan=plan), plan)
    reseal(copy, lambda c: c["blocks"].update(root=root))
    with pytest.raises(CertificateError, match=r"rows\.\d"):
        verify_certificate(path_of(copy))


def test_scores_of_other_tokens_are_noticed(copy):
    def change(columns):
        columns["token"][17] ^= 1

    rewrite_scores(copy, change)
    certify_bound("c", "tiny", copy.inputs, SPEC, path_of(copy), model="m")
    with pytest.raises(CertificateError, match=f"{re.escape(str(copy.inputs.certified.scores[1]))}.*holds token"):
        verify_certificate(path_of(copy))


def test_doubled_and_moved_rows_are_refused(copy):
    def double(columns):
        for values in columns.values():
            values[5] = values[4]

    rewrite_scores(copy, double)
    with pytest.raises(CertificateError, match=re.escape(str(copy.inputs.certified.scores[1]))):
        certify_bound("c", "tiny", copy.inputs, SPEC, path_of(copy), model="m")


def test_a_hand_picked_sample_is_noticed(study, tmp_path):
    """A plan whose draws are not those of its seed: certified without complaint, refused by verification."""
    shutil.copytree(study.root, tmp_path / "results", ignore=shutil.ignore_patterns("certificates", "scores", "plans"))
    picked = replace(study, root=tmp_path / "results", evaluation="picked", sample_tokens=900)
    picked._build_plan()
    table = pq.read_table(picked.inputs.plan)
    draws = table["draws"].to_numpy().copy()
    draws[[0, -1]] = draws[[-1, 0]] if draws[0] != draws[-1] else (draws[0] + 1, draws[-1] - 1)
    draws[draws == 0] = 1
    pq.write_table(table.set_column(5, table.schema.field("draws"), [draws]), picked.inputs.plan)
    picked.build()
    certify_bound("c", "tiny", picked.inputs, SPEC, path_of(picked), model="m")
    with pytest.raises(CertificateError, match=re.escape(str(picked.inputs.plan))):
        verify_certificate(path_of(picked))


def test_one_messages_scores_do_not_serve_for_another(study, tmp_path):
    other = replace(study, message="other", message_seed=3).build()
    mixed = with_link(study.inputs, message=other.inputs.certified.message)
    with pytest.raises(CertificateError, match="message"):
        certify_bound("c", "tiny", mixed, SPEC, tmp_path / "c.json", model="m")
    assert not (tmp_path / "c.json").exists()


def test_one_corpus_does_not_serve_for_another(study, tmp_path):
    other = replace(study, corpus="others", corpus_seed=9).build()
    for mixed in (
        replace(study.inputs, corpus=other.inputs.corpus),
        replace(study.inputs, plan=other.inputs.plan),
        with_link(study.inputs, scores=other.inputs.certified.scores),
        replace(study.inputs, corpus=other.inputs.corpus, plan=other.inputs.plan),
        with_link(study.inputs, scores=(study.inputs.certified.scores[0], other.inputs.certified.scores[1])),
    ):
        with pytest.raises(CertificateError, match=re.escape(str(study.root))):
            certify_bound("c", "tiny", mixed, SPEC, tmp_path / "c.json", model="m")


def test_shards_of_scores_must_be_complete_and_of_one_plan(study, sampled_study, tmp_path):
    first, second = study.inputs.certified.scores
    for scores in ((first,), (first, first), (first, sampled_study.inputs.certified.scores[1]), ()):
        with pytest.raises(CertificateError):
            certify_bound("c", "tiny", with_link(study.inputs, scores=scores), SPEC, tmp_path / "c.json", model="m")
    swapped = certify_bound(
        "c", "tiny", with_link(study.inputs, scores=(second, first)), SPEC, tmp_path / "c.json", model="m"
    )
    assert [record["file"][-13:] for record in swapped["scores"]] == ["00000.parquet", "00001.parquet"]


def test_another_machines_rounding_is_tolerated_but_not_more():
    stated = {"rows": [{"value": 1.0, "n": 3}]}
    assert not list(verify._differences(stated, {"rows": [{"value": 1.0 + 1e-12, "n": 3}]}))
    assert list(verify._differences(stated, {"rows": [{"value": 1.0 + 1e-6, "n": 3}]}))
    assert list(verify._differences(stated, {"rows": [{"value": 1.0, "n": 4}]}))
    assert list(verify._differences(stated, {"rows": [{"value": 1.0, "n": 3}, {}]}))
    assert list(verify._differences({"vacuous": True}, {"vacuous": 1}))


def test_folders_of_certificates(copy, tmp_path):
    assert find_certificates([copy.root / "certificates"]) == [path_of(copy)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CertificateError, match="empty"):
        find_certificates([tmp_path / "empty"])
