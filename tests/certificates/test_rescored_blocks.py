"""Which blocks are scored again: those whose tokens count most are seen most often; and what is said where none are."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from certified_study import TinyStudy, with_link, with_losses
from held_plans import hold
from json_certificates import certify_bound
from test_certify_and_verify import encode_chain
from tokenbounds.certificates import rescoring, verify
from tokenbounds.certificates.rescoring import choose_blocks, forecast_seconds, rescore_blocks
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec, ByteTokenizer, CorpusSpec, EvaluationSpec, TextSource
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.errors import CertificateError
from tokenbounds.messages.decode import decode_message
from tokenbounds.scores.plan import plan_corpus, plan_scoring
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.scoring import score_message
from tokenbounds.scores.store import open_scores

SPEC = BoundsSpec(top_k=(1,), alphas=(0.1, 0.3), lambdas=8)
SHORT, LONG = 1200, 20  # documents; the long ones hold 95 % of the tokens
LONG_TOKENS = 19 * SHORT // LONG


class HidingStudy(TinyStudy):
    """Many documents of one token, and a few that hold nearly all tokens."""

    def _build_corpus(self):
        rng = np.random.default_rng(self.corpus_seed)
        texts = self.root / "texts" / self.corpus
        texts.mkdir(parents=True)
        for number in range(SHORT + LONG):
            length = LONG_TOKENS if number % ((SHORT + LONG) // LONG) == 0 else 1
            (texts / f"{number:05d}.txt").write_bytes(rng.integers(97, 123, length).astype(np.uint8).tobytes())
        source = TextSource(kind="text", paths=(str(texts / "*.txt"),))
        tokenize_corpus(
            CorpusSpec(source=source, tokenizer=ByteTokenizer(kind="bytes")), self.corpus, self.inputs.corpus
        )

    def _build_plan(self):
        spec = EvaluationSpec(context=2048, sample_tokens=self.sample_tokens, seed=5, shards=2)
        plan_corpus(self.inputs.corpus, spec, self.inputs.plan)


@pytest.fixture(scope="module")
def hiding(tmp_path_factory):
    """Honest scores of a Markov chain on such a corpus."""
    root = tmp_path_factory.mktemp("hiding")
    made = HidingStudy(root, message="real")
    made._build_corpus()
    made._build_plan()
    made.inputs.certified.message.parent.mkdir()
    encode_chain(root / "model", Corpus.open(made.inputs.corpus), made.inputs.certified.message)
    for shard, path in enumerate(made.inputs.certified.scores):
        score_message(made.inputs.certified.message, made.inputs.corpus, made.inputs.plan, shard, path)
    return made


def falsify(study, folder, change, name="nll_bits"):
    """Score files with other losses [n], or another column, given their documents [n]."""
    paths = []
    for old in study.inputs.certified.scores:
        table = pq.read_table(old, partitioning=None)
        values = change(table[name].to_numpy(), table["document"].to_numpy()).astype(np.float32)
        index = table.schema.get_field_index(name)
        other = table.set_column(index, table.schema.field(index), [values])
        paths.append(folder / old.name)
        pq.write_table(with_losses(table, values) if name == "nll_bits" else other, paths[-1])
    return tuple(paths)


def refusals(study, scores, draws, seeds=60):
    """How many seeds of the choice refuse some scores."""
    corpus, plan = Corpus.open(study.inputs.corpus), read_plan(study.inputs.plan)
    predictor, opened = decode_message(study.inputs.certified.message), open_scores(scores, plan=plan)
    refused = 0
    for seed in range(seeds):
        try:
            rescore_blocks(predictor, opened, plan, corpus, choose_blocks(plan, draws, seed))
        except CertificateError:
            refused += 1
    return refused


def test_tokens_falsified_in_few_long_documents_are_refused_whatever_the_seed(hiding, tmp_path, monkeypatch):
    lengths = Corpus.open(hiding.inputs.corpus).lengths
    assert lengths.max() * LONG == 0.95 * lengths.sum()
    scores = falsify(hiding, tmp_path, lambda losses, document: np.where(lengths[document] > 1, losses * 0.9, losses))
    assert refusals(hiding, scores, 8) == 60
    assert refusals(hiding, hiding.inputs.certified.scores, 8, seeds=3) == 0

    # The same test sees that a choice which takes every block alike lets most of it pass.
    def alike(bound, count, seed):
        return np.random.default_rng(seed).choice(bound, count)

    monkeypatch.setattr(rescoring, "column", lambda table, name: np.ones(table.num_rows, np.int64))
    monkeypatch.setattr(rescoring, "uniform_integers", alike)
    assert refusals(hiding, scores, 8) < 20


def test_entropies_that_the_message_does_not_give_are_refused(hiding, tmp_path):
    """All a step too small, or a few: a chain gives the same entropies on every machine."""
    for share in (1, 20):
        change = lambda entropy, _, share=share: entropy - 0.125 * (np.arange(entropy.size) % share == 0)  # noqa: E731
        assert refusals(hiding, falsify(hiding, tmp_path, change, "entropy_bits"), 8, seeds=5) == 5


def test_a_share_of_the_tokens_escapes_as_seldom_as_is_said():
    """In 2,000 choices each, the share that misses stays below (1 − s)^N, up to chance."""
    lengths = np.array([1] * 500 + [100] * 5)
    table = plan_scoring(lengths, context=100, stride=100, sample_tokens=None, seed=0, shards=1)
    plan = hold(table)
    for falsified, share in ((np.arange(500, 505), 0.5), (np.arange(100), 0.1)):
        for draws in (1, 4, 10):
            missed = sum(
                not np.isin(choose_blocks(plan, draws, seed).rows["block"].to_numpy(), falsified).any()
                for seed in range(2000)
            )
            bound = (1 - share) ** draws
            assert missed / 2000 <= bound + 4 * np.sqrt(bound / 2000)
            assert missed / 2000 >= bound - 4 * np.sqrt(bound / 2000)  # nor is it less


def test_a_sample_is_drawn_by_its_draws():
    table = plan_scoring(np.array([64] * 50), context=64, stride=64, sample_tokens=64 * 40, seed=1, shards=1)
    counts = np.zeros(50)
    for seed in range(3000):
        counts[choose_blocks(hold(table, "sampled"), 1, seed).rows["block"].to_numpy()] += 1
    draws = np.zeros(50)
    draws[table["block"].to_numpy()] = table["draws"].to_numpy()
    assert draws.max() > 1 and np.all(counts[draws == 0] == 0)
    assert np.abs(counts / 3000 - draws / draws.sum()).max() < 0.02


def test_all_blocks_leave_nothing_out_and_seeds_repeat():
    plan = hold(plan_scoring(np.array([10, 0, 25]), context=8, stride=8, sample_tokens=None, seed=0, shards=1))
    for draws in (None, plan.table.num_rows, 10**6):
        choice = choose_blocks(plan, draws, 1)
        assert (
            choice.rows.equals(plan.table)
            and choice.numbers.tolist() == [*range(plan.rows)]
            and choice.what_escapes == "no token is left out"
        )
    assert choose_blocks(plan, 2, 7).rows.equals(choose_blocks(plan, 2, 7).rows)
    assert "(1 − s)^2 at most: 0.81 for 10 %, 0.98 for 1 %" in choose_blocks(plan, 2, 7).what_escapes


# --- what is said where nothing is scored again -----------------------------------------------------------------------


@pytest.fixture
def certified(hiding, tmp_path):
    shutil.copytree(hiding.root, tmp_path / "results", ignore=shutil.ignore_patterns("texts", "certificates"))
    study = replace(hiding, root=tmp_path / "results")
    certify_bound("c", "tiny", study.inputs, SPEC, study.root / "certificates/c.json", model="m")
    return study


def test_a_cheap_model_is_scored_again_without_being_asked(run, certified):
    status, out, _ = run("verify", certified.root / "certificates/c.json")
    assert status == 0 and "scored again" in out and "in 20 draws" in " ".join(out.split()) and "!" not in out
    status, out, _ = run("verify", certified.root / "certificates/c.json", "--rescore", 0)
    assert status == 0 and "! not scored again" in " ".join(out.split())


def test_losses_of_zero_are_refused_without_being_asked(run, certified, tmp_path):
    """A certificate whose losses are all made up: every hash matches, and the numbers follow from the scores."""
    scores = falsify(certified, tmp_path, lambda losses, _: 0 * losses)
    certify_bound("c", "tiny", with_link(certified.inputs, scores=scores), SPEC, tmp_path / "c.json", model="m")
    assert json.loads((tmp_path / "c.json").read_text())["rows"][0]["empirical"] < 0.6
    status, _, err = run("verify", tmp_path / "c.json")
    assert status == 1 and "decoded message gives" in err
    status, out, _ = run("verify", tmp_path / "c.json", "--rescore", 0)
    assert status == 0 and "not scored again" in out


def test_a_dear_model_is_not_scored_again_and_its_time_is_said(run, certified, monkeypatch):
    monkeypatch.setattr(rescoring, "_CHAIN_TOKENS_A_SECOND", 20)
    status, out, _ = run("verify", certified.root / "certificates/c.json")
    text = " ".join(out.split())
    assert status == 0 and "! not scored again" in text and "--rescore 20 would, in about" in text and " min" in text
    checks = verify_certificate(certified.root / "certificates/c.json", rescore=2)
    assert checks[-2].name == "scored again" and all(check.made for check in checks)


def test_forecasts_count_what_has_to_be_read(hiding):
    corpus, rows = Corpus.open(hiding.inputs.corpus), read_plan(hiding.inputs.plan).table
    chain = decode_message(hiding.inputs.certified.message)
    assert forecast_seconds(chain, corpus, rows, None) == corpus.tokens / 1e6
    assert forecast_seconds(object(), corpus, rows.slice(0, 1), None) == corpus.tokens / 2e5

    class Network:
        def parameters(self):
            return [Values()]

    class Values:
        def numel(self):
            return 10**7

    one = pa.table({"length": [3], "context": [7]})
    assert forecast_seconds(Network(), corpus, one, None) == pytest.approx(2e7 * 10 / 1e10)
    assert forecast_seconds(Network(), corpus, one, 100) == pytest.approx(2e7 * 300 / 1e10)
    assert "about 2 s" in verify._say_unscored(2.2) and "about 17 min" in verify._say_unscored(1000.0)
