"""An online reference is named, and there is nothing to quantize."""

from __future__ import annotations

from tokenbounds.compression.subject import Record, Sources, Subject
from tokenbounds.config.quantizers import OnlineQuantizer
from tokenbounds.messages.formats.online import OnlineFormat


def quantize_online(spec: OnlineQuantizer, subject: Subject, sources: Sources) -> tuple[OnlineFormat, Record]:
    """No values."""
    return OnlineFormat(), {}
