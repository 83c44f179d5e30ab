"""What every bound returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """An upper bound on a risk, with its ingredients.

    Attributes
    ----------
    value
        The bound, in the unit of the loss (bits per token, or errors per token).
    empirical
        The average loss on the data, same unit.
    complexity_nats
        Everything paid for, in nats: message, grids and ln(1/delta). `complexity_nats / samples` is L/m.
    price_nats
        The part of `complexity_nats` that the function itself added for its grid of lambdas.
    samples
        Number of martingale steps: tokens, or documents, or sequences.
    range
        What the losses can span: the full range for Azuma, the ceiling of the loss for the betting form.
    lambda_
        The winning lambda (1 / unit of the loss), None where there is none.
    alpha
        The winning smoothing weight, None for losses that are not smoothed.
    sampling
        How much of `value` is due to scoring only a sample, same unit; 0 if everything was scored.
    token_alphas
        The smoothing weights that tokens chose from if each has its own; `alpha` is None then.
    kappa
        The winning centre's factor of the entropy; 0 without a centre.
    """

    value: float
    empirical: float
    complexity_nats: float
    samples: int
    range: float
    price_nats: float = 0.0
    lambda_: float | None = None
    alpha: float | None = None
    sampling: float = 0.0
    token_alphas: tuple[float, ...] = ()
    kappa: float = 0.0

    @property
    def gap(self) -> float:
        """The certificate minus the empirical risk."""
        return self.value - self.empirical
