"""IMGT numbering by the optional package immunum."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenbounds.antibodies.labels import Chain
from tokenbounds.errors import MissingPackageError

_CHAINS = {"H": Chain.HEAVY, "K": Chain.LIGHT, "L": Chain.LIGHT}
_SHORTEST_DOMAIN = 70
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Numbering:
    """A domain that was recognized.

    Attributes
    ----------
    positions
        IMGT positions 1 … 128 of the residues, int16[n]; 0 outside the domain. Insertions carry the number alone.
    chain
        Which chain the domain belongs to, by its best alignment.
    others
        Further variable domains in the sequence, as in an scFv.
    """

    positions: npt.NDArray[np.int16]
    chain: Chain
    others: int = 0


def number_residues(residues: str, stated: Chain, where: str) -> Numbering | None:
    """Number a sequence of amino acids.

    Parameters
    ----------
    residues
        Letters, without gaps.
    stated
        The chain that the source says it is. Of several domains the first one of this chain is numbered, and the best
        one only if there is none, or nothing is stated.
    where
        Place in the source, for the error.

    Returns
    -------
    Numbering
        None if the sequence is not recognized as a variable domain.

    Raises
    ------
    MissingPackageError
        If immunum is not installed.
    """
    annotator, letters = _annotator(where), residues.replace("*", "X")
    best = annotator.number(letters)
    if best.numbering is None:
        return None
    chain = _CHAINS.get(best.chain, Chain.NONE)
    rest = max(best.query_start, len(letters) - 1 - best.query_end)
    if rest < _SHORTEST_DOMAIN and stated in (Chain.NONE, chain):
        return Numbering(_positions(best, len(letters)), chain)
    domains = [domain for domain in annotator.number_domains(letters) if domain.numbering is not None] or [best]
    of_stated = [domain for domain in domains if _CHAINS.get(domain.chain) is stated]
    chosen = of_stated[0] if of_stated else best
    return Numbering(_positions(chosen, len(letters)), _CHAINS.get(chosen.chain, Chain.NONE), len(domains) - 1)


def _positions(domain: Any, length: int) -> npt.NDArray[np.int16]:
    positions = np.zeros(length, np.int16)
    # Insertions are `111A` … `111Z`, and continue with the characters after Z.
    numbers = [int(found.group()) for found in map(_NUMBER.match, domain.numbering) if found]
    positions[domain.query_start : domain.query_end + 1] = numbers
    return positions


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
