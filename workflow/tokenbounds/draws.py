"""Draws that are the same on every machine: integers from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smallest_of_each(groups: NDArray[np.int64], most: int, seed: int) -> NDArray[np.bool_]:
    """Choose `most` members of every group, all of a smaller one, uniformly and without replacement.

    Each member gets a raw 64-bit word of Philox, and those with a group's smallest words are chosen: the same on every
    machine and release.

    Parameters
    ----------
    groups
        Sizes of the groups, whose members follow each other [groups].
    most
        How many of each.
    seed
        Of the words.

    Returns
    -------
    bool [members]
    """
    first = np.cumsum(groups) - groups  # of each group
    group = np.repeat(np.arange(len(groups)), groups)  # of each member
    order = np.lexsort((np.random.Philox(seed).random_raw(len(group)), group))  # by group, then by word
    chosen = np.zeros(len(group), dtype=np.bool_)
    chosen[order[np.arange(len(group)) - first[group] < most]] = True
    return chosen


def uniform_integers(bound: int, count: int, seed: int) -> NDArray[np.int64]:
    """Draw `count` independent integers, exactly uniform on 0 … bound-1, the same on every machine and release.

    Raw 64-bit words of Philox are used, whose stream numpy guarantees; words beyond the largest multiple of `bound` are
    drawn again, so that no residue is favoured.
    """
    generator = np.random.Philox(seed)
    last = np.uint64((2**64 // bound) * bound - 1)
    accepted = np.empty(0, np.uint64)
    while len(accepted) < count:
        words = generator.random_raw(count - len(accepted))
        accepted = np.concatenate([accepted, words[words <= last]])
    return (accepted % np.uint64(bound)).astype(np.int64)
