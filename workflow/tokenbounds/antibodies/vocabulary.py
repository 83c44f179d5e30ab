"""The antibody vocabulary: 29 tokens, fixed here and therefore independent of every corpus.

A document's text writes residues as letters, gaps as `-` and special tokens in brackets: `QVQLVQS[ClSep]`.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from tokenbounds.errors import CorpusError

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "[ClSep]", "[AbHC]", "[AbLC]")
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
GAP = "-"
TOKENS: tuple[str, ...] = (*SPECIAL_TOKENS, *AMINO_ACIDS, GAP)
TOKEN_IDS: dict[str, int] = {token: number for number, token in enumerate(TOKENS)}

START_ID = TOKEN_IDS["[CLS]"]
SEPARATOR = "[ClSep]"
SEPARATOR_ID = TOKEN_IDS[SEPARATOR]
FIRST_AMINO_ACID_ID = TOKEN_IDS[AMINO_ACIDS[0]]
AMINO_ACID_IDS = np.arange(FIRST_AMINO_ACID_ID, FIRST_AMINO_ACID_ID + len(AMINO_ACIDS))

_NO_TOKEN = 255
_PIECES = re.compile(r"\[[^\]]*\]|[^\[]+|\[")
_OF_BYTE = np.full(256, _NO_TOKEN, dtype=np.uint8)
_OF_BYTE[np.frombuffer((AMINO_ACIDS + GAP).encode(), dtype=np.uint8)] = np.arange(len(SPECIAL_TOKENS), len(TOKENS))


def encode_text(text: str) -> npt.NDArray[np.uint8]:
    """Turn a document's text into token ids, uint8[n].

    Raises
    ------
    CorpusError
        If it holds a letter or a bracketed name that is not a token.
    """
    pieces = _PIECES.findall(text)
    ids = [_encode_piece(piece) for piece in pieces]
    return np.concatenate(ids) if ids else np.zeros(0, dtype=np.uint8)


def decode_ids(ids: npt.ArrayLike) -> str:
    """The text of token ids, int[n]; `encode_text` gives the ids back.

    Raises
    ------
    CorpusError
        If an id is outside the vocabulary.
    """
    numbers = np.asarray(ids, dtype=np.int64)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(TOKENS):
        raise CorpusError(
            f"token ids run from {numbers.min()} to {numbers.max()}; the antibody vocabulary has 0 to 28."
        )
    return "".join(TOKENS[number] for number in numbers)


def is_amino_acid(ids: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which token ids are one of the 20 amino acids, bool[n]: not gaps, not special tokens."""
    numbers = np.asarray(ids)
    return (numbers >= FIRST_AMINO_ACID_ID) & (numbers < FIRST_AMINO_ACID_ID + len(AMINO_ACIDS))


def _encode_piece(piece: str) -> npt.NDArray[np.uint8]:
    if piece.startswith("["):
        if piece not in TOKEN_IDS:
            known = ", ".join(SPECIAL_TOKENS)
            raise CorpusError(
                f"{piece[:40]!r} is not a token of the antibody vocabulary, which has {known}. Correct it."
            )
        return np.array([TOKEN_IDS[piece]], dtype=np.uint8)
    codes = np.frombuffer(piece.encode("latin-1", errors="replace"), dtype=np.uint8)
    ids = _OF_BYTE[codes]
    wrong = np.flatnonzero(ids == _NO_TOKEN)
    if len(wrong):
        raise CorpusError(
            f"{piece[wrong[0]]!r} is not a token of the antibody vocabulary ({AMINO_ACIDS} and {GAP}). Read sequences "
            "through a source of kind airr, oas, fasta or csv, which clean them."
        )
    return ids
