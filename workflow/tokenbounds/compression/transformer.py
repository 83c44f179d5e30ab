"""Transformers to encode: with values of their own, over a base, or named only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from tokenbounds.compression.subject import Subject
from tokenbounds.config.quantizers import QUANTIZERS, Models
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.side_information import model_places
from tokenbounds.models.adapters import AdapterCard, base_header
from tokenbounds.models.base import is_finetuned, load_finetuned
from tokenbounds.models.build import coded_parameters, coded_shapes, dense_skeleton
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_card, load_checkpoint, open_checkpoint
from tokenbounds.models.identity import checkpoint_sha256
from tokenbounds.models.tensor_source import TensorSource


@dataclass(frozen=True, kw_only=True)
class Transformer(Subject):
    """A transformer with values of its own, or adapters on a base.

    Attributes
    ----------
    card
    shapes
        Of its coded parameters, in the model's order.
    tensors
        The coded values by name, float32, in the model's order; those of a checkpoint are read when they are asked for.
    load
        Makes the whole model.
    """

    card: ModelCard | AdapterCard
    shapes: Mapping[str, Shape]
    tensors: Mapping[str, np.ndarray]
    load: Callable[[], PreTrainedModel]

    @cached_property
    def model(self) -> PreTrainedModel:
        """The whole model, with its values."""
        return self.load()

    @cached_property
    def structure(self) -> PreTrainedModel:
        """The dense model's modules, whose parameters have shapes and no values."""
        assert isinstance(self.card, ModelCard)
        return dense_skeleton(self.card, torch.device("meta"))

    def dense_card(self, kind: str) -> ModelCard:
        """The card of a model that is not an adapter; quantizers of this kind accept no others.

        Raises
        ------
        MessageError
            If it is one.
        """
        if isinstance(self.card, AdapterCard):
            others = " or ".join(kind for kind, row in QUANTIZERS.items() if row.models == "transformer")
            raise MessageError(f"adapters cannot be quantized by '{kind}'. Use {others}.")
        return self.card


def load_subject(directory: Path, models: Models, places: Sequence[Path]) -> Subject:
    """Read what quantizers for such `models` need from a model's folder; its base is looked for in `places`.

    Markov chains and online references are read by `counted.load_counted`.
    """
    if models == "fixed":
        header = base_header(load_card(directory).vocabulary_size)
        return Subject(directory=directory, header=header, base=checkpoint_sha256(directory))
    if is_finetuned(directory):
        model, adapters = load_finetuned(directory, model_places(places))
        values = {name: value.detach().float().cpu().numpy() for name, value in coded_parameters(model).items()}
        return Transformer(
            directory=directory,
            header=adapters.header(),
            base=adapters.base_sha256,
            card=adapters,
            shapes={name: value.shape for name, value in values.items()},
            tensors=values,
            load=lambda: model,
        )
    source, card = open_checkpoint(directory)
    shapes = coded_shapes(card)
    return Transformer(
        directory=directory,
        header={**card.to_dict(), "vocabulary_size": card.vocabulary_size},  # always stated: auditors read it
        card=card,
        shapes=shapes,
        tensors=_Values(shapes, source),
        load=lambda: load_checkpoint(directory)[0],
    )


class _Values(Mapping[str, np.ndarray]):
    """The float32 values of tensors, read from their source when they are asked for."""

    def __init__(self, shapes: Mapping[str, Shape], source: TensorSource) -> None:
        self._shapes, self._source = shapes, source

    def __getitem__(self, name: str) -> np.ndarray:
        values: np.ndarray = self._source.read(name).float().numpy()
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
