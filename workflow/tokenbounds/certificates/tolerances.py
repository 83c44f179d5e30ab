"""How far the scores that two machines compute may differ, and the refusal of what differs by more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.smoothing import smooth
from tokenbounds.errors import CertificateError
from tokenbounds.scores.entropies import ENTROPY_STEP_BITS


@dataclass(frozen=True)
class Tolerance:
    """How far two machines may differ.

    Attributes
    ----------
    token_bits
        In the loss of one token, bits.
    mean_bits
        In the average loss of the compared tokens, bits.
    rank_share
        In a rank: this share of it, and `rank_slack` more.
    rank_slack
        See `rank_share`.
    error_share
        In the share of tokens whose rank exceeds a certified k, upwards; one token more is always allowed.
    level_share
        Share of tokens whose smoothing weight may differ, by a factor of two: by rounding the head may end on the next
        level of its grid. One token more is always allowed, and average losses smoothed with these weights may differ
        by no more than `mean_bits`.
    entropy_share
        Share of tokens whose entropy may differ, by a step more than `token_bits`: it is rounded to steps.
        One token more is always allowed.
    """

    token_bits: float
    mean_bits: float
    rank_share: float
    rank_slack: int
    error_share: float
    level_share: float
    entropy_share: float


TOLERANCES = {
    "chain": Tolerance(
        token_bits=1e-4,
        mean_bits=1e-5,
        rank_share=0.0,
        rank_slack=1,
        error_share=0.0,
        level_share=0.0,
        entropy_share=0.0,
    ),
    "float32": Tolerance(
        token_bits=1e-3,
        mean_bits=1e-4,
        rank_share=0.05,
        rank_slack=2,
        error_share=0.001,
        level_share=0.001,
        entropy_share=0.01,
    ),
    "bfloat16": Tolerance(
        token_bits=0.5,
        mean_bits=0.02,
        rank_share=0.5,
        rank_slack=20,
        error_share=0.01,
        level_share=0.2,
        entropy_share=1.0,
    ),
}


def more_errors(value: float, empirical: float, share: float, tokens: int) -> float:
    """How much a bound on errors grows if, besides one token, a share of the scored ones are errors that were not.

    Bounds on errors are concave functions of their share and never negative: d more errors raise one by no more than
    d / `empirical` of itself. The same holds for bounds on averages of documents.

    Parameters
    ----------
    value
        The bound.
    empirical
        The share of errors that it is computed from.
    share
        Of the tokens.
    tokens
        How many were scored.
    """
    return value * min(1.0, (1 + int(share * tokens)) / tokens / empirical) if empirical else 0.0


def compare_losses(
    again: dict[str, npt.NDArray[Any]],
    stored: dict[str, npt.NDArray[Any]],
    tolerance: Tolerance,
    files: tuple[Path, ...],
) -> float:
    """Largest difference of a loss, bits; refuses more than the tolerance."""
    where = files[0].parent
    off = np.abs(again["nll_bits"].astype(np.float64) - stored["nll_bits"])
    rank_off = np.abs(again["rank"].astype(np.int64) - stored["rank"])
    bad = (off > tolerance.token_bits) | (rank_off > tolerance.rank_slack + tolerance.rank_share * stored["rank"])
    if bad.any():
        at = int(np.argmax(bad))
        raise CertificateError(
            f"{where}: document {stored['document'][at]} position {stored['position'][at]} is stored with "
            f"{stored['nll_bits'][at]:.6f} bits and rank {stored['rank'][at]}, but the decoded message gives "
            f"{again['nll_bits'][at]:.6f} and {again['rank'][at]}. These are not the message's scores: score again."
        )
    mean = abs(float(np.mean(again["nll_bits"].astype(np.float64) - stored["nll_bits"])))
    if mean > tolerance.mean_bits:
        raise CertificateError(
            f"{where}: the decoded message's average loss differs by {mean:.2g} bits from the stored one, more than "
            f"{tolerance.mean_bits:g}. Score again."
        )
    return float(off.max())


def compare_errors(
    again: npt.NDArray[Any],
    stored: npt.NDArray[Any],
    top_k: Sequence[int],
    tolerance: Tolerance,
    files: tuple[Path, ...],
) -> None:
    """Refuse ranks that are each within their tolerance but together hide errors.

    A top-k error depends only on rank > k, so ranks that are all shifted a little in one direction could change it
    much.
    """
    allowed = 1 + int(tolerance.error_share * len(stored))
    for k in top_k:
        hidden = int(np.sum(again > k)) - int(np.sum(stored > k))
        if hidden > allowed:
            raise CertificateError(
                f"{files[0].parent}: of {len(stored):,} tokens scored again, {hidden:,} more have a rank above {k} "
                f"than are stored so; at most {allowed:,} may differ by rounding. Score again."
            )


def compare_entropies(
    name: str,
    again: dict[str, npt.NDArray[Any]],
    stored: dict[str, npt.NDArray[Any]],
    tolerance: Tolerance,
    files: tuple[Path, ...],
) -> None:
    """Refuse entropies, or the cross-entropies of another column, that rounding does not explain, one by one or many.

    What they move in a row is compared with that row's average (`functionals`).
    """
    if name not in again:
        raise CertificateError(f"{files[0].parent} states {name}, but the decoded message gives none. Score again.")
    off = np.abs(again[name].astype(np.float64) - stored[name])
    allowed = 1 + int(tolerance.entropy_share * len(off))
    if np.any(off > ENTROPY_STEP_BITS + tolerance.token_bits) or np.count_nonzero(off) > allowed:
        at = int(np.argmax(off))
        raise CertificateError(
            f"{files[0].parent}: document {stored['document'][at]} position {stored['position'][at]} is stored with "
            f"{name} {stored[name][at]:g}, but the decoded message gives "
            f"{again[name][at]:g}; of {len(off):,} of them {np.count_nonzero(off):,} differ, and "
            f"{allowed:,} may, by a step of {ENTROPY_STEP_BITS:g}. Score again."
        )


def compare_faithfulness(
    again: dict[str, npt.NDArray[Any]],
    stored: dict[str, npt.NDArray[Any]],
    tolerance: Tolerance,
    files: tuple[Path, ...],
) -> float:
    """Largest difference of a divergence, bits.

    Refuses divergences, and numbers of changed first choices, that are stored lower than rounding explains.
    """
    more = again["kl_bits"].astype(np.float64) - stored["kl_bits"]
    if more.max() > tolerance.token_bits or more.mean() > tolerance.mean_bits:
        at = int(np.argmax(more))
        raise CertificateError(
            f"{files[0].parent}: document {stored['document'][at]} position {stored['position'][at]} is stored with a "
            f"divergence of {stored['kl_bits'][at]:.6f} bits, but the decoded message gives "
            f"{again['kl_bits'][at]:.6f}, and {more.mean():.2g} more on average. Score again."
        )
    hidden = int(again["first_choice_changed"].sum()) - int(stored["first_choice_changed"].sum())
    allowed = 1 + int(tolerance.error_share * len(more))
    if hidden > allowed:
        raise CertificateError(
            f"{files[0].parent}: of {len(more):,} first choices compared again, {hidden:,} more differ than are stored "
            f"so; at most {allowed:,} may by rounding. Score again."
        )
    return float(np.abs(more).max())


def compare_alphas(
    again: dict[str, npt.NDArray[Any]],
    stored: dict[str, npt.NDArray[Any]],
    vocabulary_size: int,
    tolerance: Tolerance,
    files: tuple[Path, ...],
) -> None:
    """Refuse smoothing weights that rounding does not explain.

    Weights within their tolerance could still be picked by the tokens they smooth; the averages would show it.
    """
    steps = np.abs(np.log2(again["alpha"].astype(np.float64) / stored["alpha"]))
    allowed = 1 + int(tolerance.level_share * len(steps))
    if np.any(steps > 1.01) or np.count_nonzero(steps) > allowed:
        at = int(np.argmax(steps))
        raise CertificateError(
            f"{files[0].parent}: document {stored['document'][at]} position {stored['position'][at]} is stored with "
            f"the smoothing weight {stored['alpha'][at]:g}, but the decoded message gives {again['alpha'][at]:g}; of "
            f"{len(steps):,} weights {np.count_nonzero(steps):,} differ, and {allowed:,} may, by a factor of two. "
            "Score again."
        )
    means = [float(smooth(rows["nll_bits"], rows["alpha"], vocabulary_size).mean()) for rows in (again, stored)]
    if abs(means[0] - means[1]) > tolerance.mean_bits:
        raise CertificateError(
            f"{files[0].parent}: smoothed with the decoded message's weights the average loss differs by "
            f"{abs(means[0] - means[1]):.2g} bits from the stored one, more than {tolerance.mean_bits:g}. Score again."
        )
