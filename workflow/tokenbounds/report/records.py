"""What a report needs to know about several certificates at once: their order, their labels, and the best of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenbounds.bounds.kinds import Metric
from tokenbounds.certificates.schema import Certificate, Row
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.errors import CertificateError
from tokenbounds.models.online.card import is_online


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
    """Whether a row may be called best beside those of other certificates: it assumes no more than they do."""
    cheaper = [link.message for link in certificate.chain if link.message.name in row.cheaper_messages]
    learns_along = any(is_online(message.header) for message in cheaper)
    return certificate.prior.kind == "message" and row.bound.by_token and not learns_along


def best_values(certificates: Sequence[Certificate]) -> dict[Metric, float]:
    """The smallest value of each metric, among the rows that may be called best; among all if there is none such."""
    best = {}
    for metric in metrics_of(certificates):
        pairs = [(one, row) for one in certificates for row in one.rows if row.metric == metric]
        best[metric] = min(row.value for _, row in [pair for pair in pairs if competes(*pair)] or pairs)
    return best
