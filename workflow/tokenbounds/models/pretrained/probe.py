"""Whether two models compute the same: all of them on a few tokens, and some blocks on more tokens than a window holds.

The first probe's tokens are at positions spread over the whole context, so that rotary frequencies of every type of
scaling are compared far out; the second one's sequence is longer than the sliding window, whose mask depends on how
far tokens are apart in the sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenbounds.errors import ModelError
from tokenbounds.models.families import family_of

_TOKENS = 48
_TOLERANCE = 1e-4
# Attention grows with the square of the length: beyond this many tokens only the window's size is compared.
_LONGEST = 8192
_BEYOND = 16


def compare_models(original: PreTrainedModel, model: PreTrainedModel, where: str) -> None:
    """Refuse a rebuilt model that computes something other than the original.

    Raises
    ------
    ModelError
        If the logits of a few tokens, or hidden states beyond the sliding window, differ.
    """
    family = family_of(model.config.model_type)
    context, window = getattr(model.config, family.context_key), getattr(model.config, "sliding_window", None)
    tokens = min(_TOKENS, context)
    positions = torch.linspace(0, context - 1, tokens).round().long()[None]
    ids = torch.arange(tokens)[None] * 7919 % model.config.vocab_size
    # Without a mask, positions with gaps would be taken for those of several documents.
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with torch.no_grad():
        _compare(original(**inputs).logits, model(**inputs).logits, where)
        if window is not None and window + _BEYOND <= min(context, _LONGEST):
            ids = torch.arange(window + _BEYOND)[None] * 7919 % model.config.vocab_size
            with _ends(original.base_model), _ends(model.base_model):
                expected, found = (
                    one.base_model(input_ids=ids, use_cache=False).last_hidden_state for one in (original, model)
                )
            _compare(expected, found, where)


def _compare(expected: torch.Tensor, found: torch.Tensor, where: str) -> None:
    difference = (found - expected).abs().max().item()
    if not difference <= _TOLERANCE * (1.0 + expected.abs().max().item()):
        raise ModelError(f"{where}: the model rebuilt from its card computes something else (by {difference:.3g}).")


@contextmanager
def _ends(base: Any) -> Iterator[None]:
    """The model with its first and last block alone, while the context lasts."""
    layers, config = base.layers, base.config
    count = config.num_hidden_layers
    try:
        base.layers = nn.ModuleList([layers[0], layers[-1]])
        config.num_hidden_layers = 2
        yield
    finally:
        base.layers, config.num_hidden_layers = layers, count
