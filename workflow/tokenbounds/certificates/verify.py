"""Verification: take a certificate apart and make it again from its files, trusting nothing it says."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tokenbounds.certificates.certify import compute_certificate
from tokenbounds.certificates.evidence import CertificateInputs, Evidence, LinkEvidence, LinkInputs, gather_evidence
from tokenbounds.certificates.schema import read_certificate
from tokenbounds.config import BoundsSpec, parse_row
from tokenbounds.corpus.manifest import MANIFEST_NAME
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError, TokenboundsError
from tokenbounds.files import canonical_json, sha256_file
from tokenbounds.scores.plan import Plan, plan_scoring
from tokenbounds.scores.store import Scores

ALL_BLOCKS = -1
_RELATIVE_TOLERANCE = 1e-9
_NOT_RECOMPUTED = ("software", "certificate_sha256")


@dataclass(frozen=True)
class Check:
    """A check that passed: its name, the file it concerns, and what was found."""

    name: str
    file: str
    detail: str


def find_certificates(paths: Sequence[Path]) -> list[Path]:
    """Expand folders to the certificates (`*.json`) in them, in order of name.

    Raises
    ------
    CertificateError
        If a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise CertificateError(f"{path} holds no certificate (*.json). Run the study, or name another folder.")
        found += inside
    return found


def verify_certificate(
    path: Path | str, *, rescore: int = 0, seed: int | None = None, bases: Sequence[Path] = ()
) -> list[Check]:
    """Check a certificate against its files, and its files against one another.

    Parameters
    ----------
    path
        The certificate. The files it names are looked for relative to its folder.
    rescore
        Number of blocks to score again from the decoded message; `ALL_BLOCKS` for every one.
    seed
        Of the choice of blocks; None chooses unpredictably, so that nobody can prepare for it.
    bases
        Where bases are, if not where the certificate says: checkpoint folders, Hugging Face folders, GGUF files.

    Returns
    -------
    list of Check
        Everything that was checked, in order.

    Raises
    ------
    CertificateError
        At the first check that fails; the message names the file.
    """
    path = Path(path)
    try:
        return list(_run_checks(path, rescore, seed, bases))
    except CertificateError:
        raise
    except TokenboundsError as error:
        raise CertificateError(str(error)) from error


def _run_checks(path: Path, rescore: int, seed: int | None, bases: Sequence[Path]) -> Iterator[Check]:
    certificate = read_certificate(path)
    yield Check("certificate intact", str(path), "canonical bytes, fields, hash of itself")
    yield _check_ledger(path, certificate)
    yield _check_files(path, certificate)
    inputs = _locate(path, certificate, bases)
    evidence = gather_evidence(inputs)
    yield Check("files belong together", str(path), "scores → message, manifest, plan; plan → manifest → shards")
    for base in dict.fromkeys(link.base for link in evidence.links):
        if base is not None:
            yield Check("base intact", str(base), "the hash of its card and values")
    corpus = Corpus.open(inputs.corpus)
    yield _check_plan(evidence, corpus)
    for link in evidence.links:
        yield _check_tokens(link, corpus, inputs.corpus)
    yield _check_recomputation(path, certificate, evidence)
    for link in evidence.links:
        yield from _check_message(link, evidence.plan, corpus, rescore, seed, certificate["bounds"]["top_k"])


def _check_message(
    link: LinkEvidence, plan: Plan, corpus: Corpus, rescore: int, seed: int | None, top_k: Sequence[int]
) -> Iterator[Check]:
    """A message decodes to a model, which gives the stored scores."""
    predictor = _decode(link.path, link.places)
    yield Check("message decodes", str(link.path), f"to a model, from {link.paid_bits:,} bits")
    if rescore:
        from tokenbounds.certificates.rescoring import rescore_blocks

        blocks = None if rescore == ALL_BLOCKS else rescore
        detail = rescore_blocks(predictor, link.scores, plan, corpus, blocks, seed, top_k=top_k)
        yield Check("scored again", str(link.scores.files[0].parent), detail)


def _check_ledger(path: Path, certificate: dict[str, Any]) -> Check:
    """Every row is paid for, nothing else is, and the shares add up to delta exactly."""
    groups = [certificate, *certificate.get("subsets", [])]
    total = sum((_spent(path, group["rows"], group["ledger"]) for group in groups), Fraction(0))
    if total != Fraction(str(certificate["delta"])):
        raise CertificateError(f"{path}: the ledger spends {total}, but delta is {certificate['delta']}.")
    count = sum(len(group["rows"]) for group in groups)
    return Check("ledger adds up", str(path), f"delta {certificate['delta']:g} = {total} over {count} rows")


def _spent(path: Path, stated: list[dict[str, Any]], ledger: dict[str, Any]) -> Fraction:
    """The failure probability of some rows, which their ledger must state and divide exactly."""
    rows = {(row["metric"], row["bound"]): row["delta"] for row in stated}
    paid = {(row["metric"], row["bound"]): row["entries"] for row in ledger["rows"]}
    if set(rows) != set(paid) or len(rows) != len(stated) or len(paid) != len(ledger["rows"]):
        raise CertificateError(f"{path}: the ledger and the rows do not name the same metrics and bounds.")
    total = Fraction(0)
    for row, entries in paid.items():
        delta, parts = _row_shares(path, entries)
        if delta != sum(parts) or float(delta) != rows[row]:
            raise CertificateError(f"{path}: the delta of row {'/'.join(row)} does not add up in the ledger.")
        total += delta
    if str(total) != ledger["delta"]:
        raise CertificateError(f"{path}: the ledger spends {total}, but states {ledger['delta']}.")
    return total


def _row_shares(path: Path, entries: list[dict[str, Any]]) -> tuple[Fraction, list[Fraction]]:
    """A row's delta and its parts, exactly."""
    amounts = {entry["name"]: entry["amount"] for entry in entries if entry["unit"] == "probability"}
    try:
        shares = {name: Fraction(str(amount)) for name, amount in amounts.items()}
        delta = shares.pop("delta")
    except (ValueError, KeyError, ZeroDivisionError) as error:
        raise CertificateError(f"{path}: the ledger holds a probability that is no fraction ({error}).") from error
    if any(share < 0 for share in shares.values()):
        raise CertificateError(f"{path}: the ledger holds a negative probability.")
    return delta, list(shares.values())


def _check_files(path: Path, certificate: dict[str, Any]) -> Check:
    records = list(_file_records(certificate))
    for record in records:
        file = _resolve(path, record)
        if not file.is_file():
            raise CertificateError(f"{file} does not exist, but {path} rests on it. Restore it.")
        found = sha256_file(file)
        if found != record["sha256"]:
            raise CertificateError(
                f"{file} is not the file that {path} was made from: its SHA-256 is {found[:16]}…, "
                f"not {record['sha256'][:16]}…. Restore it, or certify again."
            )
    return Check("files intact", str(path), f"SHA-256 of {len(records)} files")


def _file_records(certificate: dict[str, Any]) -> Iterator[dict[str, Any]]:
    manifest = certificate["manifest"]
    for link in (certificate, *certificate["chain"]):
        yield link["message"]
        if "coarse" in link["message"]:
            yield link["message"]["coarse"]
        yield from link["scores"]
    for corpus in certificate["prior"]["trained_on"]:
        yield corpus
        yield corpus["documents_file"]
    yield manifest
    yield manifest["documents_file"]
    if "annotations_file" in manifest:
        yield manifest["annotations_file"]
    yield from manifest["shards"]
    yield certificate["plan"]


def _locate(path: Path, certificate: dict[str, Any], bases: Sequence[Path]) -> CertificateInputs:
    prior, links = certificate["prior"], [*certificate["chain"], certificate]
    trained_on = tuple(_locate_corpus(path, record) for record in prior["trained_on"])
    messages = [link["message"] for link in links]
    coarse = [_resolve(path, message["coarse"]) for message in messages if "coarse" in message]
    stated = [_normal(path.parent / message["base"]["place"]) for message in messages if "base" in message]
    return CertificateInputs(
        corpus=_locate_corpus(path, certificate["manifest"]),
        plan=_resolve(path, certificate["plan"]),
        links=tuple(_locate_link(path, link) for link in links),
        held_out=trained_on if prior["kind"] == "held_out" else None,
        side_information=tuple(dict.fromkeys([*coarse, *(bases or stated)])),
        base_corpora=() if prior["kind"] == "held_out" else trained_on,
    )


def _locate_link(path: Path, record: dict[str, Any]) -> LinkInputs:
    return LinkInputs(_resolve(path, record["message"]), tuple(_resolve(path, each) for each in record["scores"]))


def _locate_corpus(path: Path, record: dict[str, Any]) -> Path:
    """The folder of a corpus, from the record of its manifest."""
    manifest = _resolve(path, record)
    if manifest.name != MANIFEST_NAME:
        raise CertificateError(f"{path} names {manifest} as manifest; a corpus's manifest is called {MANIFEST_NAME}.")
    return manifest.parent


def _resolve(path: Path, record: dict[str, Any]) -> Path:
    """Where a file of the certificate at `path` is."""
    return _normal(path.parent / record["file"])


def _normal(path: Path) -> Path:
    """A path without `..`."""
    return Path(os.path.normpath(path))


def _check_plan(evidence: Evidence, corpus: Corpus) -> Check:
    """Plan again from the corpus's document lengths; a sample must be the one its seed draws."""
    plan = evidence.plan
    # The smallest number of tokens for which the planner makes this number of draws.
    sample_tokens = max(1, plan.draws * plan.tokens // plan.blocks) if plan.mode == "sampled" else None
    again = plan_scoring(
        corpus.lengths,
        context=plan.context,
        stride=plan.stride,
        sample_tokens=sample_tokens,
        seed=plan.seed,
        shards=plan.shards,
        visible_tokens=plan.visible_tokens,
    )
    stated = {name: str(getattr(plan, name)) for name in ("mode", "draws", "tokens", "documents", "blocks")}
    planned = {key.decode(): value.decode() for key, value in again.schema.metadata.items()}
    if not again.equals(plan.table) or any(planned[name] != value for name, value in stated.items()):
        raise CertificateError(
            f"{evidence.plan_path} is not the plan that its settings and the corpus give. Plan again."
        )
    what = "every token once" if plan.mode == "exhaustive" else f"{plan.draws} draws of seed {plan.seed}"
    return Check("plan made again", str(evidence.plan_path), what)


def _check_tokens(link: LinkEvidence, corpus: Corpus, folder: Path) -> Check:
    """The scored token ids are the corpus's, position by position."""
    batches = link.scores.iter_batches(("document", "position", "token"))
    checked = 0
    for batch in batches:
        document, position, token = (batch.column(i).to_numpy() for i in range(3))
        starts = np.flatnonzero(np.diff(document, prepend=document[0] - 1)) if len(document) else np.empty(0, int)
        for start, stop in zip(starts, [*starts[1:], len(document)], strict=True):
            expected = corpus.document(int(document[start]))[position[start:stop]]
            if not np.array_equal(expected, token[start:stop]):
                at = int(np.argmax(expected != token[start:stop]))
                raise CertificateError(
                    f"{_score_file(link.scores, checked + int(start) + at)}: document {document[start]} position "
                    f"{position[start + at]} holds token {token[start + at]}, the corpus {expected[at]}. Score again."
                )
        checked += len(document)
    return Check("scored tokens are the corpus's", str(folder), f"{checked:,} tokens")


def _score_file(scores: Scores, row: int) -> Path:
    """The score file that holds a row, by its number over all files."""
    for part in scores.parts:
        if row < part.rows:
            return part.path
        row -= part.rows
    return scores.files[-1]


def _decode(message: Path, side_information: Sequence[Path]) -> Any:
    """The model a message decodes to."""
    from tokenbounds.messages.decode import decode_message

    try:
        return decode_message(message, side_information)
    except TokenboundsError as error:
        raise CertificateError(f"{message} does not decode to a model: {error}") from error


def _check_recomputation(path: Path, certificate: dict[str, Any], evidence: Evidence) -> Check:
    try:
        spec = parse_row(BoundsSpec, json.dumps(certificate["bounds"]))
    except ValueError as error:
        raise CertificateError(f"{path}: 'bounds' is no bounds row of a study: {error}") from error
    names = {key: certificate[key] for key in ("certificate", "study", "model")}
    messages = [link["message"] for link in (certificate, *certificate["chain"])]
    bases = {message["base"]["sha256"]: message["base"] for message in messages if "base" in message}
    again = compute_certificate(names, evidence, spec, path.parent, bases)
    kept = {key: value for key, value in certificate.items() if key not in _NOT_RECOMPUTED}
    recomputed = {key: value for key, value in again.items() if key not in _NOT_RECOMPUTED}
    if difference := next(_differences(kept, recomputed, ""), None):
        raise CertificateError(f"{path} is not what its files give: {difference}. Certify again.")
    exact = canonical_json(kept) == canonical_json(recomputed)
    how = "identical" if exact else f"equal within {_RELATIVE_TOLERANCE:g} (this machine's logarithms round otherwise)"
    return Check("recomputed", str(path), f"{len(certificate['rows'])} rows, {how}")


def _differences(stated: Any, found: Any, where: str) -> Iterator[str]:
    """Yield where two JSON values differ; floating-point numbers may differ by rounding."""
    if isinstance(stated, dict) and isinstance(found, dict):
        for key in sorted({*stated, *found}):
            if key not in stated or key not in found:
                yield f"'{where}{key}' is in only one of them"
            else:
                yield from _differences(stated[key], found[key], f"{where}{key}.")
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        for index, pair in enumerate(zip(stated, found, strict=True)):
            yield from _differences(*pair, f"{where}{index}.")
    elif isinstance(stated, float) and isinstance(found, float):
        if not math.isclose(stated, found, rel_tol=_RELATIVE_TOLERANCE, abs_tol=_RELATIVE_TOLERANCE):
            yield f"'{where.rstrip('.')}' is {stated}, recomputed {found}"
    elif type(stated) is not type(found) or stated != found:
        yield f"'{where.rstrip('.')}' is {stated!r}, recomputed {found!r}"
