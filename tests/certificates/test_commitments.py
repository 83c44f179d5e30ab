"""Commit, then draw: nothing sealed can be altered, and nothing drawn can be chosen."""

import hashlib
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from certified_study import TinyStudy
from json_certificates import certify_bound
from tokenbounds import merkle
from tokenbounds.certificates import commitments, verify
from tokenbounds.certificates.commitments import (
    Draws,
    Sealed,
    append_entry,
    check_receipt,
    draw_seed,
    read_log,
    receipt,
    replay_draws,
)
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.config import BoundsSpec, EvaluationSpec
from tokenbounds.errors import CertificateError
from tokenbounds.scores.plan import plan_corpus

pytestmark = pytest.mark.adversary
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ROUND = "drand 4718000 5f1c"


@pytest.fixture
def log(tmp_path):
    """Five entries, each with a file of its own."""
    for number in range(5):
        file = tmp_path / f"{number}.txt"
        file.write_text(f"file {number}")
        append_entry(tmp_path / "log.jsonl", [file], time=NOON)
    return tmp_path / "log.jsonl"


def test_an_entry_is_what_the_documentation_says(tmp_path, monkeypatch):
    monkeypatch.setattr(commitments, "program_sha256", lambda: "0" * 64)
    (tmp_path / "a").write_bytes(b"a")
    size, root = append_entry(tmp_path / "log", [tmp_path / "a"], time=NOON)
    line = (
        '{"previous_root":"' + hashlib.sha256(b"").hexdigest() + '","sealed":[["file","'
        "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" + '"],["program","' + "0" * 64 + '"]],'
        '"time":"2026-01-02T12:00:00Z"}'
    )
    assert (tmp_path / "log").read_text() == line + "\n"
    assert (size, root) == (1, hashlib.sha256(b"\0" + line.encode()).digest())
    (entry,) = read_log(tmp_path / "log")
    text = f"tokenbounds draw 1\nsample\n{root.hex()}\n{ROUND}".encode()
    expected = int(hashlib.sha256(text).hexdigest(), 16) % 2**53
    assert draw_seed(entry, f" {ROUND}\n", "sample") == expected
    assert draw_seed(entry, ROUND, "rescore") != expected != draw_seed(entry, ROUND + "0", "sample")


def altered(lines):
    first = json.loads(lines[0])
    later = json.dumps(first | {"time": "2026-01-02T13:00:00Z"}, sort_keys=True, separators=(",", ":"))
    return {
        "a time is later": [later, *lines[1:]],
        "an entry is missing": [*lines[:2], *lines[3:]],
        "the first is missing": lines[1:],
        "two are exchanged": [*lines[:3], lines[4], lines[3]],
        "one is there twice": [*lines, lines[4]],
        "spaces are added": [lines[0].replace(":", ": ", 1), *lines[1:]],
        "a key is added": [*lines[:4], lines[4].replace("{", '{"a":1,', 1)],
        "no JSON": [*lines[:4], "{"],
    }


@pytest.mark.parametrize("kind", altered(["{}"] * 5))
def test_a_log_only_grows(log, kind):
    assert len(read_log(log)) == 5
    log.write_text("".join(f"{line}\n" for line in altered(log.read_text().splitlines())[kind]))
    with pytest.raises(CertificateError, match="is not what was sealed"):
        read_log(log)
    with pytest.raises(CertificateError, match="is not what was sealed"):
        append_entry(log, [])


def test_a_shorter_log_is_told_by_its_root_alone(log):
    published = receipt(log, 4)["root"]
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert len(read_log(log)) == 4
    assert receipt(log, 3)["root"] != published


def test_receipts_prove_entries_and_that_a_log_was_only_added_to(log):
    earlier = merkle.root(commitments.leaf_hashes(read_log(log)[:3])).hex()
    proof = json.loads(json.dumps(receipt(log, 1, since=3)))
    assert check_receipt(proof) and proof["since"] == {"size": 3, "root": earlier}
    changes = [{"entry": proof["entry"] + " "}, {"number": 2}, {"size": 4}, {"root": earlier}, {"inclusion": []}]
    changes += [{"consistency": []}, {"since": {"size": 3, "root": proof["root"]}}, {"inclusion": ["x"]}, {"size": "5"}]
    assert not [change for change in changes if check_receipt(proof | change)]


@pytest.mark.parametrize("value", ["", " ", "é", "a\nb", "a" * 1001])
def test_public_values_are_plain_text(log, value):
    with pytest.raises(CertificateError, match="public value"):
        draw_seed(read_log(log)[0], value, "sample")


@pytest.fixture
def sealed(study, tmp_path, monkeypatch):
    """A study whose sample was drawn from what was sealed before; its certificate was sealed, too."""
    monkeypatch.setattr(verify, "_decode", lambda *_: None)
    root, log = tmp_path / "results", tmp_path / "log.jsonl"
    shutil.copytree(study.root, root, ignore=shutil.ignore_patterns("certificates", "texts", "plans", "scores"))
    drawn = replace(study, root=root, evaluation="drawn")
    append_entry(log, [drawn.inputs.certified.message, drawn.inputs.corpus])
    seed = draw_seed(read_log(log)[0], ROUND, "sample")
    spec = EvaluationSpec(context=32, stride=24, sample_tokens=900, seed=seed, shards=2)
    plan_corpus(drawn.inputs.corpus, spec, drawn.inputs.plan)
    path = root / "certificates" / "c.json"
    certify_bound("c", "s", drawn.build().inputs, BoundsSpec(alphas=(0.1,), lambdas=4), path, model="m")
    append_entry(log, [path])
    return path, log, seed


def test_draws_are_replayed_from_the_command_line(run, sealed):
    path, log, seed = sealed
    message, corpus = path.parents[1] / "messages/chain.tbm", path.parents[1] / "corpora/letters"
    assert run("draw", log, message, corpus, "--beacon", ROUND)[:2] == (0, f"{seed}\n")
    status, out, err = run("trace", path, "--log", log, "--sample-beacon", ROUND)
    assert (status, err) == (0, "") and f"seed {seed}" in out
    status, out, _ = run("trace", path, "--log", log)
    assert status == 0 and "! sample not traced" in " ".join(out.split())
    checks, drawn = replay_draws(read_certificate(path), Draws(log, ROUND, "block 900000"))
    assert drawn == draw_seed(read_log(log)[1], "block 900000", "rescore")
    assert [check.made for check in checks] == [True] * 3
    status, out, _ = run("commit", log, path)
    assert status == 0 and f"3 entries, root {receipt(log, 2)['root']}" in out.replace("\n", "")


def test_another_sample_value_or_certificate_is_refused(sealed, tmp_path):
    path, log, _ = sealed
    certificate = read_certificate(path)
    with pytest.raises(CertificateError, match="was scored on the sample of seed"):
        replay_draws(certificate, Draws(log, ROUND + "1"))
    other = TinyStudy(tmp_path / "other").build()
    certify_bound("o", "s", other.inputs, BoundsSpec(alphas=(0.1,)), path.with_name("o.json"), model="m")
    with pytest.raises(CertificateError, match="has no entry that seals"):
        replay_draws(read_certificate(path.with_name("o.json")), Draws(log, rescore=ROUND))


def test_sealing_again_does_not_draw_again(sealed):
    path, log, seed = sealed
    for _ in range(3):
        append_entry(log, [path.parents[1] / "messages/chain.tbm", path.parents[1] / "corpora/letters"])
    checks, _ = replay_draws(read_certificate(path), Draws(log, ROUND))
    assert f"seed {seed}," in checks[-1].detail


def test_what_is_sealed_with_a_certificate(sealed):
    path, log, _ = sealed
    certificate = read_certificate(path)
    kinds = {each.kind: each.sha256 for each in read_log(log)[1].sealed}
    assert set(kinds) == {"certificate", "corpus", "message", "program", "tokenizer"}
    assert kinds["message"] == certificate.message.sha256
    assert Sealed("corpus", certificate.manifest.sha256) in read_log(log)[0].sealed
    settings = path.with_name("settings.json")
    settings.write_text("{}")
    assert {each.kind for each in commitments.describe(settings)} == {"file"}
    with pytest.raises(CertificateError, match="neither a corpus nor a model"):
        commitments.describe(Path(path.parent))
