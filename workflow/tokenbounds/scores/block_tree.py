"""One digest for all scores, block by block, so that a few blocks can be audited without the rest.

The leaves of a Merkle tree (`tokenbounds.merkle`) are the blocks of the plan in its order. A leaf's data are the
block's number (int64) and then its scored tokens' columns, one after the other: `token` (int32), `nll_bits` (float32),
`rank` (int32), and `entropy_bits`, `cross_entropy_bits`, `kl_bits` (float32), `first_choice_changed` (int32: 0 or 1)
and `alpha` (float32) where the scores have them; everything little-endian. Labels are left out: they are the corpus's.

A *block file* holds for each block the proof that its leaf is in the tree, digests from the bottom, and the leaf's
data. Where a block's record begins follows from the plan alone, so an auditor reads one range of bytes for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tokenbounds import merkle
from tokenbounds.files import atomic_path
from tokenbounds.scores.plan_file import Plan, column
from tokenbounds.scores.provenance import ALPHA_FIELD, CHANGED_FIELD, CROSS_ENTROPY_FIELD, ENTROPY_FIELD, KL_FIELD
from tokenbounds.scores.store import Scores

MAGIC = b"tokenbounds blocks 1\n"
_DIGEST_BYTES = 32
_TYPES = {"token": "<i4", "nll_bits": "<f4", "rank": "<i4", ENTROPY_FIELD.name: "<f4"}
_TYPES |= {CROSS_ENTROPY_FIELD.name: "<f4", KL_FIELD.name: "<f4", CHANGED_FIELD.name: "<i4", ALPHA_FIELD.name: "<f4"}


def leaf_columns(names: list[str]) -> list[str]:
    """The columns of a leaf, of the columns that scores have."""
    return [name for name in _TYPES if name in names]


def iterate_leaves(scores: Scores, plan: Plan) -> Iterator[bytes]:
    """Yield the data of every leaf, in the plan's order, in memory that does not grow with the scores."""
    names = leaf_columns(scores.provenance.schema.names)
    planned = (
        pair
        for batch in plan.iter_batches(("block", "length"))
        for pair in zip(column(batch, "block").tolist(), column(batch, "length").tolist(), strict=True)
    )
    block, length = next(planned, (0, 0))
    rows: dict[str, npt.NDArray[np.generic]] = {name: np.empty(0, _TYPES[name]) for name in names}
    for batch in scores.iter_batches(names):
        for name in names:
            rows[name] = np.concatenate([rows[name], batch[name].to_numpy(zero_copy_only=False).astype(_TYPES[name])])
        start, held = 0, len(rows["token"])
        while length and start + length <= held:
            stop = start + length
            yield encode_leaf(block, {name: values[start:stop] for name, values in rows.items()})
            start, (block, length) = stop, next(planned, (0, 0))  # no block of a plan is empty
        rows = {name: values[start:] for name, values in rows.items()}


def encode_leaf(block: int, rows: dict[str, npt.NDArray[np.generic]]) -> bytes:
    """The data of a leaf, from the columns of its tokens."""
    values = b"".join(rows[name].astype(_TYPES[name]).tobytes() for name in leaf_columns(list(rows)))
    return np.array(block, dtype="<i8").tobytes() + values


def decode_leaf(data: bytes, names: list[str]) -> tuple[int, dict[str, npt.NDArray[np.generic]]]:
    """The block's number and its tokens' columns, from a leaf's data.

    Raises
    ------
    ValueError
        If the data are not a whole number of tokens.
    """
    columns = leaf_columns(names)
    tokens, rest = divmod(len(data) - 8, 4 * len(columns))
    if tokens < 0 or rest:
        raise ValueError(f"{len(data)} bytes hold no whole number of tokens")
    parts = [data[8 + 4 * tokens * i :][: 4 * tokens] for i in range(len(columns))]
    rows = {name: np.frombuffer(part, _TYPES[name]) for name, part in zip(columns, parts, strict=True)}
    return int(np.frombuffer(data[:8], "<i8")[0]), rows


def blocks_root(scores: Scores, plan: Plan) -> str:
    """The digest of all scores: the root of their tree, hexadecimal."""
    return merkle.root(merkle.leaf_hash(data) for data in iterate_leaves(scores, plan)).hex()


def record_places(plan: Plan, names: list[str], rows: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where the records of some blocks begin and end in a block file, bytes.

    Parameters
    ----------
    plan
        The plan, on which the places depend.
    names
        Columns of the scores.
    rows
        Rows of the plan, in ascending order.
    """
    width, found = 4 * len(leaf_columns(names)), list[tuple[int, int]]()
    first, begin = 0, len(MAGIC)  # the batch's first row, and where its record begins
    for batch in plan.iter_batches(["length"]):
        lengths = column(batch, "length")
        proofs = _proof_lengths(first + np.arange(len(lengths)), plan.rows)
        ends = begin + np.cumsum(_DIGEST_BYTES * proofs + 8 + width * lengths)
        starts = np.concatenate([[begin], ends[:-1]])
        here = rows[(rows >= first) & (rows < first + len(lengths))] - first
        found += zip(starts[here].tolist(), ends[here].tolist(), strict=True)
        first, begin = first + len(lengths), int(ends[-1])
    return found


def _proof_lengths(places: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """How many digests the proofs of some leaves of a tree of `size` have [n]."""
    found = np.zeros(len(places), dtype=np.int64)
    while size > 1:
        found += (places ^ 1) < size
        places, size = places // 2, (size + 1) // 2
    return found


def read_record(record: bytes, row: int, size: int) -> tuple[bytes, bytes]:
    """The root that a record proves, and its leaf's data.

    Raises
    ------
    ValueError
        If it is too short to hold its proof.
    """
    count = len(merkle.siblings(row, size))
    proof = [record[_DIGEST_BYTES * i :][:_DIGEST_BYTES] for i in range(count)]
    data = record[_DIGEST_BYTES * count :]
    if len(data) < 8:
        raise ValueError("the record is too short")
    return merkle.included_root(merkle.leaf_hash(data), row, size, proof), data


def write_blocks(scores: Scores, plan: Plan, out: Path | str) -> None:
    """Write a block file; the hashes of all leaves are in memory, 32 bytes each and as many for the nodes.

    Raises
    ------
    TokenboundsError
        If the scores are damaged, or the file cannot be written.
    """
    tree = merkle.levels(merkle.leaf_hash(data) for data in iterate_leaves(scores, plan))
    size = len(tree[0])
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        stream.write(MAGIC)
        for row, data in enumerate(iterate_leaves(scores, plan)):
            stream.write(b"".join(tree[level][place] for level, place in merkle.siblings(row, size)) + data)
