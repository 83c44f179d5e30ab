"""The bound at every smoothing weight of a certificate's grid: the certificate itself states only the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.bounds.azuma import bound_azuma
from tokenbounds.bounds.betting import bound_betting
from tokenbounds.bounds.centred import bound_centred
from tokenbounds.bounds.freedman import bound_freedman
from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.smoothing import loss_ceiling, loss_range, smooth
from tokenbounds.certificates.averages.histogram import LossHistogram
from tokenbounds.certificates.schema import Certificate, Row
from tokenbounds.errors import TokenboundsError
from tokenbounds.report.records import short_labels
from tokenbounds.report.token_alphas import BY_ENTROPY, Groups, read_groups

Floats = npt.NDArray[np.float64]

_BOUNDS = {BoundKind.BETTING: bound_betting, BoundKind.FREEDMAN: bound_freedman}
_SCHEMA: dict[str, pl.DataType] = {
    **{name: pl.String() for name in ("corpus", "certificate", "label", "bound")},
    **{name: pl.Float64() for name in ("alpha", "value", "empirical", "random_guess")},
    "certified": pl.Boolean(),
}


def alpha_table(certificates: Sequence[Certificate]) -> pl.DataFrame:
    """Bits per token against the smoothing weight: one row per certificate, bound and weight of the grid.

    One streaming pass over each certificate's scores. Losses are rounded up to 2^-12 bit, so values may exceed the
    certificate's by that much. Where entropies are known, bets have the best centre of the grid at each weight, and the
    losses of each entropy are averaged in bins of 1/32 bit, which changes a value by less than 0.001 bits. `certified`
    marks the weight that the certificate chose. If only a sample was scored, the price of sampling at that weight is
    added everywhere. There is no curve where only some blocks of each document were scored.

    Raises
    ------
    TokenboundsError
        If a score file or plan that a certificate names cannot be read.
    """
    labels = short_labels(certificates)
    rows = []
    for certificate in certificates:
        # Bounds over tokens of one model with one smoothing weight have a curve.
        chosen = [(row, row.alpha) for row in certificate.rows if row.alpha is not None and row.bound.is_single]
        if not chosen or certificate.plan.mode == "partial":  # how much a block counts is not in the plan then
            continue
        groups = read_groups(certificate, BY_ENTROPY) if any(certificate.settings.kappas) else None
        source = groups or loss_histogram(certificate)
        for row, chosen_alpha in chosen:
            for alpha in sorted({*certificate.settings.alphas, chosen_alpha}):
                losses, weights = _losses(source, alpha, certificate)
                if groups is not None and row.bound is BoundKind.BETTING:
                    bound = _bound_centred(certificate, row, losses, weights, groups, alpha)
                else:
                    bound = _bound(certificate, row, losses, weights, alpha)
                rows.append(
                    {
                        "corpus": certificate.corpus,
                        "certificate": certificate.name,
                        "label": labels[certificate.name],
                        "bound": row.bound.value,
                        "alpha": alpha,
                        "value": bound.value + row.sampling,
                        "empirical": bound.empirical,
                        "random_guess": row.random_guess,
                        "certified": alpha == chosen_alpha,
                    }
                )
    return pl.DataFrame(rows, schema=_SCHEMA)


def loss_histogram(certificate: Certificate) -> LossHistogram:
    """Histogram of the raw losses a certificate rests on; a sampled block weighs its draws, split over its tokens.

    Raises
    ------
    TokenboundsError
        If a score file or plan cannot be read.
    """
    histogram = LossHistogram(certificate.vocabulary_size)
    sampled = certificate.plan.mode == "sampled"
    weights = _block_weights(certificate.locate(certificate.plan)) if sampled else None
    for path in map(certificate.locate, certificate.scores):
        try:
            for batch in pq.ParquetFile(path).iter_batches(columns=["nll_bits", "block"]):
                blocks = batch["block"].to_numpy()
                histogram.update(batch["nll_bits"].to_numpy(), weights=None if weights is None else weights[blocks])
        except (OSError, pa.ArrowException, KeyError, IndexError) as error:
            raise TokenboundsError(f"{path} cannot be read ({error}). Run scoring again.") from error
    return histogram


def _block_weights(plan: Path) -> np.ndarray:
    """Weight of each token of a block: the block's draws divided by its length, at the block's index."""
    try:
        table = pq.read_table(plan, columns=["block", "draws", "length"])
    except (OSError, pa.ArrowException) as error:
        raise TokenboundsError(f"{plan} cannot be read ({error}). Plan the scoring again.") from error
    block = table["block"].to_numpy()
    weights = np.zeros(int(block.max()) + 1)
    weights[block] = table["draws"].to_numpy() / table["length"].to_numpy()
    return weights


def _losses(source: Groups | LossHistogram, alpha: float, certificate: Certificate) -> tuple[Floats, Floats]:
    """Smoothed losses, bits, and weights of the tokens in each bin: [bins], or by entropy [groups x bins]."""
    if isinstance(source, LossHistogram):
        return source.losses(alpha)
    return smooth(source.means, alpha, certificate.vocabulary_size).ravel(), source.masses.ravel()


def _bound_centred(
    certificate: Certificate, row: Row, losses: Floats, weights: Floats, groups: Groups, alpha: float
) -> Bound:
    """The bet's bound at `alpha` with the best centre of the grid, with the complexity that the row paid."""
    used = weights > 0
    entropies = np.repeat(groups.keys, groups.masses.shape[1])[used]
    settings = certificate.settings
    kappas = sorted(set(settings.kappas))
    return bound_centred(
        losses[used],
        entropies,
        loss_ceiling(alpha, certificate.vocabulary_size),
        row.complexity - math.log(settings.lambdas * len(kappas)),
        kappas=kappas,
        lambdas=settings.lambdas,
        weights=weights[used] * (certificate.tokens / weights.sum()),
    )


def _bound(certificate: Certificate, row: Row, losses: Floats, weights: Floats, alpha: float) -> Bound:
    """The row's bound at `alpha` without a centre, with the complexity that the row paid."""
    if row.bound is BoundKind.AZUMA:
        mean = float(np.sum(losses * weights) / np.sum(weights))
        return bound_azuma(mean, loss_range(alpha, certificate.vocabulary_size), row.complexity, certificate.tokens)
    lambdas = certificate.settings.lambdas
    unpriced = row.complexity - math.log(lambdas)
    ceiling = loss_ceiling(alpha, certificate.vocabulary_size)
    compute = _BOUNDS[row.bound]
    return compute(losses, ceiling, unpriced, lambdas=lambdas, weights=weights, samples=certificate.tokens)
