"""What a certificate's messages are decoded given: found by hash, recorded, and counted.

The bits of a coarse message are part of C: nothing decodes without them. A base model is part of the decoder, which
the certificate assumes was fixed before the corpus.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbounds.messages.container import Message, parse_message
from tokenbounds.messages.side_information import Given, Places


@dataclass(frozen=True)
class GivenEvidence:
    """A message with what it is decoded given.

    Attributes
    ----------
    message, path
        The message.
    coarse, coarse_path
        The message that it refines, if it is a refinement.
    base_sha256, base_path
        The model that it is decoded given, if there is one.
    """

    message: Message
    path: Path
    coarse: Message | None = None
    coarse_path: Path | None = None
    base_sha256: str | None = None
    base_path: Path | None = None

    @property
    def messages(self) -> dict[str, int]:
        """Bits of every file that is paid for, by SHA-256."""
        files = (self.message,) if self.coarse is None else (self.coarse, self.message)
        return {message.sha256: message.size_bits for message in files}

    @property
    def paid_bits(self) -> int:
        """C: bits of all files that the message is decoded from, the base aside."""
        return sum(self.messages.values())

    @property
    def places(self) -> list[Path]:
        """What to decode the message with."""
        return [path for path in (self.coarse_path, self.base_path) if path is not None]

    def record(self, folder: Path) -> dict[str, Any]:
        """Entries of a certificate's record of the message; paths are seen from `folder`. None without need."""
        entries: dict[str, Any] = {}
        if self.coarse is not None and self.coarse_path is not None:
            entries["coarse"] = {
                "name": self.coarse_path.stem,
                "file": _relative(self.coarse_path, folder),
                "sha256": self.coarse.sha256,
                "size_bits": self.coarse.size_bits,
            }
        if self.base_sha256 is not None and self.base_path is not None:
            name, place = self.base_path.resolve().name, _relative(self.base_path, folder)
            entries["base"] = {"name": name, "place": place, "sha256": self.base_sha256}
        return entries


class GivenFinder:
    """Finds what messages are decoded given; a base that several need is read and hashed once.

    Parameters
    ----------
    given
        Files of coarse messages and folders of bases; of kinds not named, those of the study around each message.
    """

    def __init__(self, given: Iterable[Path]) -> None:
        self._given = tuple(given)
        self._bases: dict[str, Path] = {}

    def find(self, path: Path, message: Message) -> GivenEvidence:
        """The evidence of one message.

        Raises
        ------
        MessageError, ModelError
            If what it is decoded given is missing or another; the message names it.
        """
        named, places = Given.of(message), Places.of(path, self._given)
        coarse_path = None if named.coarse is None else places.coarse_file(named.coarse)
        coarse = None if coarse_path is None else parse_message(coarse_path.read_bytes())
        base = None if named.base is None else self._base(named.base, places, message)
        return GivenEvidence(message, path, coarse, coarse_path, named.base, base)

    def _base(self, sha256: str, places: Places, message: Message) -> Path:
        from tokenbounds.models.identity import locate_base

        if sha256 not in self._bases:
            size = message.header["model"].get("vocabulary_size")
            self._bases[sha256] = locate_base(sha256, places.models, size)
        return self._bases[sha256]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
