"""What pyarrow does not say about an Arrow stream before it has unpacked it.

A batch's message is a FlatBuffer (Apache Arrow, "Serialization and Interprocess Communication"): a table begins with
the distance back to its list of fields, which holds each field's distance from the table, or zero if it is absent.
"""

from __future__ import annotations

import struct

import pyarrow as pa

_HEADER_TYPE, _HEADER, _COMPRESSION = 1, 2, 3  # the first two of a Message, the last of a RecordBatch
_RECORD_BATCH = 3


def is_compressed(stream: pa.NativeFile) -> bool:
    """Whether any batch of a stream has compressed buffers, without reading what is in them.

    Raises
    ------
    OSError, pyarrow.ArrowException
        If it is not a stream of batches alone.
    """
    stream.seek(0)
    try:
        messages = pa.ipc.MessageReader.open_stream(stream)
        next(iter(messages))  # the schema
        return any(_has_compression(message.metadata.to_pybytes()) for message in messages)
    except (struct.error, StopIteration) as error:
        raise pa.ArrowInvalid(f"a message of the stream is damaged ({error})") from error


def _has_compression(data: bytes) -> bool:
    (message,) = struct.unpack_from("<I", data)
    kind = _field(data, message, _HEADER_TYPE)
    header = _field(data, message, _HEADER)
    if kind is None or header is None or data[kind] != _RECORD_BATCH:
        raise pa.ArrowInvalid("the stream holds something other than batches")
    (distance,) = struct.unpack_from("<I", data, header)
    return _field(data, header + distance, _COMPRESSION) is not None


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a FlatBuffer's table is."""
    (back,) = struct.unpack_from("<i", data, table)
    fields = table - back
    (size,) = struct.unpack_from("<H", data, fields)
    at = 4 + 2 * number
    if at + 2 > size:
        return None
    (distance,) = struct.unpack_from("<H", data, fields + at)
    return table + distance if distance else None
