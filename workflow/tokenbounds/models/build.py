"""From a card to a model: structure, fixed part and empty coded values, with no code but transformers' own."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from typing import Any, cast

import torch
import transformers
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from tokenbounds.errors import ModelError
from tokenbounds.files import canonical_json, parse_json
from tokenbounds.limits import check_memory
from tokenbounds.models.card import ModelCard
from tokenbounds.models.families import Family, family_of
from tokenbounds.models.generator import uniform
from tokenbounds.models.parameterizations import DenseWeight, apply_parameterization
from tokenbounds.models.parameterizations.layers import FactoredLayer, is_transposed
from tokenbounds.models.parameterizations.lora import LoraLayer
from tokenbounds.models.parameterizations.subspace import Subspace, projector_values
from tokenbounds.models.parameterizations.tiny import TinyVector
from tokenbounds.models.window_attention import WINDOWED

MAX_PARAMETERS = 1 << 40
# Decoding asks three times for the sizes of one card, and each time they come from models without values.
_REMEMBERED_CARDS = 8

_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout")


@dataclasses.dataclass(frozen=True)
class ParameterCounts:
    """Numbers of values of a model: `coded` are those a message must contain.

    `total` includes the generated values, and the products of factors, which an evaluation may form.
    """

    total: int
    coded: int


def build_model(
    card: ModelCard, *, max_parameters: int = MAX_PARAMETERS, max_coded: int | None = None
) -> PreTrainedModel:
    """Build the model a card describes: coded parameters zero, fixed part generated from the seed.

    Parameters
    ----------
    card
        The description, which may come from a hostile message.
    max_parameters, max_coded
        Largest numbers of values to accept, total and coded; checked before anything is allocated.

    Returns
    -------
    A transformers model on the CPU, float32, in evaluation mode, with scaled-dot-product attention.

    Raises
    ------
    ModelError
        If the model is larger than allowed or its values contradict each other.
    """
    check_size(card, max_parameters=max_parameters, max_coded=max_coded)
    try:
        model = _structure(card, torch.device("cpu"))
    except (RuntimeError, MemoryError) as error:
        raise ModelError(f"the card's model does not fit into memory: {error}") from error
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    _generate_fixed(model, card)
    return model.eval()


def check_size(
    card: ModelCard,
    *,
    max_parameters: int = MAX_PARAMETERS,
    max_coded: int | None = None,
    in_memory: bool = True,
) -> None:
    """Refuse a card of too large a model before anything is allocated for it; see `build_model`.

    With `in_memory`, all values must fit into the permitted memory; without, the model is held in parts.

    Raises
    ------
    ModelError
        If it has too many values, or they do not fit into the permitted memory.
    """
    counts = count_parameters(card)
    if counts.total > max_parameters:
        raise ModelError(f"the card describes {counts.total} parameters; at most {max_parameters} are allowed here.")
    if max_coded is not None and counts.coded > max_coded:
        raise ModelError(f"the card describes {counts.coded} coded values; at most {max_coded} are allowed here.")
    if not in_memory:
        return
    # Float32. Products of factors are formed one at a time, so the total may be slightly too large.
    check_memory(4 * counts.total, f"a model of {counts.total:,} parameters", ModelError)


def coded_shapes(card: ModelCard) -> dict[str, tuple[int, ...]]:
    """Shapes of a card's coded parameters by name, in the model's order, without allocating any."""
    return dict(_shapes_of(canonical_json(card.to_dict())))


@functools.lru_cache(maxsize=_REMEMBERED_CARDS)
def _shapes_of(text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    model = _structure(ModelCard.from_dict(parse_json(text)), torch.device("meta"))
    return tuple((name, tuple(value.shape)) for name, value in coded_parameters(model).items())


def empty_model(card: ModelCard) -> PreTrainedModel:
    """The structure that a card describes, its coded parameters unset and its fixed part missing.

    Under `accelerate.init_empty_weights` no parameter takes memory, so parameters can be loaded one by one.
    """
    return _structure(card, torch.device("cpu"))


def count_parameters(card: ModelCard) -> ParameterCounts:
    """Count a model's values exactly without allocating them, no matter what sizes the card claims.

    All blocks of a family have the same shapes, so models of one and of two blocks on torch's meta device,
    which holds shapes only, give the count for any number of blocks. Only a subspace's projector does not grow
    linearly with the blocks; it follows from the number of parameters it covers.

    Raises
    ------
    ModelError
        If transformers refuses the configuration, or a subspace has more dimensions than it covers parameters.
    """
    return _counts_of(canonical_json(card.to_dict()))


@functools.lru_cache(maxsize=_REMEMBERED_CARDS)
def _counts_of(text: str) -> ParameterCounts:
    card = ModelCard.from_dict(parse_json(text))
    inner = card.parameterization.get("over", card.parameterization)
    parameterized = min(inner.get("last_layers") or card.layers, card.layers)  # the last blocks; None: all
    # (total, coded, covered) of models of one block, of two, and of two of which one is parameterized.
    one, two = _count_layers(card, 1), _count_layers(card, 2)
    plain = _count_layers(card, 2, last=1) if parameterized < card.layers else two
    total, coded, covered = (
        first + (parameterized - 1) * (second - first) + (card.layers - parameterized) * (other - first)
        for first, second, other in zip(one, two, plain, strict=True)
    )
    if card.parameterization["kind"] == "subspace":
        dimension = card.parameterization["dimension"]
        if dimension > covered:
            raise ModelError(
                f"parameterization.dimension is {dimension}, but the subspace covers only {covered} parameters."
            )
        total += projector_values(covered, dimension)
    return ParameterCounts(total, coded)


def _count_layers(card: ModelCard, layers: int, last: int | None = None) -> tuple[int, int, int]:
    """Counts of a model of a few blocks, of which all or the given number of last ones are parameterized."""
    settings = dict(card.parameterization)
    if "over" in settings:
        settings["over"] = {**settings["over"], **({"last_layers": last} if "last_layers" in settings["over"] else {})}
    elif "last_layers" in settings:
        settings["last_layers"] = last
    config = {**card.config, family_of(card.family).layers_key: layers}
    small = dataclasses.replace(card, config=config, parameterization=settings)
    try:
        return _counts(_structure(small, torch.device("meta")))
    except ModelError:
        raise
    except Exception as error:  # anything that transformers raises on a hostile configuration
        raise ModelError(f"no {card.family} model fits this card: {error}") from error


def _counts(model: nn.Module) -> tuple[int, int, int]:
    """Numbers of values: in total without a subspace's projector, coded, and covered by a subspace."""
    coded = sum(parameter.numel() for parameter in model.parameters())
    projector = [buffer for module in model.modules() if isinstance(module, Subspace) for buffer in module.buffers()]
    fixed = sum(buffer.numel() for buffer in model.buffers()) - sum(buffer.numel() for buffer in projector)
    implied = sum(module.implied_values for module in model.modules() if isinstance(module, FactoredLayer))
    covered = sum(module.covered for module in model.modules() if isinstance(module, Subspace))
    return coded + fixed + implied, coded, covered


def coded_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters a message must contain, by name, in the model's own order, tied tensors once."""
    return dict(model.named_parameters())


def initialize(model: PreTrainedModel, seed: int) -> None:
    """Draw initial values of the coded parameters, in place: norms one, biases zero, others uniform.

    Weights have GPT-2's standard deviation, 0.02 at width 768 and ∝ 1/√width, divided by √(2 · layers) for those that
    write to the residual stream. Factors are drawn so that their product has it; LoRA's B and a subspace's z start at
    zero.
    """
    with torch.no_grad():
        for name, parameter in coded_parameters(model).items():
            parameter.copy_(_initial_value(model, seed, "initial", name, tuple(parameter.shape)))


def _initial_value(model: PreTrainedModel, seed: int, stream: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Initial value of a parameter, or of what a subspace starts from instead, from the stream's numbers."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    std = _initial_std(model.config, owner)
    if leaf == "bias" or isinstance(module, Subspace | TinyVector):
        std = 0.0
    elif isinstance(module, FactoredLayer | LoraLayer):
        std = module.initial_std(leaf, std)
    elif len(shape) == 1:
        return torch.ones(shape)
    return torch.from_numpy(uniform(seed, f"{stream}/{name}", shape, std)) if std else torch.zeros(shape)


def to_dense(model: PreTrainedModel) -> PreTrainedModel:
    """A plain transformers model that computes the same function, in the same dtype; `model` is not changed."""
    family = family_of(model.config.model_type)
    dense = _skeleton(family, copy.deepcopy(model.config), model.device)
    cast(nn.Module, dense).to(model.dtype)
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            owner, _, _ = name.rpartition(".")
            source = model.get_submodule(owner)
            if name.endswith(".weight") and isinstance(source, DenseWeight):
                weight = source.dense_weight()  # [outputs, inputs]
                value = weight.T if is_transposed(dense.get_submodule(owner)) else weight
            else:
                # A fine-tuned model holds its base's values in buffers.
                value = getattr(source, name.rpartition(".")[2])
            parameter.copy_(value)
    return dense.train(model.training)


def transformers_config(card: ModelCard) -> PreTrainedConfig:
    """The transformers configuration of a card, every field given explicitly, dropout off."""
    family = family_of(card.family)
    values: dict[str, Any] = {**family.fixed, **card.config}
    values |= {"vocab_size": card.vocabulary_size, family.context_key: card.context, "use_cache": False}
    values |= {"bos_token_id": card.start_id, "eos_token_id": None, "pad_token_id": None}
    values |= dict.fromkeys(_DROPOUTS if card.family == "gpt2" else ("attention_dropout",), 0.0)
    if family.has_rope:
        values["num_key_value_heads"] = values["num_key_value_heads"] or values["num_attention_heads"]
        if "head_dim" in values:
            values["head_dim"] = values["head_dim"] or values["hidden_size"] // values["num_attention_heads"]
        values["rope_parameters"] = dict(values["rope_parameters"])
    config = getattr(transformers, family.config_class)(**values)
    config._attn_implementation = WINDOWED if card.config.get("sliding_window") else "sdpa"
    return config


def dense_skeleton(card: ModelCard, device: torch.device) -> PreTrainedModel:
    """The dense model of a card's architecture, its values uninitialized."""
    return _skeleton(family_of(card.family), transformers_config(card), device)


def _structure(card: ModelCard, device: torch.device) -> PreTrainedModel:
    """The model's modules, parameterized, their values uninitialized (fixed parts zero)."""
    family = family_of(card.family)
    model = dense_skeleton(card, device)
    with device:
        apply_parameterization(model, card.parameterization, family.role)
    return model


def _skeleton(family: Family, config: PreTrainedConfig, device: torch.device) -> PreTrainedModel:
    with device, no_init_weights():
        model = getattr(transformers, family.model_class)(config)
    model.tie_weights()
    return model


def _generate_fixed(model: PreTrainedModel, card: ModelCard) -> None:
    """Fill every generated buffer from the card's seed; a tensor shared by two modules is named by the first."""
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(module, LoraLayer) and leaf == "fixed":
            values = uniform(card.seed, f"fixed/{owner}", tuple(buffer.shape), _initial_std(model.config, owner))
            buffer.copy_(torch.from_numpy(values))
        elif isinstance(module, Subspace):
            values = uniform(card.seed, f"fixed/{name}", tuple(buffer.shape), module.projector_std(leaf))
            buffer.copy_(torch.from_numpy(values))
        elif isinstance(module, ParametrizationList):
            replaced = name.removesuffix(".original").replace(".parametrizations.", ".")
            buffer.copy_(_initial_value(model, card.seed, "fixed", replaced, tuple(buffer.shape)))


def _initial_std(config: PreTrainedConfig, name: str) -> float:
    """GPT-2's scheme (Radford et al., 2019, section 2.3), scaled with the width."""
    family = family_of(config.model_type)
    std = 0.02 * math.sqrt(768 / getattr(config, family.hidden_key))
    layer = name.removesuffix(".weight")
    if layer.endswith(family.residual):
        std /= math.sqrt(2 * getattr(config, family.layers_key))
    return std
