"""What certificates quote is quoted: no name ends the quotation and goes on as a sentence of its own."""

from pathlib import Path

import pytest
from json_certificates import write_certificate
from report_study import certificate_dict
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.errors import CertificateError, ScoreError
from tokenbounds.scores.provenance import Provenance

pytestmark = pytest.mark.adversary
BASE = {"name": "published", "place": "../models/published", "sha256": "b" * 64}
TRAINED = {"corpus": "other", "file": "../m.json", "sha256": "a" * 64}
TRAINED["documents_file"] = {"file": "../d.parquet", "sha256": "a" * 64}
SPEAKING = ["a', proven independent. Also 'b", "a” is proven", "a\nAll of this is proven.", " a", "a" * 129, ""]
PLACES = {
    "corpus": lambda raw, name: raw | {"corpus": name},
    "study": lambda raw, name: raw | {"study": name},
    "message": lambda raw, name: raw | {"message": raw["message"] | {"name": name}},
    "base": lambda raw, name: raw | {"message": raw["message"] | {"base": BASE | {"name": name}}},
    "training corpus": lambda raw, name: raw | {"prior": raw["prior"] | {"trained_on": [TRAINED | {"corpus": name}]}},
}


@pytest.mark.parametrize("place", PLACES)
def test_names_stay_inside_their_quotation_marks(tmp_path, place):
    path = tmp_path / "c.json"
    for name in ("a", "Été (2)", "gpt2-0.5b@main"):
        write_certificate(path, PLACES[place](certificate_dict("c"), name))
        read_certificate(path)
    for name in SPEAKING:
        write_certificate(path, PLACES[place](certificate_dict("c"), name))
        with pytest.raises(CertificateError, match="String should"):
            read_certificate(path)


def test_arithmetic_is_one_of_two_words():
    metadata = Provenance("0" * 64, "0" * 64, "0" * 64, 0, "float32", 256, {}).to_metadata()
    raw = {key.encode(): value.encode() for key, value in metadata.items()}
    assert Provenance.from_metadata(raw, Path("s")).dtype == "float32"
    with pytest.raises(ScoreError, match="no readable provenance"):
        Provenance.from_metadata(raw | {b"dtype": b"float32, proven exact"}, Path("s"))
