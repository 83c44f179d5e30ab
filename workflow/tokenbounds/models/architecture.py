"""From a configuration row to the card of the model to train."""

from __future__ import annotations

import dataclasses
from typing import Any

from tokenbounds.config import Architecture, TrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.models.card import ModelCard
from tokenbounds.models.parameterizations import card_parameterization


def card_from_spec(spec: TrainedModel, *, vocabulary_size: int, start_id: int) -> ModelCard:
    """The card of a model to train; vocabulary and start token are the corpus's.

    Raises
    ------
    ModelError
        If the family has no such option, or the sizes contradict each other.
    """
    architecture = spec.architecture
    config = _gpt2(architecture) if architecture.family == "gpt2" else _llama(architecture)
    return ModelCard(
        family=architecture.family,
        config=config,
        vocabulary_size=vocabulary_size,
        start_id=start_id,
        context=architecture.context,
        parameterization=card_parameterization(dataclasses.asdict(spec.parameterization)),
        seed=spec.seed,
    )


def _gpt2(architecture: Architecture) -> dict[str, Any]:
    if architecture.key_value_heads not in (None, architecture.heads):
        raise ModelError(
            "architecture.key_value_heads: gpt2 has as many key heads as heads. Leave it out, or use llama."
        )
    return {
        "n_layer": architecture.layers,
        "n_embd": architecture.hidden,
        "n_head": architecture.heads,
        "n_inner": architecture.feed_forward,
        "tie_word_embeddings": architecture.tied_embedding,
    }


def _llama(architecture: Architecture) -> dict[str, Any]:
    """LLaMA's proportions: a feed-forward layer of 8/3 the width, rounded up to a multiple of 64."""
    key_value_heads = architecture.key_value_heads
    return {
        "num_hidden_layers": architecture.layers,
        "hidden_size": architecture.hidden,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": None if key_value_heads == architecture.heads else key_value_heads,
        "intermediate_size": architecture.feed_forward or 64 * -(-8 * architecture.hidden // (3 * 64)),
        "tie_word_embeddings": architecture.tied_embedding,
    }
