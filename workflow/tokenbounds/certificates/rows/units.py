"""Rows whose unit is a document or a sequence, for comparison with older bounds (docs/bounds.md, "Documents")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.documents import DocumentSums, bound_documents, bound_documents_betting
from tokenbounds.bounds.kinds import BPD, BoundKind, Metric
from tokenbounds.bounds.ledger import RowBudget
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.smoothing import loss_ceiling, loss_range, smooth
from tokenbounds.certificates.averages.passes import ScoreStream
from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]
Key = tuple[Metric, float]

_CHUNK = 1 << 15


@dataclass(frozen=True)
class Units:
    """How many documents and sequences (blocks of the plan) a fully scored corpus has.

    Attributes
    ----------
    documents, blocks
        Their numbers; identifiers count from 0.
    overlapping
        Whether a block's tokens are predicted from the block before, so that blocks cannot be independent.
    """

    documents: int
    blocks: int
    overlapping: bool


def bound_units(
    budgets: Sequence[RowBudget],
    scores: ScoreStream,
    units: Units | None,
    alphas: Sequence[float],
    vocabulary_size: int,
    lambdas: int,
) -> dict[tuple[Metric, BoundKind], Bound]:
    """The rows over documents and sequences, by metric and bound; `Bound.samples` is the number of units.

    See docs/bounds.md, "Documents".

    One pass; memory grows with the number of units, not of tokens.

    Parameters
    ----------
    budgets
        One per row: what it may spend.
    scores
        Losses and ranks of all tokens.
    units
        Numbers of units; None if only a sample was scored.
    alphas, vocabulary_size, lambdas
        Smoothing weights to choose from, V, and the size of the grid of lambdas.

    Raises
    ------
    CertificateError
        If a bound's assumption cannot hold: a sample, or overlapping windows.
    """
    if not budgets:
        return {}
    for budget in budgets:
        _check_units(budget.bound, units)
    assert units is not None
    metrics = dict.fromkeys(budget.metric for budget in budgets)
    keys: list[Key] = [(BPD, alpha) for alpha in alphas if BPD in metrics]
    keys += [(metric, 0.0) for metric in metrics if metric.is_error]
    counts = {"documents": units.documents, "sequences": units.blocks}
    used = {budget.bound.unit for budget in budgets}
    sums: dict[str, dict[Key, DocumentSums]] = {
        unit: {key: DocumentSums(count) for key in keys} for unit, count in counts.items() if unit in used
    }
    _read(scores, sums, vocabulary_size)
    return {
        (budget.metric, budget.bound): _bound(budget, sums[str(budget.bound.unit)], vocabulary_size, lambdas)
        for budget in budgets
    }


def _check_units(bound: BoundKind, units: Units | None) -> None:
    if units is None:
        raise CertificateError(
            f"bound '{bound}' needs every token scored, in score files with documents; only a sample, or bare losses, "
            "are there. Score everything (sample_tokens: null), or drop the bound."
        )
    if bound.unit == "sequences" and units.overlapping:
        raise CertificateError(
            f"bound '{bound}' takes blocks as independent, but the windows of this plan overlap. Use an evaluation "
            "whose stride is its context and that limits no visible_tokens, or drop the bound."
        )


def _read(scores: ScoreStream, sums: dict[str, dict[Key, DocumentSums]], vocabulary_size: int) -> None:
    """Add every token to its units."""
    for batch in scores.iter_batches(("block", "document", "nll_bits", "rank")):
        for start in range(0, batch.num_rows, _CHUNK):
            part = batch.slice(start, _CHUNK)
            nll_bits, rank = part["nll_bits"].to_numpy(), part["rank"].to_numpy()
            values: dict[Key, Floats] = {}
            for unit, totals in sums.items():
                identifiers = part["document" if unit == "documents" else "block"].to_numpy()
                for key, total in totals.items():
                    if key not in values:
                        values[key] = _loss(key, nll_bits, rank, vocabulary_size)
                    total.add(identifiers, values[key])


def _loss(key: Key, nll_bits: npt.NDArray[np.float32], rank: npt.NDArray[np.int32], vocabulary_size: int) -> Floats:
    metric, alpha = key
    if metric.k is None:
        return smooth(nll_bits, alpha, vocabulary_size)
    return (rank > metric.k).astype(np.float64)


def _bound(budget: RowBudget, sums: dict[Key, DocumentSums], vocabulary_size: int, lambdas: int) -> Bound:
    """The best smoothing weight's bound; the budget pays for the choice."""
    found = []
    for (metric, alpha), total in sums.items():
        if metric != budget.metric:
            continue
        smoothed = not metric.is_error
        width = loss_range(alpha, vocabulary_size) if smoothed else 1.0
        if budget.bound.uses_lambda:
            ceiling = loss_ceiling(alpha, vocabulary_size) if smoothed else 1.0
            bound = bound_documents_betting(total.means(), ceiling, budget.complexity_nats, lambdas=lambdas)
        else:
            bound = bound_documents(total.means(), width, budget.complexity_nats)
        found.append(replace(bound, alpha=alpha if smoothed else None))
    return min(found, key=lambda each: each.value)
