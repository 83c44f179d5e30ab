"""Error bars of stored losses, with no message: `tokenbounds bound --held-out`."""

import math

import numpy as np
import polars as pl
import pytest
from tokenbounds.bounds.ratio import upper_ratio
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.certificates.external import ArrayScores, ExternalScores
from tokenbounds.certificates.intervals import Question, intervals
from tokenbounds.cli import app
from tokenbounds.errors import CertificateError, ScoreError
from typer.testing import CliRunner

V = 50


@pytest.fixture
def scores(tmp_path):
    """40 documents of 5 to 60 tokens in two files, in no order."""
    rng = np.random.default_rng(1)
    document = rng.permutation(np.repeat(np.arange(40), rng.integers(5, 61, 40)))
    table = pl.DataFrame(
        {"doc": document, "loss": rng.exponential(2.0, len(document)), "rank": rng.integers(1, 4, len(document))}
    )
    paths = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    table[:400].write_parquet(paths[0])
    table[400:].write_parquet(paths[1])
    return ExternalScores(paths, "loss", "rank"), table


def by_metric(found):
    return {each.metric: each for each in found}


def test_intervals_over_tokens_agree_in_files_and_arrays_and_enclose_the_estimates(scores):
    files, table = scores
    losses, rank = table["loss"].to_numpy(), table["rank"].to_numpy()
    found = by_metric(intervals(files, Question(V, text_bytes=3 * len(losses))))
    again = by_metric(intervals(ArrayScores(losses, rank), Question(V, text_bytes=3 * len(losses))))
    for metric, each in found.items():
        assert [again[metric].low, again[metric].high] == pytest.approx([each.low, each.high], rel=1e-12)
    smoothed = float(smooth(losses, 0.001, V).mean())
    assert found["bits per token"].estimate == pytest.approx(smoothed)
    assert found["perplexity"].high == pytest.approx(2 ** found["bits per token"].high)
    assert found["bits per byte"].low == pytest.approx(found["bits per token"].low / 3)
    assert found["accuracy"].estimate == pytest.approx(np.mean(rank == 1))
    assert all(each.low < each.estimate < each.high for each in found.values())


def test_both_sides_of_both_quantities_are_paid_for():
    # No error in m tokens: kl-like, (1 - lambda p)^m = delta / 4 / 64 lambdas; the best lambda is the grid's largest.
    found = by_metric(intervals(ArrayScores(np.zeros(1000), np.ones(1000, dtype=np.int64)), Question(V, delta=0.1)))
    largest = 1 / (1 + math.exp(-(math.log(0.995 / 0.005) - (math.log(0.995 / 0.005) - math.log(1e-4 / 0.9999)) / 128)))
    assert found["accuracy"].low == pytest.approx(1 + math.expm1(-math.log(64 * 4 / 0.1) / 1000) / largest)
    assert found["accuracy"].high == 1.0


def test_intervals_over_documents_are_those_of_their_sums(scores):
    files, table = scores
    found = by_metric(intervals(files, Question(V, document_column="doc", longest_document=64)))
    sums = table.group_by("doc").agg(pl.col("rank").gt(1).sum().alias("errors"), pl.len().alias("tokens"))
    upper = upper_ratio(sums["errors"].to_numpy(), sums["tokens"].to_numpy(), 0.0, 1.0, 64, 0.05 / 4)
    assert found["accuracy"].low == pytest.approx(1 - upper)
    tokens = by_metric(intervals(files, Question(V)))
    assert found["bits per token"].estimate == pytest.approx(tokens["bits per token"].estimate)
    assert found["bits per token"].high > tokens["bits per token"].high


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        (Question(V, document_column="doc"), CertificateError, "--longest-document"),
        (Question(V, document_column="doc", longest_document=9), CertificateError, "9 was stated as the most"),
        (Question(V, document_column="dox", longest_document=64), ScoreError, "no column 'dox'"),
        (Question(V, document_column="doc", longest_document=64, text_bytes=5), CertificateError, "this text"),
    ],
)
def test_what_does_not_fit_together_is_refused(scores, question, error, words):
    with pytest.raises(error, match=words):
        intervals(scores[0], question)


@pytest.mark.parametrize("document", [None, "doc"])
def test_a_loss_that_is_none_is_named(tmp_path, document):
    pl.DataFrame({"doc": [0, 1], "loss": [1.0, math.nan]}).write_parquet(tmp_path / "x.parquet")
    files = ExternalScores((tmp_path / "x.parquet",), "loss")
    with pytest.raises(ScoreError, match="not a number"):
        intervals(files, Question(V, document_column=document, longest_document=64 if document else None))


def test_the_command_prints_intervals_and_what_they_speak_of(scores):
    paths = [str(path) for path in scores[0].files]
    command = ["bound", *paths, "--held-out", "-V", str(V), "--nll-column", "loss", "--rank-column", "rank"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "perplexity" in done.output and "these contexts" in done.output
    done = CliRunner().invoke(app, [*command, "--document", "doc", "--longest-document", "64"])
    assert "new documents" in done.output
    with pytest.raises(CertificateError, match="--bits"):
        CliRunner().invoke(app, [*command, "--bits", "9"], catch_exceptions=False)
