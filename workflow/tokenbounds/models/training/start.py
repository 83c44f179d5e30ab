"""Where training starts from: drawn values, or those nearest to a dense model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tokenbounds.config import TrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.models.build import build_model, coded_parameters, initialize, to_dense
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint
from tokenbounds.models.parameterizations.layers import FactoredLayer, is_transposed


def initial_model(spec: TrainedModel, card: ModelCard, start: Path | None = None) -> PreTrainedModel:
    """The model that a row describes, as it is when training starts.

    Parameters
    ----------
    spec, card
        The row, and the card made of it.
    start
        Folder of the checkpoint that the row names as its start; without one, values are random by the row's seed.

    Returns
    -------
    A model made by `build_model(card)`.

    Raises
    ------
    ModelError
        If the start is not a model of the same shape, or cannot be read.
    """
    model = build_model(card)
    initialize(model, spec.seed)
    if start is not None:
        try:
            start_from_dense(model, to_dense(load_checkpoint(start)[0]))
        except ModelError as error:
            raise ModelError(f"the start {start}: {error}") from error
    elif getattr(spec.parameterization, "initialization", "random") == "dense_projection":
        dense = build_model(dataclasses.replace(card, parameterization={"kind": "dense"}))
        initialize(dense, spec.seed)
        start_from_dense(model, dense)
    return model


@torch.no_grad()
def start_from_dense(model: PreTrainedModel, dense: PreTrainedModel) -> None:
    """Set the coded parameters of `model`, in place, to those of a dense one, and factors to the nearest ones.

    Parameters
    ----------
    model
        A dense, Kronecker or Monarch model.
    dense
        A plain transformers model of the same architecture.

    Raises
    ------
    ModelError
        If a tensor is missing or has another shape; it is named.
    """
    values = dict(dense.named_parameters(remove_duplicate=False))
    for name, parameter in coded_parameters(model).items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        factored = isinstance(module, FactoredLayer) and leaf in module.factors
        source = f"{owner}.weight" if factored else name
        if source not in values:
            raise ModelError(f"it has no tensor {source}. Name a model of the same architecture.")
        value: torch.Tensor = values[source]
        if is_transposed(dense.get_submodule(owner)) and factored:
            value = value.T
        shape = (module.outputs, module.inputs) if isinstance(module, FactoredLayer) and factored else parameter.shape
        if tuple(value.shape) != tuple(shape):
            raise ModelError(f"its tensor {source} is {list(value.shape)}, not {list(shape)}.")
        if not factored:
            parameter.copy_(value)
        elif isinstance(module, FactoredLayer) and leaf == module.factors[0]:
            module.project(value)
