"""Where matrices are rounded: side by side in as many threads as torch may use, or on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from tokenbounds import threads

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """See `threads.in_threads`."""
    return threads.in_threads(work, items, torch.get_num_threads())


def rounding_device() -> torch.device | None:
    """Where matrices are rounded with torch: a GPU if there is one; None if they are rounded by compiled code."""
    return torch.device("cuda") if torch.cuda.is_available() else None
