"""How much of a corpus of sequences a model reproduces: terms, and whole sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from tokenbounds.config import MemorizationTask
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.tokenizers import Tokenizer
from tokenbounds.errors import TokenboundsError
from tokenbounds.scores.documents import score_documents

SCHEMA: dict[str, pl.DataType] = {
    "document": pl.Int64(),
    "terms": pl.Int64(),
    "reproduced": pl.Int64(),
    "whole": pl.Boolean(),
}


def reproduce(
    predictor: Any, corpus: Corpus | MemoryCorpus, tokenizer: Tokenizer, task: MemorizationTask
) -> pl.DataFrame:
    """Count the terms of each document that a model reproduces, given all before, and whether it writes all of them.

    A term is reproduced if each of its tokens, the delimiter at its end included, is the most probable one. If all
    terms after the first `given` are, the model would write the rest of the sequence greedily, token for token.

    Parameters
    ----------
    predictor
        A transformers causal language model or a Markov chain.
    corpus
        The sequences, in the model's tokens.
    tokenizer
        Theirs.
    task
        The delimiter and how many terms are given.

    Returns
    -------
    DataFrame
        `SCHEMA`, one row per document.

    Raises
    ------
    TokenboundsError
        If the delimiter is not one token, or a document has no term that is not given.
    """
    (delimiter,) = tokenizer.encode([task.delimiter])
    if len(delimiter) != 1:
        raise TokenboundsError(
            f"the delimiter {task.delimiter!r} is {len(delimiter)} tokens. Name one that is one token."
        )
    rows = []
    for number, scores in enumerate(score_documents(predictor, corpus)):
        ends = np.flatnonzero(corpus.document(number) == delimiter[0]) + 1  # of terms, in tokens
        if len(ends) <= task.given:
            raise TokenboundsError(f"document {number} has {len(ends)} terms, and {task.given} are given. Give fewer.")
        # Tokens that are not the most probable one, up to each end: a term is reproduced if it adds none.
        missed = np.concatenate([[0], np.cumsum(scores.rank > 1)])[np.concatenate([[0], ends])]
        right = np.diff(missed)[task.given :] == 0
        rows.append((number, len(right), int(right.sum()), bool(right.all())))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")
