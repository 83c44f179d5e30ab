"""Checkpoints that are read where they are: which tensor each parameter is, and what the model computes.

Nothing is copied, and one tensor is in memory at a time, for the comparison with transformers' own model too. A
quantized tensor is decoded whenever it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from accelerate import init_empty_weights
from accelerate.hooks import attach_align_device_hook
from transformers import PreTrainedConfig, PreTrainedModel

from tokenbounds.errors import ModelError
from tokenbounds.limits import release_freed_memory
from tokenbounds.models.build import coded_shapes, empty_model
from tokenbounds.models.card import ModelCard
from tokenbounds.models.families import Family, family_of
from tokenbounds.models.pretrained.decoded import DecodedSource, open_values
from tokenbounds.models.pretrained.filling import OTHER_HEAD, check_finite, is_constant, reading
from tokenbounds.models.pretrained.probe import compare_models
from tokenbounds.models.pretrained.tensor_files import files_of
from tokenbounds.models.safetensors_files import SafetensorsFiles
from tokenbounds.models.tensor_source import SafetensorsSource, TensorSource

_HEAD = "lm_head.weight"
_RELEASED_AFTER = 1 << 27  # bytes of values that were read


@dataclass(frozen=True)
class InPlace:
    """A checkpoint that was checked.

    Attributes
    ----------
    paths
        Its files with tensors, all in one folder.
    tensors
        The name in the files of every coded parameter.
    card
    source
        The tensors under the parameters' names.
    quantization
        What the files hold in place of values: see `decoded.open_values`; none if they are plain.
    """

    paths: list[Path]
    tensors: dict[str, str]
    card: ModelCard
    source: TensorSource
    quantization: Mapping[str, Any] | None = None


def open_plain(folder: Path, config: PreTrainedConfig, card: ModelCard, where: str) -> InPlace:
    """Find each parameter among a folder's tensors, and check values and computation.

    Parameters
    ----------
    folder
        Of the safetensors files, which may be shards.
    config
        As transformers reads it from the folder.
    card
        The card made from it.
    where
        What errors call the checkpoint.

    Raises
    ------
    ModelError
        If a tensor is missing, left over, of another shape or not finite, a tied head differs from the embedding, or
        the card's model computes something other than transformers'.
    """
    paths = files_of(folder)
    files = SafetensorsFiles.open(paths)
    family = family_of(card.family)
    wanted = coded_shapes(card)
    tensors = _match(files.shapes, wanted, family, where)
    if other := [name for name, held in tensors.items() if files.shapes[held] != wanted[name]]:
        name = min(other)
        raise ModelError(
            f"{where}: the tensor {name} is {list(files.shapes[tensors[name]])}, but its configuration wants "
            f"{list(wanted[name])}."
        )
    left = set(files.shapes) - set(tensors.values())
    _check_left(left, tensors, lambda name: torch.from_numpy(files.read_floats(name)), card, where)
    source = SafetensorsSource(files.select(tensors))
    check_finite(((name, source.read(name)) for name in wanted), where)
    _compare(config, card, source, where)
    return InPlace(paths, tensors, card, source)


def open_quantized(
    paths: list[Path], quantization: Mapping[str, Any], config: PreTrainedConfig, card: ModelCard, where: str
) -> InPlace:
    """As `open_plain`, for files that hold codes; `quantization` is that of `decoded.open_values`.

    Biases of zeros where the model has none, as AutoGPTQ wrote them, are left out.

    Raises
    ------
    ModelError
        Also if the quantization is not read, or what a tensor is made of does not fit.
    """
    wanted = coded_shapes(card)
    try:
        values = open_values(paths, quantization, card)
        tensors = _match(values.names, wanted, family_of(card.family), where)
        left = set(values.names) - set(tensors.values())
        with reading(where):
            left -= {name for name in left if name.endswith(".bias") and not values.read(name).any()}
            _check_left(left, tensors, values.read, card, where)
        source = DecodedSource(values, tensors, wanted)
        check_finite(((name, source.read(name)) for name in wanted), where)
    except ModelError as error:
        raise ModelError(str(error) if str(error).startswith(f"{where}:") else f"{where}: {error}") from error
    _compare(config, card, source, where)
    return InPlace(paths, tensors, card, source, quantization)


def _check_left(
    left: set[str],
    tensors: Mapping[str, str],
    read: Callable[[str], torch.Tensor],
    card: ModelCard,
    where: str,
) -> None:
    """Refuse tensors that are no parameter's, unless they are known to have no effect."""
    left = {name for name in left if not is_constant(name)}
    if card.config["tie_word_embeddings"] and _HEAD in left:
        embedding = next(name for name in tensors if name.endswith((".wte.weight", ".embed_tokens.weight")))
        if not torch.equal(read(_HEAD), read(tensors[embedding])):
            raise ModelError(f"{where}: {OTHER_HEAD}")
        left.remove(_HEAD)
    if left:
        model_class = family_of(card.family).model_class
        raise ModelError(f"{where}: its weights do not fit a {model_class} (first at {min(left)}).")


def _match(found: Collection[str], wanted: Collection[str], family: Family, where: str) -> dict[str, str]:
    """The name in the files of each parameter: its own, or without the name of the model that the head is put on."""
    base = family.blocks.partition(".")[0] + "."
    tensors = {name: name if name in found else name.removeprefix(base) for name in wanted}
    if missing := [name for name, held in tensors.items() if held not in found]:
        raise ModelError(f"{where}: its weights do not fit a {family.model_class} (first at {min(missing)}).")
    return tensors


def _compare(config: PreTrainedConfig, card: ModelCard, source: TensorSource, where: str) -> None:
    """Compare the card's model with transformers', both of which read each layer's values when they reach it."""
    with reading(where), init_empty_weights(include_buffers=False):
        original = getattr(transformers, family_of(card.family).model_class)(config)
        rebuilt = empty_model(card)
    compare_models(_streamed(original, source), _streamed(rebuilt, source), where)


def _streamed(model: PreTrainedModel, source: TensorSource) -> PreTrainedModel:
    """A model whose layers have values only while they compute."""
    model.tie_weights()
    attach_align_device_hook(model.eval(), torch.device("cpu"), offload=True, weights_map=_Values(model, source))
    return model


class _Values(Mapping[str, torch.Tensor]):
    """Float32 values of a model's parameters, a tied head's too, read when they are asked for."""

    def __init__(self, model: PreTrainedModel, source: TensorSource) -> None:
        tied = cast(torch.nn.Module, model.lm_head).weight is model.get_input_embeddings().weight
        embedding = next(name for name in source.shapes if name.endswith((".wte.weight", ".embed_tokens.weight")))
        self._names = {name: name for name in source.shapes} | ({_HEAD: embedding} if tied else {})
        self._source, self._read_bytes = source, 0

    def __getitem__(self, name: str) -> torch.Tensor:
        values = self._source.read(self._names[name]).float()
        self._read_bytes += values.nbytes
        if self._read_bytes > _RELEASED_AFTER:
            release_freed_memory()
            self._read_bytes = 0
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
