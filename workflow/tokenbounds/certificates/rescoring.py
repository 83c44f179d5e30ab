"""Scoring blocks again from the decoded message, to compare with what a certificate rests on.

Blocks are drawn in proportion to the weight of their tokens in the certified averages, so that tokens with much weight
are seen often, however few blocks hold them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.bounds.smoothing import smooth
from tokenbounds.corpus.reader import Corpus
from tokenbounds.draws import uniform_integers
from tokenbounds.errors import CertificateError
from tokenbounds.scores.entropies import ENTROPY_STEP_BITS
from tokenbounds.scores.plan import Plan, column
from tokenbounds.scores.provenance import Provenance
from tokenbounds.scores.scorer import ChainPredictor, ScoringOptions
from tokenbounds.scores.scoring import make_scorer, score_blocks

_COLUMNS = ("block", "document", "position", "token", "nll_bits", "rank", "entropy_bits", "alpha")
_BATCH_TOKENS = 4096
_CHAIN_TOKENS_A_SECOND = 1e6  # of a Markov chain, which scores whole documents
_REPLAYED_TOKENS_A_SECOND = 2e5  # of a predictor that reads the whole corpus in its order
_OPERATIONS_A_SECOND = 1e10  # of a network on two processor cores; each token takes two per parameter


class ScoredRows(Protocol):
    """What is compared with what is scored again: all scores of a message, or those of some blocks."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Where they are."""
        ...

    @property
    def provenance(self) -> Provenance:
        """What they were made from."""
        ...

    def iter_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream some columns in corpus order."""
        ...


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


@dataclass(frozen=True)
class Rescored:
    """Tokens of a message that were scored again, and found to have the stored losses one by one.

    Attributes
    ----------
    again, stored
        Columns of both [n].
    weights
        Weight of each token in averages, up to a factor [n].
    vocabulary_size
        V.
    tolerance
        Of its arithmetic.
    files
        The score files.
    detail
        What was compared, in words.
    """

    again: dict[str, npt.NDArray[Any]]
    stored: dict[str, npt.NDArray[Any]]
    weights: npt.NDArray[np.float64]
    vocabulary_size: int
    tolerance: Tolerance
    files: tuple[Path, ...]
    detail: str


@dataclass(frozen=True)
class Choice:
    """The blocks of a plan that are scored again.

    Attributes
    ----------
    rows
        Their rows of the plan, each once, in corpus order.
    draws
        How many blocks were drawn, with replacement; None if all of the plan's are taken.
    seed
        Of the draws.
    """

    rows: pa.Table
    draws: int | None
    seed: int

    @property
    def what_escapes(self) -> str:
        """How likely falsified tokens are to go unseen, in words."""
        if self.draws is None:
            return "no token is left out"
        return (
            f"falsified tokens that are a share s of all escape with probability (1 − s)^{self.draws} at most: "
            f"{0.9**self.draws:.2g} for 10 %, {0.99**self.draws:.2g} for 1 %"
        )


def choose_blocks(plan: Plan, draws: int | None, seed: int | None) -> Choice:
    """Draw blocks of a plan with replacement, each with the probability that its tokens have in the averages.

    That is its share of the tokens, or of the draws where a sample was scored. Each draw hits a share s of the tokens
    (of what they count) with probability at least s, because any of a block's tokens draws it.

    Parameters
    ----------
    plan
        The certificate's.
    draws
        How many; None, or as many as there are blocks, takes them all.
    seed
        Of the draws; None takes the system's randomness.
    """
    seed = secrets.randbits(64) if seed is None else seed
    if draws is None or draws >= plan.table.num_rows:
        return Choice(plan.table, None, seed)
    weights = column(plan.table, "draws" if plan.mode == "sampled" else "length")  # int64[blocks]
    ends = np.cumsum(weights)
    hit = np.searchsorted(ends, uniform_integers(int(ends[-1]), draws, seed), side="right")
    return Choice(plan.table.take(np.unique(hit)), draws, seed)


def forecast_seconds(predictor: Any, corpus: Corpus, rows: pa.Table, visible_tokens: int | None) -> float:
    """About how long scoring rows of a plan takes on two processor cores, seconds.

    Parameters
    ----------
    predictor
        What a message decodes to: a network, a Markov chain, or what must replay the whole corpus.
    corpus, rows, visible_tokens
        See `score_blocks`.
    """
    if isinstance(predictor, ChainPredictor):
        documents = np.unique(column(rows, "document"))
        return float(corpus.lengths[documents].sum()) / _CHAIN_TOKENS_A_SECOND
    if not _is_network(predictor):
        return corpus.tokens / _REPLAYED_TOKENS_A_SECOND
    length = column(rows, "length")
    # A limited model reads a window of its own for each token that it scores.
    read = length.sum() * visible_tokens if visible_tokens else (length + column(rows, "context")).sum()
    parameters = sum(values.numel() for values in predictor.parameters())
    return 2.0 * parameters * float(read) / _OPERATIONS_A_SECOND


def _is_network(predictor: Any) -> bool:
    """Whether a predictor rounds as matrix products do; all others give the same losses on every machine."""
    return hasattr(predictor, "parameters")


def rescore_blocks(
    predictor: Any, scores: ScoredRows, plan: Plan, corpus: Corpus, choice: Choice, *, top_k: Sequence[int] = ()
) -> Rescored:
    """Score blocks again and compare losses and ranks with the stored ones.

    Parameters
    ----------
    predictor
        What the message decodes to.
    scores
        What it was scored with.
    plan, corpus
        The certificate's.
    choice
        The blocks.
    top_k
        The k whose errors are certified: their share may not grow by more than the tolerance either.

    Returns
    -------
    Rescored
        What was compared.

    Raises
    ------
    CertificateError
        If a loss or rank differs by more than the tolerance; the message names the score file, document and position.
    """
    dtype, rows = scores.provenance.dtype, choice.rows
    tolerance = TOLERANCES[dtype if _is_network(predictor) else "chain"]
    scorer = make_scorer(predictor, corpus, ScoringOptions(dtype=dtype, batch_tokens=_BATCH_TOKENS))
    again = _columns(score_blocks(scorer, corpus, rows, _BATCH_TOKENS, plan.visible_tokens))
    stored = _stored(scores, rows["block"].to_numpy())
    difference = _compare(again, stored, tolerance, scores.files)
    compare_errors(again["rank"], stored["rank"], top_k, tolerance, scores.files)
    if "entropy_bits" in stored:
        _compare_entropies(again, stored, tolerance, scores.files)
    if "alpha" in stored:
        _compare_alphas(again, stored, scores.provenance.vocabulary_size, tolerance, scores.files)
    drawn = "" if choice.draws is None else f" in {choice.draws} draws"
    lengths = column(rows, "length")
    count = column(rows, "draws") / lengths if plan.mode == "sampled" else np.ones(len(lengths))  # of each token
    return Rescored(
        again,
        stored,
        np.repeat(count, lengths),
        scores.provenance.vocabulary_size,
        tolerance,
        scores.files,
        f"{len(again['block']):,} tokens of {rows.num_rows} blocks{drawn} (seed {choice.seed}): losses differ by at "
        f"most {difference:.2g} bits (tolerance {tolerance.token_bits:g}); {choice.what_escapes}",
    )


def _columns(batches: Any) -> dict[str, npt.NDArray[Any]]:
    """Named columns of a stream of record batches, whole."""
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for batch in batches:
        for name in (name for name in _COLUMNS if name in batch.schema.names):
            parts.setdefault(name, []).append(batch[name].to_numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _stored(scores: ScoredRows, blocks: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """The stored rows of some blocks, in corpus order."""

    def chosen() -> Any:
        for batch in scores.iter_batches([name for name in _COLUMNS if name in scores.provenance.schema.names]):
            yield batch.filter(pa.array(np.isin(batch["block"].to_numpy(), blocks)))

    return _columns(chosen())


def _compare(
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


def _compare_entropies(
    again: dict[str, npt.NDArray[Any]],
    stored: dict[str, npt.NDArray[Any]],
    tolerance: Tolerance,
    files: tuple[Path, ...],
) -> None:
    """Refuse entropies that rounding does not explain, one by one or in their number.

    What they move in a row is compared with that row's average (`functionals`).
    """
    if "entropy_bits" not in again:
        raise CertificateError(f"{files[0].parent} states entropies, but the decoded message gives none. Score again.")
    off = np.abs(again["entropy_bits"].astype(np.float64) - stored["entropy_bits"])
    allowed = 1 + int(tolerance.entropy_share * len(off))
    if np.any(off > ENTROPY_STEP_BITS + tolerance.token_bits) or np.count_nonzero(off) > allowed:
        at = int(np.argmax(off))
        raise CertificateError(
            f"{files[0].parent}: document {stored['document'][at]} position {stored['position'][at]} is stored with "
            f"an entropy of {stored['entropy_bits'][at]:g} bits, but the decoded message gives "
            f"{again['entropy_bits'][at]:g}; of {len(off):,} entropies {np.count_nonzero(off):,} differ, and "
            f"{allowed:,} may, by a step of {ENTROPY_STEP_BITS:g}. Score again."
        )


def _compare_alphas(
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
