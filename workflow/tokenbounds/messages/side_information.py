"""Side information: what a message is decoded with besides its own bytes, a base model or a coarse message it refines.

Each is named by a SHA-256 in the message's part `side_information`, and the hashes are paid for with the message. What
a hash names is looked for in files that the caller names, or where a study keeps it: messages next to the message,
models in `models/` next to the folder of messages. It is used only if its own bytes or values have the hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenbounds.config.quantizers import REFINING
from tokenbounds.errors import MessageError, TokenboundsError
from tokenbounds.files import sha256_bytes
from tokenbounds.messages.container import Message, Part, parse_message
from tokenbounds.models.card import BASE_FAMILY

HASH_BYTES = 32
MESSAGE_SUFFIX = ".tbm"


@dataclass(frozen=True)
class SideInformation:
    """What a message is decoded with besides its own bytes, by hash; None for what it does not need.

    Attributes
    ----------
    base
        Hash of the base model, as `models.identity.model_sha256` defines it.
    coarse
        SHA-256 of the bytes of the coarse message that it refines.
    """

    base: str | None = None
    coarse: str | None = None

    @classmethod
    def of(cls, message: Message) -> SideInformation:
        """Read the hashes of a message; its header says which there must be.

        Raises
        ------
        MessageError
            If the part is missing, is there but not needed, or has another length.
        """
        refines = _entry(message, "quantizer", "kind") in REFINING
        has_base = _entry(message, "model", "family") == BASE_FAMILY
        found = [part.data for part in message.parts if part.kind == "side_information"]
        if not (refines or has_base or found):
            return cls()
        size = HASH_BYTES * (refines + has_base)
        if len(found) != 1 or len(found[0]) != size or not size:
            raise MessageError(
                f"the part of the message's side information must hold {refines + has_base} hashes of "
                f"{HASH_BYTES} bytes."
            )
        # The coarse message's hash comes first, the base's last.
        return cls(
            base=found[0][-HASH_BYTES:].hex() if has_base else None,
            coarse=found[0][:HASH_BYTES].hex() if refines else None,
        )

    def parts(self) -> list[Part]:
        """The part of a message that holds the hashes; none if there are none."""
        data = b"".join(bytes.fromhex(each) for each in (self.coarse, self.base) if each is not None)
        return [Part("side_information", data)] if data else []

    def describe(self, places: Iterable[Path]) -> dict[str, str]:
        """Each hash in words, and where it was found among `places` (see `find_places`) or that it was not."""
        places, described = list(places), {}
        if self.coarse is not None:
            described["coarse message"] = f"{self.coarse} {_where(find_coarse, self.coarse, places)}"
        if self.base is not None:
            from tokenbounds.models.base import locate_base

            described["base model"] = f"{self.base} {_where(locate_base, self.base, model_places(places))}"
        return described


def find_places(source: Path | str | bytes, named: Iterable[Path | str] = ()) -> list[Path]:
    """Where to look for side information of a message, or of one that is made from a model.

    Parameters
    ----------
    source
        The message's file or the model's folder, around which a study keeps its files; bytes have no place.
    named
        Files of messages; checkpoint folders, Hugging Face folders or GGUF files of models. For a kind that is not
        named, those of the study around `source` are returned.
    """
    paths = [Path(path) for path in named]
    messages, models = message_places(paths), model_places(paths)
    if not isinstance(source, bytes):
        folder = Path(source).parent
        messages = messages or sorted(folder.glob(f"*{MESSAGE_SUFFIX}"))
        models = models or sorted((folder.parent / "models").glob("*/"))
    return [*messages, *models]


def message_places(places: Iterable[Path]) -> list[Path]:
    """Those of the places that are files of messages."""
    return [path for path in places if path.suffix == MESSAGE_SUFFIX]


def model_places(places: Iterable[Path]) -> list[Path]:
    """Those of the places that are models."""
    return [path for path in places if path.suffix != MESSAGE_SUFFIX]


def places_of_files(files: Iterable[Path | str]) -> list[Path]:
    """Places from input files of the workflow: messages as they are, models by their folders; each once."""
    paths = [Path(path) for path in files]
    return list(dict.fromkeys(path if path.suffix == MESSAGE_SUFFIX else path.parent for path in paths))


def find_coarse(sha256: str, places: Iterable[Path]) -> Path:
    """The file of the message with the given hash.

    Raises
    ------
    MessageError
        If none of the places holds it; the message says what was found where.
    """
    seen = []
    for path in message_places(places):
        try:
            found = sha256_bytes(path.read_bytes())
        except OSError as error:
            seen.append(f"{path} cannot be read ({error.strerror or error})")
            continue
        if found == sha256:
            return path
        seen.append(f"{path.name} is {found[:16]}…")
    where = "; ".join(seen) or "no place to look for it is known"
    raise MessageError(
        f"it refines the message with SHA-256 {sha256[:16]}…, which was not found: {where}. Put that message "
        "next to it, or name it with --coarse."
    )


def read_coarse(sha256: str, places: Iterable[Path]) -> Message:
    """The message with the given hash, read completely; the bytes that are used are the bytes that were hashed.

    Raises
    ------
    MessageError
        See `find_coarse`; or if it is not a message.
    """
    message = parse_message(find_coarse(sha256, places).read_bytes())
    if message.sha256 != sha256:
        raise MessageError(f"the coarse message {sha256[:16]}… changed while it was read. Try again.")
    return message


def _where(find: Callable[[str, list[Path]], Path], sha256: str, places: list[Path]) -> str:
    try:
        return f"({find(sha256, places)})"
    except TokenboundsError:
        return "(not found; name it with --base or --coarse)"


def _entry(message: Message, key: str, inner: str) -> str | None:
    """An entry of the header, as text; None for what no decoder knows, such as a list."""
    value = message.header.get(key)
    found = value.get(inner) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None
