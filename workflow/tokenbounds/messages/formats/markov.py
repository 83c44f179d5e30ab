"""The tables of a Markov chain as bytes, and back.

Orders are coded from 0 upwards, and what is already coded orders what follows. First the contexts: those one token
longer than a context below, most frequent first by the chain so far, a flag each. Then the weights: a plane with a
column for each context, its tokens from the most probable to the least by the chain so far, so that neighbours in
the plane are alike and the coder's contexts have something to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import decode_symbols, encode_symbols
from tokenbounds.messages.container import read_varint, write_varint
from tokenbounds.models.markov.counts import MarkovCard
from tokenbounds.models.markov.levels import (
    Level,
    build_level,
    distributions,
    expected_frequency,
    find,
    probability,
    suffix,
    weight_table,
)

Coder = Literal["adaptive", "static"]
MAX_LEVELS = 64
_MAX_CANDIDATES = 1 << 22  # of contexts in one order: bounds a decoder's memory
_MAX_CELLS = 1 << 24  # of weights in one order
_BLOCK_CELLS = 1 << 20


@dataclass(frozen=True)
class Entries:
    """One order's table before coding: contexts uint64[c], grams uint64[e], and the grams' symbols int64[e] ≥ 1."""

    contexts: np.ndarray
    grams: np.ndarray
    symbols: np.ndarray


def encode_levels(card: MarkovCard, entries: Sequence[Entries], levels: int, coder: Coder) -> tuple[bytes, list[Level]]:
    """Code the tables of a chain.

    Parameters
    ----------
    card : MarkovCard
        Order, vocabulary and start token.
    entries : sequence of Entries, one for each order from 0
        Contexts whose suffix is not one order below, and tokens out of the coder's reach, are left out.
    levels : int
        Number of weights besides zero.
    coder : {"adaptive", "static"}
        Entropy coder.

    Returns
    -------
    bytes, list of Level
        The code, and the tables as the decoder will have them.
    """
    table, size = weight_table(levels), card.vocabulary_size
    done: list[Level] = []
    data = bytearray()
    for order in range(card.order + 1):
        wanted = entries[order]
        candidates = _candidates(card, done, order)
        flags = np.isin(candidates, wanted.contexts)
        if order > 0:
            flags = flags[: _used(flags)]
            data += write_varint(len(flags)) + _sized(encode_symbols(flags.astype(np.int64), 2, coder))
        contexts = candidates[: len(flags)][flags] if order > 0 else candidates
        tokens = _token_order(card, done, order, contexts)
        plane = _fill_plane(wanted, contexts, tokens, size)
        if len(contexts):
            plane = plane[: _used(np.any(plane, axis=1))]
            data += write_varint(len(plane)) + _sized(encode_symbols(plane, levels + 1, coder, plane.shape))
        done.append(_level_of(contexts, tokens, plane, table, size))
    return bytes(data), done


def decode_levels(card: MarkovCard, data: bytes, levels: int, coder: Coder) -> list[Level]:
    """Decode what `encode_levels` wrote; time and memory are bounded whatever the bytes.

    Raises
    ------
    MessageError
        If the bytes do not describe tables of this chain.
    """
    table, size = weight_table(levels), card.vocabulary_size
    done: list[Level] = []
    offset = 0
    for order in range(card.order + 1):
        contexts = _candidates(card, done, order)
        if order > 0:
            count, offset = _read_bounded(data, offset, len(contexts))
            block, offset = _read_sized(data, offset)
            flags = decode_symbols(block, count, 2, coder).astype(bool)
            contexts = contexts[:count][flags]
        plane = np.zeros((0, len(contexts)), dtype=np.int32)
        tokens = _token_order(card, done, order, contexts)
        if len(contexts):
            count, offset = _read_bounded(data, offset, len(tokens))
            block, offset = _read_sized(data, offset)
            shape = (count, len(contexts))
            plane = decode_symbols(block, count * len(contexts), levels + 1, coder, shape).reshape(shape)
        done.append(_level_of(contexts, tokens, plane, table, size))
    if offset != len(data):
        raise MessageError(f"{len(data) - offset} bytes are left over behind the tables of the Markov chain.")
    return done


def _reach(card: MarkovCard, done: Sequence[Level], limit: int) -> np.ndarray:
    """The `limit` most probable tokens at order 0, ascending; all of them where the limit allows."""
    size = card.vocabulary_size
    if limit >= size:
        return np.arange(size, dtype=np.uint64)
    alone = probability(done, 0, np.arange(size, dtype=np.uint64), size)
    return np.sort(np.argsort(-alone, kind="stable")[:limit]).astype(np.uint64)


def _candidates(card: MarkovCard, done: Sequence[Level], order: int) -> np.ndarray:
    """Contexts an order may have, the most frequent first."""
    if order == 0:
        return np.zeros(1, dtype=np.uint64)
    below = done[order - 1].contexts
    if not len(below):
        return below
    oldest = _reach(card, done, _MAX_CANDIDATES // len(below)) * np.uint64(card.vocabulary_size ** (order - 1))
    codes = (oldest[:, None] + below[None, :]).reshape(-1)
    return codes[np.argsort(-expected_frequency(done, order, codes, card.vocabulary_size), kind="stable")]


def _token_order(card: MarkovCard, done: Sequence[Level], order: int, contexts: np.ndarray) -> np.ndarray:
    """For each context (column) the tokens from the most probable to the least: int32[tokens in reach, contexts]."""
    size = card.vocabulary_size
    if order == 0 or not len(contexts):
        return np.repeat(np.arange(size, dtype=np.int32)[:, None], len(contexts), axis=1)
    reach = _reach(card, done, _MAX_CELLS // len(contexts)).astype(np.int64)
    parents = np.searchsorted(done[order - 1].contexts, suffix(contexts, order - 1, size))
    result = np.empty((len(reach), len(contexts)), dtype=np.int32)
    block = max(1, _BLOCK_CELLS // size)
    for start in range(0, len(contexts), block):
        rows, again = np.unique(parents[start : start + block], return_inverse=True)
        lower = distributions(done, order - 1, rows, size)[:, reach]
        ranked = reach[np.argsort(-lower, axis=1, kind="stable")]
        result[:, start : start + block] = ranked[again].T
    return result


def _fill_plane(wanted: Entries, contexts: np.ndarray, tokens: np.ndarray, size: int) -> np.ndarray:
    """Symbols of the cells [rank, context], zero where the table has no entry."""
    plane = np.zeros(tokens.shape, dtype=np.int32)
    for start in range(0, len(contexts), max(1, _BLOCK_CELLS // max(len(tokens), 1))):
        part = slice(start, start + max(1, _BLOCK_CELLS // max(len(tokens), 1)))
        grams = contexts[None, part] * np.uint64(size) + tokens[:, part].astype(np.uint64)
        places, present = find(wanted.grams, grams.reshape(-1))
        if len(wanted.symbols):
            plane[:, part] = np.where(present, wanted.symbols[places], 0).reshape(grams.shape)
    return plane


def _level_of(contexts: np.ndarray, tokens: np.ndarray, plane: np.ndarray, table: np.ndarray, size: int) -> Level:
    ranks, columns = np.nonzero(plane)
    grams = contexts[columns] * np.uint64(size) + tokens[ranks, columns].astype(np.uint64)
    return build_level(contexts, grams, table[plane[ranks, columns]], size)


def _used(flags: np.ndarray) -> int:
    """Length up to the last true entry."""
    found = np.flatnonzero(flags)
    return int(found[-1]) + 1 if len(found) else 0


def _sized(block: bytes) -> bytes:
    return write_varint(len(block)) + block


def _read_bounded(data: bytes, offset: int, limit: int) -> tuple[int, int]:
    value, offset = read_varint(data, offset)
    if value > limit:
        raise MessageError(f"the message declares {value} entries of a Markov chain's table that has {limit} at most.")
    return value, offset


def _read_sized(data: bytes, offset: int) -> tuple[bytes, int]:
    length, offset = read_varint(data, offset)
    if length > len(data) - offset:
        raise MessageError(f"the message declares {length} bytes of a Markov chain's table, more than follow.")
    return data[offset : offset + length], offset + length
