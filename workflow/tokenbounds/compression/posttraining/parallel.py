"""Matrices side by side: compiled kernels and linear algebra release Python's lock, so threads use all cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_WORKERS = 8  # as many matrices as a block of LLaMA has, and one: what is in memory at once


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Apply a function to items in as many threads as torch may use, up to eight; results in the items' order.

    What comes out is the same whatever their number, if `work` depends on its item alone. No more items are begun than
    there are threads before the first result is taken.
    """
    workers = min(len(items), torch.get_num_threads(), _MOST_WORKERS)
    if workers < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(running) == workers:
                    yield running.popleft().result()
                running.append(pool.submit(work, item))
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
