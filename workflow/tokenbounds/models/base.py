"""The base of a fine-tune: found by its hash, and used only if what was read has that hash."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from transformers import PreTrainedModel

from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.files import read_json
from tokenbounds.models.adapters import AdapterCard, attach_adapters
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.card import BASE_FAMILY, ModelCard
from tokenbounds.models.checkpoint import load_checkpoint, load_weights
from tokenbounds.models.identity import checkpoint_sha256, model_sha256
from tokenbounds.models.weights import CARD_FILE, WEIGHTS_FILE

Found = TypeVar("Found")


def load_base(path: Path | str) -> tuple[PreTrainedModel, ModelCard, str]:
    """Load a dense model that messages may name as their base.

    Parameters
    ----------
    path
        A checkpoint folder of the workflow (`results/models/NAME`), a Hugging Face folder, or a GGUF file.

    Returns
    -------
    model, card, sha256
        The hash is that of the values that were read.

    Raises
    ------
    ModelError
        If there is no dense transformer at `path`.
    """
    with base_checkpoint(path) as folder:
        model, card = load_checkpoint(folder)
    if card.parameterization["kind"] != "dense":
        raise ModelError(f"{path} is not dense, and only dense models can be named by hash.")
    return model, card, hash_model(model, card)


@contextlib.contextmanager
def base_checkpoint(path: Path | str) -> Iterator[Path]:
    """A checkpoint folder of the model at `path`, see `load_base`, so that one tensor at a time can be read.

    A Hugging Face folder or GGUF file is imported where it is, into a folder that is removed at the end.

    Raises
    ------
    ModelError
        If there is no dense transformer at `path`.
    """
    path = Path(path)
    if (path / CARD_FILE).is_file():
        yield path
        return
    from tokenbounds.models.pretrained.loading import import_pretrained

    with tempfile.TemporaryDirectory(prefix="tokenbounds-") as folder:
        where, file = (str(path.parent), path.name) if path.suffix == ".gguf" else (str(path), None)
        import_pretrained(PretrainedModel(kind="pretrained", name=where, gguf_file=file), folder)
        yield Path(folder)


def hash_model(model: PreTrainedModel, card: ModelCard) -> str:
    """Hash of a dense model in memory; see `identity.model_sha256`."""
    values = ((name, np.asarray(value.detach())) for name, value in coded_parameters(model).items())
    return model_sha256(card, values)


def search_places(
    sha256: str, places: Sequence[Path], vocabulary_size: int | None, read: Callable[[Path], tuple[str, Found]]
) -> Found:
    """What is read from the first of several places whose model has the given hash.

    Parameters
    ----------
    sha256
        Hash of the wanted model.
    places
        Checkpoint folders, Hugging Face folders or GGUF files.
    vocabulary_size
        V of the wanted model, if it is known: a checkpoint whose card says otherwise need not be read.
    read
        Reads a place: the hash of its model, and what the caller wants from it.

    Raises
    ------
    ModelError
        If none has it; the message says what was found where.
    """
    seen = []
    for place in places:
        if not place.exists():
            seen.append(f"{place} does not exist")
            continue
        if (place / CARD_FILE).is_file() and not _may_be(read_json(place / CARD_FILE), vocabulary_size):
            seen.append(f"{place} holds a model of another kind or vocabulary")
            continue
        found, value = read(place)
        if found == sha256:
            return value
        seen.append(f"{place} holds {found[:16]}…")
    where = "; ".join(seen) or "no place to look for it is known"
    raise ModelError(f"the base model with hash {sha256[:16]}… was not found: {where}. Name its folder with --base.")


def find_base(sha256: str, places: Sequence[Path], vocabulary_size: int) -> tuple[PreTrainedModel, ModelCard]:
    """Load the model with the given hash from the first of several places that has it; see `search_places`.

    The hash is that of the values that were loaded, not of a file that may have changed since.
    """

    def read(place: Path) -> tuple[str, tuple[PreTrainedModel, ModelCard]]:
        model, card, found = load_base(place)
        return found, (model, card)

    return search_places(sha256, places, vocabulary_size, read)


def locate_base(sha256: str, places: Sequence[Path], vocabulary_size: int | None = None) -> Path:
    """The first of several places whose model has the given hash; see `search_places`."""

    def read(place: Path) -> tuple[str, Path]:
        with base_checkpoint(place) as folder:  # hashed tensor by tensor, without building the model
            return checkpoint_sha256(folder), place

    return search_places(sha256, places, vocabulary_size, read)


def is_finetuned(directory: Path | str) -> bool:
    """Whether a checkpoint folder contains only adapters."""
    path = Path(directory) / CARD_FILE
    raw = read_json(path) if path.is_file() else None
    return isinstance(raw, dict) and raw.get("family") == BASE_FAMILY


def load_finetuned(directory: Path | str, places: Sequence[Path]) -> tuple[PreTrainedModel, AdapterCard]:
    """Rebuild a fine-tuned model from the checkpoint folder of its adapters.

    Parameters
    ----------
    directory
        `card.json` and `model.safetensors` of the adapters.
    places
        Where to look for the base.

    Raises
    ------
    ModelError
        If the base is missing, or a file is damaged or does not fit.
    """
    directory = Path(directory)
    card = AdapterCard.from_dict(read_json(directory / CARD_FILE))
    base, _ = find_base(card.base_sha256, places, card.vocabulary_size)
    model = attach_adapters(base, card.parameterization).eval()
    load_weights(directory / WEIGHTS_FILE, model, card)
    return model, card


def _may_be(card: Any, vocabulary_size: int | None) -> bool:
    """Whether a checkpoint's card allows for a dense model of a vocabulary."""
    if not isinstance(card, dict) or card.get("family") in ("markov", BASE_FAMILY) or "parameterization" in card:
        return False
    return vocabulary_size is None or bool(card.get("vocabulary_size", 256) == vocabulary_size)
