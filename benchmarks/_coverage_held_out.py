"""Statements that pay for no message, for `bound_coverage.py`: intervals of losses, and faithfulness on a sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from _coverage_sources import DELTA
from tokenbounds.bounds.sampling import draw_order
from tokenbounds.certificates.averages.passes import Sample
from tokenbounds.certificates.external import ArrayScores
from tokenbounds.certificates.faithfulness import MEASURES, state_faithfulness
from tokenbounds.certificates.file_records import BaseRecord
from tokenbounds.certificates.intervals import Question, intervals

TOKENS = 400
SURE = 0.8  # what the model gives the token that it names
BLOCKS, DRAWS, RARE = 1_000, 60, 0.03
_ORIGINAL = BaseRecord(name="original", sha256="0" * 64, place=".")


def intervals_violated(replications: int, seed: int, *, by_deviation: bool) -> npt.NDArray[np.bool_]:
    """Whether an interval of the loss or of the accuracy misses what was to be expected, bool[replications].

    Tokens are fair coins until the errors so far are as far from what was expected as an interval of 1.96 standard
    deviations reaches; then errors alternate, for certain, and the luck is kept. `by_deviation` states that interval.
    """
    coins = np.random.default_rng(seed).integers(0, 2, (replications, TOKENS))
    ahead = np.cumsum(coins - 0.5, axis=1)
    reached = np.abs(ahead) >= 0.98 * math.sqrt(TOKENS)
    end = np.where(reached.any(axis=1), reached.argmax(axis=1), TOKENS - 1)
    luck = ahead[np.arange(replications), end]  # errors more than expected
    certain = TOKENS - 1 - end
    errors = np.round(luck + (end + 1) / 2 + certain // 2).astype(np.int64)
    expected = errors - luck
    stated = {count: _interval(count, by_deviation) for count in np.unique(errors).tolist()}
    return np.array(
        [
            any(not low <= share <= high for low, high in stated[count])
            for count, share in zip(errors.tolist(), (expected / TOKENS).tolist(), strict=True)
        ]
    )


def _interval(errors: int, by_deviation: bool) -> list[tuple[float, float]]:
    """Intervals of the expected share of errors, as follow from those of the loss and of the accuracy."""
    share = errors / TOKENS
    if by_deviation:
        width = 1.96 * math.sqrt(share * (1.0 - share) / TOKENS)
        return [(share - width, share + width)]
    wrong = np.arange(TOKENS) < errors
    question = Question(vocabulary_size=2, delta=DELTA)
    raw = np.where(wrong, -math.log2(1.0 - SURE), -math.log2(SURE))
    found = {each.metric: each for each in intervals(ArrayScores(raw, 1 + wrong.astype(np.int64)), question)}
    right, missed = (-math.log2((1 - question.alpha) * p + question.alpha / 2) for p in (SURE, 1.0 - SURE))
    loss, accuracy = found["bits per token"], found["accuracy"]
    ends = [(each - right) / (missed - right) for each in (loss.low, loss.high)]
    return [(ends[0], ends[1]), (1.0 - accuracy.high, 1.0 - accuracy.low)]


class _Stream:
    """What was compared on the distinct blocks of a sample, of one token each."""

    def __init__(self, blocks: npt.NDArray[np.int64], changed: npt.NDArray[np.bool_]) -> None:
        columns = (blocks, blocks, np.where(changed, 8.0, 0.01), changed)
        self._batch = pa.RecordBatch.from_arrays(
            [pa.array(each) for each in columns], names=["block", "document", *MEASURES]
        )

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows at once."""
        yield self._batch.select(list(columns or self._batch.schema.names))


def faithfulness_violated(replications: int, seed: int, *, ignore: bool) -> npt.NDArray[np.bool_]:
    """Whether a row about faithfulness on a sample is below the average over the corpus, bool[replications].

    In a few of the blocks the models differ much. With `ignore` what was measured is taken for that average.
    """
    rng = np.random.default_rng(seed)
    wrong = np.empty(replications, dtype=bool)
    for index in range(replications):
        changed = rng.random(BLOCKS) < RARE
        blocks, draws = np.unique(rng.integers(0, BLOCKS, DRAWS), return_counts=True)
        sample = Sample(blocks, draws, np.ones_like(blocks), draw_order(draws, 1))
        stated = state_faithfulness(
            _Stream(blocks, changed[blocks]),
            _ORIGINAL,
            delta=Fraction(str(DELTA)),
            sample=sample,
            documents=None,
            vocabulary_size=256,
            certificates=1,
            lambdas=8,
        )
        truths = (float(np.where(changed, 8.0, 0.01).mean()), float(changed.mean()))
        wrong[index] = any(
            truth > (row.empirical if ignore else row.value) + 1e-12
            for row, truth in zip(stated.rows, truths, strict=True)
        )
    return wrong
