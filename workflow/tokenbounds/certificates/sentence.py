"""A certificate in one sentence that needs no statistics to read; its numbers are rounded up."""

from __future__ import annotations

from decimal import Decimal

from tokenbounds.bounds.kinds import Metric
from tokenbounds.certificates.file_records import BaseRecord
from tokenbounds.certificates.schema import Certificate, Link, Row
from tokenbounds.rounding import percent_up, round_up


def state_result(certificate: Certificate) -> str:
    """Say what the certificate certifies: its best row, the confidence, and what random guessing gives."""
    row = certificate.best
    sentence = (
        f"With probability at least {confidence_percent(certificate.delta)} % over the process that wrote the "
        f"corpus '{certificate.corpus}', {_quantity(row, certificate)} is at most "
        f"{_amount(row.metric, row.value)} (random guess: {_amount(row.metric, row.random_guess)})."
    )
    if row.vacuous:
        return sentence + " Random guessing does as well: the certificate is vacuous."
    return sentence


def state_faithfulness_in_words(certificate: Certificate) -> str:
    """Say how far the certified model strays from the original; empty if the certificate does not."""
    stated = certificate.faithfulness
    if stated is None:
        return ""
    sentences = []
    for over, place in (("tokens", f"the corpus '{certificate.corpus}'"), ("documents", "a new document")):
        divergence, changed = stated.row("kl_bits", over), stated.row("first_choice_changed", over)
        if divergence is None or changed is None:
            continue
        sure = divergence.delta == "0"
        start = "On" if sure else f"With probability at least {confidence_percent(certificate.delta)} %, on"
        sentences.append(
            f"{start} average over the tokens of {place}, the predictions of '{certificate.message.name}' stray from "
            f"those of '{stated.original.name}' ({stated.original.sha256[:8]}…) by at most "
            f"{round_up(divergence.value, 4)} bits (KL divergence), and their first choices differ for at most "
            f"{percent_up(changed.value, 2)} %."
        )
    return " ".join(sentences)


def confidence_percent(delta: float) -> str:
    """100 (1 - delta) in full, so that no rounding turns a probability into certainty."""
    return f"{(100 * (1 - Decimal(str(delta)))).normalize():f}"


def assumed_bases(row: Row, certificate: Certificate) -> tuple[BaseRecord, ...]:
    """The bases that a row's models are decoded with and that it does not pay for; none if no model is paid for."""
    if certificate.prior.held_out:
        return ()
    own = certificate.message.base
    return certificate.bases if row.cheaper_messages else (own,) if own else ()


def name_models(row: Row, link: Link) -> str:
    """The models that a link depends on, each with the weight of what it is mixed with.

    Of a chain, `a (0.01) ← b (0.1)`: b is mixed with a. Of control variates, `b (0.01) − 0.5 × a (0.001)`.
    """
    named = [f"{name} ({alpha:g})" for name, alpha in zip(link.messages, link.alphas, strict=True)]
    if row.bound.mixes:
        return " ← ".join(named)
    *others, own = named
    parts = {each.messages[0]: each.weight for each in row.links[:-1]}
    subtracted = [f"{parts[name]:g} × {shown}" for name, shown in zip(link.messages, others, strict=False)]
    return " − ".join([own, *subtracted])


def _quantity(row: Row, certificate: Certificate) -> str:
    """What the row bounds: of which model, or mixture of models, and averaged over what."""
    what, k = "expected loss", row.metric.k
    if k is not None:
        what = f"probability of missing the next token with {'one guess' if k == 1 else f'{k} guesses'}"
    model = {"held_out": "held-out model", "online": "online reference", "message": "compressed model"}[
        certificate.prior.kind
    ]
    simple = model
    if bases := [f"'{base.name}' ({base.sha256[:8]}…)" for base in assumed_bases(row, certificate)]:
        model += f" over the base{'s' if len(bases) > 1 else ''} {', '.join(bases)}"
    visible = certificate.plan.visible_tokens
    if visible is not None:
        model += f" that sees {f'the last {visible} tokens' if visible > 1 else 'the last token'} only"
    subject = f"the {model}'s {what}" if model == simple else f"the {what} of the {model}"
    if row.mixed_messages:
        subject = f"the {what} of the {model} mixed with cheaper ones ({', '.join(row.mixed_messages)})"
    if row.bound.unit:
        return f"{subject}, averaged over the tokens of a new {row.bound.unit.removesuffix('s')},"
    tokens = f"the {certificate.tokens:,} tokens"
    if certificate.reference is not None:
        tokens = f"all tokens (at least {certificate.tokens:,}) of its {certificate.reference.documents:,} documents"
    return f"{subject}, averaged over {tokens} given what precedes each,"


def _amount(metric: Metric, value: float) -> str:
    return f"{percent_up(value, 2)} %" if metric.is_error else f"{round_up(value, 3)} bits per token"
