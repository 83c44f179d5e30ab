"""A chain's counts as a message, at the price per bit for which the best certificate is expected."""

from __future__ import annotations

import numpy as np

from tokenbounds.compression.markov_pruning import Pruner
from tokenbounds.compression.subject import Chain, Record, Sources
from tokenbounds.config.quantizers import CountsQuantizer
from tokenbounds.messages.formats.markov import MarkovFormat
from tokenbounds.models.markov.tables import probability

_FIRST_PRICE = 20.0
_ROUNDS = 4
_PRICE_FACTOR = 0.7
_PASSES = 3
_CONFIDENCE_NATS = 3.0  # about ln(1/0.05): only guides the search for a good size


def quantize_counts(spec: CountsQuantizer, subject: Chain, sources: Sources) -> tuple[MarkovFormat, Record]:
    """The tables for which the best certificate is expected on the corpus that was counted.

    A few prices of a message bit, in bits of the corpus, are tried: starting from the marginal price of a first
    attempt, the price falls by a factor as long as that helps, then rises. What is chosen is in the message, so the
    search costs nothing more.
    """
    card, grams, counts = subject.card, subject.grams, subject.counts
    pruner = Pruner(card, grams, counts, spec.levels, spec.threshold)

    def attempt(price: float, passes: int) -> tuple[float, float, MarkovFormat]:
        """The loss to expect of a certificate, the marginal price there, and the chain."""
        found = MarkovFormat.lay_out(card, pruner.run(price, passes), spec.levels)
        size_bits = 8 * sum(len(part.data) for part in found.to_parts(sources.coder))
        losses = -np.log2(probability(found.tables, card.order, grams, card.vocabulary_size))
        return *promised_loss(losses, counts, size_bits, card.vocabulary_size), found

    least, marginal, best = attempt(_FIRST_PRICE, _PASSES)
    best_price, price, factor = _FIRST_PRICE, marginal, _PRICE_FACTOR
    for _ in range(_ROUNDS):
        value, _, found = attempt(price, 1)
        if value < least:
            least, best, best_price = value, found, price
        elif factor < 1:
            factor = 1 / factor
        else:
            break
        price = best_price * factor
    return best, {}


def promised_loss(losses: np.ndarray, counts: np.ndarray, size_bits: int, vocabulary_size: int) -> tuple[float, float]:
    """Estimate the certified loss in bits, and what one more message bit would cost in bits of the whole corpus.

    The certificate's gap is approximated by Freedman's form, sqrt(2 · variance · L/m) + range · L/(3m).
    """
    tokens = int(counts.sum())
    mean = float((losses * counts).sum()) / tokens
    variance = float(((losses - mean) ** 2 * counts).sum()) / tokens
    complexity = (size_bits * np.log(2) + _CONFIDENCE_NATS) / tokens
    spread = np.log2(vocabulary_size) / 3
    value = mean + np.sqrt(2 * variance * complexity) + spread * complexity
    marginal = np.log(2) * (np.sqrt(variance / (2 * complexity)) + spread)
    return float(value), float(max(marginal, 1.0))
