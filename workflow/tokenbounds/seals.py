"""A file's digest inside the file, by which the next job knows that it is intact.

A seal is a text in the file's own metadata, `tokenbounds-sha256:` and 64 hexadecimal digits: the SHA-256 of the file
with zeros in place of the digits. It may occur several times (Arrow writes metadata at both ends). A seal guards
against damage by disks, memory and copying; someone who alters a file on purpose can seal it again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tokenbounds.errors import TokenboundsError

SEAL_KEY = "seal"
_MARK = b"tokenbounds-sha256:"
_DIGITS = 64
_LENGTH = len(_MARK) + _DIGITS
_CHUNK_BYTES = 1 << 20

BLANK_SEAL = (_MARK + b"0" * _DIGITS).decode()
"""What a writer puts under `SEAL_KEY` before it calls `seal`."""


@dataclass(frozen=True)
class _Scan:
    """One pass over a file: its SHA-256, the one with zeros in all seals, and the seals' places and digits."""

    whole: str
    blank: str
    places: tuple[int, ...]
    digits: frozenset[bytes]


def seal(path: Path) -> None:
    """Put the digest of a file into its blank seals. A file whose data also look like a seal is left without one."""
    found = _scan(path)
    if found.digits != {b"0" * _DIGITS}:
        return
    with path.open("r+b") as stream:
        for place in found.places:
            stream.seek(place + len(_MARK))
            stream.write(found.blank.encode())


def sha256_of_sealed(path: Path | str, error_type: type[TokenboundsError], remedy: str) -> str:
    """Hexadecimal SHA-256 of a file, whose seal, if it has one, is checked in the same pass.

    Files of earlier releases have no seal, and are read unchecked.

    Raises
    ------
    TokenboundsError
        Of the given type, if the file cannot be read, or is not what was written; `remedy` says what to do then.
    """
    path = Path(path)
    try:
        found = _scan(path)
    except OSError as error:
        raise error_type(f"cannot read {path}: {error.strerror or error}.") from error
    if found.places and found.digits not in ({b"0" * _DIGITS}, {found.blank.encode()}):
        raise error_type(f"{path} is damaged: its content does not match the digest that it carries. {remedy}")
    return found.whole


def _scan(path: Path) -> _Scan:
    whole, blank = hashlib.sha256(), None
    places: list[int] = []
    digits: set[bytes] = set()
    rest, start, more = b"", 0, True
    with path.open("rb") as stream:
        while more:
            chunk = stream.read(_CHUNK_BYTES)
            more = bool(chunk)
            buffer = rest + chunk
            # A seal that begins before `end` is completely in the buffer.
            end = max(0, len(buffer) - (_LENGTH - 1)) if more else len(buffer)
            marks = []
            at = buffer.find(_MARK)
            while at != -1 and at < end and at + _LENGTH <= len(buffer):
                marks.append(at)
                at = buffer.find(_MARK, at + _LENGTH)
            cut = max(end, marks[-1] + _LENGTH) if marks else end
            part, rest = buffer[:cut], buffer[cut:]
            if marks and blank is None:  # up to the first seal the two are one
                blank = whole.copy()
            whole.update(part)
            if blank is not None:
                zeroed = bytearray(part)
                for mark in marks:
                    digits.add(part[mark + len(_MARK) : mark + _LENGTH])
                    zeroed[mark + len(_MARK) : mark + _LENGTH] = b"0" * _DIGITS
                    places.append(start + mark)
                blank.update(zeroed)
            start += cut
    return _Scan(whole.hexdigest(), (blank or whole).hexdigest(), tuple(places), frozenset(digits))
