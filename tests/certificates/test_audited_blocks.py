"""A few blocks audited from a block file, near or far: what was certified passes, nothing else does."""

import contextlib
import functools
import http.server
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from certified_study import TinyStudy
from json_certificates import certify_bound
from tokenbounds import merkle
from tokenbounds.certificates import audit
from tokenbounds.certificates.audit import audit_blocks, export_blocks
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError
from tokenbounds.scores.block_tree import MAGIC, decode_leaf, encode_leaf, iterate_leaves, record_places
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.store import open_scores

pytestmark = pytest.mark.adversary
NAMES = ["token", "nll_bits", "rank"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A certificate with its block file, and what its model answers: the stored scores."""
    study = TinyStudy(tmp_path_factory.mktemp("audit") / "results", evaluation="sampled", sample_tokens=900).build()
    path = study.root / "certificates" / "c.json"
    certify_bound("c", "s", study.inputs, BoundsSpec(alphas=(0.1,), lambdas=4), path, model="m")
    export_blocks(path, study.root / "c.blocks")
    return SimpleNamespace(study=study, path=path, blocks=study.root / "c.blocks")


@pytest.fixture
def honest(monkeypatch, published):
    """Scoring again gives what is stored: the study's message holds no model."""
    plan = read_plan(published.study.inputs.plan)
    scores = open_scores(published.study.inputs.certified.scores, plan=plan)
    everything = [
        pair
        for batch in scores.iter_batches(["block", "nll_bits"])
        for pair in zip(batch["block"].to_pylist(), batch["nll_bits"].to_pylist(), strict=True)
    ]

    def again(predictor, fetched, plan, corpus, choice, top_k, original):
        rows = next(fetched.iter_batches(["block", "nll_bits"]))
        blocks = set(rows["block"].to_pylist())
        assert [loss for block, loss in everything if block in blocks] == rows["nll_bits"].to_pylist()
        return SimpleNamespace(detail=f"{len(rows['block'])} tokens")

    monkeypatch.setattr(audit, "decoded_predictor", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(audit, "rescore_blocks", again)


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Answers ranges, and counts the bytes that it sent."""

    def __init__(self, *arguments, data, sent, ranges=True):
        self.data, self.sent, self.ranges = data, sent, ranges
        super().__init__(*arguments)

    def do_GET(self):
        start, stop = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = self.data[start : stop + 1] if self.ranges else self.data
        self.sent.append(len(part))
        self.send_response(206 if self.ranges else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def serve():
    servers = []

    def start(data, **options):
        sent = []
        handler = functools.partial(RangeHandler, data=data, sent=sent, **options)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/c.blocks", sent

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_leaf_is_what_the_documentation_says():
    rows = {"rank": np.array([1, 2]), "token": np.array([3, 4]), "nll_bits": np.array([0.5, 1.5])}
    data = encode_leaf(7, rows)
    assert data.hex() == "0700000000000000" + "0300000004000000" + "0000003f0000c03f" + "0100000002000000"
    block, back = decode_leaf(data, NAMES)
    assert block == 7 and {name: values.tolist() for name, values in back.items()} == {
        name: rows[name].tolist() for name in NAMES
    }
    with pytest.raises(ValueError, match="whole number"):
        decode_leaf(data[:-1], NAMES)


def test_the_root_is_that_of_the_plan_s_blocks(published):
    plan = read_plan(published.study.inputs.plan)
    scores = open_scores(published.study.inputs.certified.scores, plan=plan)
    leaves = list(iterate_leaves(scores, plan))
    assert [decode_leaf(leaf, NAMES)[0] for leaf in leaves] == plan.table["block"].to_pylist()
    certificate = read_certificate(published.path)
    assert merkle.root(map(merkle.leaf_hash, leaves)).hex() == certificate.blocks.root
    assert list(certificate.blocks.columns) == NAMES
    places, data = record_places(plan, NAMES, np.arange(plan.rows)), published.blocks.read_bytes()
    assert data.startswith(MAGIC) and places[0][0] == len(MAGIC) and places[-1][1] == len(data)
    row = len(leaves) // 2
    proof = merkle.prove_inclusion([merkle.leaf_hash(leaf) for leaf in leaves], row)
    assert data[slice(*places[row])] == b"".join(proof) + leaves[row]


def test_blocks_are_audited_from_a_file_and_from_a_url_in_few_bytes(run, published, honest, serve):
    checks = audit_blocks(published.path, str(published.blocks), draws=5, seed=1)
    assert [check.name for check in checks] == [
        *("certificate and files intact", "plan made again", "blocks are covered", "scored again")
    ]
    url, sent = serve(published.blocks.read_bytes())
    assert audit_blocks(published.path, url, draws=5, seed=1)[-1].detail == checks[-1].detail
    assert len(sent) <= 5 and sum(sent) < published.blocks.stat().st_size / 4
    for file in published.study.inputs.certified.scores:  # the scores themselves need not be there
        file.rename(file.with_suffix(".away"))
    status, out, _ = run("audit", published.path, url, "--rescore", 3)
    for file in published.study.inputs.certified.scores:
        file.with_suffix(".away").rename(file)
    assert status == 0 and "blocks are covered" in out and "blocks fetched" in out


def test_a_server_without_ranges_and_a_short_file_are_named(published, honest, serve, tmp_path):
    url, _ = serve(published.blocks.read_bytes(), ranges=False)
    with pytest.raises(CertificateError, match="does not answer range requests"):
        audit_blocks(published.path, url, draws=1)
    short = tmp_path / "short"
    short.write_bytes(published.blocks.read_bytes()[:40])
    for place in (str(short), serve(short.read_bytes())[0], str(tmp_path / "absent"), "http://127.0.0.1:9/"):
        with pytest.raises(CertificateError, match=r"not the whole block file|cannot read"):
            audit_blocks(published.path, place, draws=3, seed=1)


def test_every_flipped_byte_of_a_drawn_block_is_found(published, honest, tmp_path):
    certificate = read_certificate(published.path)
    plan = read_plan(published.study.inputs.plan)
    row = 3
    places = record_places(plan, NAMES, np.arange(plan.rows))
    start, stop = places[row]

    def fetch(number):
        choice = audit.Choice(plan.table.slice(number, 1), np.array([number]), 1, 0)
        audit._fetch_scores(certificate, certificate.blocks, plan.rows, choice, [places[number]], str(tmp_path / "b"))

    whole = published.blocks.read_bytes()
    for at in range(start, stop, 7):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (tmp_path / "b").write_bytes(damaged)
        with pytest.raises(CertificateError, match="are not those that were certified"):
            fetch(row)
        fetch(row + 1)


def test_a_root_over_other_scores_is_found_when_scored_again(published, honest, monkeypatch):
    """Who exports other scores must state their root, and so another certificate, which verification refuses."""
    raw = json.loads(published.path.read_text())
    assert raw["blocks"]["root"] != "0" * 64
    forged = raw | {"blocks": raw["blocks"] | {"root": "0" * 64}}
    from json_certificates import write_certificate
    from tokenbounds.certificates import verify

    path = published.path.with_name("forged.json")
    write_certificate(path, forged)
    monkeypatch.setattr(verify, "_decode", lambda *_: None)
    with pytest.raises(CertificateError, match=r"blocks\.root"):
        verify.verify_certificate(path)
    with pytest.raises(CertificateError, match="are not those that it names"):
        export_blocks(path, path.with_suffix(".blocks"))
    path.unlink()
