"""What the report's template shows: plain values computed from certificates, texts not yet escaped."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tokenbounds.files import canonical_json, relative_path, sha256_bytes
from tokenbounds.report.figure_data import part_order
from tokenbounds.report.formats import (
    format_bytes,
    format_confidence,
    format_percent,
    format_value,
    is_error,
    metric_label,
    metric_order,
)
from tokenbounds.report.records import BoundRow, Certificate, best_values

_CLOSE_PERCENT = 100.0


def anchors(certificates: Sequence[Certificate]) -> dict[str, str]:
    """The id of each certificate's section, by its name: cert-<name>, made unique where a name is no valid id."""
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
    """The best certificate of the study: the smallest bound as a share of guessing, on BPD where there is any."""
    certificates = [one for one in certificates if one.prior == "message"] or certificates
    metrics = {metric for one in certificates for metric in one.metrics}
    metric = min(metrics, key=metric_order)
    pairs = [(one, row) for one in certificates if (row := one.row(metric)) is not None]
    best, row = min(pairs, key=lambda pair: pair[1].share_of_guess)
    empirical = min(_CLOSE_PERCENT, 100 * row.empirical / row.random_guess)
    certified = min(_CLOSE_PERCENT, 100 * row.share_of_guess)
    return {
        "certificate": best,
        "row": row,
        "anchor": anchors[best.name],
        "value": format_value(metric, row.value),
        "empirical": format_value(metric, row.empirical),
        "guess": short_guess(row),
        "unit": f"bits per {best.token}" if metric == "bpd" else "",
        "size": format_bytes(best.message_bits),
        "corpus": best.corpus,
        "tokens": f"{best.tokens:,}",
        "token": best.token,
        "confidence": format_confidence(best.delta),
        # A label ends at its mark; where there is no room to the left of the mark it starts at the edge.
        "empirical_side": "start" if empirical < 30 else "",
        "value_side": "start" if certified < 30 else "",
        "empirical_percent": f"{empirical:.2f}",
        "value_percent": f"{certified:.2f}",
        "paid_percent": f"{max(0.0, certified - empirical):.2f}",
    }


def short_guess(row: BoundRow) -> str:
    """What random guessing gives, without idle decimals: "8", "15.585", "99.7 %"."""
    shown = format_value(row.metric, row.random_guess)
    return shown if is_error(row.metric) else shown.rstrip("0").rstrip(".")


def cards(certificate: Certificate) -> list[dict[str, str]]:
    """The headline certificate in a few large numbers."""
    result = []
    for metric in certificate.metrics:
        row = certificate.row(metric)
        if row is None or (is_error(metric) and metric != "top1_error"):
            continue
        share = format_percent(row.share_of_guess)
        text = f"bits per {certificate.token} at most: {share} of guessing"
        if is_error(metric):
            text = f"{metric_label(metric)} at most; guessing: {short_guess(row)}"
        result.append({"value": format_value(metric, row.value), "text": text})
    result.append({"value": format_bytes(certificate.message_bits), "text": _paid(certificate)})
    scored = certificate.raw["scored_tokens"]
    how = "every one scored" if scored == certificate.tokens else f"{scored:,} of them scored"
    evidence = f"{certificate.token}s of evidence, {how}"
    result.append({"value": _short_count(certificate.tokens), "text": evidence})
    return result


def _paid(certificate: Certificate) -> str:
    """What the model's file is, and what is paid for it."""
    size = f"{_whole(certificate.raw['message'])}: {certificate.message_bits:,} bits"
    if certificate.prior == "held_out":
        return f"{size}, none paid for: it never saw the corpus"
    row = certificate.row(certificate.metrics[0])
    extra = row.paid_bits - certificate.message_bits if row is not None else 0
    return f"{size}, and {extra:,} of cheaper models, all paid for" if extra > 0 else f"{size}, all of them paid for"


def _whole(message: dict[str, Any]) -> str:
    """What a message's bits are the bits of."""
    what = f"what differs from the base {message['base']['name']}" if "base" in message else "the whole model"
    return f"{what} as {'two files, coarse and fine' if 'coarse' in message else 'one file'}"


def _short_count(count: int) -> str:
    for limit, unit in ((1e9, "billion"), (1e6, "million")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:,}"


def tables(certificates: Sequence[Certificate], anchors: dict[str, str]) -> list[dict[str, Any]]:
    """One table a corpus (and vocabulary, confidence): a line a certificate, the best of each metric, the guesses."""
    groups: dict[tuple[Any, ...], list[Certificate]] = {}
    for one in certificates:
        groups.setdefault((one.corpus, one.vocabulary_size, one.tokens, one.delta), []).append(one)
    return [_table(group, anchors) for group in groups.values()]


def _table(group: Sequence[Certificate], anchors: dict[str, str]) -> dict[str, Any]:
    first = group[0]
    rows = [row for one in group for row in one.rows]
    metrics = sorted({row.metric for row in rows}, key=metric_order)
    guesses = {row.metric: short_guess(row) for row in rows}
    return {
        "corpus": first.corpus,
        "tokens": f"{first.tokens:,}",
        "token": first.token,
        "vocabulary": f"{first.vocabulary_size:,}",
        "confidence": format_confidence(first.delta),
        "bounds": list(dict.fromkeys(row.bound for row in rows if row.metric == "bpd")),
        "errors": [metric for metric in metrics if metric != "bpd"],
        "best": best_values(group),
        "guesses": [{"bpd": "", **guesses}],
        "lines": [_line(one, anchors[one.name]) for one in group],
    }


def _line(certificate: Certificate, anchor: str) -> dict[str, Any]:
    row = certificate.row("bpd")
    return {
        "certificate": certificate,
        "name": certificate.name,
        "anchor": anchor,
        "size": format_bytes(certificate.message_bits) + (" (held out)" if certificate.prior == "held_out" else ""),
        "empirical": format_value("bpd", row.empirical) if row else "–",
        "share": format_percent(row.share_of_guess) if row else "–",
    }


def detail(certificate: Certificate, anchor: str, page: Path) -> dict[str, Any]:
    """A certificate in full."""
    raw = certificate.raw
    parts = sorted(certificate.breakdown.items(), key=lambda item: part_order(item[0]))
    largest = max((bits for _, bits in parts), default=0)
    others = [name for name, bits in parts if bits != largest]
    return {
        "anchor": anchor,
        "name": certificate.name,
        "sentence": sentence(certificate),
        "notes": raw["notes"],
        "bits": f"{certificate.message_bits:,}",
        "size": format_bytes(certificate.message_bits),
        "parts": [
            {
                "name": name,
                "bits": bits,
                "shown": f"{bits:,}",
                "series": 0 if name not in others else 1 + others.index(name) % 6,
            }
            for name, bits in parts
        ],
        "rows": sorted(certificate.rows, key=lambda row: (metric_order(row.metric), row.value)),
        "delta": certificate.delta,
        "ledger": ledger(certificate),
        "facts": _facts(certificate),
        "href": relative_href(certificate.path, page),
        "file": certificate.path.name,
        "command": f"tokenbounds verify {shlex.quote(str(certificate.path))}",
    }


def ledger(certificate: Certificate) -> dict[str, Any]:
    """What each row spends, as a table: a column for every entry that any row has."""
    rows = certificate.raw["ledger"]["rows"]
    names = list(dict.fromkeys((entry["name"], entry["unit"]) for row in rows for entry in row["entries"]))
    lines = []
    for row in rows:
        amounts = {(entry["name"], entry["unit"]): entry["amount"] for entry in row["entries"]}
        lines.append((row["metric"], row["bound"], [_amount(amounts.get(name)) for name in names]))
    columns = [f"{name.replace('_', ' ')}{'' if unit == 'probability' else f', {unit}'}" for name, unit in names]
    return {"delta": certificate.raw["ledger"]["delta"], "columns": columns, "lines": lines}


def _amount(amount: int | float | str | None) -> str:
    if amount is None:
        return "–"
    if isinstance(amount, str):
        return amount
    return f"{amount:,}" if isinstance(amount, int) else f"{amount:,.2f}"


def sentence(certificate: Certificate) -> str:
    """What a certificate says, in one sentence, its bound rounded up."""
    metric = certificate.metrics[0]
    row = certificate.row(metric)
    assert row is not None
    value, holds = format_value(metric, row.value), format_confidence(certificate.delta)
    claim = f"needs at most {value} bits per {certificate.token}" if metric == "bpd" else ""
    claim = claim or f"has a {metric_label(metric)} of at most {value}"
    verdict = " That is no better than guessing: the certificate is vacuous." if row.vacuous else ""
    mixed = f", mixed with {', '.join(cheaper)}," if (cheaper := cheaper_models(row)) else ""
    held_out = ", which never saw the corpus," if certificate.prior == "held_out" else ""
    return (
        f"With probability at least {holds}, the model decoded from {certificate.message} "
        f"({format_bytes(certificate.message_bits)}){held_out}{mixed} {claim} on {certificate.corpus}; "
        f"guessing {'needs' if metric == 'bpd' else 'has'} {short_guess(row)}.{verdict}"
    )


def cheaper_models(row: BoundRow) -> list[str]:
    """Names of the messages that a row mixes the certified model with; none without a chain."""
    return list(row.links[-1]["messages"][:-1]) if row.links else []


def _facts(certificate: Certificate) -> list[tuple[str, str]]:
    raw = certificate.raw
    plan, manifest, message = raw["plan"], raw["manifest"], raw["message"]
    scored = f"{raw['scored_tokens']:,} of {certificate.tokens:,} {certificate.token}s in {plan['blocks']:,} blocks"
    if plan["visible_tokens"] is None:
        windows = f"windows of {plan['context']:,} that advance by {plan['stride']:,}"
    else:
        windows = f"{plan['visible_tokens']:,} tokens visible before each"
    how = "every token" if plan["mode"] == "exhaustive" else f"a sample of {plan['draws']:,} draws, seed {plan['seed']}"
    return [
        ("model", certificate.model),
        *(("prior", "held out: no message is paid for") for _ in range(certificate.prior == "held_out")),
        *((f"links, {row.bound}", _links(row)) for row in certificate.rows if row.links),
        ("header", canonical_json(message["header"])),
        ("corpus", f"{manifest['documents']:,} documents, licence {manifest['licence']}"),
        ("source", canonical_json(manifest["source"])),
        ("tokenizer", f"{manifest['tokenizer'].get('identity')}, vocabulary {certificate.vocabulary_size:,}"),
        ("scored", f"{how}: {scored}; {windows}"),
        ("bounds", canonical_json(raw["bounds"])),
        ("software", ", ".join(f"{name} {version}" for name, version in sorted(raw["software"].items()))),
        *((name, f"{record['file']} · SHA-256 {record['sha256']}") for name, record in _files(raw)),
        ("certificate", f"SHA-256 {raw['certificate_sha256']}"),
    ]


def _links(row: BoundRow) -> str:
    """The models of a row's chain with the weights of what each is mixed with, and what each link adds to the bound."""
    last = row.links[-1]
    models = zip(last["messages"], last["alphas"], strict=True)
    chain = " ← ".join(f"{name} ({alpha:g})" for name, alpha in models)
    bounds = [f"{link['weight']:g} × {format_value(row.metric, link['value'])}" for link in row.links]
    return f"{chain}; bounds of the links: {' + '.join(bounds)}"


def _files(raw: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    single = [(name, raw[name]) for name in ("message", "manifest", "plan")]
    trained = [("trained on", record) for record in raw["prior"]["trained_on"]]
    files = [*single, *(("scores", record) for record in raw["scores"]), *trained]
    for link in raw["chain"]:
        files += [("chain message", link["message"]), *(("chain scores", record) for record in link["scores"])]
    for message in (raw["message"], *(link["message"] for link in raw["chain"])):
        files += [("coarse message", message["coarse"])] if "coarse" in message else []
        if "base" in message:
            files.append(("base model", {**message["base"], "file": message["base"]["place"]}))
    return files


def assumptions(certificates: Sequence[Certificate]) -> list[dict[str, str]]:
    """Every assumption once, with the names of the certificates that make it where not all do."""
    makers: dict[str, list[str]] = {}
    for certificate in certificates:
        for text in certificate.raw["assumptions"]:
            makers.setdefault(text, []).append(certificate.name)
    return [
        {"text": text, "names": "" if len(names) == len(certificates) else ", ".join(names)}
        for text, names in makers.items()
    ]


def citation(certificate: Certificate) -> str:
    """A line to cite a certificate by: what it says, which it is, and its hash."""
    metric = certificate.metrics[0]
    row = certificate.row(metric)
    assert row is not None
    value, holds = format_value(metric, row.value), format_confidence(certificate.delta)
    version = certificate.raw["software"].get("tokenbounds", "")
    return (
        f"{metric_label(metric)} ≤ {value} on {certificate.corpus} with probability ≥ {holds}\n"
        f"{row.bound} bound, certificate “{certificate.name}”, tokenbounds {version}\n"
        f"SHA-256 {certificate.raw['certificate_sha256']}"
    )


def verify_all(certificates: Sequence[Certificate]) -> str:
    """The command that verifies every certificate of the page."""
    folders = dict.fromkeys(str(one.path.parent) for one in certificates)
    return f"tokenbounds verify {' '.join(shlex.quote(folder) for folder in folders)}"
