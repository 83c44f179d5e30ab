"""Formats: how a model's values are written in a message as integers, and how the integers become values again.

One class per format, registered here under the `kind` that the header of its messages names. Formats need only numpy
and the coder; finding a model's integers is the task of `compression.methods`.
"""

from __future__ import annotations

from tokenbounds.errors import MessageError
from tokenbounds.messages.container import Header
from tokenbounds.messages.formats.base import Format
from tokenbounds.messages.formats.codebook import CodebookFormat
from tokenbounds.messages.formats.lattice import LatticeFormat
from tokenbounds.messages.formats.markov import MarkovFormat
from tokenbounds.messages.formats.online import OnlineFormat
from tokenbounds.messages.formats.published import PublishedFormat
from tokenbounds.messages.formats.reference import ReferenceFormat
from tokenbounds.messages.formats.refinement import RefinementFormat
from tokenbounds.messages.formats.rotated import RotatedFormat
from tokenbounds.messages.formats.scaled import ScaledFormat
from tokenbounds.messages.formats.uniform import UniformFormat

__all__ = ["FORMATS", "Format", "format_of"]

_ALL: tuple[type[Format], ...] = (
    UniformFormat,
    CodebookFormat,
    ScaledFormat,
    RotatedFormat,
    LatticeFormat,
    PublishedFormat,
    RefinementFormat,
    ReferenceFormat,
    MarkovFormat,
    OnlineFormat,
)
FORMATS: dict[str, type[Format]] = {each.kind: each for each in _ALL}


def format_of(header: Header) -> type[Format]:
    """The format that the header of a message names.

    Raises
    ------
    MessageError
        If it names none.
    """
    settings = header.get("quantizer")
    kind = settings.get("kind") if isinstance(settings, dict) else None
    if not isinstance(kind, str) or kind not in FORMATS:
        raise MessageError(f"unknown quantizer {kind!r:.40}. Known: {', '.join(FORMATS)}.")
    return FORMATS[kind]
