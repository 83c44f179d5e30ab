"""A Markov chain: for each order, flags that say which contexts have a table, and the tables' weights as planes.

Orders are coded from 0 upwards, and what is already coded determines the order of what follows. First come the
contexts: those one token longer than a context of the order below, most frequent first under the chain so far, one flag
each. Then come the weights: a plane with a column for each context, its tokens from the most to the least probable
under the chain so far, so that neighbours in the plane are similar and the coder's contexts have something to learn
from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.coding.symbols import Coder, decode_symbols, encode_symbols
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.container import Header, Message, Part, read_varint, write_varint
from tokenbounds.messages.formats.base import Format
from tokenbounds.models.markov.chain import MarkovChain
from tokenbounds.models.markov.grams import MarkovCard
from tokenbounds.models.markov.tables import (
    Table,
    build_table,
    distributions,
    expected_frequency,
    find,
    probability,
    suffix,
    weight_scale,
)

MAX_LEVELS = 64
_MAX_CANDIDATES = 1 << 22  # of contexts in one order: bounds a decoder's memory
_MAX_CELLS = 1 << 24  # of weights in one order
_BLOCK_CELLS = 1 << 20
# What a part of this many bytes may declare: flags and cells of planes, which are decoded one by one, contexts, for
# each of which the whole vocabulary is ordered, and candidates, which are ordered for their flags. Contexts of real
# chains take two bytes or more each, and their planes have up to a cell for every token. Small vocabularies count as
# 2^12 tokens here, and cells of large ones as of 2^16.
_FREE_CELLS, _FREE_ORDERED, _FREE_CANDIDATES = 1 << 20, 1 << 24, 1 << 23
_LEAST_TOKENS, _MOST_TOKENS = 1 << 12, 1 << 16
_CONTEXTS_PER_BYTE = 2


@dataclass(frozen=True)
class Entries:
    """One order's table before coding: contexts uint64[c], grams uint64[e], and the grams' symbols int64[e] ≥ 1."""

    contexts: np.ndarray
    grams: np.ndarray
    symbols: np.ndarray


@dataclass(frozen=True)
class MarkovFormat(Format):
    """A chain as flags and planes; one of each per order.

    Attributes
    ----------
    card : MarkovCard
        Order, vocabulary and start token.
    levels : int
        Number of weights besides zero.
    flags : tuple of bool arrays [candidates]
        Which candidates for a context have a table, up to the last that has one; order 0 has none to flag.
    planes : tuple of int32 arrays [ranks, contexts]
        Symbols, 0 to levels, up to the last rank that any context uses: the weight of its rank-th most likely token.
    tables : tuple of Table
        What flags and planes say.
    """

    card: MarkovCard
    levels: int
    flags: tuple[np.ndarray, ...]
    planes: tuple[np.ndarray, ...]
    tables: tuple[Table, ...]
    kind: ClassVar[str] = "counts"
    part_kinds: ClassVar[tuple[str, ...]] = ("symbols",)

    @classmethod
    def lay_out(cls, card: MarkovCard, entries: Sequence[Entries], levels: int) -> Self:
        """Put the entries of each order's table where the decoder expects them.

        Contexts whose suffix is not one order below, and tokens out of the decoder's reach, are left out.
        """
        scale, size = weight_scale(levels), card.vocabulary_size
        all_flags, planes, tables = [], [], list[Table]()
        for order, wanted in enumerate(entries):
            candidates = _candidates(card, tables, order)
            flags = np.isin(candidates, wanted.contexts) if order else np.ones(1, dtype=bool)
            flags = flags[: _used(flags)]  # candidates come most frequent first: most of the last ones have no table
            # Rows of the plane are ranks, columns contexts. Which token has a rank follows from the tables below.
            contexts = candidates[: len(flags)][flags]
            tokens = _token_order(card, tables, order, contexts)  # [ranks, contexts]
            plane = _fill_plane(wanted, contexts, tokens, size)
            plane = plane[: _used(np.any(plane, axis=1))]
            tables.append(_table_of(contexts, tokens, plane, scale, size))
            all_flags.append(flags)
            planes.append(plane)
        return cls(card, levels, tuple(all_flags), tuple(planes), tuple(tables))

    def header(self) -> Header:
        """How many weights there are; the card is the header's `model`."""
        return {"kind": self.kind, "levels": self.levels}

    def to_parts(self, coder: Coder) -> list[Part]:
        """Order by order: number of flags and their code, number of ranks and the plane's code."""
        data = bytearray()
        for order, (flags, plane) in enumerate(zip(self.flags, self.planes, strict=True)):
            if order > 0:
                data += write_varint(len(flags)) + _sized(encode_symbols(flags.astype(np.int64), 2, coder))
            if plane.shape[1]:
                data += write_varint(len(plane)) + _sized(encode_symbols(plane, self.levels + 1, coder, plane.shape))
        return [Part("symbols", bytes(data))]

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Decode the part that `to_parts` wrote; time and memory are bounded whatever the bytes. It has no `shapes`."""
        header = message.header
        if set(header) != {"model", "quantizer", "coder"} or coder not in ("adaptive", "static"):
            raise MessageError("the header of a Markov chain's message needs model, quantizer and a known coder.")
        settings = header["quantizer"]
        if not isinstance(settings, dict) or set(settings) != {"kind", "levels"} or settings["kind"] != cls.kind:
            raise MessageError(f"the message of a Markov chain needs a quantizer of kind {cls.kind}, with its levels.")
        levels = settings["levels"]
        if type(levels) is not int or not 2 <= levels <= MAX_LEVELS:
            raise MessageError(f"the quantizer's levels must be a whole number from 2 to {MAX_LEVELS}.")
        message.check_kinds(cls.part_kinds)
        try:
            card = MarkovCard.from_dict(header["model"])
        except ModelError as error:
            raise MessageError(str(error)) from error
        return cls.decode(card, message.part("symbols"), levels, coder)

    @classmethod
    def decode(cls, card: MarkovCard, data: bytes, levels: int, coder: Coder) -> Self:
        """Decode flags and planes.

        Raises
        ------
        MessageError
            If the bytes do not describe tables of this chain, or tables that are too large for so few bytes.
        """
        scale, size = weight_scale(levels), card.vocabulary_size
        budget = _Budget.of(card, len(data))
        all_flags, planes, tables = [], [], list[Table]()
        offset = 0
        for order in range(card.order + 1):
            contexts, flags = np.zeros(1, dtype=np.uint64), np.ones(1, dtype=bool)
            if order > 0:
                candidates = _count_candidates(card, tables, order)
                count, offset = _read_bounded(data, offset, candidates)
                budget.spend(cells=count, candidates=candidates if count else 0)
                contexts = _candidates(card, tables, order) if count else contexts[:0]
                block, offset = _read_sized(data, offset)
                flags = decode_symbols(block, count, 2, coder).astype(bool)
            contexts = contexts[: len(flags)][flags]
            budget.spend(contexts=len(contexts) if order else 0)
            plane = np.zeros((0, len(contexts)), dtype=np.int32)
            tokens = _token_order(card, tables, order, contexts)
            if len(contexts):
                count, offset = _read_bounded(data, offset, len(tokens))
                budget.spend(cells=count * len(contexts))
                block, offset = _read_sized(data, offset)
                shape = (count, len(contexts))
                plane = decode_symbols(block, count * len(contexts), levels + 1, coder, shape).reshape(shape)
            tables.append(_table_of(contexts, tokens, plane, scale, size))
            all_flags.append(flags)
            planes.append(plane)
        if offset != len(data):
            raise MessageError(f"{len(data) - offset} bytes are left over after the tables of the Markov chain.")
        return cls(card, levels, tuple(all_flags), tuple(planes), tuple(tables))

    def chain(self) -> MarkovChain:
        """The chain that is scored."""
        return MarkovChain(self.card, self.tables)

    def dequantize(self) -> dict[str, np.ndarray]:
        """The weights of each order's table, int64: a chain has no tensors but these."""
        return {f"order {order}": table.weights for order, table in enumerate(self.tables)}

    def symbols(self) -> list[np.ndarray]:
        """The planes."""
        return list(self.planes)


@dataclass
class _Budget:
    """What the tables of a message may still declare; honest ones have far fewer for their bytes."""

    cells: int
    contexts: int
    candidates: int

    @classmethod
    def of(cls, card: MarkovCard, size_bytes: int) -> _Budget:
        tokens = max(card.vocabulary_size, _LEAST_TOKENS)
        cells = _FREE_CELLS + size_bytes * min(tokens, _MOST_TOKENS)
        ordered = _FREE_ORDERED + _CONTEXTS_PER_BYTE * size_bytes * tokens
        return cls(cells, ordered // card.vocabulary_size, _FREE_CANDIDATES + size_bytes * _LEAST_TOKENS)

    def spend(self, cells: int = 0, contexts: int = 0, candidates: int = 0) -> None:
        self.cells -= cells
        self.contexts -= contexts
        self.candidates -= candidates
        if min(self.cells, self.contexts, self.candidates) < 0:
            raise MessageError("the message declares larger tables of a Markov chain than its few bytes can hold.")


def decode_chain(message: Message) -> MarkovChain:
    """The chain of a message.

    Raises
    ------
    MessageError
        If the message does not describe one.
    """
    return MarkovFormat.from_message(message, {}, message.header.get("coder", "")).chain()


def _reach(card: MarkovCard, done: Sequence[Table], limit: int) -> np.ndarray:
    """The `limit` most probable tokens at order 0, ascending; all of them where the limit allows."""
    size = card.vocabulary_size
    if limit >= size:
        return np.arange(size, dtype=np.uint64)
    alone = probability(done, 0, np.arange(size, dtype=np.uint64), size)
    return np.sort(np.argsort(-alone, kind="stable")[:limit]).astype(np.uint64)


def _candidates(card: MarkovCard, done: Sequence[Table], order: int) -> np.ndarray:
    """Contexts an order may have, the most frequent first."""
    if order == 0:
        return np.zeros(1, dtype=np.uint64)
    below = done[order - 1].contexts
    if not len(below):
        return below
    oldest = _reach(card, done, _MAX_CANDIDATES // len(below)) * np.uint64(card.vocabulary_size ** (order - 1))
    # A context's suffix has a table one order below: candidates are those suffixes after each token in reach.
    codes = (oldest[:, None] + below[None, :]).reshape(-1)
    blocks = np.split(codes, range(_BLOCK_CELLS, len(codes), _BLOCK_CELLS))
    frequency = np.concatenate([expected_frequency(done, order, block, card.vocabulary_size) for block in blocks])
    return codes[np.argsort(-frequency, kind="stable")]


def _count_candidates(card: MarkovCard, done: Sequence[Table], order: int) -> int:
    """How many contexts an order above the first may have."""
    below = len(done[order - 1].contexts)
    return below * min(card.vocabulary_size, _MAX_CANDIDATES // below) if below else 0


def _token_order(card: MarkovCard, done: Sequence[Table], order: int, contexts: np.ndarray) -> np.ndarray:
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


def _table_of(contexts: np.ndarray, tokens: np.ndarray, plane: np.ndarray, scale: np.ndarray, size: int) -> Table:
    ranks, columns = np.nonzero(plane)
    grams = contexts[columns] * np.uint64(size) + tokens[ranks, columns].astype(np.uint64)
    return build_table(contexts, grams, scale[plane[ranks, columns]], size)


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
