"""The ledger of a certificate: how delta is split, and what each row pays (docs/bounds.md, "The ledger").

Probabilities are fractions, so that the shares add up to delta exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tokenbounds.bounds.kinds import BoundKind, Metric
from tokenbounds.errors import CertificateError


@dataclass(frozen=True)
class RowBudget:
    """What one row (a metric under a bound) may spend.

    Attributes
    ----------
    metric, bound
        The row.
    delta
        Failure probability of the row: `delta_generalization + delta_sampling`.
    message_bits
        C, bits of the message.
    alpha_grid_bits
        log2 of the number of smoothing weights it may choose from, bits; 0 for errors, which smoothing leaves alone.
    centre_grid_bits
        log2 of the number of centres it may choose from, bits.
    sampling_cells
        Number of averages that the sampling statement must cover at once: one or two, times `certificates`.
    certificates
        How many certificates may share the sample; 1 if every token was scored.
    """

    metric: Metric
    bound: BoundKind
    delta: Fraction
    delta_generalization: Fraction
    delta_sampling: Fraction
    message_bits: int
    alpha_grid_bits: float
    centre_grid_bits: float
    sampling_cells: int
    certificates: int = 1

    @property
    def complexity_nats(self) -> float:
        """L without the price of lambdas: (message + both grids) ln 2 + ln(1 / delta_generalization), nats."""
        bits = self.message_bits + self.alpha_grid_bits + self.centre_grid_bits
        return bits * math.log(2.0) - log_fraction(self.delta_generalization)

    @property
    def delta_per_cell(self) -> float:
        """Failure probability of one sampling statement; 0 if everything was scored."""
        return float(self.delta_sampling / self.sampling_cells)


@dataclass(frozen=True)
class Budget:
    """The split of a certificate's delta over its rows, which hold jointly with probability 1 - delta.

    See docs/bounds.md, "The ledger".
    """

    delta: Fraction
    rows: tuple[RowBudget, ...]

    def row(self, metric: Metric, bound: BoundKind) -> RowBudget:
        """Budget of one row.

        Raises
        ------
        CertificateError
            If there is no such row.
        """
        for budget in self.rows:
            if (budget.metric, budget.bound) == (metric, bound):
                return budget
        raise CertificateError(f"the ledger has no row for metric '{metric}' under bound '{bound}'.")

    def shared_by(self, certificates: int) -> Budget:
        """The same split where each sampling statement also covers those of other certificates over its sample.

        See docs/bounds.md, "Several certificates". Rows that pay for no sample stay as they are.

        Parameters
        ----------
        certificates
            How many certificates may share the sample.

        Raises
        ------
        CertificateError
            If there is none.
        """
        if certificates < 1:
            raise CertificateError("at least one certificate uses a sample.")
        shared = (
            replace(row, sampling_cells=row.sampling_cells * certificates, certificates=row.certificates * certificates)
            if row.delta_sampling
            else row
            for row in self.rows
        )
        return Budget(self.delta, tuple(shared))

    def check(self) -> None:
        """Check that the shares add up exactly.

        Raises
        ------
        CertificateError
            Naming the row, or the total, that does not add up.
        """
        for budget in self.rows:
            if budget.delta_generalization + budget.delta_sampling != budget.delta:
                raise CertificateError(f"the delta of row {budget.metric}/{budget.bound} does not add up.")
        total = sum((budget.delta for budget in self.rows), Fraction(0))
        if total != self.delta:
            raise CertificateError(f"the rows' deltas add up to {total}, not to {self.delta}.")


def split_delta(
    delta: float | str | Fraction,
    rows: Sequence[tuple[Metric, BoundKind]],
    *,
    message_bits: int,
    alphas: int,
    lambdas: int,
    sampling_share: float | str | Fraction | None = None,
    by_token: bool = False,
    centres: int = 1,
) -> Budget:
    """Split delta evenly over rows, each between generalization and sampling, and price the grids.

    See docs/bounds.md, "The ledger".

    Parameters
    ----------
    delta
        Failure probability of the whole certificate.
    rows
        What each row bounds, and by which theorem.
    message_bits
        8 x the size of the message's file; 0 for a model that never saw the corpus.
    alphas, lambdas
        Sizes of the grids.
    sampling_share
        Share of each row's delta that pays for sampling; None if every token was scored.
    by_token
        Whether rows over tokens may also choose the weights that the message's smoothing head names, token by token.
    centres
        How many centres bets may choose from.

    Raises
    ------
    CertificateError
        If a share or a size is out of its domain, or a row appears twice.
    """
    total, share = _delta_and_share(delta, sampling_share)
    _check_sizes(rows, message_bits, alphas, lambdas)
    each = total / len(rows)
    budgets = []
    for metric, bound in rows:
        own = by_token and bound.is_single
        ways = 1 if metric.is_error else alphas + own
        # All centres of errors share one wealth if every token was scored; on a sample one is chosen.
        chosen = bound.uses_centre and (not metric.is_error or (share > 0 and bound is BoundKind.BETTING))
        budgets.append(
            RowBudget(
                metric=metric,
                bound=bound,
                delta=each,
                delta_generalization=each * (1 - share),
                delta_sampling=each * share,
                message_bits=message_bits,
                alpha_grid_bits=math.log2(ways),
                centre_grid_bits=math.log2(centres) if chosen else 0.0,
                # A sample's pilot chooses the candidate. Azuma's bound also averages squares of ranges that differ by
                # token.
                sampling_cells=2 if own and not (metric.is_error or bound.uses_lambda) else 1,
            )
        )
    return Budget(total, tuple(budgets))


def _delta_and_share(
    delta: float | str | Fraction, sampling_share: float | str | Fraction | None
) -> tuple[Fraction, Fraction]:
    """Both as exact fractions, checked; a share of None is zero."""
    total = _fraction(delta)
    share = Fraction(0) if sampling_share is None else _fraction(sampling_share)
    if not 0 < total < 1 or not 0 <= share < 1 or (sampling_share is not None and share == 0):
        raise CertificateError(f"delta {delta} and sampling share {sampling_share} must lie strictly between 0 and 1.")
    return total, share


def _check_sizes(rows: Sequence[tuple[Metric, BoundKind]], message_bits: int, alphas: int, lambdas: int) -> None:
    if message_bits < 0 or alphas < 1 or lambdas < 1 or not rows:
        raise CertificateError("a ledger needs at least one row, one alpha and one lambda, and no negative bits.")
    if len(set(rows)) != len(rows):
        raise CertificateError("a row appears twice in the ledger; name each metric and bound once.")


def _fraction(value: float | str | Fraction) -> Fraction:
    """The decimal number as written: 0.05 is 1/20, not the nearest binary number."""
    return value if isinstance(value, Fraction) else Fraction(str(value))


def log_fraction(value: Fraction) -> float:
    """Natural logarithm of a fraction, which may be too small for a float."""
    return math.log(value.numerator) - math.log(value.denominator)
