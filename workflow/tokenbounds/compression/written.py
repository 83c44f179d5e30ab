"""What every message goes through once it is written: it is compared with what was encoded, and described."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from tokenbounds.compression.subject import Record
from tokenbounds.config import MessageSpec, row_json
from tokenbounds.errors import MessageError
from tokenbounds.messages.container import Message
from tokenbounds.messages.side_information import SideInformation

REPORT_VERSION = 1


def check_values(decoded: Mapping[str, np.ndarray], encoded: Mapping[str, np.ndarray]) -> None:
    """Compare every encoded tensor with the decoded one of its name, bit for bit.

    Raises
    ------
    MessageError
        If one differs.
    """
    for name, value in encoded.items():
        if decoded[name].tobytes() != np.ascontiguousarray(value).tobytes():
            raise MessageError(f"{name} decodes to values other than those encoded. Report this as a defect.")


def describe(message: Message, spec: MessageSpec) -> Record:
    """What the report on any message says: its size and parts in bits, hashes, row and header."""
    return {
        "schema_version": REPORT_VERSION,
        "size_bits": message.size_bits,
        "breakdown": message.breakdown,
        "sha256": message.sha256,
        "message": json.loads(row_json(spec)),
        "header": message.header,
        **{name: each for name, each in vars(SideInformation.of(message)).items() if each is not None},
    }
