"""A model held one block at a time, so that it may be larger than the memory of the CPU or GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import nn

from tokenbounds.compression.calibration.layers import blocks_name, blocks_of, check_calibratable, final_norm_of
from tokenbounds.errors import CalibrationError
from tokenbounds.models.build import empty_model
from tokenbounds.models.checkpoint import WEIGHTS_FILE, check_weights, load_card


class _Reached(Exception):
    """The first block has been called; nothing after it is needed."""


class LayerwiseModel:
    """A checkpoint whose embeddings, final norm and head are loaded, and its blocks one by one on request.

    Parameters
    ----------
    directory : path
        A checkpoint folder.
    device, dtype
        Where and in which precision it computes.

    Raises
    ------
    CalibrationError
        If the model cannot be calibrated, or its weights cannot be read.
    """

    def __init__(self, directory: Path | str, device: torch.device, dtype: torch.dtype) -> None:
        self.card = load_card(directory)
        check_calibratable(self.card)
        self.device, self.dtype = device, dtype
        self._path = Path(directory) / WEIGHTS_FILE
        check_weights(self._path, self.card)
        with init_empty_weights(include_buffers=False):
            self.model = empty_model(self.card)
        self.model.tie_weights()  # then what is loaded for one is loaded for the other
        self._prefix = blocks_name(self.model) + "."
        self._load([name for name, _ in self.model.named_parameters() if not name.startswith(self._prefix)])
        self.model.tie_weights()
        for name, buffer in self.model.named_buffers():
            set_module_tensor_to_device(self.model, name, device, value=buffer)
        self.model.eval().requires_grad_(False)
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(blocks_of(self.model))

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return self.card.hidden

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [batch, time, hidden] that enter the first block; remembers the blocks' other arguments.

        All batches must have the same shape.
        """
        caught: list[torch.Tensor] = []

        def catch(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            caught.append(arguments[0])
            self._arguments = (arguments[1:], named)
            raise _Reached

        handle = blocks_of(self.model)[0].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            self.model.base_model(input_ids=ids.to(self.device), use_cache=False)
        except _Reached:
            pass
        finally:
            handle.remove()
        return caught[0]

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """Block `index` with its weights, which are released at the end."""
        prefix = f"{self._prefix}{index}."
        names = [name for name, _ in self.model.named_parameters() if name.startswith(prefix)]
        self._load(names)
        try:
            yield blocks_of(self.model)[index]
        finally:
            for name in names:
                set_module_tensor_to_device(self.model, name, "meta")

    def run(self, block: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Apply a block to hidden states of the shape that `embed` was given last."""
        assert self._arguments is not None
        arguments, named = self._arguments
        return block(hidden, *arguments, **named)

    def final_norm(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states after the last block, normalised for the head."""
        return final_norm_of(self.model)(hidden)

    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """Logits in float32."""
        return self.model.lm_head(normed).float()

    def head_gradient(self, at_logits: torch.Tensor) -> torch.Tensor:
        """The gradient at the normalised hidden states, given the one at the logits."""
        return at_logits.to(self.dtype) @ self.model.lm_head.weight

    def _load(self, names: list[str]) -> None:
        try:
            with safe_open(self._path, framework="pt") as file:
                for name in names:
                    value = file.get_tensor(name)
                    set_module_tensor_to_device(self.model, name, self.device, value=value, dtype=self.dtype)
        except (SafetensorError, OSError, ValueError) as error:
            raise CalibrationError(f"cannot read {self._path}: {error}. Train or import the model again.") from error
        for name in names:
            self.model.get_parameter(name).requires_grad_(False)
