"""Passes over the score files: the averages that rows over tokens are made of.

When everything was scored, an average is a number, and one pass gives all of them in constant memory. When blocks were
sampled, it also keeps one value per draw, from which `sampling` bounds the average over the whole corpus; the passes of
`sampled` compute these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.bounds.sampling import BlockSums, draw_order, lower_mean, pilot_draws, upper_mean
from tokenbounds.bounds.smoothing import TokenAlphas, Weighting
from tokenbounds.certificates.averages.entropy_moments import EntropyMoments
from tokenbounds.certificates.averages.moments import AlphaMoments, LossMoments
from tokenbounds.errors import CertificateError
from tokenbounds.scores.plan_file import Plan
from tokenbounds.threads import allowed_threads

Floats = npt.NDArray[np.float64]
Moments = TypeVar("Moments", bound="_Moments")

_MOST_THREADS = 2


class ScoreStream(Protocol):
    """Scores that can be read more than once, e.g. `tokenbounds.scores.store.Scores`."""

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield batches with the named columns among `block`, `nll_bits`, `rank` and `alpha`, in a fixed order."""


@runtime_checkable
class PiecedScores(Protocol):
    """Scores that several threads can read at one time, e.g. `tokenbounds.scores.store.Scores`."""

    def iter_pieces(self, columns: Sequence[str]) -> Iterator[Iterator[pa.RecordBatch]]:
        """Yield streams of batches that together are the scores; each may be read by another thread."""


@dataclass(frozen=True)
class Average:
    """An average over the scored tokens.

    Attributes
    ----------
    mean
        Over all tokens, or over the draws of block averages.
    draws
        The block averages, one per draw, in an order independent of them; None if every token was scored.
    """

    mean: float
    draws: Floats | None = None

    def upper(self, low: float, high: float, delta: float) -> float:
        """Bound the corpus average from above; values lie in [low, high]; `delta` is used only for a sample."""
        return self.mean if self.draws is None else upper_mean(self.draws, low, high, delta)

    def lower(self, low: float, high: float, delta: float) -> float:
        """Bound the corpus average from below; values lie in [low, high]; `delta` is used only for a sample."""
        return self.mean if self.draws is None else lower_mean(self.draws, low, high, delta)

    def combined(self, factor: float, other: Average, other_factor: float) -> Average:
        """The average of a weighted sum of two quantities of a sample."""
        assert self.draws is not None and other.draws is not None, "a sample has draws"
        mean = factor * self.mean + other_factor * other.mean
        return Average(mean, factor * self.draws + other_factor * other.draws)


@dataclass(frozen=True)
class Sample:
    """The distinct blocks of a sample, in ascending order (docs/bounds.md, "Sampling").

    Attributes
    ----------
    blocks, draws, lengths
        Number of each block, how often it was drawn, and its tokens [blocks].
    order
        For each draw the index of its block [draws], in an order independent of the losses.
    partial
        Whether the scores hold more blocks than these.
    """

    blocks: npt.NDArray[np.int64]
    draws: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    partial: bool = False

    @classmethod
    def of(cls, plan: Plan) -> Sample | None:
        """The sample of a plan, or None if it scores everything."""
        if plan.mode == "exhaustive":
            return None
        blocks, draws, lengths = plan.columns("block", "draws", "length")
        return cls(blocks, draws, lengths, draw_order(draws, plan.seed))

    def weights(self, blocks: npt.NDArray[np.int64]) -> Floats:
        """Weight of each row [n], by its block: draws / length."""
        place = np.searchsorted(self.blocks, blocks)  # [n]
        weights: Floats = self.draws[place] / self.lengths[place]
        return weights

    def average(self, means: Floats) -> Average:
        """The average of block averages [blocks], for a quantity that was named beforehand."""
        return Average(float(means[self.order].mean()), means[self.order])

    def average_chosen(self, means: Floats) -> Average:
        """The same for a quantity that the pilot chose: the draws that bound it are those after the pilot."""
        return Average(float(means[self.order].mean()), means[self.order[self.pilot_draws :]])

    @property
    def pilot_draws(self) -> int:
        """How many of the first draws are the pilot."""
        return pilot_draws(len(self.order))

    @property
    def pilot(self) -> Sample:
        """The first draws alone, which choose what the others bound (docs/bounds.md, "Choosing on a pilot")."""
        used, order, draws = np.unique(self.order[: self.pilot_draws], return_inverse=True, return_counts=True)
        return Sample(self.blocks[used], draws, self.lengths[used], order, partial=True)

    def chosen(self, blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which rows [n] are of a block of the sample, by their block; all of them unless the sample is partial."""
        place = np.minimum(np.searchsorted(self.blocks, blocks), len(self.blocks) - 1)
        found: npt.NDArray[np.bool_] = (self.blocks[place] == blocks) | (not self.partial)
        return found


class _Moments(Protocol):
    """Sums over tokens; those of parts of a stream are merged."""

    def update(self, *columns: Any) -> None:
        """Add tokens: a column each [n]."""

    def merge(self, other: Any) -> None:
        """Add another part of the same stream."""


class _HeadedEntropyMoments:
    """Moments by entropy, and by the tokens' own smoothing weights, of one stream."""

    def __init__(self, vocabulary_size: int, top_k: tuple[int, ...], alphas: TokenAlphas) -> None:
        self.moments = EntropyMoments(vocabulary_size, top_k)
        self.by_alpha = AlphaMoments(vocabulary_size, (), alphas)

    def update(
        self, nll_bits: npt.ArrayLike, entropy_bits: npt.ArrayLike, alpha: npt.ArrayLike, rank: npt.ArrayLike = ()
    ) -> None:
        """Add tokens [n]: raw loss and entropy in bits, smoothing weight, rank if there are top_k."""
        self.moments.update(nll_bits, entropy_bits, rank)
        self.by_alpha.update(nll_bits, alpha)

    def merge(self, other: _HeadedEntropyMoments) -> None:
        """Add another part of the same stream."""
        self.moments.merge(other.moments)
        self.by_alpha.merge(other.by_alpha)


@dataclass(frozen=True)
class FirstPass:
    """What the first pass finds.

    Attributes
    ----------
    moments
        Of the raw losses, if every token was scored; by entropy if centres are wanted.
    errors
        Share of errors for each k.
    by_alpha
        The moments by the tokens' own smoothing weights, if they have any and every token was scored.
    """

    moments: LossMoments | EntropyMoments | None
    errors: dict[int, Average]
    by_alpha: AlphaMoments | None = None


@dataclass(frozen=True)
class CellAverages:
    """All averages of one smoothing weight, or of errors, and one centre.

    Attributes
    ----------
    weighting
        The weight, or those that tokens may have; None for errors, which are not smoothed.
    loss
        Of the smoothed loss, bits, or of the errors.
    lambdas
        The grid, 1 / unit of the loss.
    logs
        Of ln(1 - lambda × (loss - centre)), nats, for each lambda.
    square_range
        Of the squared width of each token's interval of losses, bits², where tokens differ in their weight.
    kappa, centre
        The centre's factor of the entropy, and the centre's average, unit of the loss; 0 where there is none.
    error_k
        Guesses beyond which a token is an error; None for losses in bits.
    """

    weighting: Weighting | None
    loss: Average
    lambdas: Floats
    logs: tuple[Average, ...]
    square_range: Average | None = None
    kappa: float = 0.0
    centre: Average = Average(0.0)
    error_k: int | None = None


def run_first_pass(
    scores: ScoreStream,
    sample: Sample | None,
    vocabulary_size: int,
    top_k: Sequence[int],
    token_alphas: TokenAlphas | None = None,
    entropies: bool = False,
) -> FirstPass:
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
    token_alphas
        The weights that the scores' column `alpha` may hold; None if it is not to be read.
    entropies
        Whether the scores' column `entropy_bits` is to be read, for centres.
    """
    if sample is None:
        moments, by_alpha = _sum_scores(scores, vocabulary_size, tuple(top_k), token_alphas, entropies)
        return FirstPass(moments, {k: Average(moments.error_rate(k)) for k in top_k}, by_alpha)
    # A sample keeps one average per block, [blocks] for each k, whatever the number of tokens.
    sums = {k: BlockSums(sample.blocks) for k in top_k}
    for block, rank in stream_columns(scores, ("block", "rank")):
        for k, errors in sums.items():
            errors.add(block, rank > k)
    return FirstPass(None, {k: sample.average(errors.means()) for k, errors in sums.items()})


def _sum_scores(
    scores: ScoreStream, size: int, ks: tuple[int, ...], own: TokenAlphas | None, entropies: bool
) -> tuple[LossMoments | EntropyMoments, AlphaMoments | None]:
    """The moments of all tokens, and by their own smoothing weights if they have any."""
    if own is None and entropies:
        return _sum_moments(scores, ("nll_bits", "entropy_bits"), ks, lambda: EntropyMoments(size, ks)), None
    if own is None:
        return _sum_moments(scores, ("nll_bits",), ks, lambda: LossMoments(size, ks)), None
    alphas = own
    if entropies:
        columns = ("nll_bits", "entropy_bits", "alpha")
        both = _sum_moments(scores, columns, ks, lambda: _HeadedEntropyMoments(size, ks, alphas))
        return both.moments, both.by_alpha
    by_alpha = _sum_moments(scores, ("nll_bits", "alpha"), ks, lambda: AlphaMoments(size, ks, alphas))
    return by_alpha.whole(), by_alpha


def _sum_moments(
    scores: ScoreStream, columns: tuple[str, ...], top_k: tuple[int, ...], make: Callable[[], Moments]
) -> Moments:
    """Sum in two threads, or in one if no more are allowed, each into moments of its own.

    Scores that come in pieces are read and checked by all threads at once, others by one thread while the rest compute.
    Which thread gets which rows does not matter, because the sums are exact.
    """
    pieces = _pieces(scores, (*columns, "rank") if top_k else columns)
    turn, failed = threading.Lock(), threading.Event()

    def work() -> Moments:
        moments = make()
        try:
            while not failed.is_set():
                with turn:  # a generator cannot be entered twice; what it yields is read outside the lock
                    piece = next(pieces, None)
                if piece is None:
                    break
                for batch in piece:  # each a tuple of columns [n]
                    moments.update(*batch)
        except BaseException:
            failed.set()
            raise
        return moments

    threads = min(allowed_threads(), _MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        parts: list[Any] = [future.result() for future in [pool.submit(work) for _ in range(threads)]]
    whole: Moments = parts[0]
    for other in parts[1:]:
        whole.merge(other)
    return whole


def _pieces(scores: ScoreStream, columns: tuple[str, ...]) -> Iterator[Iterable[tuple[npt.NDArray[Any], ...]]]:
    """Yield parts of the stream that threads may read at once: the scores' own pieces, or batch by batch."""
    if isinstance(scores, PiecedScores):
        for piece in scores.iter_pieces(columns):
            yield _arrays(piece, columns)
    else:
        for batch in stream_columns(scores, columns):
            yield [batch]


def average_cells(
    first_pass: FirstPass, grids: Mapping[Weighting, Floats], kappas: Sequence[float] = (0.0,)
) -> Iterator[CellAverages]:
    """Average every cell: every smoothing weight with every centre and every one of its lambdas, if all was scored.

    All are computed, so that the best one is found, and what holds for each cell (a bound grows with the message and
    with 1 / delta) holds for the best of them.

    Parameters
    ----------
    first_pass
        What it found.
    grids
        The lambdas of each smoothing weight, 1 / bit.
    kappas
        Factors of the entropy in the centre; others than 0 need moments by entropy. Weights by token have no centre.
    """
    moments = first_pass.moments
    assert moments is not None
    for weighting, lambdas in grids.items():
        yield from _average_all(moments, first_pass.by_alpha, weighting, lambdas, kappas)


def _average_all(
    moments: LossMoments | EntropyMoments,
    by_alpha: AlphaMoments | None,
    weighting: Weighting,
    lambdas: Floats,
    kappas: Sequence[float],
) -> Iterator[CellAverages]:
    """A number for every cell of a smoothing weight, when every token was scored."""
    if isinstance(weighting, TokenAlphas):
        assert by_alpha is not None
        loss, logs = by_alpha.exact_mean_loss(), by_alpha.exact_mean_logs(lambdas)
        square = Average(by_alpha.mean_square_range())
        yield CellAverages(weighting, Average(loss), lambdas, tuple(Average(float(log)) for log in logs), square)
        return
    mean = Average(moments.exact_mean_loss(weighting))
    for kappa in kappas:
        centre = Average(0.0)
        if isinstance(moments, EntropyMoments):
            logs, centre = moments.exact_mean_logs(weighting, lambdas, kappa), Average(kappa * moments.mean_entropy())
        elif kappa == 0.0:
            logs = moments.exact_mean_logs(weighting, lambdas)
        else:
            raise CertificateError("centres need the entropies of predictions, which these scores do not have.")
        averages = tuple(Average(float(log)) for log in logs)
        yield CellAverages(weighting, mean, lambdas, averages, kappa=kappa, centre=centre)


def stream_columns(scores: ScoreStream, columns: tuple[str, ...]) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    """Yield the named columns of all scores [n each], batch by batch, without empty ones."""
    return _arrays(scores.iter_batches(columns), columns)


def _arrays(batches: Iterator[pa.RecordBatch], columns: tuple[str, ...]) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    for batch in batches:
        if batch.num_rows:
            yield tuple(batch[name].to_numpy() for name in columns)
