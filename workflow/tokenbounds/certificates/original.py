"""The original of a certified model, for whoever compares predictions again: found, and loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbounds.certificates.schema import Certificate
from tokenbounds.errors import CertificateError
from tokenbounds.scores.scorer import ScoringOptions

if TYPE_CHECKING:
    from tokenbounds.scores.faithfulness import Original


def find_original(path: Path, certificate: Certificate, bases: Sequence[Path]) -> Path | None:
    """Where the original is: the one of `bases` that has its hash, or where the certificate at `path` says.

    None if the certificate compares predictions with no model.

    Raises
    ------
    ModelError
        If none of the bases has its hash.
    """
    if certificate.faithfulness is None:
        return None
    record = certificate.faithfulness.original
    if bases:
        from tokenbounds.models.base import locate_base

        return locate_base(record.sha256, bases, certificate.vocabulary_size)
    return Path(os.path.normpath(path.parent / record.place))


@contextlib.contextmanager
def placed_original(place: Path | None, sha256: str, options: ScoringOptions) -> Iterator[Original | None]:
    """The model at a place, which must have a hash, loaded to where there is room for it; None without a place.

    Raises
    ------
    CertificateError
        If it has another.
    """
    if place is None:
        yield None
        return
    from tokenbounds.scores import placement  # loads torch, which checking a chain's certificate does not need

    with placement.placed_original(place, options) as original:
        if original.sha256 != sha256:
            raise CertificateError(
                f"{place} is not the model with hash {sha256[:16]}… that was compared with. Name --base."
            )
        yield original
