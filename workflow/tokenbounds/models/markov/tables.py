"""The tables of a back-off Markov chain, and the probabilities they define.

Order j has a table of contexts (j tokens) and, under each, integer weights w of some tokens, W their sum. With
p_{-1} uniform,

    p_j(x | c) = (w(c, x) + UNIT · p_{j-1}(x | c without its oldest token)) / (W(c) + UNIT)

for a context in the table, and p_j = p_{j-1} for any other. Only integers and the four operations of IEEE float64 are
used, so every machine computes the same probabilities.

References
----------
F. Jelinek and R. L. Mercer, "Interpolated estimation of Markov source parameters from sparse data", 1980.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNIT = 1 << 12
_LEAST_SIXTEENTHS = 9 * 16  # the smallest weight is 2^9, an eighth of UNIT
_SPAN_SIXTEENTHS = 210  # the greatest is about 13 octaves above
_ROOTS = (
    65536, 68438, 71468, 74632, 77936, 81386, 84990, 88752,
    92682, 96785, 101070, 105545, 110218, 115098, 120194, 125515,
)  # round(2^(16 + i/16))  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One order's table.

    Attributes
    ----------
    contexts : uint64[c]
        Ascending codes of the contexts; the suffix of each is in the table one order below.
    totals : int64[c]
        Sum of the weights under each context.
    grams : uint64[e]
        Ascending codes context · V + token of the weighted tokens.
    weights : int64[e]
        Their weights, positive.
    """

    contexts: np.ndarray
    totals: np.ndarray
    grams: np.ndarray
    weights: np.ndarray


def weight_scale(levels: int) -> np.ndarray:
    """Weights of the symbols 0 … `levels` (≥ 2): zero, then a geometric sequence, in integer arithmetic."""
    weights = [0]
    for index in range(levels):
        octave, root = divmod(_LEAST_SIXTEENTHS + index * _SPAN_SIXTEENTHS // (levels - 1), 16)
        weights.append((_ROOTS[root] << octave) + (1 << 15) >> 16)
    return np.array(weights, dtype=np.int64)


def build_table(contexts: np.ndarray, grams: np.ndarray, weights: np.ndarray, vocabulary_size: int) -> Table:
    """Sort a table's entries and sum them by context; `contexts` must hold the context of every gram."""
    contexts = np.sort(contexts)
    by_gram = np.argsort(grams, kind="stable")
    grams, weights = grams[by_gram], weights[by_gram]
    rows = np.searchsorted(contexts, grams // np.uint64(vocabulary_size))
    totals = np.bincount(rows, weights, minlength=len(contexts)).astype(np.int64)  # exact: sums stay below 2^53
    return Table(contexts, totals, grams, weights)


def suffix(codes: np.ndarray, digits: int, vocabulary_size: int) -> np.ndarray:
    """The last `digits` tokens of coded sequences."""
    modulus = vocabulary_size**digits
    return codes if modulus >= 1 << 64 else codes % np.uint64(modulus)


def find(sorted_codes: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each code is in a sorted table, and whether it is there at all (if not, the position is arbitrary)."""
    if not len(sorted_codes):
        return np.zeros(len(codes), dtype=np.int64), np.zeros(len(codes), dtype=bool)
    places = np.minimum(np.searchsorted(sorted_codes, codes), len(sorted_codes) - 1)
    return places, sorted_codes[places] == codes


def probability(tables: Sequence[Table], order: int, grams: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Conditional probability of the last token of each (order+1)-gram under the tables up to `order`: float64[n]."""
    result = np.full(
        len(grams), 1.0 / vocabulary_size
    )  # p_{-1} of each gram; every table that knows its context refines it
    for depth, table in enumerate(tables[: order + 1]):
        codes = suffix(grams, depth + 1, vocabulary_size)
        rows, known = find(table.contexts, codes // np.uint64(vocabulary_size))
        rows, codes = rows[known], codes[known]
        if not len(rows):
            break
        places, present = find(table.grams, codes)
        weights = np.zeros(len(codes), dtype=np.int64)
        weights[present] = table.weights[places[present]]
        result[known] = (weights + UNIT * result[known]) / (table.totals[rows] + UNIT)
    return result


def distributions(tables: Sequence[Table], order: int, rows: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Whole conditional distributions of contexts in the table of `order`, given by their rows: float64[n, V]."""
    if order < 0:
        return np.full((len(rows), vocabulary_size), 1.0 / vocabulary_size)
    table = tables[order]
    contexts = table.contexts[rows]
    parents = rows
    if order > 0:
        parents = np.searchsorted(tables[order - 1].contexts, suffix(contexts, order - 1, vocabulary_size))
    # Contexts with the same suffix share its distribution, which is formed once: [parents, V].
    parents, again = np.unique(parents, return_inverse=True)
    result = distributions(tables, order - 1, parents, vocabulary_size)[again] * UNIT
    scatter_weights(table, contexts, result, vocabulary_size)
    result /= (table.totals[rows] + UNIT)[:, None]
    return result


def scatter_weights(table: Table, contexts: np.ndarray, dense: np.ndarray, vocabulary_size: int) -> None:
    """Add a table's weights under `contexts` to the rows of a dense array [len(contexts), V]."""
    size = np.uint64(vocabulary_size)
    # Grams are sorted, so that those of one context follow each other: table.grams[starts[i]:ends[i]].
    starts = np.searchsorted(table.grams, contexts * size)
    ends = np.searchsorted(table.grams, contexts * size + (size - np.uint64(1)), side="right")
    lengths = ends - starts
    # For every gram its row of `dense`, and its place in the table, without a loop over contexts.
    rows = np.repeat(np.arange(len(contexts)), lengths)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.repeat(starts, lengths) + within
    dense[rows, (table.grams[places] % size).astype(np.int64)] += table.weights[places]


def expected_frequency(tables: Sequence[Table], order: int, contexts: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """How often each context of `order` tokens occurs, as the tables of lower orders predict it: float64[n]."""
    result = np.ones(len(contexts))
    for depth in range(order):
        leading = contexts // np.uint64(vocabulary_size ** (order - depth - 1))
        result *= probability(tables, depth, leading, vocabulary_size)
    return result
