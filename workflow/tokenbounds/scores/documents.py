"""Scores of documents in memory: a loss on tokens, without plans and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from tokenbounds.scores.plan import plan_scoring
from tokenbounds.scores.scorer import Float32Array, Int32Array, ScoringOptions
from tokenbounds.scores.scoring import make_scorer, score_blocks
from tokenbounds.scores.windows import TokenReader

if TYPE_CHECKING:
    from tokenbounds.scores.faithfulness import Original

_LONGEST_WINDOW = 1 << 20  # of predictors that have no positions, such as Markov chains


class TokenScores(NamedTuple):
    """Raw losses in bits, float32[n], and ranks, int32[n], of n tokens."""

    nll_bits: Float32Array
    rank: Int32Array


def score_documents(
    predictor: Any,
    corpus: TokenReader,
    *,
    context: int | None = None,
    stride: int | None = None,
    options: ScoringOptions | None = None,
) -> list[TokenScores]:
    """Score every token of every document.

    Parameters
    ----------
    predictor
        A transformers causal language model, which is moved to the device and cast in place, or a Markov chain.
    corpus
        The documents, such as `corpus.memory.MemoryCorpus`.
    context, stride
        Length and step of the windows, tokens. By default a window is as long as the model's positions allow, and the
        step is half of that, so only a document's first tokens see less than half a window.

    Returns
    -------
    list of TokenScores
        One for each document, of its tokens.

    Raises
    ------
    ScoreError
        If there are no tokens, or the model cannot be scored.
    """
    scores = _join(score_table(predictor, corpus, context=context, stride=stride, options=options))
    ends = np.cumsum(corpus.lengths)  # rows of the table are in corpus order: documents follow one another
    return [
        TokenScores(scores.nll_bits[end - length : end], scores.rank[end - length : end])
        for end, length in zip(ends, corpus.lengths, strict=True)
    ]


def score_table(
    predictor: Any,
    corpus: TokenReader,
    *,
    context: int | None = None,
    stride: int | None = None,
    options: ScoringOptions | None = None,
    original: Original | None = None,
) -> pa.Table:
    """Score every token of every document, with all that is known about each: a score file's columns, in corpus order.

    Parameters
    ----------
    predictor, corpus, context, stride, options
        As for `score_documents`; the predictor may also be what `placement.placed_predictor` yields.
    original
        The model with whose predictions a transformer's are compared, if they are to be.

    Raises
    ------
    ScoreError
        As for `score_documents`; also if the two models cannot be compared.
    """
    options = options or ScoringOptions()
    scorer = make_scorer(predictor, corpus, options, original)
    longest = scorer.longest_window or _LONGEST_WINDOW
    context = min(context or longest, longest)
    stride = min(stride or max(1, context // 2), context)
    rows = plan_scoring(corpus.lengths, context=context, stride=stride, sample_tokens=None, seed=0, shards=1)
    return pa.Table.from_batches(score_blocks(scorer, corpus, rows, options.batch_tokens))


def score_windows(
    predictor: Any, corpus: TokenReader, rows: pa.Table, options: ScoringOptions | None = None
) -> TokenScores:
    """Score the tokens of chosen windows, rows of `plan.window_rows`, one after the other.

    Raises
    ------
    ScoreError
        If the model cannot be scored, or the windows do not fit it or the corpus.
    """
    options = options or ScoringOptions()
    scorer = make_scorer(predictor, corpus, options)
    return _join(pa.Table.from_batches(score_blocks(scorer, corpus, rows, options.batch_tokens)))


def _join(table: pa.Table) -> TokenScores:
    return TokenScores(table["nll_bits"].to_numpy(), table["rank"].to_numpy())
