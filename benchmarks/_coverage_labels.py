"""A source for `bound_coverage.py` that chooses its labels: one if no loss occurs, many otherwise.

A share of 3/4 of the tokens have one small risk, p, and while no loss is 1 the source goes on like this to the end,
and shows one label: the row over all tokens is false if no loss is 1 at all. After the first loss of 1 it shows a new
label for each of a few tokens at a time, whose risk makes that label's row false if none of them is lost. Every risk is
just above what the row states when nothing was lost, 1 − δ^(1/m) (the betting bound with λ = 1); so a row whose share
of delta is δ is false with probability δ, and no bound can be tighter. If shares are by the labels that occur, the row
over all tokens has half of delta in the first case, and the labels' rows nearly all of it in the second.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from _coverage_sources import DELTA
from tokenbounds.bounds.betting import betting_value
from tokenbounds.certificates.rows.setting import Setting
from tokenbounds.certificates.rows.subsets import Subset, share_delta
from tokenbounds.config import BoundsSpec

LABELS = 201
TOKENS = 1200
FIRST = TOKENS * 3 // 4
_COLUMNS = {"mark": tuple(map(str, range(LABELS)))}
_LAMBDA = 1 - 1e-12


def _shares(labels: int, by_occurrence: bool) -> tuple[Fraction, list[Fraction]]:
    """Shares of delta of the row over all tokens and of each label's, if so many labels occur."""
    setting = Setting(BoundsSpec(delta=DELTA, top_k=(), bounds=("betting",)), TOKENS, 2, None)
    if by_occurrence:
        return Fraction(str(DELTA)) / (1 + labels), [Fraction(str(DELTA)) / (1 + labels)] * labels
    whole, parts = share_delta(setting, [Subset("mark", code, str(code), 1) for code in range(labels)], _COLUMNS)
    assert whole.delta is not None
    return whole.delta, [part.delta for part in parts if part.delta is not None]


def _stated(delta: Fraction, tokens: int) -> float:
    """The row's value if nothing was lost."""
    return betting_value(0.0, _LAMBDA, float(-np.log(float(delta))), tokens)


def labels_violated(replications: int, seed: int, *, by_occurrence: bool) -> npt.NDArray[np.bool_]:
    """Whether some row is false, bool[replications]."""
    rng = np.random.default_rng(seed)
    # The source knows how shares are divided, and makes each risk the smallest that a row without losses leaves open.
    ahead, _ = _shares(1, by_occurrence)
    _, behind = _shares(LABELS, by_occurrence)
    size = (TOKENS - FIRST) // (LABELS - 1)
    risks = np.array([_stated(part, size) for part in behind[1:]])
    first, rest = (rng.binomial(tokens, _stated(ahead, TOKENS), replications) for tokens in (FIRST, TOKENS - FIRST))
    lost = rng.binomial(size, risks, (replications, LABELS - 1))
    return np.where(first == 0, rest == 0, (lost == 0).any(axis=1))
