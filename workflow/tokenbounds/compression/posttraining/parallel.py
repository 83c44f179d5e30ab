"""Where matrices are rounded: side by side in as many threads as torch may use, or on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from tokenbounds import threads

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """See `threads.in_threads`; linear algebra in each thread gets an equal share of the threads that torch may use.

    Without a share of its own each call would take all, and calls of other threads would wait for one another.
    """
    allowed = torch.get_num_threads()
    with threadpool_limits(max(allowed // threads.workers(len(items), allowed), 1), user_api="blas"):
        yield from threads.in_threads(work, items, allowed)


def rounding_device() -> torch.device | None:
    """Where matrices are rounded with torch: a GPU if there is one; None if they are rounded by compiled code."""
    return torch.device("cuda") if torch.cuda.is_available() else None
