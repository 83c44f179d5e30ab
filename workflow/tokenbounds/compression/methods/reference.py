"""A reference: there is nothing to find, the hash is already in the message."""

from __future__ import annotations

from typing import Any

from tokenbounds.compression.subject import Sources, Subject
from tokenbounds.config.quantizers import ReferenceQuantizer
from tokenbounds.messages.formats.reference import ReferenceFormat


def quantize_reference(
    spec: ReferenceQuantizer, subject: Subject, sources: Sources
) -> tuple[ReferenceFormat, dict[str, Any]]:
    """Name the model and hold no value."""
    return ReferenceFormat(), {}
