"""Checkpoints on disk: `card.json`, values (see `weights`), and `training.parquet`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedModel

from tokenbounds.errors import ModelError
from tokenbounds.files import atomic_path, read_json, write_json
from tokenbounds.models.build import build_model, coded_parameters, coded_shapes, count_parameters
from tokenbounds.models.card import ModelCard
from tokenbounds.models.safetensors_files import SafetensorsFiles, Shape
from tokenbounds.models.tensor_source import SafetensorsSource, TensorSource
from tokenbounds.models.weights import CARD_FILE, WEIGHTS_FILE, card_sha256, check_weights, open_weights, weights_file
from tokenbounds.seals import BLANK_SEAL, SEAL_KEY, seal

if TYPE_CHECKING:
    from tokenbounds.models.adapters import AdapterCard

TRAINING_FILE = "training.parquet"


def save_checkpoint(
    directory: Path | str, model: PreTrainedModel, card: ModelCard | AdapterCard, training: pa.Table | None = None
) -> None:
    """Write a model's coded parameters, its card and, if given, its loss curve; each file atomically.

    The card is written last, so a folder with a card is complete.

    Raises
    ------
    TokenboundsError
        If a file cannot be written; it is named.
    """
    directory = Path(directory)
    tensors = {name: value.detach().cpu().contiguous() for name, value in coded_parameters(model).items()}
    save_tensors(directory / WEIGHTS_FILE, tensors, {"card_sha256": card_sha256(card)})
    if training is not None:
        with atomic_path(directory / TRAINING_FILE) as temporary:
            pq.write_table(training, temporary)
    write_json(directory / CARD_FILE, card.to_dict())


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, sealed and atomically.

    Raises
    ------
    TokenboundsError
        If the file cannot be written; safetensors reports a full disk with its own exception.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", SEAL_KEY: BLANK_SEAL, **(metadata or {})})
            seal_tensors(temporary)
        except SafetensorError as error:
            raise ModelError(f"cannot write {path}: {error}. Free space, or choose another folder.") from error


def seal_tensors(path: Path) -> None:
    """Order the metadata of a safetensors file, whose library writes them in any order, and insert its seal.

    Equal tensors and metadata then give equal files.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, "the same header in another order has the same length"
        file.seek(8)
        file.write(text.ljust(size))
    seal(path)


def load_checkpoint(directory: Path | str) -> tuple[PreTrainedModel, ModelCard]:
    """Rebuild the model that `save_checkpoint` wrote.

    Raises
    ------
    ModelError
        If the weights are missing, damaged, or do not fit the card.
    """
    source, card = open_checkpoint(directory)
    model = build_model(card)
    copy_tensors(source, model, weights_file(Path(directory)))
    return model, card


def open_checkpoint(directory: Path | str) -> tuple[TensorSource, ModelCard]:
    """A checkpoint's tensors, those of the card's coded parameters, to be read one at a time.

    Raises
    ------
    ModelError
        If the weights are missing, damaged, or do not fit the card.
    """
    directory = Path(directory)
    card = load_card(directory)
    weights = open_weights(directory, card)
    _check_shapes(weights_file(directory), weights.shapes, card)
    return SafetensorsSource(weights) if isinstance(weights, SafetensorsFiles) else weights, card


def _check_shapes(path: Path, found: Mapping[str, Shape], card: ModelCard) -> None:
    """Refuse a file of weights of another model than the card's, before that is built: a card may claim any size."""
    counts = count_parameters(card)
    # Their number comes first: it takes no longer for many layers.
    if counts.coded == sum(map(math.prod, found.values())):
        differing = found.items() ^ coded_shapes(card).items()
        if not differing:
            return
        raise ModelError(f"{path} and its card disagree on the tensor {min(differing)[0]}. Make them again.")
    raise ModelError(f"{path} and its card disagree: the card's model has {counts.coded:,} values. Make them again.")


def load_card(directory: Path | str) -> ModelCard:
    """Read and check a checkpoint's card.

    Raises
    ------
    ModelError
        If the file is missing or holds no valid card.
    """
    path = Path(directory) / CARD_FILE
    try:
        return ModelCard.from_dict(read_json(path))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def load_weights(path: Path, model: PreTrainedModel, card: ModelCard | AdapterCard) -> None:
    """Copy tensors of a safetensors file into the coded parameters of `model`, which must match it exactly.

    Raises
    ------
    ModelError
        If the file is damaged, or names, shapes or types differ.
    """
    check_weights(path, card)
    source, parameters = SafetensorsSource(SafetensorsFiles.open([path])), coded_parameters(model)
    if differing := set(source.shapes) ^ set(parameters):
        raise ModelError(f"{path} and its card disagree on the tensor {min(differing)}. Make them again.")
    copy_tensors(source, model, path)


def copy_tensors(source: TensorSource, model: PreTrainedModel, path: Path) -> None:
    """Copy a source's tensors, which come from `path`, into the coded parameters of `model`.

    Raises
    ------
    ModelError
        If a tensor is missing, of another shape, or not of floating-point numbers.
    """
    with torch.no_grad():
        for name, parameter in coded_parameters(model).items():
            value = source.read(name)
            if value.shape != parameter.shape or not value.is_floating_point():
                raise ModelError(f"{path}: {name} is {value.dtype}{list(value.shape)}, not {list(parameter.shape)}.")
            parameter.copy_(value)
