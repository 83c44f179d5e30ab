"""What the report's template shows: plain values computed from certificates, texts not yet escaped."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tokenbounds.bounds.kinds import BPD
from tokenbounds.certificates.schema import Certificate, LedgerEntry, Row
from tokenbounds.certificates.sealing import to_json
from tokenbounds.certificates.sentence import (
    assumed_bases,
    name_models,
    state_faithfulness_in_words,
    state_result,
)
from tokenbounds.files import canonical_json, relative_path, sha256_bytes
from tokenbounds.report.figure_data import part_order
from tokenbounds.report.formats import (
    format_bytes,
    format_confidence,
    format_percent,
    format_value,
)
from tokenbounds.report.plain_words import plain_words
from tokenbounds.report.records import best_rows, comparable, metrics_of

_CLOSE_PERCENT = 100.0


def anchors(certificates: Sequence[Certificate]) -> dict[str, str]:
    """The id of each certificate's section, by its name: cert-<name>, made unique where a name is not a valid id."""
    result = {}
    for certificate in certificates:
        safe = re.sub(r"[^A-Za-z0-9_.-]", "-", certificate.name)
        unique = safe if safe == certificate.name else f"{safe}-{sha256_bytes(certificate.name.encode())[:8]}"
        result[certificate.name] = f"cert-{unique}"
    return result


def relative_href(file: Path, page: Path) -> str:
    """A link from `page` to `file`, percent-encoded."""
    return quote(relative_path(file, page.parent))


def headline(certificates: Sequence[Certificate], anchors: dict[str, str]) -> dict[str, Any]:
    """What the page begins with: the best of the comparable certificates; without any, the first one.

    `compared` is how many it is the best of, 0 if no certificate pays for being called best.
    """
    found = best_rows(certificates)
    first = min(found, key=lambda metric: metric.order, default=None)
    best, row = (certificates[0], certificates[0].best) if first is None else found[first]
    metric = row.metric
    empirical = min(_CLOSE_PERCENT, 100 * row.empirical / row.random_guess)
    certified = min(_CLOSE_PERCENT, 100 * row.share_of_guess)
    return {
        "certificate": best,
        "row": row,
        "compared": len(comparable(certificates)) if found else 0,
        "anchor": anchors[best.name],
        "value": format_value(metric, row.value),
        "empirical": format_value(metric, row.empirical),
        "guess": short_guess(row),
        "unit": "" if metric.is_error else f"bits per {best.manifest.token}",
        "model": _model(best, row),
        "place": f"a new {row.bound.unit[:-1]} of {best.corpus}’s source" if row.bound.unit else best.corpus,
        "tokens": f"{best.tokens:,}",
        "token": best.manifest.token,
        "confidence": format_confidence(best.delta),
        # A label ends at its mark; if there is no room to the left of the mark, it starts at the edge.
        "empirical_side": "start" if empirical < 30 else "",
        "value_side": "start" if certified < 30 else "",
        "empirical_percent": f"{empirical:.2f}",
        "value_percent": f"{certified:.2f}",
        "paid_percent": f"{max(0.0, certified - empirical):.2f}",
    }


def _model(certificate: Certificate, row: Row) -> str:
    """What the headline is about; bases, which are not paid for, by their names."""
    size = format_bytes(certificate.message.whole_bits)
    if names := [base.name for base in assumed_bases(row, certificate)]:
        return f"a language model that adds {size} to the base{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return f"a language model that fits in {size}"


def short_guess(row: Row) -> str:
    """What random guessing gives, without needless decimals: "8", "15.585", "99.7 %"."""
    shown = format_value(row.metric, row.random_guess)
    return shown if row.metric.is_error else shown.rstrip("0").rstrip(".")


def cards(certificate: Certificate) -> list[dict[str, str]]:
    """The headline certificate in a few large numbers."""
    result, token = [], certificate.manifest.token
    for metric in certificate.metrics:
        row = certificate.row(metric)
        if row is None or metric.k not in (None, 1):
            continue
        share = format_percent(row.share_of_guess)
        text = f"bits per {token} at most: {share} of guessing"
        if metric.is_error:
            text = f"{metric.label} at most; guessing: {short_guess(row)}"
        result.append({"value": format_value(metric, row.value), "text": text})
    result += _of_new_documents(certificate)
    result.append({"value": format_bytes(certificate.message.whole_bits), "text": _paid(certificate)})
    scored = certificate.scored_tokens
    how = "every one scored" if scored == certificate.tokens else f"{scored:,} of them scored"
    evidence = f"{token}s of evidence, {how}"
    result.append({"value": _short_count(certificate.tokens), "text": evidence})
    return result


def _of_new_documents(certificate: Certificate) -> list[dict[str, str]]:
    """A card for the bound on a new document's loss, the only one about other text; none if there is no such row."""
    rows = [row for row in certificate.rows if row.metric == BPD and row.bound.unit == "documents"]
    row = min(rows, key=lambda each: each.value, default=None)
    if row is None or certificate.best.bound.unit:
        return []
    text = f"bits per {certificate.manifest.token} at most in a new document, if documents are independent draws"
    return [{"value": format_value(BPD, row.value), "text": text}]


def _paid(certificate: Certificate) -> str:
    """What the model's file is, and what is paid for it."""
    message = certificate.message
    whole_bits = message.whole_bits
    what = f"what differs from the base {message.base.name}" if message.base else "the whole model"
    size = f"{what} as {'two files, coarse and fine' if message.coarse else 'one file'}: {whole_bits:,} bits"
    if certificate.prior.held_out:
        return f"{size}, none paid for: it never saw the corpus"
    extra = certificate.paid_bits(certificate.best) - whole_bits
    return f"{size}, and {extra:,} of cheaper models, all paid for" if extra > 0 else f"{size}, all of them paid for"


def _short_count(count: int) -> str:
    for limit, unit in ((1e9, "billion"), (1e6, "million")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:,}"


def tables(certificates: Sequence[Certificate], anchors: dict[str, str]) -> list[dict[str, Any]]:
    """One table per corpus (and vocabulary, confidence): certificates by line, the best of each metric, guesses."""
    groups: dict[tuple[Any, ...], list[Certificate]] = {}
    for one in certificates:
        groups.setdefault((one.corpus, one.vocabulary_size, one.tokens, one.delta), []).append(one)
    return [_table(group, anchors) for group in groups.values()]


def _table(group: Sequence[Certificate], anchors: dict[str, str]) -> dict[str, Any]:
    first = group[0]
    rows = [row for one in group for row in one.rows]
    guesses = {row.metric: short_guess(row) for row in rows}
    return {
        "corpus": first.corpus,
        "tokens": f"{first.tokens:,}",
        "token": first.manifest.token,
        "vocabulary": f"{first.vocabulary_size:,}",
        "confidence": format_confidence(first.delta),
        "bounds": list(dict.fromkeys(row.bound for row in rows if row.metric == BPD)),
        "errors": [metric for metric in metrics_of(group) if metric.is_error],
        "best": [row for _, row in best_rows(group).values()],
        "guesses": [{BPD: "", **guesses}],
        "lines": [_line(one, anchors[one.name]) for one in group],
    }


def _line(certificate: Certificate, anchor: str) -> dict[str, Any]:
    row = certificate.row(BPD)
    return {
        "certificate": certificate,
        "name": certificate.name,
        "anchor": anchor,
        "row": row,
        "size": format_bytes(certificate.message.whole_bits) + certificate.prior.remark,
        "size_bits": certificate.message.whole_bits,
        "empirical": format_value(BPD, row.empirical) if row else "–",
        "share": format_percent(row.share_of_guess) if row else "–",
    }


def detail(certificate: Certificate, anchor: str, page: Path) -> dict[str, Any]:
    """A certificate in full."""
    assert certificate.path is not None
    parts = sorted(certificate.message.whole_breakdown.items(), key=lambda item: part_order(item[0]))
    largest = max((bits for _, bits in parts), default=0)
    others = [name for name, bits in parts if bits != largest]
    return {
        "anchor": anchor,
        "name": certificate.name,
        "sentence": state_result(certificate),
        "faithfulness": state_faithfulness_in_words(certificate),
        "notes": certificate.notes,
        "plain": plain_words(certificate),
        "bits": f"{certificate.message.whole_bits:,}",
        "size": format_bytes(certificate.message.whole_bits),
        "parts": [
            {
                "name": name,
                "bits": bits,
                "shown": f"{bits:,}",
                "series": 0 if name not in others else 1 + others.index(name) % 6,
            }
            for name, bits in parts
        ],
        "rows": sorted(certificate.rows, key=lambda row: (row.metric.order, row.value)),
        "subsets": [
            (subset, [row for metric in subset.metrics if (row := subset.row(metric)) is not None])
            for subset in certificate.subsets
        ],
        "delta": certificate.delta,
        "ledger": ledger(certificate),
        "facts": _facts(certificate),
        "href": relative_href(certificate.path, page),
        "file": certificate.path.name,
        "command": f"tokenbounds verify {shlex.quote(str(certificate.path))}",
    }


def ledger(certificate: Certificate) -> dict[str, Any]:
    """What each row spends, as a table: a column for every entry that any row has."""
    rows = [{(entry.title, entry.unit): entry for entry in row.entries} for row in certificate.ledger.rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        (paid.metric, paid.bound, [_amount(row.get(name)) for name in names])
        for paid, row in zip(certificate.ledger.rows, rows, strict=True)
    ]
    columns = [title if unit == "probability" else f"{title}, {unit}" for title, unit in names]
    return {"delta": certificate.ledger.delta, "columns": columns, "lines": lines}


def _amount(entry: LedgerEntry | None) -> str:
    if entry is None:
        return "–"
    if entry.unit == "probability":
        return str(entry.amount)
    return f"{entry.amount:,.2f}" if entry.unit in ("bits", "nats") and entry.name != "message" else f"{entry.amount:,}"


def _facts(certificate: Certificate) -> list[tuple[str, str]]:
    plan, manifest, token = certificate.plan, certificate.manifest, certificate.manifest.token
    own = certificate.prior
    scored = f"{certificate.scored_tokens:,} of {certificate.tokens:,} {token}s in {plan.blocks:,} blocks"
    windows = f"windows of {plan.context:,} that advance by {plan.stride:,}"
    if plan.visible_tokens is not None:
        windows = f"{plan.visible_tokens:,} tokens visible before each"
    how = "every token" if plan.mode == "exhaustive" else f"a sample of {plan.draws:,} draws, seed {plan.seed}"
    if plan.blocks_per_document is not None:
        how = f"at most {plan.blocks_per_document} blocks of each drawn document, seed {plan.seed}"
    return [
        ("model", certificate.model),
        *((("prior", f"held out: no message is paid for. {own.because}"),) if own.held_out else ()),
        *((("prior", "online: learns along the corpus"),) if own.kind == "online" else ()),
        *((f"links, {row.bound}", _links(row)) for row in certificate.rows if row.links),
        ("header", canonical_json(certificate.message.header)),
        ("corpus", f"{manifest.documents:,} documents, licence {manifest.licence}"),
        ("source", canonical_json(manifest.source)),
        ("tokenizer", f"{manifest.tokenizer.get('identity')}, vocabulary {certificate.vocabulary_size:,}"),
        ("scored", f"{how}: {scored}; {windows}"),
        ("bounds", canonical_json(to_json(certificate)["bounds"])),
        ("software", ", ".join(f"{name} {version}" for name, version in sorted(certificate.software.items()))),
        *((role, f"{record.file} · SHA-256 {record.sha256}") for role, record in certificate.files()),
        *(("base model", f"{base.place} · SHA-256 {base.sha256}") for base in certificate.bases),
        ("certificate", f"SHA-256 {certificate.certificate_sha256}"),
    ]


def _links(row: Row) -> str:
    """The models of a row's chain with the weights of what each is mixed with, and what each link adds to the bound."""
    models = name_models(row, row.links[-1])
    bounds = [f"{link.weight:g} × {format_value(row.metric, link.value)}" for link in row.links]
    return f"{models}; bounds of the links: {' + '.join(bounds)}"


def assumptions(certificates: Sequence[Certificate]) -> list[dict[str, str]]:
    """Every assumption once, with the names of the certificates that make it where not all do."""
    makers: dict[str, list[str]] = {}
    for certificate in certificates:
        for text in certificate.assumptions:
            makers.setdefault(text, []).append(certificate.name)
    return [
        {"text": text, "names": "" if len(names) == len(certificates) else ", ".join(names)}
        for text, names in makers.items()
    ]


def citation(certificate: Certificate) -> str:
    """A line to cite a certificate by: what it says, which it is, and its hash."""
    row = certificate.best
    value, holds = format_value(row.metric, row.value), format_confidence(certificate.delta)
    version = certificate.software.get("tokenbounds", "")
    return (
        f"{row.metric.label} ≤ {value} on {certificate.corpus} with probability ≥ {holds}\n"
        f"{row.bound} bound, certificate “{certificate.name}”, tokenbounds {version}\n"
        f"SHA-256 {certificate.certificate_sha256}"
    )


def verify_all(certificates: Sequence[Certificate]) -> str:
    """The command that verifies every certificate of the page."""
    folders = dict.fromkeys(str(one.path.parent) for one in certificates if one.path)
    return f"tokenbounds verify {' '.join(shlex.quote(folder) for folder in folders)}"
