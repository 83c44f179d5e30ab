"""A certificate for readers without statistics: what it says, and what it does not say."""

from __future__ import annotations

from dataclasses import dataclass

from tokenbounds.certificates.schema import Certificate, Row
from tokenbounds.certificates.sentence import assumed_bases
from tokenbounds.report.formats import format_confidence, format_value


@dataclass(frozen=True)
class PlainWords:
    """Two lists of sentences."""

    says: tuple[str, ...]
    says_not: tuple[str, ...]


def plain_words(certificate: Certificate) -> PlainWords:
    """What the certificate's best row says and does not say; numbers are rounded up."""
    row = certificate.best
    return PlainWords(
        says=(_says(certificate, row), _price(certificate, row), _confidence(certificate, row)),
        says_not=(
            _beyond(certificate, row),
            "Nothing about a single prediction: the number is an average, and some tokens cost far more.",
            "Not that the model is good: compare the number with guessing and with other models.",
            f"Not that this number is right with probability {format_confidence(certificate.delta)} now that the text "
            "is known: it is right or wrong. The probability is that of a procedure, before the text was written.",
            "Nothing about whether what the model writes is true or harmless.",
            *_own_limits(certificate, row),
        ),
    )


def _says(certificate: Certificate, row: Row) -> str:
    token, value = certificate.manifest.token, format_value(row.metric, row.value)
    guess = format_value(row.metric, row.random_guess)
    k = row.metric.k
    if k is None:
        cost = f"needs on average at most {value} bits per {token}, where guessing uniformly needs {guess}"
    else:
        guesses = "one guess" if k == 1 else f"{k} guesses"
        cost = f"misses the next {token} with {guesses} at most {value} of the time, and guessing uniformly {guess}"
    who = "The model"
    if row.mixed_messages:
        who = f"The model, mixed with cheaper ones ({', '.join(row.mixed_messages)}),"
    if (visible := certificate.plan.visible_tokens) is not None:
        who = f"{who.rstrip(',')}, which sees the last {visible} {token}{'s' if visible > 1 else ''} only,"
    if row.bound.unit:
        return f"Take a new {row.bound.unit.removesuffix('s')} from the same source. {who} {cost}."
    return (
        f"Let the source write the next {token} once more at every place of this corpus, with the text before it as it "
        f"is. {who} {cost}."
    )


def _price(certificate: Certificate, row: Row) -> str:
    gap, measured = format_value(row.metric, row.gap), format_value(row.metric, row.empirical)
    chosen = f"having chosen the model with this text in view ({certificate.paid_bits(row):,} bits of messages)"
    if certificate.prior.held_out:
        chosen = "the luck of the draw; nothing for the choice of the model, which is taken to be blind to this text"
    sampled = ", and for scoring only a part of the corpus" if row.sampling else ""
    return f"Measured here: {measured}. The difference, {gap}, pays for {chosen}{sampled}."


def _confidence(certificate: Certificate, row: Row) -> str:
    drawn = " and the part that was scored drawn again" if row.sampling else ""
    return (
        f"Were the text written again{drawn}, all numbers of a certificate made in the same way would hold with "
        f"probability at least {format_confidence(certificate.delta)}."
    )


def _beyond(certificate: Certificate, row: Row) -> str:
    if row.bound.unit:
        return "Nothing about text from any other source."
    limit = "Nothing about other text, be it from another source or what this one writes next."
    if any(each.bound.unit == "documents" for each in certificate.rows):
        return limit + " Only the rows over documents are about a new one, if documents are independent draws."
    return limit


def _own_limits(certificate: Certificate, row: Row) -> list[str]:
    """What only some certificates leave open."""
    limits = []
    if certificate.prior.held_out:
        limits.append("Nothing about the best of several held-out models, if it was picked by its scores.")
    if certificate.prior.kind == "online":
        limits.append("Nothing about the model that learning ends with: it is about learning along the whole corpus.")
    limits += [
        f"Nothing about the base {base.name} by itself, which is not paid for: it is taken to be fixed before the "
        "corpus and independently of it."
        for base in assumed_bases(row, certificate)
    ]
    return limits
