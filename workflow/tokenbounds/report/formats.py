"""Metrics, sizes and bounds as people read them."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Context, Decimal

_SPACE = "\u00a0"  # no line break between a number and its unit
_TOP_K = re.compile(r"top(\d{1,9})_error")


def metric_order(metric: str) -> tuple[int, int, str]:
    """Sort key of a metric: bits per token first, then top-k errors by k, then any other."""
    top = _TOP_K.fullmatch(metric)
    if metric == "bpd":
        return (0, 0, metric)
    return (1, int(top.group(1)), metric) if top else (2, 0, metric)


def metric_label(metric: str) -> str:
    """A metric as people say it: "BPD", "top-10 error"."""
    top = _TOP_K.fullmatch(metric)
    return "BPD" if metric == "bpd" else f"top-{top.group(1)} error" if top else metric


def is_error(metric: str) -> bool:
    """Whether a metric is a rate of errors, shown in per cent."""
    return _TOP_K.fullmatch(metric) is not None


def round_up(value: float, digits: int) -> str:
    """`value` with `digits` decimals, rounded up: a rounded upper bound is still an upper bound."""
    return str(_ceiling(Decimal(repr(float(value))), digits))


def format_value(metric: str, value: float) -> str:
    """A value of `metric` rounded up: bits per token with three decimals, errors as per cent with one."""
    if is_error(metric):
        # Decimal keeps 0.1 + 0.2 from spilling into the next tenth of a per cent.
        return format_percent(value)
    return round_up(value, 3)


def format_percent(share: float) -> str:
    """A share as per cent with one decimal, rounded up."""
    return f"{_ceiling(Decimal(repr(float(share))).scaleb(2), 1)}{_SPACE}%"


def format_confidence(delta: float) -> str:
    """The probability, at least, with which a certificate of failure probability `delta` holds."""
    return f"{float(100 * (1 - Decimal(repr(delta)))):g}{_SPACE}%"


def _ceiling(value: Decimal, digits: int) -> Decimal:
    # Enough digits for every finite float, so that an absurd value is shown and not an error.
    return value.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING, context=Context(prec=400))


def format_bytes(size_bits: int) -> str:
    """A size in bits as bytes in decimal units: "1.23 kB"; whole bytes below 1000."""
    size = size_bits / 8
    if size < 1000:
        return f"{size:,.0f}{_SPACE}bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5 or unit == "GB":
            break
    return f"{size:.3g}{_SPACE}{unit}" if size < 100 else f"{size:,.0f}{_SPACE}{unit}"
