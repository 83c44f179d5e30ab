"""What verification says about a certificate; commands import only this, as another process verifies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenbounds.errors import CertificateError


@dataclass(frozen=True)
class Check:
    """A check that passed, or was not made: its name, the file it concerns, and what was found or left open."""

    name: str
    file: str
    detail: str
    made: bool = True


def is_results(path: Path) -> bool:
    """Whether a path is a folder of results, with all that a study publishes."""
    return (path / "certificates").is_dir()


def find_certificates(paths: Sequence[Path]) -> list[Path]:
    """Expand folders to the certificates (`*.json`) in them, or in their `certificates/`, in order of name.

    Raises
    ------
    CertificateError
        If a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        folder = path / "certificates" if is_results(path) else path
        inside = sorted(folder.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise CertificateError(f"{path} holds no certificate (*.json). Run the study, or name another folder.")
        found += inside
    return found
