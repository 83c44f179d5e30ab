"""The values of a checkpoint: in its own `model.safetensors`, or in the files of others, which `original.json` names.

An imported model is not copied. `original.json` has the folder of its files, their sizes and hashes, which tensor of
theirs each parameter is, and how values are decoded if the files hold codes; the files are checked whenever a job opens
them. torch is not imported here, unless values are decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from tokenbounds.errors import ModelError
from tokenbounds.files import canonical_json, read_json, sha256_bytes, sha256_file, write_json
from tokenbounds.models.safetensors_files import SafetensorsFiles
from tokenbounds.seals import sha256_of_sealed

if TYPE_CHECKING:
    from tokenbounds.models.adapters import AdapterCard
    from tokenbounds.models.card import ModelCard
    from tokenbounds.models.pretrained.decoded import DecodedSource

CARD_FILE = "card.json"
WEIGHTS_FILE = "model.safetensors"
ORIGINAL_FILE = "original.json"
_VERSION = 1


@dataclass(frozen=True)
class Original:
    """What `original.json` says.

    Attributes
    ----------
    folder
        Of the files; a relative one is seen from the checkpoint's own folder.
    files
        Size in bytes and SHA-256 by name of the file.
    tensors
        The name in the files of every coded parameter.
    parameters
        How many values there are.
    card_sha256
        Of the card that it was written with.
    quantization
        What the files hold in place of values, as `open_decoded` takes it; none if they are plain.
    """

    folder: str
    files: Mapping[str, tuple[int, str]]
    tensors: Mapping[str, str]
    parameters: int
    card_sha256: str
    quantization: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> Original:
        """Read and check a file.

        Raises
        ------
        ModelError
            If it is damaged.
        """
        raw = read_json(path)
        try:
            files = {_plain(name): (int(one["size_bytes"]), str(one["sha256"])) for name, one in raw["files"].items()}
            tensors = {str(name): str(held) for name, held in raw["tensors"].items()}
            quantization = raw.get("quantization")
            if raw["schema_version"] != _VERSION or not files or not isinstance(quantization, dict | None):
                raise ValueError
            sizes = int(raw["parameters"]), str(raw["card_sha256"])
            return cls(str(raw["folder"]), files, tensors, *sizes, quantization)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{path} does not name files of version {_VERSION}. Import the model again.") from error

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        files = {name: {"size_bytes": size, "sha256": sha256} for name, (size, sha256) in self.files.items()}
        written = {"schema_version": _VERSION, **vars(self), "files": files, "tensors": dict(self.tensors)}
        if self.quantization is None:
            del written["quantization"]
        return written


def _plain(name: str) -> str:
    if Path(name).name != name:
        raise ValueError
    return name


def card_sha256(card: ModelCard | AdapterCard) -> str:
    """Hash of a card, by which weights name the card that they belong to."""
    return sha256_bytes(canonical_json(card.to_dict()).encode())


def write_original(
    directory: Path,
    paths: list[Path],
    tensors: Mapping[str, str],
    card: ModelCard,
    parameters: int,
    quantization: Mapping[str, Any] | None = None,
) -> None:
    """Write `original.json`: hash the files, which are all in one folder, and name the tensor of each parameter."""
    files = {path.name: (path.stat().st_size, sha256_file(path)) for path in paths}
    folder = paths[0].parent
    where = "." if folder.resolve() == directory.resolve() else str(folder.resolve())
    original = Original(where, files, tensors, parameters, card_sha256(card), quantization)
    write_json(directory / ORIGINAL_FILE, original.to_dict())


def open_weights(directory: Path, card: ModelCard) -> SafetensorsFiles | DecodedSource:
    """The values of a checkpoint's coded parameters, once all files are checked.

    Raises
    ------
    ModelError
        If a file is missing, damaged, changed since it was imported, or belongs to another card.
    """
    if (directory / ORIGINAL_FILE).is_file():
        original, paths = open_original(directory, card)
        if original.quantization is None:
            return SafetensorsFiles.open(paths).select(original.tensors)
        from tokenbounds.models.pretrained.decoded import open_decoded

        return open_decoded(paths, original.quantization, original.tensors, card)
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise ModelError(f"{path} does not exist. Train or load the model again.")
    check_weights(path, card)
    return SafetensorsFiles.open([path])


def weights_file(directory: Path) -> Path:
    """The file of values, or `original.json`, which has the hashes of the files of values."""
    path = directory / ORIGINAL_FILE
    return path if path.is_file() else directory / WEIGHTS_FILE


def check_weights(path: Path, card: ModelCard | AdapterCard) -> None:
    """Refuse a file of weights that was changed since it was written, or was written with another card.

    Raises
    ------
    ModelError
        If it is damaged, cannot be read, or names another card.
    """
    sha256_of_sealed(path, ModelError, "Make it again.")
    try:
        with safe_open(path, framework="numpy") as file:
            named = (file.metadata() or {}).get("card_sha256", card_sha256(card))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}. Make it again.") from error
    if named != card_sha256(card):
        raise ModelError(f"{path.parent / CARD_FILE} is not the card that {path} was written with. Make them again.")


def open_original(directory: Path, card: ModelCard) -> tuple[Original, list[Path]]:
    """What a checkpoint's `original.json` says, and its files, which are checked.

    Raises
    ------
    ModelError
        If the file is damaged or of another card, or a file that it names is missing or has changed.
    """
    original = Original.read(directory / ORIGINAL_FILE)
    if original.card_sha256 != card_sha256(card):
        raise ModelError(f"{directory / CARD_FILE} is not the card of {directory / ORIGINAL_FILE}. Import it again.")
    paths = []
    for name, (size, sha256) in original.files.items():
        path = directory / original.folder / name
        if not path.is_file():
            raise ModelError(f"{path}, which {directory} was imported from, does not exist. Restore it, or import it.")
        if path.stat().st_size != size or sha256_file(path) != sha256:
            raise ModelError(f"{path} has changed since {directory} was imported from it. Import the model again.")
        paths.append(path)
    return original, paths
