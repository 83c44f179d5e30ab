"""What is known about each residue besides its letter: region, germline status, IMGT position, chain.

Labels are small integers, so that they travel with tokens through Arrow and Parquet; the enumerations name them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Region(IntEnum):
    """Region of the variable domain by IMGT's definition; NONE for separators, gaps, and residues outside it."""

    NONE = 0
    FWR1 = 1
    CDR1 = 2
    FWR2 = 3
    CDR2 = 4
    FWR3 = 5
    CDR3 = 6
    FWR4 = 7

    @property
    def label(self) -> str:
        """The name in tables: `none` or the region's."""
        return "none" if self is Region.NONE else self.name


class Germline(IntEnum):
    """How a residue compares with the germline alignment.

    UNTEMPLATED residues are aligned with no germline residue: N additions, insertions, and segments that the alignment
    masks.
    """

    UNKNOWN = 0
    GERMLINE = 1
    NON_GERMLINE = 2
    UNTEMPLATED = 3

    @property
    def label(self) -> str:
        """The name in tables."""
        return self.name.lower()


class Chain(IntEnum):
    """Which chain a residue belongs to; NONE where the source does not say, and for separators."""

    NONE = 0
    HEAVY = 1
    LIGHT = 2

    @property
    def label(self) -> str:
        """The name in tables."""
        return self.name.lower()


REGION_SPANS: tuple[tuple[Region, int, int], ...] = (
    (Region.FWR1, 1, 26),
    (Region.CDR1, 27, 38),
    (Region.FWR2, 39, 55),
    (Region.CDR2, 56, 65),
    (Region.FWR3, 66, 104),
    (Region.CDR3, 105, 117),
    (Region.FWR4, 118, 128),
)
"""IMGT positions of each region, first and last."""

_REGION_OF_POSITION = np.zeros(129, dtype=np.int8)
for _region, _first, _last in REGION_SPANS:
    _REGION_OF_POSITION[_first : _last + 1] = _region


def regions_of_positions(imgt: npt.NDArray[np.int16]) -> npt.NDArray[np.int8]:
    """Regions, int8[n], of IMGT positions 1 … 128; 0 (no position) gives NONE."""
    regions: npt.NDArray[np.int8] = _REGION_OF_POSITION[imgt]
    return regions


@dataclass(frozen=True)
class Labels:
    """Labels of one chain's residues or of one document's tokens.

    Attributes
    ----------
    region
        Values of `Region`, int8[n].
    germline
        Values of `Germline`, int8[n].
    imgt
        IMGT position 1 … 128, or 0 where there is none, int16[n]. Insertions (111A, 112A) carry the number alone.
    """

    region: npt.NDArray[np.int8]
    germline: npt.NDArray[np.int8]
    imgt: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.region)

    @classmethod
    def nothing(cls, length: int) -> Labels:
        """Labels that say nothing about `length` residues."""
        return cls(np.zeros(length, np.int8), np.zeros(length, np.int8), np.zeros(length, np.int16))


@dataclass(frozen=True)
class TokenLabels:
    """Labels of a document's tokens, all of length n.

    Attributes
    ----------
    member
        Number of the sequence (or pair) within the document, from 0, int32[n]; a separator belongs to the one before.
    chain
        Values of `Chain`, int8[n].
    region, germline, imgt
        As in `Labels`.
    """

    member: npt.NDArray[np.int32]
    chain: npt.NDArray[np.int8]
    region: npt.NDArray[np.int8]
    germline: npt.NDArray[np.int8]
    imgt: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.region)
