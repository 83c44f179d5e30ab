"""How a predictor writes a sequence: which tokens are residues, and what is around them.

A layout is chosen by the size of the predictor's vocabulary: 29 tokens are this project's, 33 are IgLM's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tokenbounds.antibodies import iglm, vocabulary
from tokenbounds.antibodies.labels import Chain
from tokenbounds.errors import TokenboundsError
from tokenbounds.scores.scorer import vocabulary_size

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Written:
    """A sequence as tokens.

    Attributes
    ----------
    tokens
        What follows the start token, int64[n].
    chosen
        Which of them are the residues that are asked for, bool[n].
    """

    tokens: Tokens
    chosen: npt.NDArray[np.bool_]


class Layout(Protocol):
    """How a predictor writes sequences.

    Attributes
    ----------
    residue_ids
        Tokens of the 20 amino acids, in the order of `vocabulary.AMINO_ACIDS`.
    """

    residue_ids: Tokens

    def start_id(self, chain: Chain) -> int:
        """The token before the first one."""

    def write(self, residues: str) -> Written:
        """A whole chain, all residues chosen."""

    def infill(self, residues: str, span: slice, before: Tokens) -> Written:
        """A chain in which only `span` is chosen; nothing that comes after a chosen residue shows it.

        Parameters
        ----------
        residues
            The chain.
        span
            The residues to recover.
        before
            Tokens of this project's vocabulary that precede the chain in its document; IgLM reads single sequences and
            ignores them.
        """


class OwnLayout:
    """This project's vocabulary: left to right, a separator at the end."""

    residue_ids: Tokens = np.asarray(vocabulary.AMINO_ACID_IDS, np.int64)

    def start_id(self, chain: Chain) -> int:
        """The token before the first one."""
        return vocabulary.START_ID

    def write(self, residues: str) -> Written:
        """A whole chain, all residues chosen."""
        tokens = vocabulary.encode_text(residues).astype(np.int64)
        return _written([tokens, [vocabulary.SEPARATOR_ID]], 0)

    def infill(self, residues: str, span: slice, before: Tokens) -> Written:
        """A chain in which only `span` is chosen; see `Layout`."""
        tokens = vocabulary.encode_text(residues).astype(np.int64)
        return _written([before, tokens[: span.start], tokens[span]], 2)


class IglmLayout:
    """IgLM's vocabulary: chain and species first; to infill, a masked sequence is followed by what was masked."""

    residue_ids: Tokens = np.asarray(iglm.RESIDUE_IDS, np.int64)

    def __init__(self, species: str = "human") -> None:
        self._species = iglm.SPECIES_IDS[species]

    def start_id(self, chain: Chain) -> int:
        """The token before the first one.

        Raises
        ------
        TokenboundsError
            If the kind of chain is not known: IgLM must be told.
        """
        if chain is Chain.NONE:
            raise TokenboundsError(
                "IgLM must be told whether a chain is heavy or light, and of some it is not known. Set the task's "
                "'chain', or name its columns with 'heavy' and 'light'."
            )
        return iglm.LIGHT_ID if chain is Chain.LIGHT else iglm.HEAVY_ID

    def write(self, residues: str) -> Written:
        """A whole chain, all residues chosen."""
        return _written([[self._species], iglm.encode_residues(residues), [iglm.SEP_ID]], 1)

    def infill(self, residues: str, span: slice, before: Tokens) -> Written:
        """A chain in which only `span` is chosen; see `Layout`."""
        tokens = iglm.encode_residues(residues)
        ends: list[npt.ArrayLike] = [[self._species], tokens[: span.start], [iglm.MASK_ID], tokens[span.stop :]]
        return _written([*ends, [iglm.SEP_ID], tokens[span]], 5)


def layout_of(predictor: Any, species: str = "human") -> Layout:
    """The layout of a decoded predictor.

    Raises
    ------
    TokenboundsError
        If its vocabulary is neither.
    """
    size = vocabulary_size(predictor)
    if size == len(vocabulary.TOKENS):
        return OwnLayout()
    if size == len(iglm.TOKENS):
        return IglmLayout(species)
    raise TokenboundsError(
        f"a model of {size} tokens reads no antibodies; tasks are for models of the antibody tokenizer "
        f"({len(vocabulary.TOKENS)} tokens) and for IgLM ({len(iglm.TOKENS)})."
    )


def _written(parts: Sequence[npt.ArrayLike], chosen: int) -> Written:
    """Join parts, of which one is chosen."""
    arrays = [np.asarray(part, np.int64) for part in parts]
    marks = [np.full(len(array), number == chosen) for number, array in enumerate(arrays)]
    return Written(np.concatenate(arrays), np.concatenate(marks))
