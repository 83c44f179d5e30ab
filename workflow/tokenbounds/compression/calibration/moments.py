"""Sums over tokens that calibration keeps of one block: second moments of inputs, squared gradients of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import torch
from scipy.linalg.blas import ssyrk
from torch import nn

from tokenbounds.compression.calibration.layers import Matrix


class BlockMoments:
    """Watches the linear layers of one block during forward or backward passes; a context manager.

    Parameters
    ----------
    model : nn.Module
    matrices : sequence of Matrix
        Linear layers of the block.
    backward : bool
        Whether to watch the gradients of outputs, and not the inputs.

    Attributes
    ----------
    inputs : dict of str to float32 tensor [n, n]
        Sums of x xᵀ by group.
    outputs : dict of str to float32 tensor [outputs]
        Sums of squared gradients by parameter.
    """

    def __init__(self, model: nn.Module, matrices: Sequence[Matrix], *, backward: bool) -> None:
        self._backward = backward
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self._hooks = ExitStack()
        self._layers = [(matrix, model.get_submodule(matrix.name.rpartition(".")[0])) for matrix in matrices]

    def __enter__(self) -> BlockMoments:
        seen: set[str] = set()
        for matrix, module in self._layers:
            if self._backward or matrix.group not in seen:
                handle = module.register_forward_hook(self._hook(matrix))
                self._hooks.callback(handle.remove)
            seen.add(matrix.group)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def means(self, tokens: int) -> dict[str, np.ndarray]:
        """All sums divided by the number of tokens, under their names in the calibration file."""
        named = {f"moments/{group}": total for group, total in self.inputs.items()}
        named |= {f"outputs/{name}": total for name, total in self.outputs.items()}
        return {name: (total / tokens).cpu().numpy() for name, total in named.items()}

    def _hook(self, matrix: Matrix) -> Any:
        def watch(module: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if self._backward:  # on the way back, the gradient of the loss on this layer's outputs
                output.register_hook(lambda gradient: self._add_squares(matrix.name, gradient))
            else:
                add_moments(self.inputs, matrix.group, arguments[0].detach())

        return watch

    def _add_squares(self, name: str, gradient: torch.Tensor) -> None:
        squares = gradient.detach().flatten(0, -2).float().square().sum(0)  # [windows, time, outputs] to [outputs]
        self.outputs[name] = self.outputs[name] + squares if name in self.outputs else squares


def add_moments(sums: dict[str, torch.Tensor], key: str, values: torch.Tensor) -> None:
    """Add the sum of x xᵀ over all rows x of `values` [..., n] to `sums[key]`, in float32."""
    rows = values.flatten(0, -2).float()  # [tokens, n]
    if rows.device.type == "cpu":  # half the work: BLAS fills one triangle, and the other is its mirror image
        triangle = np.triu(ssyrk(1.0, np.ascontiguousarray(rows.numpy()).T))
        product = torch.from_numpy(triangle + np.triu(triangle, 1).T)
    else:
        product = rows.T @ rows
    if key in sums:
        sums[key] += product
    else:
        sums[key] = product
