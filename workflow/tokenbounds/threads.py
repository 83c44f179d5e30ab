"""Work side by side: compiled kernels and linear algebra release Python's lock, so threads use all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_WORKERS = 8  # as many matrices as a block of LLaMA has, and one: what is in memory at once


def allowed_threads() -> int:
    """What OMP_NUM_THREADS says, which jobs set; all processors that this process may use if it says nothing."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdigit() and int(said) > 0:
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(items: int, threads: int) -> int:
    """How many of so many threads `in_threads` uses."""
    return max(min(items, threads, _MOST_WORKERS), 1)


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """Apply a function to items in so many threads, at most eight; results in the items' order.

    What comes out is the same whatever their number, if `work` depends on its item alone. No more items are begun than
    there are threads before the first result is taken.
    """
    side_by_side = workers(len(items), threads)
    if side_by_side < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(side_by_side) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(running) == side_by_side:
                    yield running.popleft().result()
                running.append(pool.submit(work, item))
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
