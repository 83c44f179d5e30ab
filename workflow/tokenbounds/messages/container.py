"""The container of a message: magic, version, header, parts, checksum; every bit of it is counted.

Layout (byte-exact in docs/message-format.md)::

    "TBM" version | varint length, header | varint count | (kind, varint length, data)* | checksum

Every field has a fixed size or is preceded by its length, so no message is a prefix of another (Kraft's inequality
holds for file sizes). The header is canonical JSON, raw-deflated with a preset dictionary that belongs to the format
version. torch is not imported here.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenbounds.errors import MessageError
from tokenbounds.files import canonical_json
from tokenbounds.messages.stored import IN_MEMORY, Data, StoredBytes, can_store, pieces

MAGIC = b"TBM"
FORMAT_VERSION = 1
CHECKSUM_BYTES = 8
MAX_HEADER_BYTES = 1 << 16
MAX_PARTS = 1 << 12
PART_KINDS = {"codebooks": 1, "scales": 2, "symbols": 3, "values": 4, "smoothing_head": 5, "side_information": 6}
_KIND_NAMES = {code: name for name, code in PART_KINDS.items()}
_VARINT_MAX_BYTES = 8
_KEPT_BYTES = 1 << 20  # parts of a message in a file that are as small as this are in memory

# Common headers and keys, the most common text last, where deflate reaches it with the shortest distances.
_DICTIONARY = (
    b'"activation_function":"gelu","layer_norm_epsilon":1e-05,"scale_attn_weights":true,"hidden_act":"silu"'
    b'"attention_bias":true,"mlp_bias":true,"sliding_window":4096,"head_dim":64,"rope_parameters":{"rope_theta":10000.0,'
    b'"rope_type":"default"},"qwen3","qwen2","mistral"},"coder":"static","quantizer":{"kind":"counts","levels":16,'
    b'"model":{"family":"markov","order":2,"start_id":0,"threshold":2,"vocabulary_size":256'
    b'{"coder":"adaptive","model":{"config":{"hidden_size":576,"intermediate_size":1536,"num_attention_heads":9,'
    b'"num_hidden_layers":30,"num_key_value_heads":3,"rms_norm_eps":1e-05,"tie_word_embeddings":true},"context":1024,'
    b'"family":"llama","start_id":1,"vocabulary_size":49152},"quantizer":{"kind":"codebook"}}'
    b'{"coder":"adaptive","model":{"config":{"n_embd":128,"n_head":4,"n_inner":512,"n_layer":4,'
    b'"tie_word_embeddings":false},"context":128,"family":"gpt2","parameterization":{"kind":"lora","rank":16,"scale":32.0,'
    b'"targets":["attention","mlp","head","embedding"]},"seed":1,"vocabulary_size":256},"quantizer":{"kind":"uniform"}}'
)


Header = dict[str, Any]
"""JSON values: `model`, what the decoder builds; `quantizer`, what the symbols mean; `coder`."""


@dataclass(frozen=True)
class Part:
    """One part of a message: its kind, a key of `PART_KINDS`, and its bytes, which may be in a file."""

    kind: str
    content: Data

    @property
    def data(self) -> bytes:
        """The bytes, in memory."""
        return bytes(self.content)


@dataclass(frozen=True)
class Message:
    """A message that was read completely and checked.

    Attributes
    ----------
    header : Header
    parts : tuple of Part
        In file order.
    size_bits : int
        8 × the file's size: the C of every bound.
    breakdown : dict of str to int
        Bits by use: `header`, each part kind, and `container` for the rest; they sum to `size_bits`.
    sha256 : str
        Of the file's bytes.
    """

    header: Header
    parts: tuple[Part, ...]
    size_bits: int
    breakdown: dict[str, int]
    sha256: str

    @cached_property
    def size_bytes(self) -> int:
        """The file's size in bytes."""
        return self.size_bits // 8

    def part(self, kind: str) -> bytes:
        """Bytes of the only part of this kind, in memory; see `content`."""
        return bytes(self.content(kind))

    def content(self, kind: str) -> Data:
        """Bytes of the only part of this kind, which of a large message stay in its file.

        Raises
        ------
        MessageError
            If there is none, or more than one.
        """
        found = [part.content for part in self.parts if part.kind == kind]
        if len(found) != 1:
            raise MessageError(f"the message holds {len(found)} parts of kind '{kind}' where one is needed.")
        return found[0]

    def check_kinds(self, needed: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Refuse parts that nothing reads: they would only make the message larger than its content.

        Raises
        ------
        MessageError
            If a part is missing, present twice, or neither needed nor optional.
        """
        kinds = [part.kind for part in self.parts]
        for kind in dict.fromkeys([*needed, *kinds]):
            least, most = kind in needed, kind in needed or kind in optional
            if not least <= kinds.count(kind) <= most:
                raise MessageError(
                    f"the message holds {kinds.count(kind)} parts of kind '{kind}', and its format has {most:d}."
                )

    def count_bytes(self, kinds: Sequence[str]) -> int:
        """Bytes of all parts of some kinds."""
        return sum(len(part.content) for part in self.parts if part.kind in kinds)


def write_varint(value: int) -> bytes:
    """Little-endian base-128 bytes of `value`, 0 ≤ value < 2^56; equal values have equal bytes."""
    if not 0 <= value < 1 << (7 * _VARINT_MAX_BYTES):
        raise MessageError(f"cannot write {value} as a varint: it must lie in [0, 2^56).")
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def read_varint(data: Data | memoryview, offset: int) -> tuple[int, int]:
    """Read a varint at `offset`; return its value and the offset after it.

    Raises
    ------
    MessageError
        If it is cut off, longer than eight bytes, or not the shortest form.
    """
    value = 0
    for index in range(_VARINT_MAX_BYTES):
        if offset + index >= len(data):
            raise MessageError("the message is cut off inside a number. Copy or encode it again.")
        byte = data[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise MessageError("a number in the message is not written in its shortest form.")
            return value, offset + index + 1
    raise MessageError("a number in the message is longer than eight bytes.")


def render_message(header: Header, parts: Sequence[Part]) -> bytes:
    """Bytes of a message; see `render_pieces`."""
    return b"".join(render_pieces(header, parts))


def render_pieces(header: Header, parts: Sequence[Part]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a message; of parts that are in files, few are in memory at a time.

    Raises
    ------
    MessageError
        If the header is too large, or a part's kind is unknown.
    """
    packed = _deflate_header(header)
    if len(parts) > MAX_PARTS:
        raise MessageError(f"a message holds at most {MAX_PARTS} parts, not {len(parts)}.")
    if unknown := [part.kind for part in parts if part.kind not in PART_KINDS]:
        raise MessageError(f"unknown part kind '{unknown[0]}'. Known: {', '.join(PART_KINDS)}.")
    chunks: list[Data] = [MAGIC, bytes([FORMAT_VERSION]), write_varint(len(packed)), packed, write_varint(len(parts))]
    for part in parts:
        chunks += [bytes([PART_KINDS[part.kind]]), write_varint(len(part.content)), part.content]
    digest = hashlib.sha256()
    for chunk in chunks:
        for piece in pieces(chunk):
            digest.update(piece)
            yield piece
    yield digest.digest()[:CHECKSUM_BYTES]


def parse_message(data: Data) -> Message:
    """Check and take apart the bytes of a message; large parts of one in a file stay there.

    Raises
    ------
    MessageError
        If they are damaged, hostile, of another version, or followed by anything.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise MessageError("this is not a message: it does not start with 'TBM'.")
    if len(data) <= len(MAGIC):
        raise MessageError("the message is cut off. Copy or encode it again.")
    if data[len(MAGIC)] != FORMAT_VERSION:
        raise MessageError(
            f"the message has format version {data[len(MAGIC)]}; this decoder reads {FORMAT_VERSION}. "
            "Use the release that wrote it, or encode it again."
        )
    if len(data) < len(MAGIC) + 1 + CHECKSUM_BYTES:
        raise MessageError("the message is damaged: its checksum does not match. Copy or encode it again.")
    size, checksum = len(data) - CHECKSUM_BYTES, data[-CHECKSUM_BYTES:]
    body = data.part(0, size) if isinstance(data, StoredBytes) else memoryview(data)[:size]
    digest = _digest(body)
    if digest.digest()[:CHECKSUM_BYTES] != checksum:
        raise MessageError("the message is damaged: its checksum does not match. Copy or encode it again.")
    digest.update(checksum)
    content, offset = _read_block(body, len(MAGIC) + 1)
    packed = bytes(content)
    parts = _read_parts(body, offset)
    return Message(
        header=_inflate_header(packed),
        parts=parts,
        size_bits=8 * len(data),
        breakdown=_breakdown(len(packed), parts, len(data)),
        sha256=digest.hexdigest(),
    )


def read_message(source: Path | str | bytes) -> Message:
    """Read a message from a file, or from its bytes; large parts stay in the file, which is kept open.

    Raises
    ------
    MessageError
        If the file cannot be read, or `parse_message` refuses it; the error names the file.
    """
    if isinstance(source, bytes):
        return parse_message(source)
    path = Path(source)
    data: Data
    try:
        with ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            size = path.stat().st_size
            if size > IN_MEMORY and can_store():
                data = StoredBytes(file, 0, size)
                stack.pop_all()  # what is left in the file is read later
            else:
                data = file.read()
    except OSError as error:
        raise MessageError(f"cannot read the message {path}: {error.strerror or error}.") from error
    try:
        return parse_message(data)
    except MessageError as error:
        raise MessageError(f"{path}: {error}") from error


def _digest(body: Data | memoryview) -> hashlib._Hash:
    digest = hashlib.sha256()
    for piece in pieces(body):
        digest.update(piece)
    return digest


def _read_block(body: memoryview | StoredBytes, offset: int) -> tuple[Data, int]:
    """A length and that many bytes; the length is checked against what is really there."""
    length, offset = read_varint(body, offset)
    if length > len(body) - offset:
        raise MessageError(f"the message declares a part of {length} bytes but only {len(body) - offset} follow.")
    end = offset + length
    if isinstance(body, StoredBytes) and length > _KEPT_BYTES:
        return body.part(offset, length), end
    return bytes(body[offset:end]), end


def _read_parts(body: memoryview | StoredBytes, offset: int) -> tuple[Part, ...]:
    count, offset = read_varint(body, offset)
    if count > MAX_PARTS:
        raise MessageError(f"the message declares {count} parts; at most {MAX_PARTS} are allowed.")
    parts = []
    for _ in range(count):
        if offset >= len(body):
            raise MessageError("the message is cut off before its last part. Copy or encode it again.")
        kind = _KIND_NAMES.get(body[offset])
        if kind is None:
            raise MessageError(f"the message holds a part of unknown kind {body[offset]}.")
        data, offset = _read_block(body, offset + 1)
        parts.append(Part(kind, data))
    if offset != len(body):
        raise MessageError(f"{len(body) - offset} bytes follow the last part of the message.")
    return tuple(parts)


def _breakdown(header_bytes: int, parts: Sequence[Part], total_bytes: int) -> dict[str, int]:
    bits = {"header": 8 * header_bytes, "codebooks": 0, "scales": 0, "symbols": 0}
    for part in parts:
        bits[part.kind] = bits.get(part.kind, 0) + 8 * len(part.content)
    return {**bits, "container": 8 * total_bytes - sum(bits.values())}


def _deflate_header(header: Header) -> bytes:
    text = canonical_json(header).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise MessageError(f"the header has {len(text)} bytes; at most {MAX_HEADER_BYTES} are allowed.")
    packed = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED):
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy, zdict=_DICTIONARY)
        packed.append(deflater.compress(text) + deflater.flush())
    return min(packed, key=len)


def _inflate_header(packed: bytes) -> Header:
    inflater = zlib.decompressobj(-15, zdict=_DICTIONARY)
    try:
        text = inflater.decompress(packed, MAX_HEADER_BYTES + 1)
    except zlib.error as error:
        raise MessageError(f"the header cannot be decompressed: {error}.") from error
    if len(text) > MAX_HEADER_BYTES or not inflater.eof or inflater.unused_data:
        raise MessageError("the header is too large, cut off, or followed by other bytes.")
    try:
        header = json.loads(text)
        canonical = isinstance(header, dict) and canonical_json(header).encode() == text
    except (ValueError, RecursionError) as error:
        raise MessageError("the header is not valid JSON.") from error
    if not canonical:
        raise MessageError("the header is not canonical JSON of one object.")
    return header
