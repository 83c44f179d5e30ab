"""Metrics, sizes and bounds as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenbounds.bounds.kinds import Metric
from tokenbounds.certificates.sentence import confidence_percent
from tokenbounds.config.quantizers import NOT_QUANTIZED, QUANTIZERS
from tokenbounds.rounding import percent_up, round_up

__all__ = [
    "NOT_QUANTIZED",
    "PRETRAINED_QUANTIZERS",
    "format_bytes",
    "format_confidence",
    "format_percent",
    "format_value",
    "quantizer_name",
    "round_up",
]

_SPACE = "\u00a0"  # no line break between a number and its unit
# For quantizers with a name of their own the parameterization is not named.
PRETRAINED_QUANTIZERS = {kind: row.title for kind, row in QUANTIZERS.items() if row.title is not None}


def format_value(metric: Metric, value: float) -> str:
    """A value of `metric` rounded up: bits per token with three decimals, errors as per cent with one."""
    return format_percent(value) if metric.is_error else round_up(value, 3)


def format_percent(share: float) -> str:
    """A share as per cent with one decimal, rounded up."""
    return f"{percent_up(share, 1)}{_SPACE}%"


def format_confidence(delta: float) -> str:
    """The probability with which a certificate of failure probability `delta` holds at least."""
    return f"{confidence_percent(delta)}{_SPACE}%"


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


def quantizer_name(quantizer: Mapping[str, Any]) -> str:
    """What people call the quantizer of a message's row: with its trellis, and whether training includes the rate."""
    kind = quantizer["kind"]
    name = PRETRAINED_QUANTIZERS.get(kind, kind)
    if quantizer.get("trellis"):
        name += f", {quantizer['trellis']} states"
    training = quantizer.get("straight_through")
    rated = training and training.get("steps") and training.get("rate_weight")
    return f"rate–distortion {name}" if rated else name
