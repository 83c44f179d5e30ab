"""What the rows of a certificate share: sizes, grids and delta, and how delta is split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from tokenbounds.bounds.kinds import BoundKind, Metric
from tokenbounds.bounds.ledger import Budget, RowBudget, split_delta
from tokenbounds.bounds.smoothing import TokenAlphas
from tokenbounds.certificates.averages.passes import Sample
from tokenbounds.certificates.rows.units import Units
from tokenbounds.config import BoundsSpec

Key = tuple[Metric, BoundKind]


@dataclass(frozen=True)
class Setting:
    """What all rows share.

    Attributes
    ----------
    spec
        Metrics, bounds and grids.
    tokens
        m, tokens of the corpus.
    vocabulary_size
        V, what the model chooses among.
    sample
        The sampled blocks; None if every token was scored.
    units
        Numbers of documents and blocks; None if only a sample was scored.
    delta
        Failure probability of these rows together; None if they are all that the specification states.
    token_alphas
        The weights among which the message's smoothing head chooses for each token; None without a head.
    entropies
        Whether the scores hold the entropies of predictions, of which centres are made.
    known_tokens
        Those that the model and the tokenizer both have, among which a guess is uniform; None: V. A model with tokens
        that no text contains would be compared with too bad a guess.
    """

    spec: BoundsSpec
    tokens: int
    vocabulary_size: int
    sample: Sample | None
    units: Units | None = None
    delta: Fraction | None = None
    token_alphas: TokenAlphas | None = None
    entropies: bool = False
    known_tokens: int | None = None

    @property
    def guessed_tokens(self) -> int:
        """How many tokens a uniform guess chooses among."""
        return self.known_tokens or self.vocabulary_size

    @property
    def kappas(self) -> tuple[float, ...]:
        """The distinct factors of the entropy that may be chosen for a centre."""
        return tuple(sorted(set(self.spec.kappas))) if self.entropies else (0.0,)

    def has_pilot(self, budget: RowBudget) -> bool:
        """Whether a sample's pilot chooses what a row bounds: losses, and errors that may have a centre."""
        centred = budget.bound is BoundKind.BETTING and self.kappas != (0.0,)
        return self.sample is not None and (centred or not budget.metric.is_error)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The distinct smoothing weights that may be chosen."""
        return tuple(sorted(set(self.spec.alphas)))

    @property
    def lambda_price_nats(self) -> float:
        """What choosing a lambda with the data in view costs, nats."""
        return math.log(self.spec.lambdas)

    @property
    def top_k(self) -> tuple[int, ...]:
        """The k below V, for which an error is possible."""
        return tuple(sorted({k for k in self.spec.top_k if k < self.guessed_tokens}))


def named_rows(setting: Setting) -> list[Key]:
    """Metric and bound of every row that a setting asks for."""
    metrics = Metric.stated(setting.spec.top_k, setting.guessed_tokens)
    bounds = dict.fromkeys(setting.spec.bounds)
    return [(metric, bound) for metric in metrics for bound in bounds if bound.allows(metric)]


def split_setting(setting: Setting, message_bits: int) -> Budget:
    """The ledger of a setting's rows: what each may spend (docs/bounds.md, "The ledger")."""
    spec = setting.spec
    budgets = split_delta(
        spec.delta if setting.delta is None else setting.delta,
        named_rows(setting),
        message_bits=message_bits,
        alphas=len(setting.alphas),
        lambdas=spec.lambdas,
        sampling_share=None if setting.sample is None else spec.sampling_share,
        by_token=setting.token_alphas is not None,
        centres=len(setting.kappas),
    )
    budgets.check()
    return budgets if setting.sample is None else budgets.shared_by(spec.certificates_per_sample)
