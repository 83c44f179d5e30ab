"""Drift: layers are rounded one after the other, each for the inputs that the quantized layers before it give.

Let x be what a layer with the weight W sees in the original and x' in the quantized model, and r and r' the residual
stream that its output is added to, if it is. The layer's own rounding can make up for what those before it did: W + M
is rounded in place of W, where M x' is the best guess of e = (W x + r) − (W x' + r'), the part of the output that is
missing. Least squares give M = E[e x'ᵀ] E[x' x'ᵀ]⁻¹. From few tokens M is partly noise, so it is shrunk by the share of
it that windows which it was not fitted to confirm.

Both models are held one block at a time; hidden states and outputs of the original's layers lie in scratch files.

References
----------
Y. Li et al., "GPTAQ", 2025, and S. Zhang et al., "Qronos", 2025, round for drifted inputs. The shrinkage is that of the
linear estimate of least mean squared error, its reliability that of two halves (Spearman and Brown, both 1910).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch import nn

from tokenbounds.compression.calibration.layers import Matrix
from tokenbounds.compression.calibration.moments import add_moments
from tokenbounds.compression.grids import round_vectors
from tokenbounds.compression.posttraining.scale_search import Rounder
from tokenbounds.compression.subject import Record
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config.quantizers import Drift
from tokenbounds.errors import CalibrationError
from tokenbounds.messages.formats.scaled import ScaledMatrix
from tokenbounds.models.blockwise import BlockArguments, BlockwiseModel
from tokenbounds.models.checkpoint import open_checkpoint
from tokenbounds.models.families import family_of
from tokenbounds.models.tensor_source import TensorSource
from tokenbounds.progress import Progress

LOGGER = logging.getLogger(__name__)
_INPUTS = "inputs"
_DAMPING = 1e-3


class DriftFollower:
    """Rounds all linear layers of a model, block by block, each for the inputs that it will see.

    Parameters
    ----------
    rounder : Rounder
        It has rounded the layers at about the scale to come, so that it knows code lengths.
    subject : Transformer
        The original.
    inputs : int64 array [windows, context]
        Tokens of the calibration.
    spec : Drift

    Attributes
    ----------
    record : dict
        Of the last round: tokens, and for each layer the share of its correction that was kept.

    Raises
    ------
    CalibrationError
        If there are fewer than two windows.
    """

    def __init__(self, rounder: Rounder, subject: Transformer, inputs: np.ndarray, spec: Drift) -> None:
        count, context = inputs.shape
        count = min(count, max((spec.tokens or inputs.size) // context, 1))
        if count < 2:
            raise CalibrationError("drift is measured on two windows or more. Calibrate on more tokens.")
        limit = min(max(1, spec.batch_tokens // context), count // 2)
        rows = max(size for size in range(1, limit + 1) if count % size == 0)  # batches of one shape, two or more
        self._batches = torch.from_numpy(inputs[:count]).split(rows)
        self._rounder, self._subject, self._dtype = rounder, subject, getattr(torch, spec.dtype)
        self._tokens = count * context
        self.record: Record = {}

    def round(
        self, layers: Sequence[Matrix], scale: float, tables: Mapping[str, ScaledMatrix]
    ) -> dict[str, ScaledMatrix]:
        """Layers at a scale, by name, as they are stored; `tables` are embeddings and head as quantized already."""
        source, card = open_checkpoint(self._subject.directory)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        original = BlockwiseModel(source, card, device, self._dtype)
        # Tables, norms and biases in their quantized values; layers as they were, until they are rounded.
        shapes = self._subject.shapes
        vectors = {name: self._subject.tensors[name] for name, shape in shapes.items() if len(shape) < 2}
        quantized = _Overlaid(source, round_vectors(vectors).dequantize(), tables)
        current = BlockwiseModel(quantized, card, device, self._dtype)
        with tempfile.TemporaryDirectory(prefix="tokenbounds-drift-") as folder:
            scratch = _Scratch(Path(folder), self._dtype)
            passes = _Passes(original, current, scratch, self._rounder, scale, self._batches)
            found = passes.all(layers)
        self.record = {"tokens": self._tokens, "shares": passes.shares}
        return found


def correction(
    inputs: Sequence[np.ndarray], missing: Sequence[np.ndarray], damping: float = _DAMPING
) -> tuple[np.ndarray, float]:
    """What to add to a weight, so that its outputs are what drifted inputs leave missing.

    Parameters
    ----------
    inputs : two float arrays [inputs, inputs]
        Sums of x' x'ᵀ over one half of the tokens and over the other.
    missing : two float arrays [outputs, inputs]
        Sums of e x'ᵀ.
    damping : float
        Added to the diagonal of the inputs' moments, as a share of its mean.

    Returns
    -------
    correction : float64 array [outputs, inputs]
        The least-squares fit to both halves, times the share.
    share : float
        In [0, 1]. One half's fit is the truth and noise; a of it explains as much of the other half's missing outputs
        as any multiple does. A fit to both halves has half the noise: of it, 2a / (1 + a).
    """
    fits = [_least_squares(own, wanted, damping) for own, wanted in zip(inputs, missing, strict=True)]
    explained, size = 0.0, 0.0
    for fit, own, wanted in zip(fits, reversed(inputs), reversed(missing), strict=True):
        explained += float(np.vdot(fit, wanted))
        size += float(np.vdot(fit @ own, fit))
    half = min(max(explained / size, 0.0), 1.0) if size > 0 else 0.0
    share = 2 * half / (1 + half)
    return share * _least_squares(sum(inputs), sum(missing), damping), share  # type: ignore[arg-type]


def _least_squares(inputs: np.ndarray, missing: np.ndarray, damping: float) -> np.ndarray:
    """E[e x'ᵀ] E[x' x'ᵀ]⁻¹ from sums, float64 [outputs, inputs]."""
    moments = np.array(inputs, dtype=np.float64)
    mean = float(np.trace(moments)) / len(moments)
    moments[np.diag_indices(len(moments))] += damping * mean if mean > 0 else 1.0
    solved: np.ndarray = cho_solve(cho_factor(moments, overwrite_a=True), np.asarray(missing, dtype=np.float64).T).T
    return solved


@dataclass(frozen=True)
class _Overlaid:
    """A model's tensors, some in the values that a message gives them."""

    source: TensorSource
    values: Mapping[str, np.ndarray]
    tables: Mapping[str, ScaledMatrix]

    @property
    def shapes(self) -> Mapping[str, Any]:
        """See `TensorSource`."""
        return self.source.shapes

    def read(self, name: str) -> torch.Tensor:
        """See `TensorSource`."""
        if name in self.tables:
            return torch.from_numpy(self.tables[name].values())
        return torch.from_numpy(self.values[name]) if name in self.values else self.source.read(name)


class _Scratch:
    """Tensors in files of a folder, made when they are first asked for."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._folder, self._dtype = folder, dtype
        self._made: dict[tuple[str, int], torch.Tensor] = {}

    def put(self, name: str, batch: int, values: torch.Tensor) -> None:
        """Keep values of a name and a batch, in place of earlier ones, which had the same shape."""
        key = name, batch
        if key not in self._made:
            path = str(self._folder / f"{name}-{batch}")
            empty = torch.from_file(path, shared=True, size=values.numel(), dtype=self._dtype)
            self._made[key] = empty.view(values.shape)
        self._made[key].copy_(values)

    def get(self, name: str, batch: int) -> torch.Tensor:
        """What was put there last."""
        return self._made[name, batch]


class _Reached(Exception):
    """All layers that are watched have been run."""


class _Watch:
    """Inputs and outputs of a block's layers while it runs, which stops once all of `until` were run."""

    def __init__(self, model: nn.Module, layers: Sequence[Matrix]) -> None:
        self._model, self._layers, self._hooks = model, layers, ExitStack()
        self.inputs: dict[str, torch.Tensor] = {}  # by parameter [windows, time, inputs], in the order they are run
        self.outputs: dict[str, torch.Tensor] = {}
        self._until: frozenset[str] = frozenset()

    def __enter__(self) -> _Watch:
        for matrix in self._layers:
            module = self._model.get_submodule(matrix.name.rpartition(".")[0])
            self._hooks.callback(module.register_forward_hook(self._hook(matrix.name)).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def run(
        self, block: nn.Module, hidden: torch.Tensor, arguments: BlockArguments, until: Sequence[str] = ()
    ) -> torch.Tensor | None:
        """The block's outputs, or None if it was stopped."""
        self.inputs, self.outputs, self._until = {}, {}, frozenset(until)
        try:
            return BlockwiseModel.run(block, hidden, arguments)
        except _Reached:
            return None

    def _hook(self, name: str) -> Any:
        def watch(module: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self.inputs[name], self.outputs[name] = arguments[0], output
            if self._until and self._until <= self.outputs.keys():
                raise _Reached

        return watch


@dataclass
class _Passes:
    """Passes of the calibration's tokens through both models, block by block."""

    original: BlockwiseModel
    current: BlockwiseModel
    scratch: _Scratch
    rounder: Rounder
    scale: float
    batches: Sequence[torch.Tensor]  # tokens [rows, context] each
    shares: dict[str, float] = field(default_factory=dict)
    _corrected: dict[str, np.ndarray] = field(default_factory=dict)

    @torch.no_grad()
    def all(self, layers: Sequence[Matrix]) -> dict[str, ScaledMatrix]:
        """All blocks, one after the other."""
        again = Rounder(self.rounder.rounding, self._corrected, self.rounder.seen, device=self.rounder.device)
        for batch, ids in enumerate(self.batches):
            for name, model in (("original", self.original), ("current", self.current)):
                states, arguments = model.embed(ids)
                self.scratch.put(name, batch, states)
        found: dict[str, ScaledMatrix] = {}
        progress = Progress(LOGGER, self.original.blocks, "blocks", "followed the drift through")
        for index in range(self.original.blocks):
            names = set(self.original.block_parameters(index))
            mine = [matrix for matrix in layers if matrix.name in names]
            with self.original.block(index) as block:
                groups = self._run_original(block, mine, arguments)
            with self.current.block(index) as block, _Watch(self.current.model, mine) as watch:
                for group in groups:
                    self._correct(block, group, watch, arguments)
                    rounded = dict(again.round_each(group, self.scale))
                    for matrix in group:
                        weight = self.current.model.get_parameter(matrix.name)
                        weight.copy_(torch.from_numpy(rounded[matrix.name].values()))
                        del self._corrected[matrix.name]
                    found |= rounded
                for batch in range(len(self.batches)):
                    following = watch.run(block, self._states("current", batch), arguments)
                    assert following is not None
                    self.scratch.put("current", batch, following)
            progress.add(1)
        return found

    def _states(self, name: str, batch: int) -> torch.Tensor:
        return self.scratch.get(name, batch).to(self.original.device)

    def _run_original(
        self, block: nn.Module, layers: Sequence[Matrix], arguments: BlockArguments
    ) -> list[list[Matrix]]:
        """Pass all batches through a block of the original; layers that share inputs, in the order they are run."""
        with _Watch(self.original.model, layers) as watch:
            for batch in range(len(self.batches)):
                states = self._states("original", batch)
                self.scratch.put("stream", batch, states - self._states("current", batch))
                following = watch.run(block, states, arguments)
                assert following is not None
                self.scratch.put("original", batch, following)
                for name, output in watch.outputs.items():
                    self.scratch.put(_leaf(name), batch, output)
        by_name, groups = {matrix.name: matrix for matrix in layers}, dict[str, list[Matrix]]()
        for name in watch.outputs:
            groups.setdefault(by_name[name].group, []).append(by_name[name])
        return list(groups.values())

    def _correct(self, block: nn.Module, group: list[Matrix], watch: _Watch, arguments: BlockArguments) -> None:
        """Measure the drift of a group's inputs, and correct its weights for it."""
        ends = family_of(self.original.card.family).residual
        wanted, first = [matrix.name for matrix in group], group[0].name
        halves: list[dict[str, torch.Tensor]] = [{}, {}]
        for batch in range(len(self.batches)):
            watch.run(block, self._states("current", batch), arguments, wanted)
            sums, seen = halves[batch % 2], watch.inputs[first].flatten(0, -2).float()  # [tokens, inputs]
            add_moments(sums, _INPUTS, seen)
            stream = self._states("stream", batch).float()
            for name, output in watch.outputs.items():
                missing = self._states(_leaf(name), batch).float() - output.float()  # [windows, time, outputs]
                if _owner(name).endswith(ends):
                    stream = missing = stream + missing  # of the residual stream after this layer
                if name in wanted:
                    product = missing.flatten(0, -2).T @ seen
                    sums[name] = sums[name] + product if name in sums else product
        moments = [half[_INPUTS].cpu().numpy() for half in halves]
        for matrix in group:
            missed = [half[matrix.name].cpu().numpy() for half in halves]
            weight = self.rounder.upright(matrix)
            more, self.shares[matrix.name] = correction(moments, missed)
            upright = (weight + more).astype(np.float32)
            self._corrected[matrix.name] = upright.T if matrix.transposed else upright


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    """A layer's name within its block's part, the same in all blocks."""
    return ".".join(_owner(name).split(".")[-2:])
