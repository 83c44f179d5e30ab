"""Text from a decoded model beside text from the model before it was encoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from tokenbounds.config import SamplesTask
from tokenbounds.corpus.tokenizers import Tokenizer
from tokenbounds.errors import TokenboundsError
from tokenbounds.scores.scorer import vocabulary_size
from tokenbounds.tasks.generation import gumbel_choice
from tokenbounds.tasks.predictors import continue_tokens

SCHEMA: dict[str, pl.DataType] = {
    "prompt": pl.String(),
    "decoded": pl.String(),
    "original": pl.String(),
    "tokens": pl.Int64(),
    "agreeing": pl.Int64(),
}


def sample_beside(predictor: Any, original: Any, tokenizer: Tokenizer, task: SamplesTask) -> pl.DataFrame:
    """Continue each prompt of a task with both models, with the same noise.

    Parameters
    ----------
    predictor
        The decoded model: a transformers causal language model or a Markov chain.
    original
        The model before it was encoded; None if there is none to compare with.
    tokenizer
        Of both.
    task
        Prompts, tokens, temperature and seed.

    Returns
    -------
    DataFrame
        `SCHEMA`, one row per prompt; `agreeing` are the tokens before the first that differs.

    Raises
    ------
    TokenboundsError
        If the tokenizer is not the model's.
    """
    if tokenizer.vocabulary_size > vocabulary_size(predictor):
        raise TokenboundsError(
            f"the model predicts {vocabulary_size(predictor):,} tokens, but its tokenizer {tokenizer.identity} has "
            f"{tokenizer.vocabulary_size:,}. Name the model's own."
        )
    prefixes = [np.asarray(tokens, np.int64) for tokens in tokenizer.encode(task.prompts)]
    choose = gumbel_choice(tokenizer.vocabulary_size, task, range(len(prefixes)))
    steps = [task.tokens] * len(prefixes)
    drawn = [
        None if model is None else continue_tokens(model, prefixes, steps, tokenizer.start_id, choose)
        for model in (predictor, original)
    ]
    rows = []
    for number, prompt in enumerate(task.prompts):
        ours, theirs = (None if each is None else each[number] for each in drawn)
        same = None if theirs is None else int(np.argmin(np.append(ours == theirs, False)))
        texts = [None if each is None else tokenizer.decode(each.tolist()) for each in (ours, theirs)]
        rows.append((prompt, *texts, task.tokens, same))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")
