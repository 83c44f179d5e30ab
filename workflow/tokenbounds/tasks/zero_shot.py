"""Zero-shot questions: which of several texts is the likeliest, and whether a text is predicted letter for letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.tokenizers import Tokenizer
from tokenbounds.errors import TokenboundsError
from tokenbounds.models.generator import philox
from tokenbounds.scores.documents import score_documents
from tokenbounds.scores.scorer import vocabulary_size
from tokenbounds.tasks.questions import Question

SCHEMA: dict[str, pl.DataType] = {
    "question": pl.Int64(),
    "choice": pl.Int64(),
    "is_answer": pl.Boolean(),
    "text": pl.String(),
    "log2_likelihood": pl.Float64(),
    "tokens": pl.Int64(),
    "bytes": pl.Int64(),
    "greedy": pl.Boolean(),
}
_CONFIDENCE = 0.95
_QUESTIONS_AT_ONCE = 256


def answer_questions(predictor: Any, questions: Sequence[Question], tokenizer: Tokenizer) -> pl.DataFrame:
    """The log-likelihood of every choice of every question.

    Context and choice are tokenized together, and the tokens beyond those of the context alone are the choice's; spaces
    at the end of a context are counted among the choice's, as tokens often begin with one. What does not fit the
    model's window is cut from the beginning of the context.

    Parameters
    ----------
    predictor
        A transformers causal language model or a Markov chain.
    questions
        From `questions.read_questions` or `draw_questions`.
    tokenizer
        The model's.

    Returns
    -------
    DataFrame
        `SCHEMA`, one row per choice: `log2_likelihood` in bits, `bytes` of its text in UTF-8, and whether each of its
        tokens is the most probable one (`greedy`).

    Raises
    ------
    TokenboundsError
        If the tokenizer is not the model's, or a choice does not fit the model's window.
    """
    if tokenizer.vocabulary_size > vocabulary_size(predictor):
        raise TokenboundsError(
            f"the model predicts {vocabulary_size(predictor):,} tokens, but its tokenizer {tokenizer.identity} has "
            f"{tokenizer.vocabulary_size:,}. Name the model's own."
        )
    parts = []
    for first in range(0, len(questions), _QUESTIONS_AT_ONCE):
        rows = [
            (number, place, place == one.answer, text)
            for number, one in enumerate(questions[first : first + _QUESTIONS_AT_ONCE], start=first)
            for place, text in enumerate(one.choices)
        ]
        pairs = [(questions[number].context, text) for number, _, _, text in rows]
        measured = _score(predictor, pairs, tokenizer)
        sizes = [len(text.encode()) for _, text in pairs]
        parts += [
            (*row, bits, tokens, size, greedy)
            for row, size, (bits, tokens, greedy) in zip(rows, sizes, measured, strict=True)
        ]
    return pl.DataFrame(parts, schema=SCHEMA, orient="row")


def _score(predictor: Any, pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[tuple[float, int, bool]]:
    """Log-likelihood in bits, number of tokens, and whether all have rank 1, of what follows each context."""
    contexts = tokenizer.encode([context.rstrip(" ") for context, _ in pairs])
    wholes = tokenizer.encode([context + text for context, text in pairs])
    longest = (
        None
        if not hasattr(predictor, "config")
        else getattr(predictor.config.get_text_config(), "max_position_embeddings", None)
    )
    documents, lengths = [], []
    for context, whole, (_, text) in zip(contexts, wholes, pairs, strict=True):
        length = len(whole) - min(len(context), len(whole) - 1)
        if longest is not None and length > longest:
            raise TokenboundsError(f"{text[:40]!r}… has {length} tokens, more than the model's window of {longest}.")
        documents.append(whole if longest is None else whole[-longest:])
        lengths.append(length)
    corpus = MemoryCorpus(documents, tokenizer.vocabulary_size, tokenizer.start_id)
    return [
        (-float(scores.nll_bits[-length:].sum(dtype=np.float64)), length, bool((scores.rank[-length:] == 1).all()))
        for scores, length in zip(score_documents(predictor, corpus), lengths, strict=True)
    ]


# --- shares of right answers ------------------------------------------------------------------------------------------

MEASURES = ("accuracy", "accuracy_per_token", "accuracy_per_byte", "predicted", "bits_per_answer")


def summarize(frame: pl.DataFrame, *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """One row per measure, with its 95 % percentile bootstrap interval over questions.

    `accuracy`, `accuracy_per_token` and `accuracy_per_byte`: shares of questions with choices whose right one has the
    largest log-likelihood, as it is or divided by its length; the first of equal ones counts. `predicted`: share of
    questions without choices whose text is the greedy continuation; `bits_per_answer`: its mean loss.

    Parameters
    ----------
    frame
        From `answer_questions`.
    resamples
        Bootstrap samples.
    seed
        Of the draws.

    Returns
    -------
    list of dict
        Keys `measure`, `questions`, `value`, `low`, `high`, and `guess`: what choosing at random gives, where it is
        known.
    """
    sizes = frame.with_columns(pl.len().over("question").alias("choices"))
    several, single = sizes.filter(pl.col("choices") > 1), sizes.filter(pl.col("choices") == 1)
    values: dict[str, tuple[npt.NDArray[np.float64], float | None]] = {}
    if several.height:
        guess = float(several.group_by("question").len()["len"].cast(pl.Float64).pow(-1).mean())  # type: ignore[arg-type]
        for name, length in (
            ("accuracy", pl.lit(1)),
            ("accuracy_per_token", pl.col("tokens")),
            ("accuracy_per_byte", pl.col("bytes")),
        ):
            best = several.with_columns((pl.col("log2_likelihood") / length).alias("score"))
            right = best.group_by("question", maintain_order=True).agg(
                pl.col("is_answer").get(pl.col("score").arg_max())
            )
            values[name] = right["is_answer"].cast(pl.Float64).to_numpy(), guess
    if single.height:
        values["predicted"] = single["greedy"].cast(pl.Float64).to_numpy(), None
        values["bits_per_answer"] = -single["log2_likelihood"].to_numpy(), None
    rows = []
    for name, (found, chance) in values.items():
        low, high = bootstrap_mean(found, resamples, seed)
        rows.append(
            {"measure": name, "questions": len(found), "value": float(found.mean())}
            | {"low": low, "high": high, "guess": chance}
        )
    return rows


def bootstrap_mean(values: npt.NDArray[np.float64], resamples: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval at 95 % of the mean of values [n]; the same seed draws the same questions."""
    generator = np.random.Generator(philox(seed, "bootstrap"))
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    tail = (1.0 - _CONFIDENCE) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)
