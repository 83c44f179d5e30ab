"""IMGT numbering by the optional package immunum."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenbounds.antibodies.labels import Chain
from tokenbounds.errors import MissingPackageError

_CHAINS = {"H": Chain.HEAVY, "K": Chain.LIGHT, "L": Chain.LIGHT}


def number_residues(residues: str, where: str) -> tuple[npt.NDArray[np.int16], Chain] | None:
    """Number a sequence of amino acids.

    Parameters
    ----------
    residues
        Letters, without gaps.
    where
        Place in the source, for the error.

    Returns
    -------
    positions : int16[n]
        IMGT positions 1 … 128; 0 outside the variable domain. Insertions carry the number alone.
    chain : Chain
        Which chain it is by its best alignment.
    None if the sequence is recognized as no variable domain.

    Raises
    ------
    MissingPackageError
        If immunum is not installed.
    """
    result = _annotator(where).number(residues.replace("*", "X"))
    if result.numbering is None:
        return None
    positions = np.zeros(len(residues), np.int16)
    numbers = [int(position.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")) for position in result.numbering]
    positions[result.query_start : result.query_end + 1] = numbers
    return positions, _CHAINS.get(result.chain, Chain.NONE)


@cache
def _load_annotator() -> Any:
    from immunum import Annotator

    return Annotator(chains=["ig"], scheme="imgt")


def _annotator(where: str) -> Any:
    try:
        return _load_annotator()
    except ImportError:
        raise MissingPackageError(
            f"{where}: its regions are in no column, and numbering needs immunum, which is not installed. Run `make "
            "install-antibodies` (or pip install immunum), or leave 'immunum' out of the source's 'regions'."
        ) from None
