"""The base of a fine-tune: found by its hash, and used only if what was read has that hash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.files import read_json
from tokenbounds.models.adapters import GIVEN, AdapterCard, attach_adapters
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import CARD_FILE, WEIGHTS_FILE, load_checkpoint, load_weights
from tokenbounds.models.identity import model_sha256, search_places


def load_base(path: Path | str) -> tuple[PreTrainedModel, ModelCard, str]:
    """Load a dense model that others may be decoded given.

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
    path = Path(path)
    if (path / CARD_FILE).is_file():
        model, card = load_checkpoint(path)
    else:
        from tokenbounds.models.pretrained.loading import load_pretrained

        where, file = (str(path.parent), path.name) if path.suffix == ".gguf" else (str(path), None)
        model, card = load_pretrained(PretrainedModel(kind="pretrained", name=where, gguf_file=file))
    if card.parameterization["kind"] != "dense":
        raise ModelError(f"{path} is not dense, and only dense models can be named by hash.")
    return model, card, hash_model(model, card)


def hash_model(model: PreTrainedModel, card: ModelCard) -> str:
    """Hash of a dense model in memory; see `identity.model_sha256`."""
    values = ((name, np.asarray(value.detach())) for name, value in coded_parameters(model).items())
    return model_sha256(card, values)


def find_base(sha256: str, places: Sequence[Path], vocabulary_size: int) -> tuple[PreTrainedModel, ModelCard]:
    """Load the model with a hash from the first of several places that holds it; see `identity.search_places`.

    The hash is that of the values that were loaded, not of a file that may have changed since.
    """

    def read(place: Path) -> tuple[str, tuple[PreTrainedModel, ModelCard]]:
        model, card, found = load_base(place)
        return found, (model, card)

    return search_places(sha256, places, vocabulary_size, read)


def is_finetuned(directory: Path | str) -> bool:
    """Whether a checkpoint folder holds adapters alone."""
    path = Path(directory) / CARD_FILE
    raw = read_json(path) if path.is_file() else None
    return isinstance(raw, dict) and raw.get("family") == GIVEN


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
        If the base is not there, or a file is damaged or does not fit.
    """
    directory = Path(directory)
    card = AdapterCard.from_dict(read_json(directory / CARD_FILE))
    base, _ = find_base(card.base_sha256, places, card.vocabulary_size)
    model = attach_adapters(base, card.parameterization).eval()
    load_weights(directory / WEIGHTS_FILE, model)
    return model, card
