"""Arithmetic as text, drawn by a seed: documents that end in an answer which can be checked."""

from __future__ import annotations

from collections.abc import Iterator

from tokenbounds.config import ArithmeticSource
from tokenbounds.draws import uniform_integers


def arithmetic_documents(source: ArithmeticSource) -> Iterator[tuple[str, str]]:
    """Yield names and texts of independent documents, the same on every machine.

    Parameters
    ----------
    source
        Rules of answers, digits, number of documents and seed.
    """
    digits, numbers = source.digits, 10**source.digits
    # Both numbers and the rule in one integer, so that they are independent and exactly uniform.
    draws = uniform_integers(numbers * numbers * len(source.answers), source.documents, source.seed)
    for place, draw in enumerate(draws.tolist()):
        pair, rule = divmod(draw, len(source.answers))
        first, second = divmod(pair, numbers)
        answer = first + second if source.answers[rule] == "sum" else abs(first - second)
        # From the last digit on: each depends on what has been written, as in adding by hand.
        written = f"{answer:0{digits + 1}d}"[::-1]
        yield f"{place}", f"{first:0{digits}d}?{second:0{digits}d}={written}\n"
