"""A sceptic's swaps: no file of one certificate can stand in for that of another, however the certificate is forged.

The other corpus has documents of the same lengths and the other message the same size, so only hashes tell them apart.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from certified_study import with_losses
from json_certificates import certify_bound, write_certificate
from tokenbounds.certificates import verify
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file
from tokenbounds.scores.provenance import Provenance
from tokenbounds.scores.store import score_writer

SPEC = BoundsSpec(top_k=(1,), alphas=(0.1, 0.3), lambdas=8)
CORPUS = ("manifest", "plan", "scores")


@pytest.fixture(autouse=True)
def message_without_a_model(monkeypatch):
    monkeypatch.setattr(verify, "_decode", lambda *_: None)


@pytest.fixture(scope="module")
def pair(study, tmp_path_factory):
    """The study, the same message on another corpus, and another message on the same corpus; all certified."""
    root = tmp_path_factory.mktemp("pair") / "results"
    shutil.copytree(study.root, root, ignore=shutil.ignore_patterns("certificates", "texts"))
    first = replace(study, root=root)
    others = {
        "own": first,
        "corpus": replace(first, corpus="others", corpus_seed=9).build(),
        "message": replace(first, message="other", message_seed=3).build(),
    }
    for path in others["corpus"].inputs.certified.scores:  # the study draws losses by the message alone
        table = pq.read_table(path, partitioning=None)
        changed = with_losses(table, table["nll_bits"].to_numpy() * np.float32(0.9)).combine_chunks()
        with score_writer(path, Provenance.from_metadata(table.schema.metadata, path)) as writer:
            writer.write(changed.to_batches()[0])
    paths = {name: root / "certificates" / f"{name}.json" for name in others}
    for name, each in others.items():
        certify_bound("c", "tiny", each.inputs, SPEC, paths[name], model="m")
    return {name: json.loads(path.read_text()) for name, path in paths.items()}, root


def test_all_three_verify(pair):
    for name in pair[0]:
        verify_certificate(pair[1] / "certificates" / f"{name}.json")


def forge(root, certificate):
    path = root / "certificates" / "forged.json"
    write_certificate(path, certificate)
    return path


def shard_of(other):
    return lambda own: own["manifest"]["shards"].__setitem__(1, other["manifest"]["shards"][1])


def documents_of(other):
    return lambda own: own["manifest"].update(documents_file=other["manifest"]["documents_file"])


def score_file_of(other):
    return lambda own: own["scores"].__setitem__(1, other["scores"][1])


def records_of(*names):
    return lambda other: lambda own: own.update({name: other[name] for name in names})


SWAPS = {
    ("message", "the message"): records_of("message"),
    ("message", "the scores"): records_of("scores"),
    ("message", "one score file"): score_file_of,
    ("message", "message and scores"): records_of("message", "scores"),
    ("message", "the rows"): records_of("rows"),
    ("corpus", "the manifest"): records_of("manifest"),
    ("corpus", "one token shard"): shard_of,
    ("corpus", "the documents"): documents_of,
    ("corpus", "the plan"): records_of("plan"),
    ("corpus", "the scores"): records_of("scores"),
    ("corpus", "one score file"): score_file_of,
    ("corpus", "manifest and plan"): records_of("manifest", "plan"),
    ("corpus", "manifest and scores"): records_of("manifest", "scores"),
    ("corpus", "plan and scores"): records_of("plan", "scores"),
    ("corpus", "everything but the name"): records_of(*CORPUS, "rows"),
    ("corpus", "everything but the rows"): records_of(*CORPUS, "corpus"),
    ("corpus", "the name alone"): records_of("corpus"),
}


@pytest.mark.parametrize(("kind", "what"), SWAPS)
def test_nothing_of_another_certificate_fits(pair, kind, what):
    certificates, root = pair
    own = json.loads(json.dumps(certificates["own"]))
    SWAPS[kind, what](certificates[kind])(own)
    with pytest.raises(CertificateError):
        verify_certificate(forge(root, own))


def test_a_complete_swap_is_simply_the_other_certificate(pair):
    """The check above can fail: with every record exchanged there is nothing left to find."""
    certificates, root = pair
    own = json.loads(json.dumps(certificates["own"]))
    own.update({name: certificates["corpus"][name] for name in (*CORPUS, "rows", "corpus", "ledger", "blocks")})
    verify_certificate(forge(root, own))


def rewrite_shard(study):
    """Change one token of the corpus, keeping the shard's form."""
    path = study.inputs.corpus / "shard-00000.arrow"
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    documents = [np.array(each) for each in table["tokens"].to_pylist()]
    documents[0][5] ^= 1
    tokens = pa.array(documents, table.schema.field("tokens").type)
    changed = pa.table([table["document"], tokens], schema=table.schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, changed.schema) as writer:
        writer.write_table(changed)
    manifest = study.inputs.corpus / "manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"][0]["sha256"] = sha256_file(path)
    manifest.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def rename_origin(path, **hashes):
    """Let a Parquet file claim other origins."""
    table = pq.read_table(path, partitioning=None)
    metadata = {**table.schema.metadata, **{key.encode(): value.encode() for key, value in hashes.items()}}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_an_altered_corpus_is_found_however_far_the_forgery_goes(study, tmp_path):
    """Each forged link is found at the next one, and in the end by the tokens themselves."""
    shutil.copytree(study.root, tmp_path / "results", ignore=shutil.ignore_patterns("certificates", "texts"))
    forged = replace(study, root=tmp_path / "results")
    out = forged.root / "certificates" / "c.json"

    def certify():
        certify_bound("c", "tiny", forged.inputs, SPEC, out, model="m")

    certify()
    rewrite_shard(forged)
    Corpus.open(forged.inputs.corpus)
    with pytest.raises(CertificateError, match="manifest"):
        verify_certificate(out)
    with pytest.raises(CertificateError, match="plans the corpus of manifest"):
        certify()
    manifest = sha256_file(forged.inputs.corpus / "manifest.json")
    rename_origin(forged.inputs.plan, manifest_sha256=manifest)
    with pytest.raises(CertificateError, match="was made with manifest"):
        certify()
    for path in forged.inputs.certified.scores:
        rename_origin(path, manifest_sha256=manifest)
    with pytest.raises(CertificateError, match="was made with plan"):
        certify()
    for path in forged.inputs.certified.scores:
        rename_origin(path, plan_sha256=sha256_file(forged.inputs.plan))
    certify()
    with pytest.raises(CertificateError, match="does not tell what the shards hold: document 0"):
        verify_certificate(out)
