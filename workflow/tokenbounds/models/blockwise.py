"""A model held one part at a time, so that it may be larger than the memory of the CPU or GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import nn

from tokenbounds.errors import ModelError
from tokenbounds.limits import release_freed_memory
from tokenbounds.models.build import empty_model
from tokenbounds.models.card import ModelCard
from tokenbounds.models.families import family_of
from tokenbounds.models.tensor_source import TensorSource


@dataclass(frozen=True)
class BlockArguments:
    """What every block takes besides hidden states: masks, positions and rotary factors of batches of one shape."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


class _Reached(Exception):
    """The first block has been called; nothing after it is needed."""


class BlockwiseModel:
    """A dense model whose embeddings, final norm and head are loaded, and its blocks one by one on request.

    Parameters
    ----------
    source : TensorSource
        The values of the card's coded parameters.
    card : ModelCard
    device, dtype
        Where and in which precision it computes.
    keep_vocabulary
        Whether embeddings and head stay in memory, too. Otherwise they are there within `embeddings()` and `head()`,
        and nothing else that is large is then: a table of a large vocabulary may take more than a block.

    Attributes
    ----------
    model : PreTrainedModel
        The structure; parameters of blocks that are not loaded have no values.

    Raises
    ------
    ModelError
        If the model has a parameterization, whose fixed part is not among the tensors.
    TokenboundsError
        If a tensor cannot be read.
    """

    def __init__(
        self,
        source: TensorSource,
        card: ModelCard,
        device: torch.device,
        dtype: torch.dtype,
        keep_vocabulary: bool = True,
    ) -> None:
        if card.parameterization["kind"] != "dense":
            kind = card.parameterization["kind"]
            raise ModelError(f"a model with the parameterization '{kind}' cannot be held block by block.")
        self.card, self.device, self.dtype = card, device, dtype
        self._source = source
        with init_empty_weights(include_buffers=False):
            self.model = empty_model(card)
        self.model.tie_weights()  # then what is loaded for one is loaded for the other
        family = family_of(card.family)
        self._blocks = cast(nn.ModuleList, self.model.get_submodule(family.blocks))
        self._final_norm = self.model.get_submodule(family.final_norm)
        self._prefix = f"{family.blocks}."
        others = [name for name, _ in self.model.named_parameters() if not name.startswith(self._prefix)]
        self._kept_vocabulary = keep_vocabulary
        tables = () if keep_vocabulary else self._tables(self.model.get_input_embeddings(), self.model.lm_head)
        self._load([name for name in others if name not in tables])
        self.model.tie_weights()
        for name, buffer in self.model.named_buffers():
            set_module_tensor_to_device(self.model, name, device, value=buffer)
        self.model.eval().requires_grad_(False)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return self.card.hidden

    def block_parameters(self, index: int) -> list[str]:
        """The names of a block's parameters, in the model's order."""
        prefix = f"{self._prefix}{index}."
        return [name for name, _ in self.model.named_parameters() if name.startswith(prefix)]

    def embed(self, ids: torch.Tensor, **inputs: torch.Tensor) -> tuple[torch.Tensor, BlockArguments]:
        """What enters the first block.

        Parameters
        ----------
        ids : int64 tensor [batch, time]
        inputs
            Other inputs of the model's forward pass, such as `attention_mask` and `position_ids`.

        Returns
        -------
        hidden : tensor [batch, time, hidden]
        arguments : BlockArguments
            For hidden states of this shape, and of these other inputs.
        """
        caught: list[tuple[torch.Tensor, BlockArguments]] = []

        def catch(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            caught.append((arguments[0], BlockArguments(arguments[1:], named)))
            raise _Reached

        handle = self._blocks[0].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            self.model.base_model(input_ids=ids.to(self.device), use_cache=False, **inputs)
        except _Reached:
            pass
        finally:
            handle.remove()
        return caught[0]

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """Block `index` with its weights, which are released at the end."""
        with self._loaded(self.block_parameters(index)):
            yield self._blocks[index]

    @contextmanager
    def embeddings(self) -> Iterator[None]:
        """While `embed` may be called."""
        with self._loaded(() if self._kept_vocabulary else self._tables(self.model.get_input_embeddings())):
            yield

    @contextmanager
    def head(self) -> Iterator[None]:
        """While logits may be computed."""
        with self._loaded(() if self._kept_vocabulary else self._tables(self.model.lm_head)):
            yield

    @staticmethod
    def run(block: nn.Module, hidden: torch.Tensor, arguments: BlockArguments) -> torch.Tensor:
        """Apply a block to hidden states [batch, time, hidden] of the shape that the arguments are for."""
        return cast(torch.Tensor, block(hidden, *arguments.positional, **arguments.named))

    def final_norm(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states after the last block, normalised for the head."""
        return cast(torch.Tensor, self._final_norm(hidden))

    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """Logits in float32."""
        return cast(torch.Tensor, self.model.lm_head(normed).float())

    def _tables(self, *modules: nn.Module) -> list[str]:
        """Names of the modules' parameters; a tied one has that of the embedding."""
        own = [parameter for module in modules for parameter in module.parameters()]
        return [name for name, value in self.model.named_parameters() if any(value is each for each in own)]

    @contextmanager
    def _loaded(self, names: Sequence[str]) -> Iterator[None]:
        """Values of some parameters, which are released at the end."""
        self._load(names)
        self.model.tie_weights()
        try:
            yield
        finally:
            for name in names:
                set_module_tensor_to_device(self.model, name, "meta")
            self.model.tie_weights()
            release_freed_memory()

    def _load(self, names: Sequence[str]) -> None:
        for name in names:
            value = self._source.read(name)
            set_module_tensor_to_device(self.model, name, self.device, value=value, dtype=self.dtype)
            self.model.get_parameter(name).requires_grad_(False)
