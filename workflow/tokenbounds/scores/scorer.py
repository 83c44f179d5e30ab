"""What scores: predictors, how they are run, and what scoring needs from a scorer of either kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tokenbounds.errors import ScoreError
from tokenbounds.models.online.card import OnlineCard
from tokenbounds.scores.entropies import round_entropies
from tokenbounds.scores.provenance import DTYPES, Dtype
from tokenbounds.scores.windows import Group, TokenReader

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
Losses = tuple[Float32Array, Int32Array]
Placement = Literal["auto", "whole", "dispatch", "blocks"]

EVERYTHING = 1 << 62  # the order of a predictor that sees all that came before


@dataclass(frozen=True)
class ScoringOptions:
    """How to compute, not what: losses agree between all settings up to rounding.

    Attributes
    ----------
    dtype
        Of the model's weights and matrix products. Log-sum-exp is always float32.
    batch_tokens
        Most tokens (padding included) in one forward pass, unless a single window is longer; fewer where a block's
        activations would take more than 512 MiB.
    device
        A torch device; None takes CUDA if available.
    head_rows
        Positions whose logits exist at one time; None measures which number is fastest.
    placement
        Where `score_message` puts the model: `whole` on one device, `dispatch` over all GPUs, `blocks` one block at a
        time; `auto` chooses by measured sizes.
    """

    dtype: Dtype = "float32"
    batch_tokens: int = 16384
    device: str | None = None
    head_rows: int | None = None
    placement: Placement = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ScoreError(f"dtype is {self.dtype!r}; choose float32 or bfloat16.")
        if self.batch_tokens < 1 or (self.head_rows is not None and self.head_rows < 1):
            raise ScoreError("batch_tokens and head_rows must be at least 1.")
        if self.placement not in get_args(Placement):
            raise ScoreError(f"placement is {self.placement!r}; choose {', '.join(get_args(Placement))}.")


@runtime_checkable
class ChainPredictor(Protocol):
    """A predictor that scores a whole document at once, such as a Markov chain."""

    vocabulary_size: int

    def score(self, tokens: NDArray[Any], start_id: int) -> Losses:
        """Losses in bits, float32[n], and ranks, int32[n], of a document's n tokens."""


class Scorer(Protocol):
    """Computes losses and ranks of a group's scored tokens, in plan order.

    `order` is the number of preceding tokens it sees in any window; None if it sees only its window. `alphas` are
    the smoothing weights that it chooses from for each token, increasing; none if it does not. `entropies` says whether
    it knows the entropy of each prediction, `original_sha256` with which model it compares them, if with any,
    `centre_order` of which n-grams it knows the cross-entropy under their prediction, 0 if of none.
    """

    vocabulary_size: int
    longest_window: int | None
    order: int | None
    device_kind: str
    alphas: tuple[float, ...]
    entropies: bool
    original_sha256: str
    centre_order: int

    def score(self, group: Group) -> tuple[NDArray[Any], ...]:
        """Losses in bits, float32[sum of length], and ranks, int32.

        There follow with `entropies` these, rounded, float32; with `centre_order` cross-entropies, rounded, float32;
        with `original_sha256` divergences in bits, float32, and whether first choices differ, bool; with `alphas`
        smoothing weights, float32.
        """


@runtime_checkable
class EntropyPredictor(Protocol):
    """A `ChainPredictor` that knows the entropies of its predictions."""

    def predict(self, tokens: NDArray[Any], start_id: int) -> tuple[Float32Array, Int32Array, NDArray[np.float64]]:
        """Losses and ranks as from `ChainPredictor.score`, and entropies in bits, float64[n]."""


@runtime_checkable
class GroupsScorer(Protocol):
    """A `Scorer` through whose model many groups may pass together.

    Attributes
    ----------
    on_scored
        Called with a number of tokens as soon as these are scored, long before their group is.
    """

    on_scored: Callable[[int], object]

    def score_groups(self, groups: Iterable[Group]) -> Iterator[tuple[NDArray[Any], ...]]:
        """What `Scorer.score` returns, for each group in turn; several may be read before the first is scored."""


class ChainScorer:
    """Scores with a Markov chain: whole documents, from which the planned tokens are picked.

    A chain of order k always sees the k tokens before the one it predicts, also at the start of a window; its
    prediction is still a function of preceding tokens, so every bound holds.
    """

    longest_window: int | None = None
    device_kind = "cpu"
    alphas: tuple[float, ...] = ()
    original_sha256 = ""
    centre_order = 0

    def __init__(self, chain: ChainPredictor, corpus: TokenReader) -> None:
        self.vocabulary_size = chain.vocabulary_size
        self.order: int | None = getattr(chain, "order", 0)
        self._chain = chain
        self._corpus = corpus
        self._document = -1
        self._scored: tuple[NDArray[Any], ...] = ()  # of that document: losses, ranks and perhaps entropies
        self.entropies = isinstance(chain, EntropyPredictor)

    def score(self, group: Group) -> tuple[NDArray[Any], ...]:
        """Losses, ranks and perhaps entropies in plan order; consecutive blocks of a document are scored at once."""
        parts = []
        for document, start, length in zip(group.document, group.start, group.length, strict=True):
            if document != self._document:
                self._scored = self._score(self._corpus.document(int(document)))
                self._document = int(document)
            parts.append(tuple(values[start : start + length] for values in self._scored))
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def _score(self, tokens: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Losses, ranks and perhaps entropies of a document's tokens [n]."""
        if isinstance(self._chain, EntropyPredictor):
            nll_bits, rank, entropy = self._chain.predict(tokens, self._corpus.start_id)
            return nll_bits.astype(np.float32), rank.astype(np.int32), round_entropies(entropy)
        nll_bits, rank = self._chain.score(tokens, self._corpus.start_id)
        return nll_bits.astype(np.float32), rank.astype(np.int32)


def vocabulary_size(predictor: Any) -> int:
    """V of a decoded predictor."""
    if isinstance(predictor, ChainPredictor | OnlineCard):
        return predictor.vocabulary_size
    return int(predictor.config.get_text_config().vocab_size)
