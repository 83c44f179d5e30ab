"""Some blocks of each drawn document: what they estimate, how they are chosen, and what certificates make of them."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import second_verifier
from held_plans import hold
from json_certificates import write_certificate
from test_reference_certificates import LONGEST, SPEC, ReferenceStudy
from tokenbounds.bounds.kinds import BPD, BoundKind
from tokenbounds.bounds.ratio import upper_ratio
from tokenbounds.bounds.sampling import draw_order, lower_mean
from tokenbounds.bounds.smoothing import loss_range, smooth
from tokenbounds.certificates.averages.drawn import DrawnDocuments
from tokenbounds.certificates.certify import certify_bound
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import EvaluationSpec
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.reference import ReferenceEntry
from tokenbounds.draws import smallest_of_each
from tokenbounds.errors import CertificateError, ScoreError
from tokenbounds.scores.plan import plan_corpus, plan_scoring
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.store import open_scores

CONTEXT = 16


class PartialStudy(ReferenceStudy):
    """One block of 16 tokens of each drawn document."""

    def _build_plan(self):
        spec = EvaluationSpec(context=CONTEXT, shards=2, blocks_per_document=1)
        plan_corpus(self.inputs.corpus, spec, self.inputs.plan)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return PartialStudy(tmp_path_factory.mktemp("partial") / "results").build()


@pytest.fixture(scope="module")
def certificate(study):
    (study.root / "certificates").mkdir()
    return certify_bound("c", "s", study.inputs, SPEC, study.root / "certificates/c.json", model="chain")


def test_every_block_of_a_document_is_as_likely():
    sizes = np.array([3, 0, 1, 5])
    times = sum(smallest_of_each(sizes, 2, seed).astype(int) for seed in range(3000)) / 3000
    assert times[3] == 1.0  # of a document with one block
    assert np.abs(times[:3] - 2 / 3).max() < 0.04 and np.abs(times[4:] - 2 / 5).max() < 0.04
    assert np.array_equal(smallest_of_each(sizes, 2, 7), smallest_of_each(sizes, 2, 7))


def plan_of(lengths, seed, blocks=1, context=4):
    table = plan_scoring(
        lengths, context=context, stride=None, sample_tokens=None, seed=seed, shards=1, blocks_per_document=blocks
    )
    return hold(table)


def test_what_they_give_is_on_average_what_whole_documents_give():
    lengths, reference = np.array([11, 0, 4, 20]), ReferenceEntry("pins.json", "0" * 64, 10**6, 20, 0)
    values = np.arange(35.0)  # of every token
    for blocks in (1, 2):
        sums, tokens = np.zeros(4), np.zeros(4)
        for seed in range(250):
            plan = plan_of(lengths, seed, blocks)
            drawn = DrawnDocuments.of_plan(plan, lengths, reference)
            first = np.cumsum(lengths) - lengths
            starts = first[plan.table["document"].to_numpy()] + plan.table["start"].to_numpy()
            means = np.array(
                [values[a : a + n].mean() for a, n in zip(starts, plan.table["length"].to_numpy(), strict=True)]
            )
            found = drawn.average(means)
            assert found.tokens.max() <= found.longest == 20
            sums, tokens = sums + found.sums / 250, tokens + found.tokens / 250
        np.testing.assert_allclose(tokens, lengths, atol=0.9)
        np.testing.assert_allclose(sums, [55, 0, 50, 490], rtol=0.15)


def test_the_row_is_the_ratio_bound_of_what_is_scaled_up(study, certificate):
    scores = open_scores(study.inputs.certified.scores)
    document, losses = (
        np.concatenate([batch[i].to_numpy() for batch in scores.iter_batches(("document", "nll_bits"))])
        for i in range(2)
    )
    corpus = Corpus.open(study.inputs.corpus)
    lengths = corpus.lengths
    factors = -(-lengths // CONTEXT)  # blocks of each document, of which one was scored
    scored = np.bincount(document, minlength=len(lengths))
    assert scored.max() == CONTEXT and certificate.plan.blocks_per_document == 1
    assert certificate.scored_tokens == scored.sum() < lengths.sum() / 2
    delta = Fraction("0.05")
    m = math.floor(3000 * lower_mean(lengths, 0, LONGEST, float(delta / 20)))
    assert certificate.tokens == m
    row, each = certificate.row(BPD, BoundKind.AZUMA), delta * 19 / 20 / 4
    rest = draw_order(np.ones(len(lengths), dtype=np.int64), corpus.manifest.reference.seed)[len(lengths) // 10 :]
    sums = factors * np.bincount(document, weights=smooth(losses, row.alpha, 256), minlength=len(lengths))
    low, high = -math.log2(1 - row.alpha + row.alpha / 256), math.log2(256 / row.alpha)
    risk = upper_ratio(sums[rest], (factors * scored)[rest], low, high, LONGEST, float(each / 5))
    complexity = (certificate.message.size_bits + 1) * math.log(2) - math.log(each * 4 / 5)
    assert row.value == pytest.approx(risk + loss_range(row.alpha, 256) * math.sqrt(complexity / (2 * m)), rel=1e-9)
    assert row.empirical == pytest.approx(sums.sum() / (factors * scored).sum(), rel=1e-9)
    assert any("at most 1 of its blocks were scored" in sentence for sentence in certificate.assumptions)


def test_both_verifiers_choose_the_blocks_again(study, certificate, monkeypatch):
    path = study.root / "certificates/c.json"
    monkeypatch.setattr("tokenbounds.certificates.verify._check_messages", lambda *a, **k: iter(()))
    assert any("blocks of seed" in check.detail for check in verify_certificate(path, root=study.root))
    found, left = second_verifier.verify(path)
    assert "4 rows" in found and left == second_verifier.UNSEEN
    forged = json.loads(path.read_text())
    forged["plan"]["blocks_per_document"] = 2
    write_certificate(path.with_name("forged.json"), forged)
    with pytest.raises(second_verifier.Refused, match="something else of the plan"):
        second_verifier.verify(path.with_name("forged.json"))
    with pytest.raises(CertificateError):
        list(verify_certificate(path.with_name("forged.json"), root=study.root))


def test_a_corpus_that_is_all_there_is_not_scored_in_part(tmp_path):
    from certified_study import TinyStudy

    study = TinyStudy(tmp_path).build()
    with pytest.raises(ScoreError, match="corpora by reference"):
        plan_corpus(study.inputs.corpus, EvaluationSpec(context=16, blocks_per_document=1), tmp_path / "plan.parquet")
    lengths = Corpus.open(study.inputs.corpus).lengths
    for arguments, words in (({"blocks_per_document": 0}, "at least 1"), ({"sample_tokens": 9}, "Leave one out")):
        settings = {"context": 16, "stride": None, "sample_tokens": None, "seed": 1, "shards": 1} | arguments
        with pytest.raises(ScoreError, match=words):
            plan_scoring(lengths, **{"blocks_per_document": 1, **settings})


def test_a_plan_is_read_as_it_was_written(study):
    plan = read_plan(study.inputs.plan)
    assert (plan.mode, plan.blocks_per_document) == ("partial", 1)
    assert plan.draws == plan.table.num_rows == np.count_nonzero(Corpus.open(study.inputs.corpus).lengths)


def missed(broken, replications=120, documents=200, delta=0.1):
    """How often a bound is below E[A] / E[T]: long documents are harder, and each is easy at first."""
    rng = np.random.default_rng(5)
    reference = ReferenceEntry("pins.json", "0" * 64, 10**6, 20, 0)
    truth = (0.7 * 4 * 0.1 + 0.3 * (4 * 0.1 + 16 * 0.7)) / (0.7 * 4 + 0.3 * 20)
    failed = 0
    for seed, lengths in enumerate(np.where(rng.random((replications, documents)) < 0.3, 20, 4)):
        plan = plan_of(lengths, seed)
        drawn = DrawnDocuments.of_plan(plan, lengths, reference)
        if broken:  # a document counts as much as another, however long it is
            drawn = replace(drawn, factors=np.ones(documents), tokens=np.full(documents, 4.0))
        means = rng.binomial(4, np.where(plan.table["start"].to_numpy() == 0, 0.1, 0.7)) / 4
        failed += drawn.average(means).upper(0.0, 1.0, delta) < truth
    return failed / replications


def test_they_are_covered_and_blocks_that_are_not_scaled_up_are_caught():
    assert missed(broken=False) <= 0.1
    assert missed(broken=True) > 0.9
