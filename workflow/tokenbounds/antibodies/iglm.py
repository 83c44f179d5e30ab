"""The vocabulary of IgLM (Shuai, Ruffolo & Gray), whose models a user may have installed as the package `iglm`.

A sequence is written `[HEAVY][HUMAN] residues [SEP]`. The tokens are listed here because the published tokenizer cuts
residues into unknown words under current versions of transformers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenbounds.errors import CorpusError

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
TOKENS: tuple[str, ...] = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *RESIDUES,
    *("[CAMEL]", "[HUMAN]", "[MOUSE]", "[RABBIT]", "[RAT]", "[RHESUS]"),
    *("[HEAVY]", "[LIGHT]"),
)
TOKEN_IDS: dict[str, int] = {token: number for number, token in enumerate(TOKENS)}

UNK_ID, SEP_ID, MASK_ID = (TOKEN_IDS[token] for token in ("[UNK]", "[SEP]", "[MASK]"))
HEAVY_ID, LIGHT_ID = TOKEN_IDS["[HEAVY]"], TOKEN_IDS["[LIGHT]"]
SPECIES_IDS: dict[str, int] = {
    species: TOKEN_IDS[f"[{species.upper()}]"] for species in ("camel", "human", "mouse", "rabbit", "rat", "rhesus")
}
RESIDUE_IDS = np.array([TOKEN_IDS[residue] for residue in RESIDUES])

_OF_BYTE = np.full(256, -1, dtype=np.int64)
_OF_BYTE[np.frombuffer(RESIDUES.encode(), np.uint8)] = RESIDUE_IDS


def encode_residues(residues: str) -> npt.NDArray[np.int64]:
    """Token ids of a chain, int64[n].

    Raises
    ------
    CorpusError
        If a letter is none of the 20 amino acids.
    """
    ids = _OF_BYTE[np.frombuffer(residues.encode("latin-1", errors="replace"), np.uint8)]
    wrong = np.flatnonzero(ids < 0)
    if len(wrong):
        raise CorpusError(
            f"{residues[wrong[0]]!r} is not a token of IgLM, which reads {RESIDUES}. Leave the sequence out."
        )
    return ids
