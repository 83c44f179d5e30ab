"""What a row's value contains for the rounding of other machines (docs/certificates.md, "Tolerances inside rows").

A bound plus anything is a bound, so the theorems need nothing of this. It is there so that a verifier whose machine
rounds otherwise finds no more than is stated, and compares without a tolerance of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tokenbounds.certificates.schema import Row
from tokenbounds.certificates.tolerances import TOLERANCES, more_errors

if TYPE_CHECKING:
    from tokenbounds.certificates.evidence import Evidence

_EXACT = ("markov", "online")  # families that count: the same losses on every machine


@dataclass(frozen=True)
class StatedTolerance:
    """How much rows contain for rounding.

    Attributes
    ----------
    bits
        In rows on bits per token.
    error_share
        In the share of errors, besides one token; a row is larger in the proportion of both to the errors.
    """

    bits: float
    error_share: float

    def of(self, row: Row, tokens: int) -> float:
        """What a row gets, in its metric's unit; `tokens` is how many were scored for it."""
        if not row.metric.is_error:
            return self.bits
        # Without errors nothing is in proportion to them: then twice the bound.
        return more_errors(row.value, row.empirical, self.error_share, tokens) if row.empirical else row.value


STATED = {
    "float32": StatedTolerance(TOLERANCES["float32"].mean_bits, 1e-4),
    "bfloat16": StatedTolerance(TOLERANCES["bfloat16"].mean_bits, TOLERANCES["bfloat16"].error_share),
}


def find_tolerance(evidence: Evidence) -> StatedTolerance | None:
    """What the rows of a certificate contain: the most of any model of its chain; None where all of them count."""
    found = [STATED[link.dtype] for link in evidence.links if link.message.header["model"].get("family") not in _EXACT]
    return max(found, key=lambda each: each.bits, default=None)


def include_tolerance(rows: Iterable[Row], tolerance: StatedTolerance | None, tokens: int) -> tuple[Row, ...]:
    """Rows whose values contain their tolerance, which they state.

    Parameters
    ----------
    rows
        Rows without.
    tolerance
        Of their models; None leaves the rows as they are.
    tokens
        How many tokens were scored for them.
    """
    if tolerance is None:
        return tuple(rows)
    found = []
    for row in rows:
        more = tolerance.of(row, tokens)
        value = row.value + more
        found.append(
            replace(row, value=value, gap=value - row.empirical, vacuous=value >= row.random_guess, tolerance=more)
        )
    return tuple(found)
