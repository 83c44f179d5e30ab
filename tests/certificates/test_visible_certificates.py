"""Certificates of context-limited models: they say what was visible, verify, and rescore alike."""

import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from certified_study import with_losses
from json_certificates import certify_bound, parse_certificate, read_certificate
from test_certify_and_verify import SPEC, encode_transformer
from tokenbounds.certificates.sentence import state_result
from tokenbounds.certificates.verify import ALL_BLOCKS, verify_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError
from tokenbounds.scores.scoring import score_message


@pytest.fixture(scope="module")
def limited(study, tmp_path_factory):
    """A transformer that saw three tokens before each one it scored, on a sample of blocks."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("limited")
    tiny = replace(study, root=root, message="real", visible_tokens=3, sample_tokens=600)
    tiny._build_corpus()
    tiny._build_plan()
    tiny.inputs.certified.message.parent.mkdir()
    encode_transformer(root / "model", Corpus.open(tiny.inputs.corpus), tiny.inputs.certified.message)
    _score(tiny)
    certify_bound("c", "tiny", tiny.inputs, SPEC, root / "certificates/c.json", model="m")
    return tiny


def _score(tiny):
    for shard, path in enumerate(tiny.inputs.certified.scores):
        score_message(tiny.inputs.certified.message, tiny.inputs.corpus, tiny.inputs.plan, shard, path)


def test_it_verifies_and_scores_again(limited):
    checks = verify_certificate(limited.root / "certificates/c.json", rescore=ALL_BLOCKS)
    assert {"plan made again", "scored again"} <= {check.name for check in checks}


def test_it_says_what_was_visible(limited):
    certificate = read_certificate(limited.root / "certificates/c.json")
    assert certificate["plan"]["visible_tokens"] == 3
    assert "of the compressed model that sees the last 3 tokens only" in state_result(parse_certificate(certificate))
    assert any("sees at most the last 3 tokens of its document" in line for line in certificate["assumptions"])


def test_scores_of_whole_windows_are_not_those_of_short_ones(limited, tmp_path):
    """Scores made with more in view, under a plan that claims less, do not survive rescoring."""
    shutil.copytree(limited.root, tmp_path / "forged")
    forged = replace(limited, root=tmp_path / "forged")
    honest = pq.read_schema(forged.inputs.plan).metadata
    losses = []
    for visible in (b"30", b"3"):
        table = pq.read_table(forged.inputs.plan).replace_schema_metadata({**honest, b"visible_tokens": visible})
        pq.write_table(table, forged.inputs.plan)
        for path in forged.inputs.certified.scores:
            path.unlink()
        _score(forged)
        losses.append([pq.read_table(path, columns=["nll_bits"]) for path in forged.inputs.certified.scores])
    for path, more in zip(forged.inputs.certified.scores, losses[0], strict=True):
        pq.write_table(with_losses(pq.read_table(path), more["nll_bits"].to_numpy()), path)
    certificate = tmp_path / "forged/certificates/forged.json"
    certify_bound("forged", "tiny", forged.inputs, SPEC, certificate, model="m")
    with pytest.raises(CertificateError, match="decoded message gives"):
        verify_certificate(certificate, rescore=ALL_BLOCKS)


def test_blocks_that_see_their_neighbours_are_no_independent_sequences(limited):
    whole = replace(limited, evaluation="all", sample_tokens=None)
    whole._build_plan()
    _score(whole)
    spec = BoundsSpec(bounds=("sequences",), top_k=(1,))
    with pytest.raises(CertificateError, match="limits no visible_tokens"):
        certify_bound("s", "tiny", whole.inputs, spec, whole.root / "certificates/s.json", model="m")
