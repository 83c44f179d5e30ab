"""Integer sequences as text, drawn by a seed: structured ones from small expressions, and random ones like them.

After the experiment of Lotfi et al., 2024 (arXiv 2407.18158), section 6 and appendix B.6, whose sequences come from
Goldblum et al., 2023, "The no free lunch theorem, Kolmogorov complexity, and the role of inductive biases in machine
learning" (arXiv 2304.05366). The generator here is our own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tokenbounds.config import IntegerSequenceSource
from tokenbounds.draws import uniform_integers
from tokenbounds.errors import CorpusError

# A tree is a leaf ("term", "place" or a number), or an operator with two trees.
Tree = str | int | tuple[str, "Tree", "Tree"]

DELIMITER = ","
_TRIES_PER_SEQUENCE = 200
_OPERATORS = ("+", "-", "*")
_CONSTANTS = 9
_FEWEST_VALUES = 4  # distinct values in a sequence: fewer make it trivial


def sequence_documents(source: IntegerSequenceSource) -> Iterator[tuple[str, str]]:
    """Yield names and texts of distinct sequences: numbers with a comma after each, and a line feed.

    Structured sequences: a binary expression tree with `complexity` leaves is drawn, its operators +, - and × and its
    leaves (the term before, the place, the numbers 1 to 9) uniformly; a term is the tree's value modulo `modulus`, the
    one before the first is 1. Random sequences: each term is drawn uniformly from the integers that occur in the
    structured ones of the same settings.

    Raises
    ------
    CorpusError
        If there are too few expressions for so many distinct sequences.
    """
    structured = _structured(source)
    if source.terms == "structured":
        sequences = structured
    else:
        integers = np.unique(structured)
        draws = uniform_integers(len(integers), source.sequences * source.length, source.seed + 1)
        sequences = integers[draws].reshape(source.sequences, source.length).tolist()
    for number, sequence in enumerate(sequences):
        yield f"{number}", "".join(f"{term}{DELIMITER}" for term in sequence) + "\n"


def _structured(source: IntegerSequenceSource) -> list[list[int]]:
    """Distinct sequences of the settings, in the order in which they were drawn."""
    draws = iter(
        uniform_integers(1 << 30, _TRIES_PER_SEQUENCE * source.sequences * 2 * source.complexity, source.seed).tolist()
    )
    found: dict[tuple[int, ...], None] = {}
    for _ in range(_TRIES_PER_SEQUENCE * source.sequences):
        sequence = evaluate(draw_tree(source.complexity, draws), source.length, source.modulus)
        if len(set(sequence)) >= min(_FEWEST_VALUES, source.length):
            found.setdefault(tuple(sequence))
        if len(found) == source.sequences:
            return [list(each) for each in found]
    raise CorpusError(
        f"expressions of complexity {source.complexity} give {len(found)} distinct sequences, fewer than "
        f"{source.sequences}. Ask for fewer, or for a larger complexity or modulus."
    )


def draw_tree(leaves: int, draws: Iterator[int]) -> Tree:
    """A binary expression tree with a number of leaves; a draw for each leaf and each operator."""
    draw = next(draws)
    if leaves == 1:
        leaf = draw % (_CONSTANTS + 2)
        return "term" if leaf == 0 else "place" if leaf == 1 else leaf - 1
    left = 1 + (draw // len(_OPERATORS)) % (leaves - 1)
    return _OPERATORS[draw % len(_OPERATORS)], draw_tree(left, draws), draw_tree(leaves - left, draws)


def evaluate(tree: Tree, length: int, modulus: int) -> list[int]:
    """The first terms of a tree's sequence, each from the one before and its place, from 1 on."""
    terms = [1]
    for place in range(1, length + 1):
        terms.append(_value(tree, terms[-1], place) % modulus)
    return terms[1:]


def _value(tree: Tree, term: int, place: int) -> int:
    if isinstance(tree, tuple):
        first, second = _value(tree[1], term, place), _value(tree[2], term, place)
        return {"+": first + second, "-": first - second, "*": first * second}[tree[0]]
    if isinstance(tree, str):
        return term if tree == "term" else place
    return tree
