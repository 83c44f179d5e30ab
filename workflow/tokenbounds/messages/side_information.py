"""What a message is decoded given: a coarse message that it refines, a base model, each named by SHA-256.

The hashes stand in the message, in its part `given`, and are paid for with it. What they name is looked for in files
that the caller names, else where a study keeps it: messages beside the message, models in `models/` beside the
folder of messages. It is used only if its own bytes or values have the hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbounds.errors import MessageError, TokenboundsError
from tokenbounds.messages.container import Message, Part, parse_message

HASH_BYTES = 32
MESSAGE_SUFFIX = ".tbm"
GIVEN_FAMILY = "given"  # in the header's `model`: architecture and frozen values are those of the base
REFINEMENT, REFERENCE = "refinement", "reference"


@dataclass(frozen=True)
class Given:
    """Hashes that a message names; None where it needs no such object.

    Attributes
    ----------
    coarse
        SHA-256 of the coarse message's bytes.
    base
        Hash of the base model, as `models.identity.model_sha256` defines it.
    """

    coarse: str | None = None
    base: str | None = None

    def parts(self) -> list[Part]:
        """The part of a message that holds the hashes, the coarse message's first; none if there are none."""
        data = b"".join(bytes.fromhex(each) for each in (self.coarse, self.base) if each is not None)
        return [Part("given", data)] if data else []

    @classmethod
    def of(cls, message: Message) -> Given:
        """Read the hashes of a message; its header says which there must be.

        Raises
        ------
        MessageError
            If the part is missing, is there without need, or has another length.
        """
        wanted = [name for name, needed in zip(("coarse", "base"), _needs(message), strict=True) if needed]
        found = [part.data for part in message.parts if part.kind == "given"]
        if not wanted and not found:
            return cls()
        if len(found) != 1 or len(found[0]) != HASH_BYTES * len(wanted):
            raise MessageError(
                f"the part of what the message is decoded given must hold {len(wanted)} hashes of {HASH_BYTES} bytes."
            )
        hashes = [found[0][start : start + HASH_BYTES].hex() for start in range(0, len(found[0]), HASH_BYTES)]
        return cls(**dict(zip(wanted, hashes, strict=True)))


@dataclass(frozen=True)
class Places:
    """Where to look for what messages are decoded given.

    Attributes
    ----------
    messages
        Files of messages.
    models
        Checkpoint folders, Hugging Face folders or GGUF files.
    """

    messages: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()

    @classmethod
    def of(cls, source: Path | str | bytes, given: Iterable[Path | str] = ()) -> Places:
        """Those named by the caller; for kinds that the caller names none of, where a study keeps them."""
        paths = [Path(path) for path in given]
        messages = tuple(path for path in paths if path.suffix == MESSAGE_SUFFIX)
        models = tuple(path for path in paths if path.suffix != MESSAGE_SUFFIX)
        if not isinstance(source, bytes):
            folder = Path(source).parent
            messages = messages or tuple(sorted(folder.glob(f"*{MESSAGE_SUFFIX}")))
            models = models or tuple(sorted((folder.parent / "models").glob("*/")))
        return cls(messages, models)

    @property
    def all(self) -> list[Path]:
        """Every place."""
        return [*self.messages, *self.models]

    def coarse_file(self, sha256: str) -> Path:
        """The file of the message with a hash.

        Raises
        ------
        MessageError
            If none of the places holds it; the message says what was found where.
        """
        seen = []
        for path in self.messages:
            try:
                found = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                seen.append(f"{path} cannot be read ({error.strerror or error})")
                continue
            if found == sha256:
                return path
            seen.append(f"{path.name} is {found[:16]}…")
        where = "; ".join(seen) or "no place to look for it is known"
        raise MessageError(
            f"it refines the message with SHA-256 {sha256[:16]}…, which was not found: {where}. Put that message "
            "beside it, or name it with --coarse."
        )

    def read_coarse(self, sha256: str) -> Message:
        """The message with a hash, read whole; the bytes that are used are the bytes that were hashed.

        Raises
        ------
        MessageError
            See `coarse_file`; or if it is no message.
        """
        message = parse_message(self.coarse_file(sha256).read_bytes())
        if message.sha256 != sha256:
            raise MessageError(f"the coarse message {sha256[:16]}… changed while it was read. Try again.")
        return message


def describe_given(given: Given, source: Path, named: Iterable[Path] = ()) -> dict[str, str]:
    """What a message is decoded given, in words: each hash, and where it was found or why not.

    Parameters
    ----------
    given
        The hashes of the message.
    source, named
        The message's file and where to look, as in `Places.of`.
    """
    places, found = Places.of(source, named), {}
    if given.coarse is not None:
        found["coarse message"] = f"{given.coarse} {_where(lambda: places.coarse_file(given.coarse or ''))}"
    if given.base is not None:
        from tokenbounds.models.identity import locate_base

        found["base model"] = f"{given.base} {_where(lambda: locate_base(given.base or '', places.models))}"
    return found


def _where(find: Callable[[], Path]) -> str:
    try:
        return f"({find()})"
    except TokenboundsError:
        return "(not found; name it with --base or --coarse)"


def given_places(files: Iterable[Path | str]) -> list[Path]:
    """Places for `decode_message` from files of the workflow: messages as they are, models by their folders."""
    paths = [Path(path) for path in files]
    return list(dict.fromkeys(path if path.suffix == MESSAGE_SUFFIX else path.parent for path in paths))


def _needs(message: Message) -> tuple[bool, bool]:
    """Whether a message's header calls for a coarse message, and for a base."""
    return _entry(message, "quantizer", "kind") == REFINEMENT, _entry(message, "model", "family") == GIVEN_FAMILY


def _entry(message: Message, key: str, inner: str) -> Any:
    value = message.header.get(key)
    return value.get(inner) if isinstance(value, dict) else None
