"""What the words in cells mean, in every table and header alike: missing values, names, yes and no, kinds of chain."""

from __future__ import annotations

import re

from tokenbounds.antibodies.labels import Chain

_MISSING = frozenset(
    {"", "na", "n/a", "#n/a", "#na", "nan", "+nan", "-nan", "none", "null", "<na>", "<null>", "<none>"}
)
_NOBODY = frozenset(
    {
        *("unassigned", "not assigned", "unknown", "undefined", "undetermined", "unclustered", "no clone"),
        *("-", ".", "?", "_", "-1"),
    }
)
_WHOLE_FLOAT = re.compile(r"(-?\d+)\.0+")

_YES = frozenset({"t", "true", "1", "1.0", "y", "yes", "+", "productive", "in", "in-frame"})
_NO = frozenset(
    {
        *("f", "false", "0", "0.0", "n", "no", "unproductive", "non-productive", "nonproductive", "not-productive"),
        *("out", "out-of-frame", "stop", "stop-codon", "has-stop", "pseudogene"),
    }
)
_UNTOLD = frozenset({"unknown", "undetermined", "no-result", "no-results", "?"})
_COMMENT = re.compile(r"\(.*?\)")
_BLANKS = re.compile(r"[\s_]+")

_LIGHT_WORDS = ("k", "l", "igk", "igl", "kappa", "lambda", "light", "vk", "vl")
_CHAIN_WORDS = {
    **dict.fromkeys(("h", "igh", "heavy", "vh"), Chain.HEAVY),
    **dict.fromkeys(_LIGHT_WORDS, Chain.LIGHT),
    **dict.fromkeys(("a", "b", "d", "g", "alpha", "beta", "delta", "gamma", "tra", "trb", "trd", "trg"), None),
}
_LOCUS = re.compile(r"\b(IG[HKL]|TR[ABDG])", re.IGNORECASE)
_V_GENE = re.compile(r"\b(?:IG[HKL]|TR[ABDG])V[^*,\s]+", re.IGNORECASE)
_BARE_V_GENE = re.compile(r"\b(?:([HKLABDG])V|V([HKLABDG]))(\d[^*,\s]*)", re.IGNORECASE)


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value: empty, or one of the words that programs write for it."""
    return text.strip().casefold() in _MISSING


def name_in(text: str) -> str:
    """The clone, donor or cell that a cell names; empty if it names none.

    A placeholder (`unassigned`) names none, and a number is the same name with and without `.0`.
    """
    name = text.strip()
    if is_missing(name) or _BLANKS.sub(" ", name.casefold()) in _NOBODY:
        return ""
    whole = _WHOLE_FLOAT.fullmatch(name)
    return whole.group(1) if whole else name


def truth_in(text: str) -> bool | None:
    """Yes, no, or None where a cell does not say. Of several words, joined by `|`, all must say yes.

    Raises
    ------
    ValueError
        If a word is neither.
    """
    words = [_BLANKS.sub("-", _COMMENT.sub("", word).strip().casefold()) for word in text.split("|")]
    told = [word for word in words if word not in _MISSING | _UNTOLD]
    unknown = [word for word in told if word not in _YES | _NO]
    if unknown:
        raise ValueError(unknown[0])
    return all(word in _YES for word in told) if told else None


def chain_in(text: str) -> Chain | None:
    """Which chain a locus or a gene's name says: NONE if it says none, None if it is a T-cell receptor's.

    Names without their prefix are understood: `H`, `kappa`, `HV3-11`, `VK1-39`.
    """
    word = text.strip().casefold()
    if word in _CHAIN_WORDS:
        return _CHAIN_WORDS[word]
    found = _LOCUS.search(text)
    if found:
        return _CHAIN_WORDS[found.group(1).casefold()]
    bare = _BARE_V_GENE.search(text)
    return _CHAIN_WORDS[(bare.group(1) or bare.group(2)).casefold()] if bare else Chain.NONE


def v_genes_in(call: str) -> frozenset[str]:
    """Genes that a V call names, alleles and species left out, e.g. {IGHV3-11} of `Homsap IGHV3-11*05 F`."""
    genes = frozenset(gene.upper() for gene in _V_GENE.findall(call))
    if genes:
        return genes
    bare = ((one or other, rest) for one, other, rest in _BARE_V_GENE.findall(call))
    return frozenset(f"{'IG' if letter.upper() in 'HKL' else 'TR'}{letter}V{rest}".upper() for letter, rest in bare)
