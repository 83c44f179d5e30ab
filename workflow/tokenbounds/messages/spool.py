"""Decoding a message tensor by tensor into a scratch file, for models larger than memory.

A message is decoded in the order of its bytes, which is not the order in which a model uses its tensors. So each tensor
goes to its place in a safetensors file as soon as it is decoded, and is read from there when its block is needed.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch

from tokenbounds.errors import MessageError
from tokenbounds.limits import GIB, release_freed_memory
from tokenbounds.messages.container import Message
from tokenbounds.messages.counted import is_markov
from tokenbounds.messages.decode import HEADER_KEYS, checked_card, count_value_bytes
from tokenbounds.messages.formats import format_of
from tokenbounds.messages.side_information import SideInformation
from tokenbounds.models.build import coded_shapes
from tokenbounds.models.card import ModelCard
from tokenbounds.models.online.card import is_online
from tokenbounds.models.safetensors_files import SafetensorsFiles
from tokenbounds.models.tensor_source import SafetensorsSource

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def spoolable_card(message: Message) -> ModelCard | None:
    """The card of a message that can be decoded tensor by tensor: of a dense transformer, without side information.

    Raises
    ------
    MessageError, ModelError
        If the header is damaged, or describes more than the message's bytes may ask for.
    """
    if is_markov(message) or is_online(message.header) or not format_of(message.header).holds_values:
        return None
    named = SideInformation.of(message)
    if named.base is not None or named.coarse is not None:
        return None
    if set(message.header) != HEADER_KEYS:
        raise MessageError(f"the header needs exactly the keys {', '.join(sorted(HEADER_KEYS))}.")
    card = checked_card(message.header["model"], count_value_bytes(message), in_memory=False)
    return card if card.parameterization["kind"] == "dense" else None


def spool_message(message: Message, card: ModelCard, path: Path, dtype: torch.dtype) -> SafetensorsSource:
    """Decode a message into a safetensors file; at no time is more in memory than the message and a few tensors.

    Parameters
    ----------
    message
    card
        Of the message, from `spoolable_card`.
    path
        The file to write.
    dtype
        What values are rounded to, as `model.to(dtype)` does: float32 (not at all) or bfloat16.

    Raises
    ------
    MessageError
        If the message is damaged, or the disk has too little space.
    """
    shapes = coded_shapes(card)
    size_bytes = dtype.itemsize * sum(math.prod(shape) for shape in shapes.values())
    free = shutil.disk_usage(path.parent).free
    if size_bytes > free:
        raise MessageError(
            f"the decoded model takes {size_bytes / GIB:.1f} GiB of scratch space, and {path.parent} has "
            f"{free / GIB:.1f} GiB. Let TMPDIR name a folder of a larger disk."
        )
    offsets, header, end = {}, {}, 0
    for name, shape in shapes.items():
        offsets[name] = end
        end += dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
            for name, values in format_of(message.header).stream_values(message, shapes, message.header["coder"]):
                if not np.all(np.isfinite(values)):
                    raise MessageError(f"{name} decodes to values that are not finite.")
                tensor = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
                file.seek(8 + len(text) + offsets[name])
                file.write(tensor.view(-1).view(torch.uint8).numpy().data)
                del values, tensor  # not kept while the next one is decoded
                release_freed_memory()
    except OSError as error:
        raise MessageError(f"cannot write {path}: {error.strerror or error}. Free space, or set TMPDIR.") from error
    return SafetensorsSource(SafetensorsFiles.open([path]))
