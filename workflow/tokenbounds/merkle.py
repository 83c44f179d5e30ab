"""Merkle trees of RFC 6962 (certificate transparency): one digest for a list, and short proofs of what is in it.

A leaf's hash is SHA-256 of a zero byte and its data, a node's that of a byte 1 and its two children's. Nodes are paired
from the left; one that has no partner moves up unchanged, which gives the tree of RFC 6962, section 2.1. Digests are 32
bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf, which no node can have."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of a node, from its children's."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def levels(leaves: Iterable[bytes]) -> list[list[bytes]]:
    """Every level of the tree over some hashes of leaves, from these to the root alone; one empty level if none."""
    found = [list(leaves)]
    while len(found[-1]) > 1:
        below = found[-1]
        pairs = zip(below[::2], below[1::2], strict=False)
        found.append([node_hash(*pair) for pair in pairs] + below[len(below) // 2 * 2 :])
    return found


def root(leaves: Iterable[bytes]) -> bytes:
    """The digest of a list, from the hashes of its leaves."""
    top = levels(leaves)[-1]
    return top[0] if top else EMPTY_ROOT


def siblings(index: int, size: int) -> list[tuple[int, int]]:
    """Level and place of the nodes that prove that a leaf is in a tree, from the bottom."""
    found, level = [], 0
    while size > 1:
        if index ^ 1 < size:
            found.append((level, index ^ 1))
        index, size, level = index // 2, (size + 1) // 2, level + 1
    return found


def prove_inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Proof that a leaf is in a list (RFC 6962, section 2.1.1), from the hashes of all leaves.

    Raises
    ------
    ValueError
        If there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"there is no leaf {index} among {len(leaves)}")
    tree = levels(leaves)
    return [tree[level][place] for level, place in siblings(index, len(leaves))]


def included_root(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root of a tree of `size` leaves with this leaf at this place, if the proof is right; compare it.

    Raises
    ------
    ValueError
        If the proof does not have the length for such a tree, or there is no such place in it.
    """
    needed = siblings(index, size)
    if not 0 <= index < size or len(proof) != len(needed):
        raise ValueError(f"a proof of leaf {index} of {size} has {len(needed)} digests, not {len(proof)}")
    digest = leaf
    for (_, place), other in zip(needed, proof, strict=True):
        digest = node_hash(digest, other) if place % 2 else node_hash(other, digest)
    return digest


def prove_consistency(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Proof that a list begins with its earlier state of `old_size` leaves (RFC 6962, section 2.1.2).

    Raises
    ------
    ValueError
        If it is not that long, or `old_size` is zero: for an empty list there is nothing to prove.
    """
    if not 0 < old_size <= len(leaves):
        raise ValueError(f"there are {len(leaves)} leaves, and no earlier tree of {old_size}")
    return _subproof(leaves, old_size, whole=True)


def _subproof(leaves: Sequence[bytes], old_size: int, *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962; `whole` where the old tree is one that the verifier knows the root of."""
    if old_size == len(leaves):
        return [] if whole else [root(leaves)]
    split = _largest_power_below(len(leaves))
    left, right = leaves[:split], leaves[split:]
    if old_size <= split:
        return [*_subproof(left, old_size, whole=whole), root(right)]
    return [*_subproof(right, old_size - split, whole=False), root(left)]


def is_consistent(old_size: int, old_root: bytes, size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a proof shows that a tree begins with its smaller, earlier state (RFC 9162, section 2.1.4.2)."""
    if not 0 < old_size <= size:
        return False
    if old_size == size:
        return not proof and old_root == new_root
    place, last, path = old_size - 1, size - 1, list(proof)
    while place % 2:
        place, last = place // 2, last // 2
    if not place:  # the old tree is a complete subtree of the new one
        path.insert(0, old_root)
    if not path:
        return False
    old, new = path[0], path[0]
    for digest in path[1:]:
        if not last:
            return False
        if place % 2 or place == last:
            old, new = node_hash(digest, old), node_hash(digest, new)
            while place and not place % 2:
                place, last = place // 2, last // 2
        else:
            new = node_hash(new, digest)
        place, last = place // 2, last // 2
    return not last and (old, new) == (old_root, new_root)


def _largest_power_below(size: int) -> int:
    """The largest power of two below a size of at least two."""
    return 1 << ((size - 1).bit_length() - 1)
