"""Scoring blocks again from the decoded message, to compare with what a certificate rests on.

Blocks are drawn in proportion to the weight of their tokens in the certified averages, so that tokens with much weight
are seen often, however few blocks hold them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.certificates.tolerances import (
    TOLERANCES,
    Tolerance,
    compare_alphas,
    compare_entropies,
    compare_errors,
    compare_faithfulness,
    compare_losses,
)
from tokenbounds.corpus.reader import Corpus
from tokenbounds.draws import uniform_integers
from tokenbounds.scores.plan_file import Plan, column
from tokenbounds.scores.provenance import Provenance
from tokenbounds.scores.scorer import ChainPredictor, ScoringOptions
from tokenbounds.scores.scoring import make_scorer, score_blocks

if TYPE_CHECKING:
    from tokenbounds.scores.faithfulness import Original

_COLUMNS = ("block", "document", "position", "token", "nll_bits", "rank", "entropy_bits", "cross_entropy_bits", "alpha")
_COMPARED_COLUMNS = ("kl_bits", "first_choice_changed")
_BATCH_TOKENS, _MOST_BATCH_TOKENS = 4096, 1 << 16  # where scores do not record it; and whatever they record
_CHAIN_TOKENS_A_SECOND = 1e6  # of a Markov chain, which scores whole documents
_REPLAYED_TOKENS_A_SECOND = 2e5  # of a predictor that reads the whole corpus in its order
_COUNTED_TOKENS_A_SECOND = 3e6  # of n-grams that do
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

    def with_centres(self) -> Rescored:
        """The same, with cross-entropies in the place of entropies."""
        again, stored = ({**each, "entropy_bits": each["cross_entropy_bits"]} for each in (self.again, self.stored))
        return replace(self, again=again, stored=stored)


@dataclass(frozen=True)
class Choice:
    """The blocks of a plan that are scored again.

    Attributes
    ----------
    rows
        Their rows of the plan, each once, in corpus order.
    numbers
        Of these rows within the plan.
    draws
        How many blocks were drawn, with replacement; None if all of the plan's are taken.
    seed
        Of the draws.
    """

    rows: pa.Table
    numbers: npt.NDArray[np.int64]
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
    if draws is None or draws >= plan.rows:
        return Choice(plan.table, np.arange(plan.rows), None, seed)
    weight = "draws" if plan.mode == "sampled" else "length"
    total = sum(int(column(batch, weight).sum()) for batch in plan.iter_batches([weight]))
    hits = np.sort(uniform_integers(total, draws, seed))  # places among the tokens or draws
    rows: list[pa.RecordBatch] = []
    numbers: list[npt.NDArray[np.int64]] = []
    passed = before = 0  # rows, and tokens or draws, of earlier batches
    for batch in plan.iter_batches():
        ends = before + np.cumsum(column(batch, weight))
        here = np.unique(np.searchsorted(ends, hits[(hits >= before) & (hits < ends[-1])], side="right"))
        rows.append(batch.take(pa.array(here)))
        numbers.append(passed + here)
        passed, before = passed + batch.num_rows, int(ends[-1])
    return Choice(pa.Table.from_batches(rows), np.concatenate(numbers), draws, seed)


def forecast_seconds(
    predictor: Any, corpus: Corpus, rows: pa.Table, visible_tokens: int | None, centre_order: int = 0
) -> float:
    """About how long scoring rows of a plan takes on two processor cores, seconds.

    Parameters
    ----------
    predictor
        What a message decodes to: a network, a Markov chain, or what must replay the whole corpus.
    corpus, rows, visible_tokens
        See `score_blocks`.
    centre_order
        Of the n-grams that read the whole corpus for cross-entropies; 0 if none do.
    """
    if isinstance(predictor, ChainPredictor):
        documents = np.unique(column(rows, "document"))
        return float(corpus.lengths[documents].sum()) / _CHAIN_TOKENS_A_SECOND
    if (network := _network_of(predictor)) is None:
        return corpus.tokens / _REPLAYED_TOKENS_A_SECOND
    length = column(rows, "length")
    # A limited model reads a window of its own for each token that it scores.
    read = length.sum() * visible_tokens if visible_tokens else (length + column(rows, "context")).sum()
    parameters = sum(values.numel() for values in network.parameters())
    replayed = corpus.tokens / _COUNTED_TOKENS_A_SECOND if centre_order else 0.0
    return 2.0 * parameters * float(read) / _OPERATIONS_A_SECOND + replayed


def _network_of(predictor: Any) -> Any | None:
    """The torch module of a predictor that rounds as matrix products do; others give the same losses on every machine.

    Of a model that is held block by block it has the structure.
    """
    return predictor if hasattr(predictor, "parameters") else getattr(predictor, "model", None)


def rescoring_options(scores: ScoredRows) -> ScoringOptions:
    """How scores were computed, as far as it matters, and no more tokens at a time than memory holds."""
    batch_tokens = min(scores.provenance.batch_tokens or _BATCH_TOKENS, _MOST_BATCH_TOKENS)
    return ScoringOptions(dtype=scores.provenance.dtype, batch_tokens=batch_tokens)


def rescore_blocks(
    predictor: Any,
    scores: ScoredRows,
    plan: Plan,
    corpus: Corpus,
    choice: Choice,
    *,
    top_k: Sequence[int] = (),
    original: Original | None = None,
) -> Rescored:
    """Score blocks again and compare losses and ranks with the stored ones.

    Parameters
    ----------
    predictor
        What the message decodes to, with the scores' `rescoring_options`.
    scores
        What it was scored with.
    plan, corpus
        The certificate's.
    choice
        The blocks.
    top_k
        The k whose errors are certified: their share may not grow by more than the tolerance either.
    original
        What the predictions were compared with, if that is to be done again.

    Returns
    -------
    Rescored
        What was compared.

    Raises
    ------
    CertificateError
        If a loss or rank differs by more than the tolerance; the message names the score file, document and position.
    """
    options, rows = rescoring_options(scores), choice.rows
    tolerance = TOLERANCES["chain" if _network_of(predictor) is None else options.dtype]
    scorer = make_scorer(predictor, corpus, options, original, scores.provenance.centre_order)
    again = _columns(score_blocks(scorer, corpus, rows, options.batch_tokens, plan.visible_tokens))
    stored = _stored(scores, rows["block"].to_numpy())
    difference = compare_losses(again, stored, tolerance, scores.files)
    compare_errors(again["rank"], stored["rank"], top_k, tolerance, scores.files)
    for name in ("entropy_bits", "cross_entropy_bits"):
        if name in stored:
            compare_entropies(name, again, stored, tolerance, scores.files)
    strayed = ""
    if "kl_bits" in again:
        further = compare_faithfulness(again, stored, tolerance, scores.files)
        strayed = f", divergences from the original by at most {further:.2g}"
    if "alpha" in stored:
        compare_alphas(again, stored, scores.provenance.vocabulary_size, tolerance, scores.files)
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
        f"most {difference:.2g} bits (tolerance {tolerance.token_bits:g}){strayed}; {choice.what_escapes}",
    )


def _columns(batches: Any) -> dict[str, npt.NDArray[Any]]:
    """Named columns of a stream of record batches, whole."""
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for batch in batches:
        for name in (name for name in (*_COLUMNS, *_COMPARED_COLUMNS) if name in batch.schema.names):
            parts.setdefault(name, []).append(batch[name].to_numpy(zero_copy_only=False))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _stored(scores: ScoredRows, blocks: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """The stored rows of some blocks, in corpus order."""

    def chosen() -> Any:
        known = [name for name in (*_COLUMNS, *_COMPARED_COLUMNS) if name in scores.provenance.schema.names]
        for batch in scores.iter_batches(known):
            yield batch.filter(pa.array(np.isin(batch["block"].to_numpy(), blocks)))

    return _columns(chosen())
