"""The identity of a model: a hash of its card and values that does not depend on how files store them.

A message whose side information is a base model names it by this hash. The text that is hashed is defined byte by byte
in docs/message-format.md ("The hash of a model"), so anyone can compute it without this project. torch is not imported
here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tokenbounds.errors import ModelError
from tokenbounds.files import canonical_json, read_json, sha256_bytes
from tokenbounds.models.card import ModelCard
from tokenbounds.models.weights import CARD_FILE, open_weights

TITLE = "tokenbounds model 1"
_CHUNK = 1 << 24


def model_sha256(card: ModelCard, tensors: Iterable[tuple[str, np.ndarray]]) -> str:
    """Hash a model whose every parameter is coded (a dense one).

    Parameters
    ----------
    card
        Its card.
    tensors
        Names and values of its coded parameters, tied ones once, in any order; finite floating-point numbers that
        float32 holds exactly.

    Returns
    -------
    SHA-256, hexadecimal, of lines that each end in a newline: `TITLE`; the card as canonical JSON, always with the
    vocabulary size and never with the seed, on which nothing in a dense model depends; and for each tensor, by name,
    its name, its shape as `AxBxC`, and the SHA-256 of its values as little-endian float32 in row-major order.

    Raises
    ------
    ModelError
        If a value is not finite, or a name holds white space.
    """
    described = {**card.to_dict(), "vocabulary_size": card.vocabulary_size}
    described.pop("seed", None)
    lines = sorted(_line(name, values) for name, values in tensors)
    return sha256_bytes("\n".join([TITLE, canonical_json(described), *lines, ""]).encode())


def checkpoint_sha256(directory: Path | str) -> str:
    """Hash the model in a checkpoint folder, its values read one tensor at a time.

    Raises
    ------
    ModelError
        If the folder holds no dense transformer, or a file is damaged.
    """
    directory = Path(directory)
    card = ModelCard.from_dict(read_json(directory / CARD_FILE))
    if card.parameterization["kind"] != "dense":
        raise ModelError(f"{directory} is not dense, and only dense models can be named by hash.")
    files = open_weights(directory, card)
    return model_sha256(card, ((name, files.read_floats(name)) for name in files.shapes))


def _line(name: str, values: np.ndarray) -> str:
    if name.split() != [name]:
        raise ModelError(f"a tensor is called {name!r:.80}; names of a model's tensors hold no white space.")
    digest, flat = hashlib.sha256(), np.ascontiguousarray(values).reshape(-1)
    for first in range(0, flat.size, _CHUNK):
        part = flat[first : first + _CHUNK].astype("<f4")
        if not np.all(np.isfinite(part)):
            raise ModelError(f"{name} holds values that are not finite; such a model cannot be named by hash.")
        digest.update(part.tobytes())
    return f"{name} {'x'.join(map(str, values.shape))} {digest.hexdigest()}"
