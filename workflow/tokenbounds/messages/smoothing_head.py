"""A smoothing head: how much each prediction is smoothed, read off the model's last hidden state.

A linear function of the hidden state that predicts token i, rounded, is the position of token i's weight alpha on a
grid of powers of two. It sees what the model sees, the tokens before i, so alpha is predictable (docs/bounds.md, "A
weight for each token"). Its values are part of the message, and so they are paid for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.container import Message, Part, read_varint, write_varint

if TYPE_CHECKING:
    import torch

KIND = "smoothing_head"
LARGEST_GRID = 16


@dataclass(frozen=True)
class SmoothingHead:
    """A linear head as integer codes.

    Attributes
    ----------
    grid_size
        Number of weights: 1/2, 1/4, and so on to 2^-grid_size.
    step_exponent
        In [-512, 512): the values' step is 2^(step_exponent / 8).
    codes
        int32 [hidden + 1]: the weights' multiples of the step, the bias's last.
    """

    grid_size: int
    step_exponent: int
    codes: np.ndarray

    def __post_init__(self) -> None:
        if not 1 <= self.grid_size <= LARGEST_GRID:
            raise MessageError(f"a smoothing head names {self.grid_size} weights; it may have 1 to {LARGEST_GRID}.")

    @property
    def alphas(self) -> tuple[float, ...]:
        """The grid of smoothing weights, increasing; every one is exact as a float32."""
        return _grid(self.grid_size)

    def values(self) -> np.ndarray:
        """The weights and, last, the bias: float32 [hidden + 1], in steps of the grid, the same bits everywhere."""
        from tokenbounds.messages.formats.grid import step_of

        return self.codes.astype(np.float32) * step_of(self.step_exponent)

    def to_part(self) -> Part:
        """The part of the message that holds the head."""
        from tokenbounds.messages.coding.tensors import encode_codes
        from tokenbounds.messages.formats.grid import LEAST_EXPONENT

        numbers = (self.grid_size, self.step_exponent - LEAST_EXPONENT)
        return Part(KIND, b"".join(map(write_varint, numbers)) + bytes(encode_codes([self.codes], "adaptive")))

    @classmethod
    def from_message(cls, message: Message, hidden: int) -> Self | None:
        """Decode the head for hidden states of `hidden` values; None if the message has none.

        Raises
        ------
        MessageError
            If its part is detectably damaged.
        """
        from tokenbounds.messages.coding.tensors import decode_codes
        from tokenbounds.messages.formats.grid import EXPONENTS, LEAST_EXPONENT

        if not has_head(message):
            return None
        data = message.part(KIND)
        grid_size, offset = _read_grid_size(data)
        exponent, offset = read_varint(data, offset)
        if exponent >= EXPONENTS:
            raise MessageError(f"the smoothing head has the step exponent {exponent}; it must be below {EXPONENTS}.")
        (codes,) = decode_codes(data[offset:], [(hidden + 1,)], "adaptive")
        return cls(grid_size, exponent + LEAST_EXPONENT, codes)


def smoothing_head_of(model: object) -> SmoothingHead | None:
    """The smoothing head of a decoded model, if its message holds one."""
    return getattr(model, "smoothing_head", None)


def has_head(message: Message) -> bool:
    """Whether the message holds a smoothing head."""
    return any(part.kind == KIND for part in message.parts)


def read_alphas(message: Message) -> tuple[float, ...]:
    """The grid of smoothing weights of a message's head, increasing; empty if it has none.

    Raises
    ------
    MessageError
        If the head's part is detectably damaged.
    """
    if not has_head(message):
        return ()
    return _grid(_read_grid_size(message.part(KIND))[0])


def grid_positions(states: torch.Tensor, values: torch.Tensor, grid_size: int) -> torch.Tensor:
    """Positions on the grid of weights, float32 [n], 0 for the least weight.

    Parameters
    ----------
    states
        Last hidden states [n, hidden] that predict the tokens.
    values
        Of the head, float32 [hidden + 1], on the same device; the bias is last.
    grid_size
        Size of the grid.
    """
    positions = states.float() @ values[:-1] + values[-1]
    return positions.nan_to_num().round().clamp(0, grid_size - 1)


def _grid(grid_size: int) -> tuple[float, ...]:
    return tuple(2.0 ** (position - grid_size) for position in range(grid_size))


def _read_grid_size(data: bytes) -> tuple[int, int]:
    """Number of weights, and the offset after it."""
    grid_size, offset = read_varint(data, 0)
    if not 1 <= grid_size <= LARGEST_GRID:
        raise MessageError(f"the smoothing head names {grid_size} weights; it may have 1 to {LARGEST_GRID}.")
    return grid_size, offset
