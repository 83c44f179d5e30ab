"""Passes over the score files: one to choose smoothing weights and lambdas by, and for the averages of the chosen.

All stream in constant memory. When everything was scored an average is a number, and one pass gives all of them; when
blocks were sampled it also keeps one value a draw, from which `sampling` bounds the average over the whole corpus, and
a second pass computes them for the chosen cells.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.bounds.histogram import LossHistogram
from tokenbounds.bounds.moments import LossMoments
from tokenbounds.bounds.sampling import BlockSums, draw_order, lower_mean, upper_mean
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.scores.plan import Plan, column

Floats = npt.NDArray[np.float64]
Cell = tuple[float, float | None]

_THREADS = 2


class ScoreStream(Protocol):
    """Scores that can be read more than once, e.g. `tokenbounds.scores.store.Scores`."""

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield batches with the named columns among `block`, `nll_bits` and `rank`, in a fixed order."""


@dataclass(frozen=True)
class Average:
    """An average over the scored tokens.

    Attributes
    ----------
    mean
        Over all tokens, or over the draws of block averages.
    draws
        The block averages, one a draw, in an order independent of them; None if every token was scored.
    """

    mean: float
    draws: Floats | None = None

    def upper(self, low: float, high: float, delta: float) -> float:
        """Bound the corpus average from above; values lie in [low, high]; `delta` is used only for a sample."""
        return self.mean if self.draws is None else upper_mean(self.draws, low, high, delta)

    def lower(self, low: float, high: float, delta: float) -> float:
        """Bound the corpus average from below; values lie in [low, high]; `delta` is used only for a sample."""
        return self.mean if self.draws is None else lower_mean(self.draws, low, high, delta)


@dataclass(frozen=True)
class Sample:
    """The sampled blocks of a plan, each with how often it was drawn."""

    blocks: npt.NDArray[np.int64]
    draws: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]

    @classmethod
    def of(cls, plan: Plan) -> Sample | None:
        """The sample of a plan, or None if it scores everything."""
        if plan.mode == "exhaustive":
            return None
        draws = column(plan.table, "draws")
        return cls(column(plan.table, "block"), draws, column(plan.table, "length"), draw_order(draws, plan.seed))

    def weights(self, blocks: npt.NDArray[np.int64]) -> Floats:
        """Weight of each row [n], by its block: draws / length."""
        place = np.searchsorted(self.blocks, blocks)
        weights: Floats = self.draws[place] / self.lengths[place]
        return weights

    def average(self, sums: BlockSums) -> Average:
        """The average of finished block sums."""
        drawn = sums.means()[self.order]
        return Average(float(drawn.mean()), drawn)


@dataclass(frozen=True)
class Survey:
    """What the first pass finds.

    Attributes
    ----------
    histogram
        Raw losses; weighted by draws if blocks were sampled.
    moments
        The same with moments, if every token was scored.
    errors
        Share of errors for each k.
    """

    histogram: LossHistogram
    moments: LossMoments | None
    errors: dict[int, Average]


def survey_scores(scores: ScoreStream, sample: Sample | None, vocabulary_size: int, top_k: Sequence[int]) -> Survey:
    """Read all scores once.

    Parameters
    ----------
    scores
        The score files, checked against their plan while they are read.
    sample
        The sampled blocks; None if every token was scored.
    vocabulary_size
        V.
    top_k
        The k whose errors (rank > k) are wanted.
    """
    if sample is None:
        moments = _sum_moments(scores, vocabulary_size, tuple(top_k))
        return Survey(moments, moments, {k: Average(moments.error_rate(k)) for k in top_k})
    histogram = LossHistogram(vocabulary_size, top_k)
    sums = {k: BlockSums(sample.blocks) for k in top_k}
    for block, nll_bits, rank in _stream(scores, ("block", "nll_bits", "rank")):
        histogram.update(nll_bits, rank if top_k else None, sample.weights(block))
        for k, errors in sums.items():
            errors.add(block, rank > k)
    return Survey(histogram, None, {k: sample.average(errors) for k, errors in sums.items()})


def _sum_moments(scores: ScoreStream, vocabulary_size: int, top_k: tuple[int, ...]) -> LossMoments:
    """Sum in a few threads, each into moments of its own: one reads and checks while others compute.

    Which thread gets which batch leaves no trace, as the sums are exact.
    """
    stream = _stream(scores, ("nll_bits", "rank") if top_k else ("nll_bits",))
    turn, failed = threading.Lock(), threading.Event()

    def work() -> LossMoments:
        moments = LossMoments(vocabulary_size, top_k)
        try:
            while not failed.is_set():
                with turn:
                    batch = next(stream, None)
                if batch is None:
                    break
                moments.update(batch[0], batch[1] if top_k else None)
        except BaseException:
            failed.set()
            raise
        return moments

    with ThreadPoolExecutor(_THREADS) as pool:
        whole, *others = [future.result() for future in [pool.submit(work) for _ in range(_THREADS)]]
    for other in others:
        whole.merge(other)
    return whole


def average_cells(
    scores: ScoreStream, sample: Sample | None, survey: Survey, cells: Iterable[Cell]
) -> dict[Cell, Average]:
    """Averages for chosen cells: from the first pass if every token was scored, else from a second one.

    A cell (alpha, None) is the smoothed loss in bits; (alpha, lambda) is ln(1 - lambda × smoothed loss) in nats.
    """
    wanted = dict.fromkeys(cells)
    if not wanted:
        return {}
    if sample is not None:
        return _average_drawn_cells(scores, sample, survey.histogram.vocabulary_size, list(wanted))
    moments = survey.moments
    assert moments is not None
    return {
        (alpha, lambda_): Average(
            moments.exact_mean_loss(alpha) if lambda_ is None else moments.exact_mean_log(alpha, lambda_)
        )
        for alpha, lambda_ in wanted
    }


def _average_drawn_cells(
    scores: ScoreStream, sample: Sample, vocabulary_size: int, cells: Sequence[Cell]
) -> dict[Cell, Average]:
    sums = {cell: BlockSums(sample.blocks) for cell in cells}
    for block, nll_bits in _stream(scores, ("block", "nll_bits")):
        smoothed = {alpha: smooth(nll_bits, alpha, vocabulary_size) for alpha, _ in cells}
        for (alpha, lambda_), total in sums.items():
            losses = smoothed[alpha]
            total.add(block, losses if lambda_ is None else np.log1p(-lambda_ * losses))
    return {cell: sample.average(total) for cell, total in sums.items()}


def _stream(scores: ScoreStream, columns: tuple[str, ...]) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    for batch in scores.iter_batches(columns):
        if batch.num_rows:
            yield tuple(batch[name].to_numpy() for name in columns)
