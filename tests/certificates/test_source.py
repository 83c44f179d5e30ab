"""A corpus tokenized again from its source: what differs is named."""

import json
import re

import pytest
from json_certificates import certify_bound
from json_corpora import json_corpus
from tokenbounds.certificates import verify
from tokenbounds.certificates.source import check_source
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError


def test_the_same_source_gives_the_same_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenbounds.certificates.source._BATCH", 2)
    rows = json_corpus(tmp_path / "c", ["QVQ", "", "EVQLVESGG", "DIQ", "EIV"])
    moved = rows.rename(tmp_path / "moved.jsonl")
    assert check_source(tmp_path / "c", [str(moved)]).detail == "5 documents, 18 tokens: the same"


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["QVQ", "EVK"], "document 1 of .* is not what its source holds"),
        (["QVQ"], "has 2 documents, its source 1"),
        (["QVQ", "EVQ", "A"], "has 2 documents, its source more"),
        (["EVQ", "QVQ"], "document 0"),
    ],
)
def test_another_source_is_refused(tmp_path, texts, complaint):
    rows = json_corpus(tmp_path / "c", ["QVQ", "EVQ"])
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.raises(CertificateError, match=complaint):
        check_source(tmp_path / "c", [str(rows)])


def test_tokens_that_the_tokenizer_does_not_give_are_found(tmp_path, monkeypatch):
    """Texts as they are, hashes that all agree, other tokens: nothing but the source shows it."""
    from tokenbounds.corpus.tokenizers import Antibodies

    honest = Antibodies.encode
    monkeypatch.setattr(Antibodies, "encode", lambda self, texts: [tokens[::-1] for tokens in honest(self, texts)])
    rows = json_corpus(tmp_path / "c", ["QQQ", "EVQ"])
    monkeypatch.undo()
    with pytest.raises(CertificateError, match=r"document 1 of .* has other tokens than its source gives"):
        check_source(tmp_path / "c", [str(rows)])


def test_the_tokenizer_is_known_by_its_hash(tmp_path):
    rows = json_corpus(tmp_path / "c", ["QVQ"])
    manifest = json.loads((tmp_path / "c/manifest.json").read_text())
    for identity, complaint in (("bytes", "another tokenizer than bytes"), ("org/name", "--tokenizer")):
        manifest["tokenizer"]["identity"] = identity
        (tmp_path / "c/manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CertificateError, match=complaint):
            check_source(tmp_path / "c", [str(rows)])


def test_sources_without_files_and_of_unknown_kinds(tmp_path):
    json_corpus(tmp_path / "c", ["QVQ"])
    manifest = json.loads((tmp_path / "c/manifest.json").read_text())
    for source, complaint in (
        ({"kind": "python_topics"}, "--source installed"),
        ({"kind": "x", "paths": []}, "describes no"),
    ):
        (tmp_path / "c/manifest.json").write_text(json.dumps(manifest | {"source": source}))
        with pytest.raises(CertificateError, match=complaint):
            check_source(tmp_path / "c", ["somewhere"])


def test_from_the_command_line(run, study, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_decode", lambda *_: None)
    path = study.root / "certificates" / "source.json"
    certify_bound("c", "s", study.inputs, BoundsSpec(alphas=(0.1,), lambdas=4), path, model="m")
    texts = study.root / "texts" / study.corpus
    status, out, err = run("verify", path, "--rescore", 0, "--source", texts)
    assert (status, err) == (0, "") and re.search(r"✓\s+tokenized again\s+7 documents, 2,315 tokens", out)
    status, _, err = run("verify", path, "--rescore", 0, "--source", texts / "0.txt")
    assert status == 1 and "its source 1" in err.replace("\n", " ")
