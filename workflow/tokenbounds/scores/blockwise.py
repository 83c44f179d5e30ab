"""Scoring with a model larger than memory: all windows pass through one block after the other.

Hidden states [B, T, H] of all batches lie in a scratch file. Each block is loaded once, reads the states of every batch
and writes what it makes of them to the same place. A batch meets the same operations on the same numbers as in a whole
model, so that losses are the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from tokenbounds.errors import ScoreError
from tokenbounds.models.blockwise import BlockArguments, BlockwiseModel

SCRATCH_BYTES = 1 << 33
"""Hidden states that may lie on disk at one time; more windows go through the model in several rounds."""


class _Place(NamedTuple):
    """Where a batch's hidden states lie."""

    begin: int  # bytes
    shape: tuple[int, ...]
    dtype: torch.dtype


class BlockwiseTrunk:
    """The layers of a model of which one part at a time is in memory; see `neural.Trunk`.

    Parameters
    ----------
    model
        Whose embeddings and head need not be kept: each is loaded when all batches are at it.
    folder
        Of the scratch file, on a disk of the machine that computes.
    scratch_bytes
        Size of the scratch file, unless a single group of windows needs more.
    """

    def __init__(self, model: BlockwiseModel, folder: Path, scratch_bytes: int) -> None:
        self.model = model.model
        self._blocks, self._path = model, folder / "hidden-states"
        self.most_inputs = max(1, scratch_bytes // (model.hidden * model.dtype.itemsize))

    def states(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """See `neural.Trunk`: all batches are read before the first states are yielded."""
        model = self._blocks
        try:
            with self._path.open("w+b", buffering=0) as file:
                places: list[_Place] = []
                arguments: dict[tuple[int, ...], BlockArguments] = {}  # they depend on a batch's shape alone
                end = 0
                with model.embeddings():
                    for inputs in batches:
                        hidden, arguments[tuple(inputs.shape)] = model.embed(inputs)
                        places.append(_Place(end, tuple(hidden.shape), hidden.dtype))
                        end += hidden.numel() * hidden.dtype.itemsize
                        _write(file, places[-1], hidden)
                for index in range(model.blocks):
                    with model.block(index) as block:
                        for place in places:
                            hidden = _read(file, place).to(model.device)
                            _write(file, place, model.run(block, hidden, arguments[place.shape[:2]]))
                with model.head():
                    for place in places:
                        yield model.final_norm(_read(file, place).to(model.device))
        except OSError as error:
            raise ScoreError(
                f"hidden states cannot be kept in {self._path.parent}: {error.strerror or error}. Let TMPDIR name a "
                "folder of a larger disk, or score in more shards."
            ) from error


def _write(file: BinaryIO, place: _Place, hidden: torch.Tensor) -> None:
    view = hidden.contiguous().cpu().view(-1).view(torch.uint8).numpy().data
    file.seek(place.begin)
    while view:
        view = view[file.write(view) :]


def _read(file: BinaryIO, place: _Place) -> torch.Tensor:
    raw = torch.empty(math.prod(place.shape) * place.dtype.itemsize, dtype=torch.uint8)
    view = raw.numpy().data
    file.seek(place.begin)
    while view:
        view = view[file.readinto(view) :]  # type: ignore[attr-defined]  # a file without a buffer has it
    return raw.view(place.dtype).view(place.shape)
