"""Rounding upwards: a rounded upper bound is still an upper bound. Downwards, for lower bounds."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal


def round_up(value: float, digits: int) -> str:
    """`value` with `digits` decimals, rounded up."""
    return str(ceiling(Decimal(repr(float(value))), digits))


def round_down(value: float, digits: int) -> str:
    """`value` with `digits` decimals, rounded down."""
    return str(-ceiling(-Decimal(repr(float(value))), digits))


def percent_up(share: float, digits: int) -> str:
    """A share in per cent with `digits` decimals, rounded up, without the % sign."""
    # Decimal keeps 0.1 + 0.2 from spilling into the next tenth of a per cent.
    return str(ceiling(Decimal(repr(float(share))).scaleb(2), digits))


def percent_down(share: float, digits: int) -> str:
    """A share in per cent with `digits` decimals, rounded down, without the % sign."""
    return str(-ceiling(-Decimal(repr(float(share))).scaleb(2), digits))


def ceiling(value: Decimal, digits: int) -> Decimal:
    """The smallest number with `digits` decimals that is not below `value`."""
    # Enough digits for every finite float, so that an absurd value is shown instead of an error.
    return value.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING, context=Context(prec=400))
