"""Answers that a model writes to prompts, and whether they are right: 0/1 losses of independent prompts.

At a temperature above 0 the token that is drawn is the one with the largest log-probability / temperature + noise,
where the noise has Gumbel's distribution and is fixed by a seed (Gumbel, 1954; Maddison et al., 2014, "A* sampling").
Answers are then a function of model, prompt and noise, and prompts with their noise are independent and identically
distributed: the bound is about a new prompt with new noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tokenbounds.config import GenerationTask, SamplesTask
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.tokenizers import Tokenizer
from tokenbounds.errors import TokenboundsError
from tokenbounds.models.generator import philox
from tokenbounds.scores.scorer import vocabulary_size
from tokenbounds.tasks.predictors import Choose, Scores, Tokens, continue_tokens

SCHEMA: dict[str, pl.DataType] = {
    "document": pl.Int64(),
    "prompt": pl.String(),
    "answer": pl.String(),
    "written": pl.String(),
    "correct": pl.Boolean(),
}
_PROMPTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Prompt:
    """A prompt and its answer, as text, and the number of its document in the corpus."""

    document: int
    prompt: str
    answer: str


def draw_prompts(corpus: Corpus | MemoryCorpus, tokenizer: Tokenizer, task: GenerationTask) -> list[Prompt]:
    """The prompts of a task, in corpus order.

    Parameters
    ----------
    corpus
        Its documents.
    tokenizer
        The corpus's, which turns tokens into text.
    task
        How many, by which seed, and where a prompt and its answer end.

    Raises
    ------
    TokenboundsError
        If the corpus has too few documents, or one of them no end of its prompt.
    """
    wanted = corpus.documents if task.prompts is None else task.prompts
    if wanted > corpus.documents:
        raise TokenboundsError(
            f"the corpus has {corpus.documents:,} documents, fewer than {wanted:,} prompts. Ask less."
        )
    # A draw without replacement: the documents with the smallest of independent random words.
    words = philox(task.seed, "prompts").random_raw(corpus.documents)
    found = []
    for number in sorted(np.argsort(words, kind="stable")[:wanted].tolist()):
        prompt, end, answer = tokenizer.decode(corpus.document(number).tolist()).partition(task.prompt_end)
        if not end:
            raise TokenboundsError(
                f"document {number} does not hold {task.prompt_end!r}, which ends a prompt. Correct 'prompt_end'."
            )
        found.append(Prompt(number, prompt + end, _cut(answer, task)))
    return found


def answer_prompts(
    predictor: Any, prompts: Sequence[Prompt], tokenizer: Tokenizer, task: GenerationTask
) -> pl.DataFrame:
    """Let a model answer prompts.

    Parameters
    ----------
    predictor
        A transformers causal language model or a Markov chain.
    prompts
        From `draw_prompts`.
    tokenizer
        The model's.
    task
        Temperature, seed of the noise, number of tokens, and where an answer ends.

    Returns
    -------
    DataFrame
        `SCHEMA`, one row per prompt; an answer is right if it is the document's, letter for letter.
    """
    if tokenizer.vocabulary_size > vocabulary_size(predictor):
        raise TokenboundsError(
            f"the model predicts {vocabulary_size(predictor):,} tokens, but its tokenizer {tokenizer.identity} has "
            f"{tokenizer.vocabulary_size:,}. Name the model's own."
        )
    rows = []
    for first in range(0, len(prompts), _PROMPTS_AT_ONCE):
        some = prompts[first : first + _PROMPTS_AT_ONCE]
        prefixes = [np.asarray(tokens, np.int64) for tokens in tokenizer.encode([each.prompt for each in some])]
        choose = gumbel_choice(tokenizer.vocabulary_size, task, [each.document for each in some])
        drawn = continue_tokens(predictor, prefixes, [task.tokens] * len(some), tokenizer.start_id, choose)
        for each, tokens in zip(some, drawn, strict=True):
            written = _cut(tokenizer.decode(tokens.tolist()), task)
            rows.append((each.document, each.prompt, each.answer, written, written == each.answer))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _cut(text: str, task: GenerationTask) -> str:
    return text.partition(task.answer_end)[0].strip()


def gumbel_choice(size: int, task: GenerationTask | SamplesTask, streams: Sequence[int]) -> Choose:
    """The most probable of the tokenizer's `size` tokens, after noise has been added if the task has a temperature.

    `streams` number the noise of each prompt.
    """

    def choose(numbers: Tokens, step: int, scores: Scores) -> Tokens:
        values = scores[:, :size]
        if task.temperature > 0:
            noise = [gumbel_noise(task.seed, streams[number], step, size) for number in numbers]
            values = values / task.temperature + np.stack(noise)
        return values.argmax(axis=1)

    return choose


def gumbel_noise(seed: int, document: int, step: int, size: int) -> Scores:
    """Independent numbers of Gumbel's standard distribution, float64[size]: the same at each call.

    Parameters
    ----------
    seed
        The task's.
    document
        Number of the prompt's document.
    step
        Number of the token after the prompt.
    size
        How many.
    """
    words = philox(seed, f"gumbel/{document}/{step}").random_raw(size)
    uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) / (1 << 52)  # in (0, 1)
    return -np.log(-np.log(uniform))
