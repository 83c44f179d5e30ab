"""What corpora of antibodies declare about their tokens."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from tokenbounds.antibodies import iglm, vocabulary
from tokenbounds.antibodies.labels import REGION_SPANS, Chain, Germline, Region, TokenLabels
from tokenbounds.config import IglmTokenizer, TokenizerSpec
from tokenbounds.corpus.labels import LabelColumn, TokenValues
from tokenbounds.errors import CorpusError

_POSITIONS = REGION_SPANS[-1][2]
# By kind of tokenizer: how many tokens it has, and which of them are amino acids.
_RESIDUES = {
    "antibody": (len(vocabulary.TOKENS), vocabulary.AMINO_ACID_IDS),
    "iglm": (len(iglm.TOKENS), iglm.RESIDUE_IDS),
}


def antibody_columns(tokenizer: TokenizerSpec) -> tuple[LabelColumn, ...]:
    """The label columns of a corpus of antibodies.

    Raises
    ------
    CorpusError
        If the tokenizer does not read antibodies.
    """
    if tokenizer.kind not in _RESIDUES:
        raise CorpusError(
            "antibody sources need the tokenizer of kind antibody (or iglm). Set the corpus's 'tokenizer'."
        )
    size, residues = _RESIDUES[tokenizer.kind]
    is_residue = np.zeros(size, np.int64)
    is_residue[residues] = 1
    return (
        LabelColumn(
            "residue", "amino acids and all other tokens", ("other", "residue"), "int8", tuple(is_residue.tolist())
        ),
        LabelColumn("member", "number of the sequence (or pair) in its document, from 0", integer="int32"),
        LabelColumn("chain", "which chain a residue belongs to", _names(Chain), "int8"),
        LabelColumn("region", "region of the variable domain by IMGT's definition", _names(Region), "int8"),
        LabelColumn("germline", "how a residue compares with the germline alignment", _names(Germline), "int8"),
        LabelColumn("imgt", "IMGT position", ("none", *map(str, range(1, _POSITIONS + 1))), "int16"),
    )


def refuse_other_chain(name: str, values: TokenValues | None, tokenizer: TokenizerSpec) -> None:
    """Refuse a document for IgLM whose chain is not the one that its first token names.

    Raises
    ------
    CorpusError
        If a token of the document `name` has the label of the other chain.
    """
    if not isinstance(tokenizer, IglmTokenizer) or values is None:
        return
    other = Chain.LIGHT if tokenizer.chain == "heavy" else Chain.HEAVY
    if np.any(values["chain"] == other):
        raise CorpusError(
            f"document {name} is a {other.label} chain, and the tokenizer tells IgLM that it is {tokenizer.chain}. Set "
            f"the source's chain to {tokenizer.chain}, or the tokenizer's."
        )


def token_values(labels: TokenLabels) -> TokenValues:
    """Labels of a document's tokens by column."""
    return {name: getattr(labels, name) for name in ("member", "chain", "region", "germline", "imgt")}


def _names(kind: type[IntEnum]) -> tuple[str, ...]:
    return tuple(value.label for value in kind)  # type: ignore[attr-defined]
