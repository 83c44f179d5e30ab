"""What a telescoped row may choose from, and what the choice costs (docs/bounds.md, "Telescoping").

A certificate names a chain of messages, cheapest first, the certified one last. Its candidates are all sub-chains that
keep the order and end with the certified message, with every tuple of smoothing weights, of coefficients of the control
variates, and every split of delta from fixed grids. There are N of them; each link of each pays ln N, so that all hold
at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.ledger import log_fraction
from tokenbounds.bounds.smoothing import loss_ceiling, loss_floor
from tokenbounds.bounds.telescoped import link_ceilings, link_losses, link_weights

Floats = npt.NDArray[np.float64]
Path = tuple[int, ...]

SPLIT_RATIOS = (Fraction(1, 8), Fraction(1), Fraction(8))
"""Share of delta of a link over that of the link before it: what a split of delta is chosen from."""


@dataclass(frozen=True)
class ChainProblem:
    """A chain with its grids and its budget, all fixed before the scores were seen (docs/bounds.md, "Which chain").

    Attributes
    ----------
    message_bits
        C of each model, cheapest model first, the certified one last; 0 for models that never saw the corpus.
    vocabulary_sizes
        V of each model.
    alphas, link_alphas
        Smoothing weights of a sub-chain's first model (towards uniform) and of the others (towards the one before).
    link_betas
        How much of the cheaper model's loss a link may subtract, each in (0, 1].
    lambdas
        Size of each link's grid.
    tokens
        m.
    delta_generalization, delta_sampling
        Failure probabilities for all links together; the second is 0 if every token was scored.
    whole
        Bound the last model's loss in one piece (a mixture) rather than link by link (telescoped).
    kappas, entropies
        Factors of a model's entropy in the centre of its link, and of which models entropies are known; by default of
        none.
    messages
        For each model the bits of every message it is decoded from, by the message's identity: what several models
        share is paid once. Empty if they share nothing.
    """

    message_bits: tuple[int, ...]
    vocabulary_sizes: tuple[int, ...]
    alphas: tuple[float, ...]
    link_alphas: tuple[float, ...]
    link_betas: tuple[float, ...]
    lambdas: int
    tokens: int
    delta_generalization: Fraction
    delta_sampling: Fraction
    whole: bool = False
    kappas: tuple[float, ...] = (0.0,)
    entropies: tuple[bool, ...] = ()
    messages: tuple[Mapping[str, int], ...] = ()

    def paths(self) -> Iterator[Path]:
        """Sub-chains, as indices of models: every ordered choice that ends with the certified model."""
        last = len(self.message_bits) - 1
        for size in range(last + 1):
            for kept in itertools.combinations(range(last), size):
                yield (*kept, last)

    def ratios(self, path: Path) -> tuple[Fraction, ...]:
        """Splits of delta that a sub-chain may choose from."""
        return (Fraction(1),) if self.whole or len(path) == 1 else SPLIT_RATIOS

    def grid(self, place: int) -> tuple[float, ...]:
        """Smoothing weights of the model at a position in a sub-chain."""
        return self.alphas if place == 0 else self.link_alphas

    def betas(self, place: int) -> tuple[float, ...]:
        """Coefficients for the link at a position in a sub-chain; nothing comes before the first."""
        return (0.0,) if place == 0 else (1.0,) if self.whole else self.link_betas

    def centres(self, path: Path, place: int) -> tuple[float, ...]:
        """Factors of the entropy for the link at a position in a sub-chain; one piece has only its last model's."""
        known = self.entropies[path[place]] if self.entropies else False
        return self.kappas if known and not (self.whole and place < len(path) - 1) else (0.0,)

    @cached_property
    def candidates(self) -> int:
        """N: sub-chains × smoothing weights × coefficients × centres × splits of delta."""
        return sum(
            math.prod(
                len(self.grid(place)) * len(self.betas(place)) * len(self.centres(path, place))
                for place in range(len(path))
            )
            * len(self.ratios(path))
            for path in self.paths()
        )

    def weights(self, betas: Sequence[float]) -> tuple[float, ...]:
        """Factor of each link's bound in the row's bound."""
        return (1.0,) if self.whole else tuple(link_weights(betas))

    def shares(self, path: Path, ratio: Fraction) -> tuple[Fraction, ...]:
        """Each link's part of `delta_generalization`; they add up to it exactly."""
        powers = [ratio**place for place in range(1 if self.whole else len(path))]
        return tuple(self.delta_generalization * power / sum(powers) for power in powers)

    def places(self, path: Path) -> tuple[tuple[int, ...], ...]:
        """For each link the positions in a sub-chain of the models that it depends on; the last is the link's own."""
        reached = tuple(tuple(range(place + 1)) for place in range(len(path)))
        return reached[-1:] if self.whole else reached

    def bits(self, path: Path) -> tuple[int, ...]:
        """Bits of all messages that each link depends on, each message once."""
        every = self.messages or tuple({str(model): bits} for model, bits in enumerate(self.message_bits))
        return tuple(
            sum(dict(itertools.chain.from_iterable(every[path[place]].items() for place in places)).values())
            for places in self.places(path)
        )

    def complexities(self, path: Path, ratio: Fraction) -> tuple[float, ...]:
        """L of each link in nats: messages, ln N and ln(1 / its share of delta), without the price of lambdas."""
        price = math.log(self.candidates)
        return tuple(
            bits * math.log(2.0) + price - log_fraction(share)
            for bits, share in zip(self.bits(path), self.shares(path, ratio), strict=True)
        )

    def below(self, betas: Sequence[float], place: int) -> float:
        """How much of the loss of the model before it a link subtracts, as the certificate lists it."""
        return 0.0 if self.whole else betas[place]

    def streams(
        self, path: Path, alphas: Sequence[float], betas: Sequence[float], nll_bits: Sequence[npt.ArrayLike]
    ) -> list[Floats]:
        """The links' losses [n], bits, from the raw losses [n] of all models of the chain."""
        links = link_losses([nll_bits[model] for model in path], alphas, self.vocabulary_sizes[path[0]], betas)
        return [np.sum(links, axis=0)] if self.whole and len(links) > 1 else links

    def link_entropies(self, path: Path, entropies: Sequence[npt.ArrayLike]) -> list[Floats]:
        """The entropies [n] that links' centres are multiples of, from those [n] of all models of the chain, bits."""
        return [np.asarray(entropies[model], dtype=np.float64) for model in (path[-1:] if self.whole else path)]

    def link_kappas(self, kappas: Sequence[float]) -> tuple[float, ...]:
        """Each link's factor of its entropy, from one for each model of a sub-chain."""
        return tuple(kappas[-1:] if self.whole else kappas)

    def intervals(self, path: Path, alphas: Sequence[float], betas: Sequence[float]) -> list[tuple[float, float]]:
        """Smallest and largest value of each link, bits, whatever the data.

        A link is at least -log2((1 - a) / q + a), and the model before it gives a token at least q = the product of
        the weights before, over V.
        """
        size = self.vocabulary_sizes[path[0]]
        ceilings = link_ceilings(alphas, size, betas)
        if self.whole and len(path) > 1:
            return [(0.0, math.fsum(ceilings))]
        found = [(loss_floor(alphas[0], size), loss_ceiling(alphas[0], size))]
        for place in range(1, len(path)):
            alpha, least = alphas[place], math.prod(alphas[:place]) / size
            found.append((-math.log2((1.0 - alpha) / least + alpha), ceilings[place]))
        return found


@dataclass(frozen=True)
class Choice:
    """One candidate: a sub-chain, its weights, coefficients, centres and split of delta, and its links' lambdas."""

    path: Path
    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    kappas: tuple[float, ...]
    ratio: Fraction
    lambdas: tuple[int, ...]
    guess: float
    logs: tuple[
        float, ...
    ] = ()  # average of ln(1 - lambda x (link - centre)) of each link on the searched tokens, nats
