"""Which matrices of a model can be calibrated, and how each is stored and used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tokenbounds.errors import CalibrationError
from tokenbounds.models.card import ModelCard
from tokenbounds.models.parameterizations.layers import is_transposed

# Layers with the same inputs as another of their block: second moments are kept once.
_SHARED_INPUTS = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}

HEAD_INPUTS, LOOKUP_OUTPUTS = "head", "lookup"


@dataclass(frozen=True)
class Matrix:
    """A matrix among a model's coded parameters.

    Attributes
    ----------
    name : str
        Of the parameter.
    use : {"linear", "lookup", "head", "tied"}
        A linear layer of a block; a table in which tokens or positions are looked up; the head; table and head in one.
    transposed : bool
        Whether it is stored as [inputs, outputs].
    group : str
        Names the second moments of its inputs.
    """

    name: str
    use: Literal["linear", "lookup", "head", "tied"]
    transposed: bool
    group: str


def check_calibratable(card: ModelCard) -> None:
    """Refuse a model that cannot be calibrated, before hours are spent on it.

    Raises
    ------
    CalibrationError
        The parameterization is named.
    """
    if card.parameterization["kind"] != "dense":
        raise CalibrationError(
            f"a model with the parameterization '{card.parameterization['kind']}' cannot be calibrated, only a dense "
            "one. Use the quantizers 'uniform' or 'codebook'."
        )


def matrices_of(model: PreTrainedModel) -> list[Matrix]:
    """All matrices among a model's parameters, in the model's order; values are not looked at.

    Raises
    ------
    CalibrationError
        If one is neither a linear layer nor an embedding; it is named.
    """
    tied = model.config.tie_word_embeddings
    found = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        owner = name.rpartition(".")[0]
        module = model.get_submodule(owner)
        if module is model.get_input_embeddings():
            found.append(Matrix(name, "tied" if tied else "lookup", False, HEAD_INPUTS if tied else LOOKUP_OUTPUTS))
        elif isinstance(module, nn.Embedding):
            found.append(Matrix(name, "lookup", False, LOOKUP_OUTPUTS))
        elif owner == "lm_head":
            found.append(Matrix(name, "head", False, HEAD_INPUTS))
        elif isinstance(module, nn.Linear | Conv1D):
            parent, _, leaf = owner.rpartition(".")
            group = f"{parent}.{_SHARED_INPUTS.get(leaf, leaf)}"
            found.append(Matrix(name, "linear", is_transposed(module), group))
        else:
            raise CalibrationError(f"the matrix {name} of a {type(module).__name__} cannot be calibrated.")
    return found


def of_use(matrices: Sequence[Matrix], *uses: str) -> list[Matrix]:
    """The matrices of some uses."""
    return [matrix for matrix in matrices if matrix.use in uses]
