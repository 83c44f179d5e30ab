"""A certificate in one sentence that needs no statistics to read; its numbers are rounded up."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.rounding import percent_up, round_up


def best_row(certificate: dict[str, Any], metric: str | None = None) -> dict[str, Any]:
    """The row over tokens with the smallest value of `metric` (default: bpd where stated, else the first metric)."""
    metrics = [row["metric"] for row in certificate["rows"]]
    wanted = metric or ("bpd" if "bpd" in metrics else metrics[0])
    rows = [row for row in certificate["rows"] if row["metric"] == wanted]
    return min(rows, key=lambda row: (not BoundKind(row["bound"]).by_token, row["value"]))


def state_result(certificate: dict[str, Any]) -> str:
    """Say what the certificate certifies: its best row, the confidence, and what random guessing gives."""
    row = best_row(certificate)
    sentence = (
        f"With probability at least {confidence_percent(certificate['delta'])} % over the process that wrote the "
        f"corpus '{certificate['corpus']}', {_quantity(row, certificate)} is at most "
        f"{_amount(row, row['value'])} (random guess: {_amount(row, row['random_guess'])})."
    )
    if row["vacuous"]:
        return sentence + " Random guessing does as well: the certificate is vacuous."
    return sentence


def confidence_percent(delta: float) -> str:
    """100 (1 - delta) in full, so that no rounding turns a probability into certainty."""
    return f"{(100 * (1 - Decimal(str(delta)))).normalize():f}"


def _quantity(row: dict[str, Any], certificate: dict[str, Any]) -> str:
    """What the row bounds: of which model, or mixture of models, and averaged over what."""
    what = "expected loss" if row["metric"] == "bpd" else "probability of missing the next token"
    detail = "" if row["metric"] == "bpd" else f" with {_guesses(row['metric'])}"
    model = "held-out model" if certificate["prior"]["kind"] == "held_out" else "compressed model"
    visible = certificate["plan"]["visible_tokens"]
    if visible is not None:
        model += f" that sees {f'the last {visible} tokens' if visible > 1 else 'the last token'} only"
    cheaper = row["links"][-1]["messages"][:-1] if "links" in row else []
    subject = f"the {model}'s {what}{detail}" if visible is None else f"the {what}{detail} of the {model}"
    if cheaper:
        subject = f"the {what}{detail} of the {model} mixed with cheaper ones ({', '.join(cheaper)})"
    if unit := BoundKind(row["bound"]).unit:
        return f"{subject}, averaged over the tokens of a new {unit.removesuffix('s')},"
    return f"{subject}, averaged over the {certificate['tokens']:,} tokens given what precedes each,"


def _guesses(metric: str) -> str:
    k = int(metric.removeprefix("top").removesuffix("_error"))
    return "one guess" if k == 1 else f"{k} guesses"


def _amount(row: dict[str, Any], value: float) -> str:
    if row["metric"] == "bpd":
        return f"{round_up(value, 3)} bits per token"
    return f"{percent_up(value, 2)} %"
