"""`tokenbounds verify`, `show` and `bound` on the tiny study."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from json_certificates import certify_bound, read_certificate
from tokenbounds import api
from tokenbounds.certificates import verify
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError
from tokenbounds.rounding import round_up

SPEC = BoundsSpec(top_k=(1, 300))


@pytest.fixture
def certificate(study, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_decode", lambda *_: None)
    certify_bound("chain-tiny", "tiny", study.inputs, SPEC, tmp_path / "c.json", model="m")
    return tmp_path / "c.json"


def test_verify_prints_its_checks(run, certificate):
    status, out, err = run("verify", certificate, "--rescore", 0)
    assert (status, err) == (0, "")
    assert str(certificate) in out.replace("\n", "") and out.count("✓") == 9
    assert "! not scored again" in " ".join(out.split()) and "could be made up" in " ".join(out.split())


def test_verify_a_folder(run, certificate):
    shutil.copy(certificate, certificate.with_name("d.json"))
    status, out, _ = run("verify", certificate.parent, "--rescore", 0)
    assert status == 0 and out.count("✓") == 18


def test_a_failed_verification_is_one_line_and_status_one(run, certificate):
    data = bytearray(certificate.read_bytes())
    data[100] ^= 1
    certificate.write_bytes(data)
    status, out, err = run("verify", certificate)
    assert status == 1 and "✓" not in out
    assert err.startswith("error: ") and str(certificate) in err
    assert err.count("\n") == 1 and "Traceback" not in err


def test_one_bad_certificate_among_good_ones_fails_the_command(run, certificate):
    certificate.with_name("a.json").write_text("{}\n")
    assert run("verify", certificate, certificate.with_name("a.json"))[0] == 1


def test_show_says_it_in_a_sentence_and_fits_a_terminal(run, certificate):
    status, out, _ = run("show", certificate)
    text = " ".join(out.split())
    content = read_certificate(certificate)
    best = min(row["value"] for row in content["rows"] if row["metric"] == "bpd")
    assert status == 0
    assert "With probability at least 95 %" in text
    assert text.endswith("None of this was verified: it is what the file says. `tokenbounds verify` takes it apart.")
    assert f"at most {round_up(best, 3)} bits per token (random guess: 8.000 bits per token)" in text
    sections = ("top1_error", "symbols", "Assumptions", "Kraft", "ln 1/delta", "Notes")
    assert all(word in text for word in (*sections, content["message"]["sha256"][:16]))
    assert "…" not in out and max(map(len, out.splitlines())) <= 80


def test_show_of_a_sample_and_of_a_vacuous_certificate(run, sampled_study, tmp_path):
    inputs, out_file = sampled_study.inputs, tmp_path / "s.json"
    certify_bound("s", "tiny", inputs, replace(SPEC, delta=1e-9), out_file, model="m")
    _, out, _ = run("show", out_file)
    assert "for sample" in out and "sampling" in out and "99.9999999 %" in " ".join(out.split())


def test_bound_gives_the_certificates_numbers(run, study, certificate):
    content = read_certificate(certificate)
    bits = content["message"]["size_bits"]
    arguments = ["--bits", bits, "--vocabulary-size", 256, "--rank-column", "rank"]
    status, out, err = run("bound", *study.inputs.certified.scores, *arguments)
    assert (status, err) == (0, "")
    empirical = {round_up(row["empirical"], 4) for row in content["rows"]}
    assert all(value in out for value in empirical)
    assert re.search(r"bpd +betting", out) and re.search(r"top100_error +freedman", out)


def test_bound_reads_other_columns_and_units(run, study, tmp_path):
    table = pq.read_table(study.inputs.certified.scores[0])
    nats = (table["nll_bits"].to_numpy() * np.log(2)).astype(np.float64)
    external = table.select([]).append_column("surprise", [nats])
    pq.write_table(external, tmp_path / "f.parquet")
    _, wanted, _ = run("bound", study.inputs.certified.scores[0], "--bits", 80, "-V", 256)
    status, found, _ = run(
        "bound", tmp_path / "f.parquet", "--bits", 80, "-V", 256, "--nll-column", "surprise", "--nats"
    )
    assert status == 0 and found == wanted
    assert "top" not in found


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--nll-column", "loss"], "no column 'loss'"),
        (["--rank-column", "place"], "no column 'place'"),
        (["--delta", "2"], "--delta is 2"),
        (["--delta", "5e-324"], "delta: 5e-324 is smaller than 1e-100."),
    ],
)
def test_bound_complains_in_one_line(run, study, options, complaint):
    status, _, err = run("bound", study.inputs.certified.scores[0], "--bits", 80, "-V", 256, *options)
    assert status == 1 and complaint in err and err.count("\n") <= 2


def test_bound_refuses_what_is_no_parquet_and_empty_cells(run, tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    pq.write_table(pa.table({"nll_bits": pa.array([1.0, None])}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"nll_bits": pa.array([1.0, float("nan")])}), tmp_path / "c.parquet")
    for name in ("a", "b", "c", "missing"):
        status, _, err = run("bound", tmp_path / f"{name}.parquet", "--bits", 80, "-V", 256)
        assert status == 1 and err.startswith("error: ")


@pytest.mark.parametrize("how", ["twice", "by a link", "by another name"])
def test_bound_counts_no_file_twice(run, tmp_path, how):
    path, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(pa.table({"nll_bits": [1.0, 2.0]}), path)
    if how == "by a link":
        other.symlink_to(path)
    if how == "by another name":
        other.hardlink_to(path)
    second = path if how == "twice" else other
    status, _, err = run("bound", path, second, "--bits", 8, "-V", 4)
    assert status == 1 and "are one file" in err


@pytest.mark.parametrize("losses", [["1.5", "2"], [[1.0], [2.0]], [True, False]])
def test_bound_wants_one_number_a_token(run, tmp_path, losses):
    pq.write_table(pa.table({"nll_bits": losses}), tmp_path / "a.parquet")
    status, _, err = run("bound", tmp_path / "a.parquet", "--bits", 8, "-V", 4)
    assert status == 1 and "the column 'nll_bits' holds" in err


def test_plan_prints_what_to_expect(run, study):
    arguments = ["--message", study.inputs.certified.message, "--corpus", study.inputs.corpus, "-V", 256]
    status, out, err = run("plan", *arguments, "--losses", study.inputs.certified.scores[0], "--block", 24)
    assert (status, err) == (0, "")
    assert "2,315 tokens" in out and re.search(r"betting +all +\d", out) and "fewest tokens" in out
    assert max(map(len, out.splitlines())) <= 80
    assert run("plan", *arguments, "--losses", "2.9,3.1")[0] == 0


@pytest.mark.parametrize("options", [["--losses", "many"], ["--losses", "1,1", "--delta", "5e-324"]])
def test_plan_complains_in_one_line(run, options):
    status, _, err = run("plan", "--message", 80, "--corpus", 9, "-V", 256, *options)
    assert status == 1 and err.startswith("error: ")


HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "--message", HUGE, "--corpus", 9, "-V", 256, "--losses", "1,1"],
        ["plan", "--message", 80, "--corpus", HUGE, "-V", 256, "--losses", "1,1"],
        ["plan", "--message", 80, "--corpus", 9, "-V", HUGE, "--losses", "1,1"],
        ["plan", "--message", 80, "--corpus", 9, "-V", 256, "--losses", "1,1", "--block", HUGE],
        ["bound", "a.parquet", "--bits", HUGE, "-V", 256],
        ["bound", "a.parquet", "--bits", 80, "-V", 10**21],
    ],
)
def test_numbers_beyond_any_file_are_refused(run, words):
    status, _, err = run(*words)
    assert status in (1, 2) and "Traceback" not in err and HUGE not in err.splitlines()[0]


@pytest.mark.parametrize(("bits", "size"), [(10**4000, 2), (-1, 2), (80, 1), (80, 10**21)])
def test_sizes_that_no_message_or_vocabulary_has_are_refused_in_python(bits, size):
    with pytest.raises(CertificateError, match=r"a message has 0 to .* bits, and a vocabulary 2 to"):
        api.bound([1.0, 2.0], bits, size)


def test_show_as_a_page(run, certificate, tmp_path):
    status, out, _ = run("show", certificate, "--html", tmp_path / "c.html")
    assert status == 0 and str(tmp_path / "c.html") in out.replace("\n", "")
    assert read_certificate(certificate)["certificate_sha256"] in (tmp_path / "c.html").read_text()
