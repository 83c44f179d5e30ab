"""From a message back to the model that is scored: structure from the card, values from the parts.

A message may need side information, which it names by hash: a base model, a coarse message that it refines.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.container import Message, read_message
from tokenbounds.messages.counted import decode_counted
from tokenbounds.messages.formats import Format, format_of
from tokenbounds.messages.side_information import (
    SideInformation,
    find_places,
    model_places,
    read_coarse,
)
from tokenbounds.messages.smoothing_head import KIND, SmoothingHead
from tokenbounds.models.adapters import adapter_shapes, attach_adapters, check_adapter
from tokenbounds.models.base import find_base
from tokenbounds.models.build import build_model, check_size, coded_parameters, coded_shapes, count_parameters, to_dense
from tokenbounds.models.card import ModelCard
from tokenbounds.models.markov.chain import MarkovChain
from tokenbounds.models.online.card import OnlineCard

# What a message with this many bytes of values may ask for. Real messages stay far below, and a small hostile one
# cannot ask for much.
FREE_CODED, CODED_PER_BYTE = 1 << 16, 1 << 10
FREE_PARAMETERS, PARAMETERS_PER_BYTE = 1 << 20, 1 << 16
FREE_LAYERS, BYTES_PER_LAYER = 64, 16
# Bytes beyond these hold no value of a model, so that they allow nothing: codes, steps and scales are shorter.
FREE_BYTES, BYTES_PER_CODED = 64, 8
HEADER_KEYS = {"model", "quantizer", "coder"}


def decode_message(
    source: Path | str | bytes, side_information: Iterable[Path | str] = ()
) -> PreTrainedModel | MarkovChain | OnlineCard:
    """Decode a message into the model that is scored.

    Parameters
    ----------
    source : path or bytes
    side_information : paths
        Where to look for what the message is decoded with: files of messages, and folders (or GGUF files) of base
        models. For a kind that is not named, the study around a message's file is searched.

    Returns
    -------
    A transformers model on the CPU (float32, evaluation mode), a `MarkovChain`, or the `OnlineCard` of an online
    reference, which knows nothing until it reads a corpus.

    Raises
    ------
    MessageError
        If the message is damaged or hostile, or its side information is missing or the wrong one; a file is named.
        Nothing else is raised for any bytes.
    """
    message = read_message(source)
    try:
        counted = decode_counted(message)
        return counted if counted is not None else _decode_transformer(message, find_places(source, side_information))
    except (MessageError, ModelError) as error:
        where = "" if isinstance(source, bytes) else f"{source}: "
        raise MessageError(f"{where}{error}") from error


def decode_format(message: Message, shapes: Mapping[str, Shape], coarse: Message | None = None) -> Format:
    """The codes and scales of a message.

    Parameters
    ----------
    message : Message
    shapes : mapping of str to shape
        Of its model's coded parameters, in the model's order.
    coarse : Message, optional
        The message that it refines, if it is a refinement.
    """
    beneath = None if coarse is None else decode_format(coarse, shapes)
    found = format_of(message.header).from_message(message, shapes, message.header["coder"], beneath)
    found.check_header(message)
    return found


def load_values(model: torch.nn.Module, values: dict[str, np.ndarray]) -> None:
    """Copy decoded tensors into the coded parameters of `model`."""
    with torch.no_grad():
        for name, parameter in coded_parameters(model).items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values[name])))


def attach_head(model: PreTrainedModel, message: Message) -> None:
    """Give a decoded model its attribute `smoothing_head`: a `SmoothingHead`, or None.

    It is not a module of the model: the model's own values and its exports stay as they are.
    """
    head = SmoothingHead.from_message(message, int(model.config.hidden_size))
    object.__setattr__(model, "smoothing_head", head)


def export_huggingface(
    source: Path | str | bytes, directory: Path | str, side_information: Iterable[Path | str] = ()
) -> PreTrainedModel:
    """Decode a message, write it as a folder that `AutoModelForCausalLM.from_pretrained` loads, and return the model.

    The folder has no smoothing head: it holds the raw model. `side_information` is as in `decode_message`.

    Raises
    ------
    MessageError
        If the message is damaged, or holds a Markov chain, which transformers does not know, or the folder cannot be
        written: then nothing is left half-written.
    """
    model = decode_message(source, side_information)
    if not isinstance(model, PreTrainedModel):
        raise MessageError("only transformers can be written as a Hugging Face folder, not Markov chains and the like.")
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise MessageError(f"{directory} is a file, and the model is written as a folder. Choose another name.")
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        to_dense(model).save_pretrained(temporary, safe_serialization=True)
        _move_files(temporary, directory)
    except (OSError, SafetensorError) as error:
        raise MessageError(f"cannot write {directory}: {error}. Free space, or choose another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return model


def _move_files(source: Path, target: Path) -> None:
    """Move the files of a folder into another, its configuration last: a folder without one is incomplete."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").unlink(missing_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(target / path.name)


def _decode_transformer(message: Message, places: Sequence[Path]) -> PreTrainedModel:
    if set(message.header) != HEADER_KEYS:
        raise MessageError(f"the header needs exactly the keys {', '.join(sorted(HEADER_KEYS))}.")
    named = SideInformation.of(message)
    coarse = read_coarse(named.coarse, places) if named.coarse is not None else None
    if coarse is not None:
        _check_coarse(message, coarse, named)
    size = sum(count_value_bytes(one) for one in (message, coarse) if one is not None)
    if named.base is not None:
        return _decode_over_base(message, coarse, size, named.base, model_places(places))
    card = checked_card(message.header["model"], size)
    # Codes come first: what does not fit the card is refused before the model takes any memory.
    values = _decode_values(message, coded_shapes(card), coarse)
    return _fill(build_model(card), message, values)


def count_value_bytes(message: Message) -> int:
    """Bytes that hold values; parts that nothing would read are refused.

    Raises
    ------
    MessageError
        Also if the message only names a model, but has an adapter.
    """
    found = format_of(message.header)
    sides = [part.kind for part in SideInformation.of(message).parts()]
    if not found.holds_values:
        found.from_message(message, {}, message.header["coder"])
    message.check_kinds([*sides, *found.part_kinds], [KIND] if found.holds_values else [])
    return message.count_bytes(found.part_kinds)


def _decode_values(message: Message, shapes: Mapping[str, Shape], coarse: Message | None) -> dict[str, np.ndarray]:
    values = decode_format(message, shapes, coarse).dequantize()
    for name, value in values.items():
        if not np.all(np.isfinite(value)):
            raise MessageError(f"{name} decodes to values that are not finite.")
    return values


def _fill(model: PreTrainedModel, message: Message, values: dict[str, np.ndarray]) -> PreTrainedModel:
    """The same model with its values, and its smoothing head if the message has one."""
    load_values(model, values)
    attach_head(model, message)
    return model


def _check_coarse(message: Message, coarse: Message, named: SideInformation) -> None:
    """A refinement and what it refines must be messages of the same model."""
    if set(coarse.header) != HEADER_KEYS or coarse.header["model"] != message.header["model"]:
        raise MessageError("the coarse message belongs to another model. Refine a message of the same model.")
    beneath = SideInformation.of(coarse)
    if beneath.coarse is not None or beneath.base != named.base:
        raise MessageError("the coarse message is a refinement itself, or has another base.")


def _decode_over_base(
    message: Message, coarse: Message | None, size_bytes: int, sha256: str, places: Sequence[Path]
) -> PreTrainedModel:
    """The base that a message names, with its adapter if it has one."""
    header = message.header["model"]
    size = header.get("vocabulary_size")
    if not isinstance(size, int) or set(header) - {"family", "vocabulary_size", "parameterization"}:
        raise MessageError("the header's model must state its vocabulary and may have a parameterization.")
    holds_values = format_of(message.header).holds_values
    settings = check_adapter(header.get("parameterization", {})) if holds_values else None
    base, card = find_base(sha256, places, size)
    if card.vocabulary_size != size:
        raise MessageError(f"the header declares {size} tokens, but the base has {card.vocabulary_size}.")
    if settings is None:
        return base
    shapes = adapter_shapes(card, settings)
    coded, most = sum(map(math.prod, shapes.values())), FREE_CODED + CODED_PER_BYTE * size_bytes
    if coded > most:
        raise MessageError(f"the card describes {coded} coded values; at most {most} are allowed here.")
    values = _decode_values(message, shapes, coarse)
    return _fill(attach_adapters(base, settings).eval(), message, values)


def checked_card(raw: Any, size_bytes: int, *, in_memory: bool = True) -> ModelCard:
    """The card of a message, within what this many bytes of values may ask for; see `build.check_size`."""
    card = ModelCard.from_dict(raw)
    if card.layers > FREE_LAYERS + size_bytes // BYTES_PER_LAYER:
        raise MessageError(f"the card declares {card.layers} layers, too many for {size_bytes} bytes of values.")
    useful_bytes = min(size_bytes, FREE_BYTES + BYTES_PER_CODED * count_parameters(card).coded)
    check_size(
        card,
        max_parameters=FREE_PARAMETERS + PARAMETERS_PER_BYTE * useful_bytes,
        max_coded=FREE_CODED + CODED_PER_BYTE * size_bytes,
        in_memory=in_memory,
    )
    return card
