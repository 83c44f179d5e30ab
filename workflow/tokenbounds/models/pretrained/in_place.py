"""Plain safetensors checkpoints, read where they are: which tensor each parameter is, and what the model computes.

Nothing is copied, and one tensor is in memory at a time, for the comparison with transformers' own model too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

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
from tokenbounds.models.pretrained.filling import OTHER_HEAD, check_finite, is_constant, reading
from tokenbounds.models.pretrained.probe import compare_models
from tokenbounds.models.pretrained.tensor_files import files_of
from tokenbounds.models.safetensors_files import SafetensorsFiles, Shape
from tokenbounds.models.tensor_source import SafetensorsSource, TensorSource

_HEAD = "lm_head.weight"
_RELEASED_AFTER = 1 << 27  # bytes of values that were read


@dataclass(frozen=True)
class PlainCheckpoint:
    """A checkpoint that was checked.

    Attributes
    ----------
    folder
        Where its files are.
    paths
        Those with tensors.
    tensors
        The name in the files of every coded parameter.
    card
    source
        The tensors under the parameters' names.
    """

    folder: Path
    paths: list[Path]
    tensors: dict[str, str]
    card: ModelCard
    source: TensorSource


def open_plain(folder: Path, config: PreTrainedConfig, card: ModelCard, where: str) -> PlainCheckpoint:
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
    # Whatever else the files hold must be known to have no effect.
    left = {name for name in files.shapes if not is_constant(name)} - set(tensors.values())
    if card.config["tie_word_embeddings"] and _HEAD in left:
        embedding = next(name for name in wanted if name.endswith((".wte.weight", ".embed_tokens.weight")))
        if not (files.read_floats(_HEAD) == files.read_floats(tensors[embedding])).all():
            raise ModelError(f"{where}: {OTHER_HEAD}")
        left.remove(_HEAD)
    if left:
        raise ModelError(f"{where}: its weights do not fit a {family.model_class} (first at {min(left)}).")
    source = SafetensorsSource(files.select(tensors))
    check_finite(((name, source.read(name)) for name in wanted), where)
    _compare(config, card, source, where)
    return PlainCheckpoint(folder, paths, tensors, card, source)


def _match(found: Mapping[str, Shape], wanted: Mapping[str, Shape], family: Family, where: str) -> dict[str, str]:
    """The name in the files of each parameter: its own, or without the name of the model that the head is put on."""
    base = family.blocks.partition(".")[0] + "."
    tensors = {name: name if name in found else name.removeprefix(base) for name in wanted}
    if missing := [name for name, held in tensors.items() if held not in found]:
        raise ModelError(f"{where}: its weights do not fit a {family.model_class} (first at {min(missing)}).")
    if other := [name for name, held in tensors.items() if found[held] != wanted[name]]:
        name = min(other)
        raise ModelError(
            f"{where}: the tensor {name} is {list(found[tensors[name]])}, but its configuration wants "
            f"{list(wanted[name])}."
        )
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
