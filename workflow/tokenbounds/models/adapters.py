"""Adapters over a fixed base: a model whose values are all the base's, except for a small coded difference.

The base is named by hash (`identity.model_sha256`); its values become buffers, so that only the adapter's values remain
parameters: these are trained, coded and paid for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenbounds.errors import ModelError
from tokenbounds.models.build import coded_parameters, dense_skeleton
from tokenbounds.models.card import BASE_FAMILY, ModelCard
from tokenbounds.models.families import family_of
from tokenbounds.models.fields import Integer
from tokenbounds.models.parameterizations import (
    apply_parameterization,
    check_parameterization,
    compact_parameterization,
)
from tokenbounds.models.parameterizations.layers import is_transposed
from tokenbounds.models.parameterizations.lora import BaseLayer
from tokenbounds.models.parameterizations.tiny import generate_projections

ADAPTER_KINDS = ("lora", "tiny")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VOCABULARY = Integer(None, 1, 1 << 24)


@dataclass(frozen=True)
class AdapterCard:
    """Everything about a fine-tuned model besides its base and its adapter's values.

    Attributes
    ----------
    base_sha256
        The base, by hash.
    parameterization
        Kind and settings of the adapter, checked, defaults filled in.
    vocabulary_size
        Number of logits V, the base's.
    context
        Tokens of a training window. It is not part of the message: the base knows its largest number of positions.
    """

    base_sha256: str
    parameterization: Mapping[str, Any]
    vocabulary_size: int
    context: int

    def __post_init__(self) -> None:
        if not isinstance(self.base_sha256, str) or not _SHA256.fullmatch(self.base_sha256):
            raise ModelError(f"base_sha256 is {self.base_sha256!r:.80}, which is not an SHA-256.")
        object.__setattr__(self, "parameterization", check_adapter(self.parameterization))
        for name in ("vocabulary_size", "context"):
            if _VOCABULARY.check(getattr(self, name), name) is None:
                raise ModelError(f"the card of a fine-tuned model has no {name}.")

    def header(self) -> dict[str, Any]:
        """The `model` entry of a message's header; the base's hash is a part of its own there."""
        return base_header(self.vocabulary_size, self.parameterization)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        return {**self.header(), "base_sha256": self.base_sha256, "context": self.context}

    @classmethod
    def from_dict(cls, raw: Any) -> AdapterCard:
        """Rebuild a card from `to_dict`'s value.

        Raises
        ------
        ModelError
            If it is not such a card.
        """
        keys = {"family", "parameterization", "base_sha256", "vocabulary_size", "context"}
        if not isinstance(raw, Mapping) or raw.get("family") != BASE_FAMILY or set(raw) != keys:
            raise ModelError(f"the card of a fine-tuned model has the keys {', '.join(sorted(keys))}.")
        return cls(raw["base_sha256"], raw["parameterization"], raw["vocabulary_size"], raw["context"])


def base_header(vocabulary_size: int, parameterization: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `model` entry of a header whose model is a base named by hash, with an adapter or unchanged."""
    header: dict[str, Any] = {"family": BASE_FAMILY, "vocabulary_size": vocabulary_size}
    return (
        header
        if parameterization is None
        else {**header, "parameterization": compact_parameterization(parameterization)}
    )


def check_adapter(raw: Any) -> dict[str, Any]:
    """Check the parameterization of an adapter and fill in its defaults.

    Raises
    ------
    ModelError
        If it is not one, or cannot have a base.
    """
    checked = check_parameterization(raw)
    if checked["kind"] not in ADAPTER_KINDS:
        raise ModelError(
            f"parameterization.kind is {checked['kind']!r}; over a fixed base it must be {', '.join(ADAPTER_KINDS)}."
        )
    return checked


def attach_adapters(base: PreTrainedModel, parameterization: Mapping[str, Any]) -> PreTrainedModel:
    """Put adapters of value zero over a dense model, in place, and freeze everything else.

    Parameters
    ----------
    base
        A dense model; what it computes does not change.
    parameterization
        Checked settings of an adapter.

    Returns
    -------
    The same model. Its parameters are the adapters'; all values of the base are buffers, tied ones still tied.

    Raises
    ------
    ModelError
        If no layer of the model is targeted.
    """
    weights = {name: module for name, module in base.named_modules() if hasattr(module, "weight")}
    frozen = {id(parameter): parameter.detach() for parameter in base.parameters()}
    apply_parameterization(base, parameterization, family_of(base.config.model_type).role)
    for name, module in base.named_modules():
        if isinstance(module, BaseLayer):
            layer = weights[name]
            weight = frozen[id(layer.weight)]
            fixed = weight.T.contiguous() if is_transposed(layer) else weight  # [outputs, inputs]
            module.register_buffer("fixed", fixed, persistent=False)
    for module in base.modules():
        _freeze(module, frozen)
    if parameterization["kind"] == "tiny" and base.device.type != "meta":
        generate_projections(base, parameterization["seed"])
    if not coded_parameters(base):
        raise ModelError("the adapter's targets name no layer of its base.")
    return base


def adapter_shapes(base: ModelCard, parameterization: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of an adapter's coded values over a base by name, in the model's order, without allocating any."""
    model = attach_adapters(dense_skeleton(base, torch.device("meta")), parameterization)
    return {name: tuple(value.shape) for name, value in coded_parameters(model).items()}


def _freeze(module: nn.Module, frozen: Mapping[int, torch.Tensor]) -> None:
    """Turn the base's parameters into buffers, which no checkpoint of the adapter contains."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        if id(parameter) in frozen:
            delattr(module, name)
            module.register_buffer(name, frozen[id(parameter)], persistent=False)
