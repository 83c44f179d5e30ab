"""The box of plain words: what it says agrees with the certificate, whatever the kind."""

import pytest
from json_certificates import write_certificate
from report_study import certificate_dict
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.report.plain_words import plain_words


def words_of(tmp_path, raw):
    path = tmp_path / "c.json"
    write_certificate(path, raw)
    words = plain_words(read_certificate(path))
    return " ".join(words.says), " ".join(words.says_not)


def test_of_a_paid_message(tmp_path):
    raw = certificate_dict(size_bits=251_904, empirical=3.31)
    row = min((row for row in raw["rows"] if row["metric"] == "bpd"), key=lambda row: row["value"])
    says, says_not = words_of(tmp_path, raw)
    assert "at every place of this corpus" in says and "needs on average at most" in says
    assert "guessing uniformly needs 8.000" in says and "Measured here: 3.310" in says
    stated = float(says.split("at most ")[1].split()[0])
    assert row["value"] <= stated < row["value"] + 0.001  # rounded up, never down
    assert "95\u00a0%" in says and "251,904 bits" in says
    assert "other text" in says_not and "single prediction" in says_not and "held-out" not in says_not


@pytest.mark.parametrize(
    ("kind", "says", "says_not"),
    [
        ("held_out", "nothing for the choice of the model", "best of several held-out models"),
        ("online", "having chosen the model", "learning along the whole corpus"),
    ],
)
def test_of_other_priors(tmp_path, kind, says, says_not):
    raw = certificate_dict()
    raw["prior"]["kind"] = kind
    found = words_of(tmp_path, raw)
    assert says in found[0] and says_not in found[1]
    assert ("bits of messages" in found[0]) == (kind != "held_out")


def test_of_errors_and_samples(tmp_path):
    raw = certificate_dict(mode="sampled")
    raw["rows"] = [{**row, "sampling": 0.01} for row in raw["rows"] if row["metric"] == "top10_error"]
    says, _ = words_of(tmp_path, raw)
    assert "misses the next byte with 10 guesses at most" in says and "of the time" in says
    assert "scoring only a part of the corpus" in says and "drawn again" in says
