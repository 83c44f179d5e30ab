"""Choosing a chain's weights: rate against distortion.

A weight is worth its bits only if it saves enough of the corpus's code length, since a certificate pays `price` > 1
bits of the corpus for one message bit. The objective

    sum over tokens of −log2 p(token) + price · (bits of the tables),

is minimised by alternating two majorisations. Over a context's weights, log2(W + UNIT) is below its tangent, so given W
each token's weight is chosen by itself. Between orders, −log2(w + UNIT · p_below) splits its count between the weight
and the lower order in proportion to their shares (an expectation step), so that lower orders are fitted to what is left
to them.

References
----------
D. R. Hunter and K. Lange, "A tutorial on MM algorithms", 2004. P. A. Chou, T. Lookabaugh and R. M. Gray,
"Entropy-constrained vector quantization", 1989.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenbounds.compiled import compiled
from tokenbounds.messages.formats.markov import Entries
from tokenbounds.models.markov.grams import MarkovCard, sum_by_code
from tokenbounds.models.markov.tables import UNIT, Table, build_table, distributions, find, suffix, weight_scale

_BUCKETS = 48  # of half octaves of the lower order's probability
_FIRST_TOTALS = (0.25, 1, 4, 16, 64, 256, 1024)  # W/UNIT from which the majorisation starts
_RESTARTS = (0.5, 1.0, 2.0)
_STEPS = 5
_MOST_BACKED_OFF = 64  # a context is assumed to leave at least one part in this many to the lower order
_FIRST_ENTRY_BITS = 8.0
_FIRST_CONTEXT_BITS = 12.0
_SAMPLED_CELLS = 1 << 22


@dataclass
class _Order:
    """Observed grams of one order with their counts, and the weights chosen so far."""

    grams: np.ndarray  # uint64[n], ascending
    counts: np.ndarray  # int64[n]
    contexts: np.ndarray  # uint64[c], ascending
    context: np.ndarray  # int64[n]: row of each gram's context
    below: np.ndarray  # int64[n]: row of each gram's suffix one order below
    left: np.ndarray  # float64[n]: counts that higher orders leave to this one
    symbols: np.ndarray  # int64[n]: index into the table of weights, 0 for none
    probability: np.ndarray  # float64[n]
    entry_bits: np.ndarray  # float64[buckets, levels + 1]: bits of a symbol above those of a zero
    context_bits: float = _FIRST_CONTEXT_BITS


class Pruner:
    """Finds the tables of a chain that are best at a given price per message bit."""

    def __init__(self, card: MarkovCard, grams: np.ndarray, counts: np.ndarray, levels: int, threshold: int) -> None:
        self._card = card
        self._size = card.vocabulary_size
        self._threshold = threshold
        self._integers = weight_scale(levels)
        self._weights = self._integers / UNIT
        self._orders = _marginals(card, grams, counts, levels)
        self._fresh = True

    def run(self, price: float, passes: int) -> list[Entries]:
        """Alternate fits and expectation steps; return each order's table, closed under suffixes."""
        for _ in range(passes):
            for depth in range(len(self._orders)):
                self._fit(depth, price)
            self._fresh = False
            self._learn_costs()
            self._hand_down()
        for depth in range(len(self._orders)):
            self._fit(depth, price)
        return self._entries()

    def _lower(self, depth: int) -> np.ndarray:
        order = self._orders[depth]
        if depth == 0:
            return np.full(len(order.grams), 1.0 / self._size)
        return self._orders[depth - 1].probability[order.below]

    def _fit(self, depth: int, price: float) -> None:
        """Choose the weights of one order, all contexts at once, from several starts; keep each context's best."""
        order, lower = self._orders[depth], self._lower(depth)  # lower: what the order below says of each gram, [grams]
        count = len(order.contexts)
        totals = np.bincount(order.context, order.left, minlength=count)
        share = order.left / np.maximum(totals[order.context], 1e-300)
        saving = order.left * np.log2(np.maximum(_MOST_BACKED_OFF * share / lower, 1))
        active = np.flatnonzero((order.counts >= self._threshold) & (saving > 3 * price))
        context, mass = order.context[active], order.left[active]
        # What each gram costs under each weight that it might get, loss and price of the entry: [active, symbols]. The
        # denominator W + UNIT, which ties the grams of a context together, is left to `_descend`.
        losses = -mass[:, None] * np.log2(self._weights[None, :] + lower[active, None])
        losses += price * order.entry_bits[_bucket(lower[active])]
        fee = price * (order.context_bits if depth else 0.0)
        best = np.bincount(context, losses[:, 0], minlength=count)
        chosen = np.zeros(len(active), dtype=np.int64)
        for start in self._starts(order, count):
            symbols, sums = self._descend(losses, context, totals, start)
            value = np.take_along_axis(losses, symbols[:, None], axis=1)[:, 0]
            objective = np.bincount(context, value, minlength=count) + totals * np.log2(sums + 1) + fee
            better = objective < best
            best = np.where(better, objective, best)
            chosen = np.where(better[context], symbols, chosen)
        order.symbols = np.zeros(len(order.grams), dtype=np.int64)
        order.symbols[active] = chosen
        weights = self._weights[order.symbols]
        sums = np.bincount(order.context, weights, minlength=count)
        order.probability = (weights + lower) / (sums[order.context] + 1)

    def _starts(self, order: _Order, rows: int) -> list[np.ndarray]:
        if self._fresh:
            return [np.full(rows, float(total)) for total in _FIRST_TOTALS]
        present = np.bincount(order.context, self._weights[order.symbols], minlength=rows)
        return [present * factor for factor in _RESTARTS] + [np.full(rows, float(t)) for t in _FIRST_TOTALS[2:5:2]]

    def _descend(
        self, losses: np.ndarray, context: np.ndarray, totals: np.ndarray, start: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Minimise over symbols and tangent in turn; return symbols int64[n] and W/UNIT float64[contexts]."""
        sums = start
        symbols = np.zeros(len(context), dtype=np.int64)
        # log(W + UNIT) is concave in W, so its tangent is above it: each step lowers the true objective as well.
        for _ in range(_STEPS):
            slope = totals / ((sums + 1) * np.log(2))
            _choose_cheapest(losses, slope, context, self._weights, symbols)
            sums = np.bincount(context, self._weights[symbols], minlength=len(totals))
        return symbols, sums

    def _hand_down(self) -> None:
        """Give each order the counts that the order above does not explain itself."""
        for depth in range(len(self._orders) - 1, 0, -1):
            order, lower = self._orders[depth], self._lower(depth)
            share = lower / (self._weights[order.symbols] + lower)
            below = self._orders[depth - 1]
            below.left = np.bincount(order.below, order.left * share, minlength=len(below.grams))

    def _learn_costs(self) -> None:
        """Estimate what contexts and weights cost from how rare they now are."""
        entries = self._entries()
        done: list[Table] = []
        for depth, (order, table) in enumerate(zip(self._orders, entries, strict=True)):
            if len(table.contexts):
                cells = self._cells(depth, table.contexts, done)
                kept = np.flatnonzero(order.symbols)
                used = np.zeros(order.entry_bits.shape)
                np.add.at(used, (_bucket(self._lower(depth)[kept]), order.symbols[kept]), 1)
                order.entry_bits, zero_bits = _bits_of(used, cells)
                above = len(self._orders[depth - 1].contexts) if depth else 1
                candidates = max(1, min(above, len(entries[depth - 1].contexts)) * self._size if depth else 1)
                order.context_bits = np.log2(candidates / len(table.contexts) + 1) + 1.5
                order.context_bits += zero_bits / len(table.contexts)
            weights = self._integers[table.symbols]
            done.append(build_table(table.contexts, table.grams, weights, self._size))

    def _cells(self, depth: int, contexts: np.ndarray, done: Sequence[Table]) -> np.ndarray:
        """How many cells of the contexts' tables fall in each bucket (estimated on a part of very many)."""
        if depth == 0:
            return np.bincount(_bucket(np.full(self._size, 1.0 / self._size)), minlength=_BUCKETS)
        stride = max(1, len(contexts) * self._size // _SAMPLED_CELLS)
        sample = suffix(contexts[::stride], depth - 1, self._size)
        rows, repeats = np.unique(np.searchsorted(done[depth - 1].contexts, sample), return_counts=True)
        counts = np.zeros(_BUCKETS)
        block = max(1, (1 << 20) // self._size)
        for start in range(0, len(rows), block):
            lower = distributions(done, depth - 1, rows[start : start + block], self._size)
            weight = np.repeat(repeats[start : start + block], self._size)
            counts += np.bincount(_bucket(lower).reshape(-1), weight, minlength=_BUCKETS)
        return counts * (len(contexts) / len(sample))

    def _entries(self) -> list[Entries]:
        """The tables, with the contexts' own suffixes added where only longer contexts were worth keeping."""
        tables: list[Entries] = []
        longer = np.zeros(0, dtype=np.uint64)
        for depth in range(len(self._orders) - 1, -1, -1):
            order = self._orders[depth]
            kept = np.flatnonzero(order.symbols)
            contexts = np.unique(np.concatenate([order.contexts[order.context[kept]], longer]))
            if depth == 0:
                contexts = np.zeros(1, dtype=np.uint64)
            tables.append(Entries(contexts, order.grams[kept], order.symbols[kept]))
            longer = np.unique(suffix(contexts, max(depth - 1, 0), self._size))
        return tables[::-1]


@compiled()
def _choose_cheapest(
    losses: np.ndarray, slope: np.ndarray, context: np.ndarray, weights: np.ndarray, symbols: np.ndarray
) -> None:
    """Set each gram's symbol to the one with the least loss plus slope · weight (compiled: the encoder's hot loop)."""
    for row in range(len(context)):
        least, incline = np.inf, slope[context[row]]
        for symbol in range(len(weights)):
            value = losses[row, symbol] + incline * weights[symbol]
            if value < least:
                least = value
                symbols[row] = symbol


def _marginals(card: MarkovCard, grams: np.ndarray, counts: np.ndarray, levels: int) -> list[_Order]:
    """Counts of every order from those of the highest."""
    size, pairs = card.vocabulary_size, [(grams, counts)]
    for digits in range(card.order, 0, -1):
        pairs.append(sum_by_code(suffix(pairs[-1][0], digits, size), pairs[-1][1]))
    orders: list[_Order] = []
    for depth, (codes, number) in enumerate(reversed(pairs)):
        contexts, context = np.unique(codes // np.uint64(size), return_inverse=True)
        below = find(orders[-1].grams, suffix(codes, depth, size))[0] if depth else np.zeros(len(codes), np.int64)
        bits = np.zeros((_BUCKETS, levels + 1))
        bits[:, 1:] = _FIRST_ENTRY_BITS if depth else 4.0
        nothing = np.zeros(len(codes), dtype=np.int64)
        left = number.astype(np.float64)
        orders.append(_Order(codes, number, contexts, context, below, left, nothing, left, bits))
    return orders


def _bucket(lower: np.ndarray) -> np.ndarray:
    return np.minimum((-2 * np.log2(lower)).astype(np.int64), _BUCKETS - 1)


def _bits_of(used: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, float]:
    """Bits of each symbol above a zero's in each bucket, and the bits of all zeros, from smoothed frequencies."""
    kept = used[:, 1:].sum(axis=1)
    share = (kept + 0.3) / (np.maximum(cells, kept) + 10)
    overall = (used[:, 1:].sum(axis=0) + 1) / (used[:, 1:].sum() + used.shape[1] - 1)
    symbols = (used[:, 1:] + 8 * overall) / (kept + 8)[:, None]
    bits = np.zeros(used.shape)
    bits[:, 1:] = np.log2(1 - share)[:, None] - np.log2(share[:, None] * symbols)
    return bits, float(-(np.maximum(cells - kept, 0) * np.log2(1 - share)).sum())
