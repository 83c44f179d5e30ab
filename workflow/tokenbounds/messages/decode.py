"""From a message back to the model that is scored: structure from the card, values from the parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.container import Message, read_message
from tokenbounds.messages.quantizers import Quantized, quantizer_class
from tokenbounds.messages.smoothing_head import SmoothingHead, has_head
from tokenbounds.models.build import build_model, coded_parameters
from tokenbounds.models.card import ModelCard

if TYPE_CHECKING:
    from tokenbounds.baselines.markov import MarkovChain

# What a file of a given size may ask for: real messages spend far more, and a small hostile one cannot ask for much.
FREE_CODED, CODED_PER_BYTE = 1 << 12, 1 << 12
FREE_PARAMETERS, PARAMETERS_PER_BYTE = 1 << 20, 1 << 16
FREE_LAYERS, BYTES_PER_LAYER = 64, 16
_HEADER_KEYS = {"model", "quantizer", "coder"}


def decode_message(source: Path | str | bytes) -> PreTrainedModel | MarkovChain:
    """Decode a message into the model that is scored.

    Parameters
    ----------
    source : path or bytes

    Returns
    -------
    A transformers model on the CPU (float32, evaluation mode), or a `MarkovChain`.

    Raises
    ------
    MessageError
        If the message is damaged or hostile; a file is named. Nothing else is raised whatever the bytes.
    """
    message = read_message(source)
    try:
        if is_markov(message):
            from tokenbounds.baselines.markov import MarkovChain

            if has_head(message):
                raise MessageError("a Markov chain has no hidden state, but the message holds a smoothing head.")
            return MarkovChain.from_message(message)
        return _decode_transformer(message)
    except (MessageError, ModelError) as error:
        where = "" if isinstance(source, bytes) else f"{source}: "
        raise MessageError(f"{where}{error}") from error


def is_markov(message: Message) -> bool:
    """Whether the message holds a Markov chain."""
    card = message.header.get("model")
    return isinstance(card, dict) and card.get("family") == "markov"


def decode_quantized(message: Message, model: torch.nn.Module) -> Quantized:
    """The codes and scales of a message, for the coded parameters of a model built from its card."""
    shapes = {name: tuple(value.shape) for name, value in coded_parameters(model).items()}
    settings = message.header["quantizer"]
    kind = settings.get("kind") if isinstance(settings, dict) else None
    quantized = quantizer_class(kind).from_message(message, shapes, message.header["coder"])
    if quantized.header() != settings:
        raise MessageError("the message's quantizer settings are not what its quantizer writes.")
    return quantized


def load_values(model: torch.nn.Module, values: dict[str, np.ndarray]) -> None:
    """Copy decoded tensors into the coded parameters of `model`."""
    with torch.no_grad():
        for name, parameter in coded_parameters(model).items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values[name])))


def attach_head(model: PreTrainedModel, message: Message) -> None:
    """Give a decoded model its attribute `smoothing_head`: a `SmoothingHead`, or None.

    It is no module of the model: the model's own values and its exports stay as they are.
    """
    head = SmoothingHead.from_message(message, int(model.config.hidden_size))
    object.__setattr__(model, "smoothing_head", head)


def export_huggingface(source: Path | str | bytes, directory: Path | str) -> None:
    """Decode a message and write it as a folder that `AutoModelForCausalLM.from_pretrained` loads.

    A smoothing head stays behind: the folder holds the raw model.

    Raises
    ------
    MessageError
        If the message is damaged, or holds a Markov chain, which transformers does not know.
    """
    from tokenbounds.models.build import to_dense

    model = decode_message(source)
    if not isinstance(model, PreTrainedModel):
        raise MessageError("a Markov chain cannot be written as a Hugging Face folder; only transformers can.")
    try:
        to_dense(model).save_pretrained(Path(directory), safe_serialization=True)
    except OSError as error:
        raise MessageError(f"cannot write {directory}: {error.strerror or error}. Choose another folder.") from error


def _decode_transformer(message: Message) -> PreTrainedModel:
    if set(message.header) != _HEADER_KEYS:
        raise MessageError(f"the header needs exactly the keys {', '.join(sorted(_HEADER_KEYS))}.")
    card = _checked_card(message.header["model"], message.size_bytes)
    size = message.size_bytes
    model = build_model(
        card,
        max_parameters=FREE_PARAMETERS + PARAMETERS_PER_BYTE * size,
        max_coded=FREE_CODED + CODED_PER_BYTE * size,
    )
    values = decode_quantized(message, model).dequantize()
    for name, value in values.items():
        if not np.all(np.isfinite(value)):
            raise MessageError(f"{name} decodes to values that are not finite.")
    load_values(model, values)
    attach_head(model, message)
    return model


def _checked_card(raw: Any, size_bytes: int) -> ModelCard:
    card = ModelCard.from_dict(raw)
    if card.layers > FREE_LAYERS + size_bytes // BYTES_PER_LAYER:
        raise MessageError(f"the card declares {card.layers} layers, too many for a message of {size_bytes} bytes.")
    return card
