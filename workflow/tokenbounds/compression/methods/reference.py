"""A reference: there is nothing to find, the hash is already in the message."""

from __future__ import annotations

from tokenbounds.compression.subject import Record, Sources, Subject
from tokenbounds.config.quantizers import ReferenceQuantizer
from tokenbounds.messages.formats.reference import ReferenceFormat


def quantize_reference(spec: ReferenceQuantizer, subject: Subject, sources: Sources) -> tuple[ReferenceFormat, Record]:
    """Name the model and hold no value."""
    return ReferenceFormat(), {}
