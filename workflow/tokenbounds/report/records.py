"""What a report needs to know about several certificates at once: their order, their labels, and the best of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenbounds.bounds.kinds import Metric
from tokenbounds.certificates.schema import Certificate, Row
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.errors import CertificateError
from tokenbounds.models.online.card import is_online

# Entries of a ledger that do not depend on which message is certified.
_SHARED = ("delta", "delta_generalization", "delta_sampling", "centre_grid", "chain_candidates")


def read_certificates(paths: Iterable[Path | str]) -> list[Certificate]:
    """Read certificates, sorted by corpus, then by message size, then by name.

    Raises
    ------
    CertificateError
        If one cannot be read, two have the same name, or there is none.
    """
    certificates = [read_certificate(path) for path in paths]
    if not certificates:
        raise CertificateError("there is no certificate to report. Name at least one under 'certificates' and run it.")
    seen: dict[str, Path | None] = {}
    for one in certificates:
        if one.name in seen:
            raise CertificateError(f"{one.path} and {seen[one.name]} are both named '{one.name}'. Rename one.")
        seen[one.name] = one.path
    return sorted(certificates, key=lambda one: (one.corpus, one.message.whole_bits, one.name))


def metrics_of(certificates: Iterable[Certificate]) -> list[Metric]:
    """The metrics that any of them states, in reading order."""
    return sorted({metric for one in certificates for metric in one.metrics}, key=lambda metric: metric.order)


def short_labels(certificates: Sequence[Certificate]) -> dict[str, str]:
    """Label of each certificate (by its name) in figures: its message's name where that is unambiguous."""
    messages = [one.message.name for one in certificates]
    return {one.name: one.message.name if messages.count(one.message.name) == 1 else one.name for one in certificates}


def competes(certificate: Certificate, row: Row) -> bool:
    """Whether a row may be called best among those of `comparable` certificates: it assumes no more than they do."""
    cheaper = [link.message for link in certificate.chain if link.message.name in row.mixed_messages]
    learns_along = any(is_online(message.header) for message in cheaper)
    return certificate.prior.kind == "message" and row.bound.by_token and not learns_along


def comparable(certificates: Sequence[Certificate]) -> list[Certificate]:
    """The largest group of certificates that pay for their messages and hold together at their common delta.

    They share all that fixes what is stated before any message is chosen: corpus, plan, arithmetic, bases, number of
    links and settings, and what rows there are, with which shares of delta, centres and candidates, as scores without
    entropies or a small vocabulary leave some out (docs/bounds.md, "Several certificates"). Which group it is depends
    on no value: of equally large ones, that with fewer bases and shorter chains, then the one that comes first.
    """
    groups: dict[tuple[object, ...], list[Certificate]] = {}
    for one in certificates:
        if one.prior.kind == "message":
            bases = tuple(sorted(base.sha256 for base in one.bases))
            arithmetic = tuple(link.dtype for link in one.links)
            rows = tuple(
                (row.metric, row.bound, each.name, each.amount)
                for row in one.ledger.rows
                for each in row.entries
                if each.name in _SHARED and each.link is None
            )
            key = (one.manifest.sha256, one.plan.sha256, arithmetic, bases, one.settings, rows)
            groups.setdefault(key, []).append(one)
    # More than a sample was paid for do not hold together.
    paid = [
        group
        for group in groups.values()
        if not (group[0].plan.mode == "sampled" or group[0].reference)  # the corpus was scored whole
        or len(group) <= group[0].settings.certificates_per_sample
    ]
    return min(paid, key=lambda group: (-len(group), len(group[0].bases), len(group[0].chain)), default=[])


def best_rows(certificates: Sequence[Certificate]) -> dict[Metric, tuple[Certificate, Row]]:
    """The smallest row of each metric, with its certificate, among `comparable` ones; others are never best."""
    pairs = [(one, row) for one in comparable(certificates) for row in one.rows if competes(one, row)]
    return {
        metric: min((pair for pair in pairs if pair[1].metric == metric), key=lambda pair: pair[1].value)
        for metric in dict.fromkeys(row.metric for _, row in pairs)
    }
