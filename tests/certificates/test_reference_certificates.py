"""Certificates for corpora by reference: what is scored is a draw, what is certified is the whole."""

import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from certified_study import TinyStudy
from tokenbounds.bounds.kinds import BPD, BoundKind, Metric
from tokenbounds.bounds.ratio import upper_ratio
from tokenbounds.bounds.sampling import draw_order, lower_mean
from tokenbounds.bounds.smoothing import loss_range, smooth
from tokenbounds.certificates.averages.drawn import CorpusSize
from tokenbounds.certificates.certify import certify_bound
from tokenbounds.certificates.sentence import state_result
from tokenbounds.certificates.source import check_source
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec, ByteTokenizer, CorpusSpec, EvaluationSpec, ReferenceSource
from tokenbounds.corpus.pins import pin_files
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.reference import ReferenceEntry
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.errors import CertificateError, TokenboundsError
from tokenbounds.scores.plan import plan_corpus
from tokenbounds.scores.store import open_scores

ROWS, DRAWN, LONGEST = 3000, 400, 64
SPEC = BoundsSpec(alphas=(0.01, 0.1), lambdas=8, top_k=(1,), certificates_per_sample=1)


@dataclass(frozen=True)
class ReferenceStudy(TinyStudy):
    """A tiny study of documents drawn from a pinned file; long ones are cut."""

    def _build_corpus(self):
        rng = np.random.default_rng(self.corpus_seed)
        self.root.mkdir(exist_ok=True)
        lines = [json.dumps({"text": "a" * int(rng.integers(0, 90))}) for _ in range(ROWS)]
        (self.root / "all.jsonl").write_text("\n".join(lines))
        pin_files([str(self.root / "all.jsonl")], self.root / "pins.json")
        source = ReferenceSource(
            kind="reference", pins=str(self.root / "pins.json"), documents=DRAWN, max_tokens=LONGEST
        )
        spec = CorpusSpec(source=source, tokenizer=ByteTokenizer(kind="bytes"), shards=3)
        tokenize_corpus(spec, self.corpus, self.inputs.corpus)

    def _build_plan(self):
        plan_corpus(self.inputs.corpus, EvaluationSpec(context=32, shards=2), self.inputs.plan)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return ReferenceStudy(tmp_path_factory.mktemp("reference") / "results").build()


@pytest.fixture(scope="module")
def certificate(study):
    out = study.root / "certificates/c.json"
    out.parent.mkdir()
    return certify_bound("c", "s", study.inputs, SPEC, out, model="chain")


@pytest.fixture(scope="module")
def documents(study):
    """Losses of every drawn document."""
    scores = open_scores(study.inputs.certified.scores)
    table = [np.concatenate([batch[i].to_numpy() for batch in scores.iter_batches(("document", "nll_bits", "rank"))])
             for i in range(3)]  # fmt: skip
    return [(table[1][table[0] == d], table[2][table[0] == d]) for d in range(DRAWN)]


def test_the_rows_are_the_ratio_bounds_at_a_lower_bound_on_the_tokens(study, certificate, documents):
    tokens = np.array([len(losses) for losses, _ in documents])
    delta = Fraction("0.05")
    mean = lower_mean(tokens, 0, LONGEST, float(delta / 20))
    m = math.floor(ROWS * mean)
    assert certificate.tokens == m < ROWS * tokens.mean()
    assert certificate.reference.delta == str(delta / 20) and certificate.ledger.delta == str(delta * 19 / 20)
    # Azuma's row for the loss: four rows, a fifth of each for the draw; a tenth of the documents chose the weight.
    each = delta * 19 / 20 / 4
    row = certificate.row(BPD, BoundKind.AZUMA)
    order = draw_order(np.ones(DRAWN, dtype=np.int64), Corpus.open(study.inputs.corpus).manifest.reference.seed)
    rest = order[DRAWN // 10 :]
    sums = np.array([smooth(losses, row.alpha, 256).sum() for losses, _ in documents])
    low, high = -math.log2(1 - row.alpha + row.alpha / 256), math.log2(256 / row.alpha)
    risk = upper_ratio(sums[rest], tokens[rest], low, high, LONGEST, float(each / 5))
    complexity = (certificate.message.size_bits + 1) * math.log(2) - math.log(each * 4 / 5)
    assert row.value == pytest.approx(risk + loss_range(row.alpha, 256) * math.sqrt(complexity / (2 * m)), rel=1e-9)
    assert row.empirical == pytest.approx(sums.sum() / tokens.sum(), rel=1e-9)
    errors = [(ranks > 1).sum() for _, ranks in documents]
    share = upper_ratio(errors, tokens, 0.0, 1.0, LONGEST, float(each / 5))
    complexity = certificate.message.size_bits * math.log(2) - math.log(each * 4 / 5)
    row = certificate.row(Metric.top(1), BoundKind.AZUMA)
    assert row.value == pytest.approx(share + math.sqrt(complexity / (2 * m)), rel=1e-9)
    assert row.empirical == pytest.approx(sum(errors) / tokens.sum())


def test_what_matters_is_said(certificate):
    text = " ".join(certificate.assumptions)
    assert "all 3,000 documents of the pinned files, each cut after 64 tokens" in text
    assert "400 documents were drawn" in text
    assert f"all tokens (at least {certificate.tokens:,}) of its 3,000 documents" in state_result(certificate)


def test_verification_draws_again_and_recomputes(study, certificate, monkeypatch):
    path = study.root / "certificates/c.json"
    monkeypatch.setattr("tokenbounds.certificates.verify._check_messages", lambda *a, **k: iter(()))
    names = [check.name for check in verify_certificate(path, root=study.root)]
    assert "ledger adds up" in names and "files belong together" in names
    pins = study.inputs.corpus / "pins.json"
    data = pins.read_bytes()
    try:
        pins.write_bytes(data.replace(b'"rows"', b'"rowz"', 1))
        with pytest.raises(TokenboundsError, match=r"pins\.json"):
            list(verify_certificate(path, root=study.root))
    finally:
        pins.write_bytes(data)


def test_the_drawn_documents_are_tokenized_again_from_the_pinned_files(study, tmp_path):
    pins = study.root / "pins.json"
    assert "400 documents" in check_source(study.inputs.corpus, [str(pins)]).detail
    (tmp_path / "pins.json").write_bytes(pins.read_bytes() + b" ")
    with pytest.raises(CertificateError, match="is not the list of pinned files"):
        check_source(study.inputs.corpus, [str(tmp_path / "pins.json")])
    whole, data = study.root / "all.jsonl", (study.root / "all.jsonl").read_bytes()
    try:
        whole.write_bytes(data.replace(b"aa", b"ab"))
        with pytest.raises(TokenboundsError, match="has changed since it was pinned"):
            check_source(study.inputs.corpus, [str(pins)])
    finally:
        whole.write_bytes(data)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(SPEC, bounds=(BoundKind.DOCUMENTS,)), "'documents' cannot be stated"),
        (replace(SPEC, subsets=("language",)), "subsets cannot be stated"),
    ],
)
def test_what_a_draw_cannot_state_is_refused(study, spec, words):
    with pytest.raises(CertificateError, match=words):
        certify_bound("c", "s", study.inputs, spec, study.root / "no.json", model="chain")


def test_the_size_is_covered_and_its_estimate_is_not():
    """Few long documents among many short ones: a lower bound on m holds, the estimate exceeds it half of the time."""
    rng = np.random.default_rng(3)
    size, longest, reference = 0, 0, ReferenceEntry("pins.json", "0" * 64, 10**6, 2048, 0)
    mean = 0.05 * 2048 + 0.95 * 20
    for _ in range(300):
        tokens = np.where(rng.random(200) < 0.05, 2048, 20)
        size += CorpusSize.at_least(reference, tokens, Fraction(1)).tokens > 10**6 * mean  # a twentieth: 0.05
        longest += 10**6 * tokens.mean() > 10**6 * mean
    assert size <= 0.05 * 300 + 10 < 0.3 * 300 < longest
