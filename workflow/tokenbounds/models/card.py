"""The model card: the few numbers from which a model's structure and its fixed part are rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenbounds.errors import ModelError
from tokenbounds.models.families import Family, family_of
from tokenbounds.models.fields import Field, Integer, check_values, without_defaults
from tokenbounds.models.parameterizations import check_parameterization, compact_parameterization

_SIZES: dict[str, Field] = {
    "seed": Integer(0, 0, (1 << 64) - 1),
    "vocabulary_size": Integer(256, 1, 1 << 24),
    "start_id": Integer(0, 0, (1 << 24) - 1),
    "context": Integer(256, 1, 1 << 24),
}
_KEYS = ("family", "config", "parameterization", *_SIZES)

BASE_FAMILY = "given"
"""Family in a message's header if the model's architecture and frozen values are those of a base."""


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model that is not a coded value. It is part of the message, and its bits are paid for.

    Attributes
    ----------
    family
        A name in `families.FAMILIES`.
    config
        Every field of the family's configuration, checked, defaults filled in.
    parameterization
        Kind and settings of the parameterization, checked, defaults filled in.
    seed
        Seed of the fixed part (zero to 2^64 - 1); only parameterizations with a fixed part use it.
    vocabulary_size
        Number of logits V.
    start_id
        The token that precedes a document's first one.
    context
        Largest number of input positions.
    """

    family: str
    config: Mapping[str, Any]
    vocabulary_size: int
    start_id: int
    context: int
    parameterization: Mapping[str, Any] = field(default_factory=lambda: {"kind": "dense"})
    seed: int = 0

    def __post_init__(self) -> None:
        family = family_of(self.family)
        object.__setattr__(self, "config", check_values(family.fields, self.config, "config"))
        object.__setattr__(self, "parameterization", check_parameterization(self.parameterization))
        if self.parameterization["kind"] == "tiny":
            raise ModelError("parameterization.kind is 'tiny', which moves a base. Name a base.")
        for name, rule in _SIZES.items():
            rule.check(getattr(self, name), name)
        if self.start_id >= self.vocabulary_size:
            raise ModelError(f"start_id {self.start_id} is not a token of a vocabulary of {self.vocabulary_size}.")
        _check_heads(family, self.config)

    @property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return int(self.config[family_of(self.family).layers_key])

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return int(self.config[family_of(self.family).hidden_key])

    def to_dict(self) -> dict[str, Any]:
        """The card as plain JSON values, without defaults."""
        sizes = {name: getattr(self, name) for name in _SIZES}
        card = {
            "family": self.family,
            "config": without_defaults(family_of(self.family).fields, self.config),
            "parameterization": compact_parameterization(self.parameterization),
            **without_defaults(_SIZES, sizes),
        }
        return {key: value for key, value in card.items() if value != {}}

    @classmethod
    def from_dict(cls, raw: Any) -> ModelCard:
        """Rebuild a card from `to_dict`'s value, which may be hostile.

        Raises
        ------
        ModelError
            If the value is not a card: unknown keys, wrong types, sizes out of bounds, contradictory values.
        """
        if not isinstance(raw, Mapping):
            raise ModelError("a model card must be a mapping of keys to values.")
        unknown = [key for key in raw if key not in _KEYS]
        if unknown:
            raise ModelError(f"model card: {unknown[0]!s:.40} is unknown; known keys: {', '.join(_KEYS)}.")
        sizes = check_values(_SIZES, {key: raw[key] for key in _SIZES if key in raw}, "model card")
        return cls(
            family=raw.get("family", ""),
            config=raw.get("config", {}),
            parameterization=raw.get("parameterization", {}),
            **sizes,
        )


def _check_heads(family: Family, config: Mapping[str, Any]) -> None:
    """Refuse widths that the attention heads cannot share."""
    hidden = config[family.hidden_key]
    heads = config["num_attention_heads" if family.has_rope else "n_head"]
    head_dim = config.get("head_dim")
    if head_dim is None and hidden % heads:
        raise ModelError(f"config: the width {hidden} is not a multiple of the {heads} attention heads.")
    if not family.has_rope:
        return
    if heads % (config["num_key_value_heads"] or heads):
        raise ModelError(f"config: {heads} attention heads cannot share {config['num_key_value_heads']} key heads.")
    if (head_dim or hidden // heads) % 2:
        raise ModelError("config: rotary embeddings need an even head_dim.")
