"""Verification: take a certificate apart and make it again from its files, trusting nothing it says."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tokenbounds.certificates.certify import compute_certificate
from tokenbounds.certificates.checks import Check
from tokenbounds.certificates.document_hashes import has_shards, read_document_hashes
from tokenbounds.certificates.evidence import CertificateInputs, Evidence, LinkEvidence, LinkInputs, gather_evidence
from tokenbounds.certificates.faithfulness import Faithfulness
from tokenbounds.certificates.file_records import FileRecord
from tokenbounds.certificates.functionals import compare_functionals, find_labels
from tokenbounds.certificates.original import find_original, placed_original
from tokenbounds.certificates.plan_check import check_plan
from tokenbounds.certificates.rescored_rows import compare_rows
from tokenbounds.certificates.rescoring import (
    Rescored,
    choose_blocks,
    forecast_seconds,
    rescore_blocks,
    rescoring_options,
)
from tokenbounds.certificates.schema import Certificate, Stated
from tokenbounds.certificates.sealing import Json, read_certificate, to_json
from tokenbounds.config.certificates import reason_fault
from tokenbounds.corpus.manifest import MANIFEST_NAME, read_manifest
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError, TokenboundsError
from tokenbounds.files import canonical_json, sha256_file
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.scoring import decoded_predictor
from tokenbounds.scores.store import Scores

ALL_BLOCKS = -1
CHEAP_DRAWS = 20
CHEAP_SECONDS = 3.0
_RELATIVE_TOLERANCE = 1e-9
_NOT_RECOMPUTED = ("software", "certificate_sha256")


def verify_certificate(
    path: Path | str,
    *,
    rescore: int | None = 0,
    seed: int | None = None,
    bases: Sequence[Path] = (),
    root: Path | None = None,
) -> list[Check]:
    """Check a certificate against its files, and its files against one another.

    Parameters
    ----------
    path
        The certificate. The files it names are looked for relative to its folder.
    rescore
        How many blocks to draw and score again from the decoded message; `ALL_BLOCKS` for every one. None draws
        `CHEAP_DRAWS` where that is forecast to take at most `CHEAP_SECONDS` per message.
    seed
        Of the choice of blocks; None chooses unpredictably, so that no one can prepare for it.
    bases
        Where bases are, if not where the certificate says: checkpoint folders, Hugging Face folders, GGUF files.
    root
        The folder that holds everything that the certificate may name; nothing outside it is opened. None for the
        results folder, which is the one above the certificate's.

    Returns
    -------
    list of Check
        Everything that was checked, in order, and for each message whose scores were not made again a check that was
        not made.

    Raises
    ------
    CertificateError
        At the first check that fails; the message names the file.
    """
    path = Path(path)
    try:
        return list(_run_checks(path, rescore, seed, bases, root or _results_folder(path)))
    except CertificateError:
        raise
    except TokenboundsError as error:
        raise CertificateError(str(error)) from error


def _results_folder(path: Path) -> Path:
    """The folder above a certificate's; the certificate's own if only the system's root is above it."""
    folder = path.absolute().parent
    return folder if folder.parent == Path(folder.anchor) else folder.parent


def _run_checks(
    path: Path, rescore: int | None, seed: int | None, bases: Sequence[Path], root: Path
) -> Iterator[Check]:
    certificate = read_certificate(path)
    yield Check("certificate intact", str(path), "canonical bytes, fields, hash of itself")
    yield _check_ledger(path, certificate)
    yield _check_files(path, certificate, root)
    inputs = _locate(path, certificate, bases, root)
    # Its shards are as long as its manifest says, so anything as long as the corpus is bounded by a real file.
    corpus = Corpus.open(inputs.corpus)
    evidence = gather_evidence(inputs)
    yield Check("files belong together", str(path), "scores → message, manifest, plan; plan → manifest → shards")
    for base in dict.fromkeys([*(link.base for link in evidence.links), evidence.original]):
        if base is not None:
            yield Check("base intact", str(base), "the hash of its card and values")
    yield from _check_documents(evidence)
    yield check_plan(evidence.plan, evidence.plan_path, corpus.lengths)
    for link in evidence.links:
        yield _check_tokens(link, corpus, inputs.corpus)
    yield _check_recomputation(path, certificate, evidence)
    yield from _check_messages(path, certificate, evidence, corpus, rescore, seed)


def _check_messages(
    path: Path, certificate: Certificate, evidence: Evidence, corpus: Corpus, rescore: int | None, seed: int | None
) -> Iterator[Check]:
    """Every message decodes to a model that gives the stored scores, and what rows make of them, on the same blocks."""

    plan, rescored = evidence.plan, list[Rescored | None]()
    choice = choose_blocks(plan, None if rescore == ALL_BLOCKS else rescore or CHEAP_DRAWS, seed)
    for link in evidence.links:
        options, folder = rescoring_options(link.scores), str(link.scores.files[0].parent)
        with contextlib.ExitStack() as stack:
            predictor = _decode(stack, link, options)
            yield Check("message decodes", str(link.path), f"to a model, from {link.paid_bits:,} bits")
            order = link.scores.provenance.centre_order
            seconds = forecast_seconds(predictor, corpus, choice.rows, plan.visible_tokens, order)
            if rescore or (rescore is None and seconds <= CHEAP_SECONDS):
                top_k, compared = certificate.settings.top_k, link.scores.provenance.original_sha256
                place = evidence.original if link is evidence.certified else None
                original = stack.enter_context(placed_original(place, compared, options))
                again = rescore_blocks(predictor, link.scores, plan, corpus, choice, top_k=top_k, original=original)
                rescored.append(again)
                yield Check("scored again", folder, again.detail)
            else:
                rescored.append(None)
                yield Check("not scored again", folder, _say_unscored(seconds), made=False)
    names = [link.path.stem for link in evidence.links]
    own = rescored[-1]
    centred = own.with_centres() if own is not None and certificate.settings.centre_order else own
    differences = compare_functionals(
        certificate, [*rescored[:-1], centred], names, find_labels(certificate, evidence, choice.rows)
    )
    if differences:
        far = max(differences.values(), key=lambda each: abs(each.found))
        detail = f"{len(differences)}, which differ by at most {abs(far.found):.2g} bits (tolerance {far.allowed:.2g})"
        yield Check("averages of rows", str(path), detail)
    if choice.draws is None and differences:
        whole = [each for each in rescored if each is not None]
        if len(whole) == len(rescored):
            yield Check("rows made again", str(path), compare_rows(certificate, evidence, whole, differences))


def _say_unscored(seconds: float) -> str:
    """What is left open where nothing was scored again, and what closing it takes."""
    time = f"{seconds / 60:,.0f} min" if seconds >= 100 else f"{max(1.0, seconds):.0f} s"
    return (
        "nothing shows that the message gives these scores, which could be made up; "
        f"--rescore {CHEAP_DRAWS} would, in about {time} on two cores"
    )


def _check_ledger(path: Path, certificate: Certificate) -> Check:
    """Every row is paid for, and the shares add up to delta exactly; labels that do not occur leave theirs unspent."""
    # Rows that repeat those of a subset with the same tokens are paid for there; that they do is recomputed later.
    parts: list[Stated] = [certificate, *(subset for subset in certificate.subsets if subset.repeats is None)]
    total = sum((_spent(path, stated) for stated in parts), Fraction(0))
    if certificate.reference is not None:
        total += Fraction(certificate.reference.delta)
    if certificate.faithfulness is not None:
        total += _spent_on_faithfulness(path, certificate.faithfulness)
    delta = Fraction(str(certificate.delta))
    if total > delta or (total < delta and not certificate.settings.subsets):
        raise CertificateError(f"{path}: the ledger spends {total}, but delta is {certificate.delta}.")
    count = sum(len(stated.rows) for stated in parts)
    sign = "=" if total == delta else ">"
    return Check("ledger adds up", str(path), f"delta {certificate.delta:g} {sign} {total} over {count} rows")


def _spent(path: Path, stated: Stated) -> Fraction:
    """The failure probability of some rows, which their ledger must state and divide exactly."""
    deltas = {(row.metric, row.bound): row.delta for row in stated.rows}
    paid = {(row.metric, row.bound): row for row in stated.ledger.rows}
    if set(deltas) != set(paid) or len(deltas) != len(stated.rows) or len(paid) != len(stated.ledger.rows):
        raise CertificateError(f"{path}: the ledger and the rows do not name the same metrics and bounds.")
    total = Fraction(0)
    for key, row in paid.items():
        try:
            delta, shares = row.probabilities()
        except (ValueError, ZeroDivisionError) as error:
            raise CertificateError(
                f"{path}: the ledger holds a probability that is not a fraction ({error})."
            ) from error
        if any(share < 0 for share in shares):
            raise CertificateError(f"{path}: the ledger holds a negative probability.")
        if delta != sum(shares) or float(delta) != deltas[key]:
            raise CertificateError(f"{path}: the delta of row {'/'.join(key)} does not add up in the ledger.")
        total += delta
    if str(total) != stated.ledger.delta:
        raise CertificateError(f"{path}: the ledger spends {total}, but states {stated.ledger.delta}.")
    return total


def _spent_on_faithfulness(path: Path, stated: Faithfulness) -> Fraction:
    """The failure probability of the rows about faithfulness, which must add up."""
    try:
        total = sum((Fraction(row.delta) for row in stated.rows), Fraction(0))
    except ZeroDivisionError as error:
        raise CertificateError(f"{path}: a row about faithfulness holds a delta that is no fraction.") from error
    if str(total) != stated.delta:
        raise CertificateError(f"{path}: rows about faithfulness spend {total}, but state {stated.delta}.")
    return total


def _check_files(path: Path, certificate: Certificate, root: Path) -> Check:
    records = [record for _, record in certificate.files()]
    for record in records:
        file = _normal(certificate.locate(record))
        if not _is_within(file, root):
            raise CertificateError(
                f"{path} names {file}, which is outside {root}. If you trust it, name a --root above."
            )
        if not _is_file(file):
            raise CertificateError(f"{file} does not exist, but {path} rests on it. Restore it.")
        if sha256_file(file) != record.sha256:
            raise CertificateError(
                f"{file} is not the file that {path} was made from: its SHA-256 is not {record.sha256[:16]}…. "
                "Restore it, or certify again."
            )
    for record in certificate.prior.trained_on:
        folder = _locate_corpus(certificate, record)
        for shard in read_manifest(folder / MANIFEST_NAME).shards:
            if not _is_within(folder / shard.file, root):
                raise CertificateError(f"{folder / shard.file} is a link to somewhere outside {root}. Remove it.")
    return Check("files intact", str(path), f"SHA-256 of {len(records)} files")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _is_within(path: Path, root: Path) -> bool:
    """Whether a path, all links followed, is inside a folder; one that the system cannot follow is not."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def _locate(path: Path, certificate: Certificate, bases: Sequence[Path], root: Path) -> CertificateInputs:
    """Where the files of a certificate are, as certification takes them."""
    held_out = certificate.prior.held_out
    if held_out and (fault := reason_fault(certificate.prior.because)):
        raise CertificateError(f"{path}: its reason for calling models held out {fault}")
    trained_on = tuple(_locate_corpus(certificate, record) for record in certificate.prior.trained_on)
    coarse = [_normal(certificate.locate(record)) for role, record in certificate.files() if role == "coarse message"]
    stated = [_normal(path.parent / base.place) for base in certificate.bases]
    original = find_original(path, certificate, bases)
    if outside := [place for place in (*stated, original) if place and not (bases or _is_within(place, root))]:
        raise CertificateError(f"{path} names the base {outside[0]}, which is outside {root}. Name it with --base.")
    return CertificateInputs(
        corpus=_locate_corpus(certificate, certificate.manifest),
        plan=_normal(certificate.locate(certificate.plan)),
        links=tuple(
            LinkInputs(
                _normal(certificate.locate(link.message)),
                tuple(_normal(certificate.locate(record)) for record in link.scores),
            )
            for link in certificate.links
        ),
        held_out=trained_on if held_out else None,
        side_information=tuple(dict.fromkeys([*coarse, *(bases or stated)])),
        base_corpora=() if held_out else trained_on,
        held_out_because=certificate.prior.because,
        original=original,
    )


def _locate_corpus(certificate: Certificate, record: FileRecord) -> Path:
    """The folder of a corpus, from the record of its manifest."""
    manifest = _normal(certificate.locate(record))
    if manifest.name != MANIFEST_NAME:
        raise CertificateError(
            f"{certificate.path} names {manifest} as manifest; a corpus's manifest is called {MANIFEST_NAME}."
        )
    return manifest.parent


def _normal(path: Path) -> Path:
    """A path without `..`."""
    return Path(os.path.normpath(path))


def _check_documents(evidence: Evidence) -> Iterator[Check]:
    """The table of documents agrees with the shards; tables of training corpora were compared when they were read."""
    corpus = evidence.corpus
    read_document_hashes(corpus.folder, corpus.manifest, verify=False)
    yield Check("table of documents agrees", str(corpus.folder), f"with the tokens of {corpus.manifest.documents:,}")
    for other in evidence.prior.trained_on:
        if not has_shards(other.folder, other.manifest):
            detail = "its shards are not here, so its table of documents is trusted"
            yield Check("tokens trained on not compared", str(other.folder), detail, made=False)


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


def _decode(stack: contextlib.ExitStack, link: LinkEvidence, options: ScoringOptions) -> Any:
    """What a link's message decodes to, until the stack is closed."""
    try:
        return stack.enter_context(decoded_predictor(link.path, link.places, options))
    except TokenboundsError as error:
        raise CertificateError(f"{link.path} does not decode to a model: {error}") from error


def _check_recomputation(path: Path, certificate: Certificate, evidence: Evidence) -> Check:
    names = {"name": certificate.name, "study": certificate.study, "model": certificate.model}
    bases = {base.sha256: base for base in certificate.models}
    again = compute_certificate(names, evidence, certificate.settings, path.parent, bases)
    stated, recomputed = (
        {key: value for key, value in to_json(each).items() if key not in _NOT_RECOMPUTED}
        for each in (certificate, again)
    )
    if difference := next(_differences(stated, recomputed), None):
        raise CertificateError(f"{path} is not what its files give: {difference}. Certify again.")
    exact = canonical_json(stated) == canonical_json(recomputed)
    how = "identical" if exact else f"equal within {_RELATIVE_TOLERANCE:g} (logarithms round differently here)"
    return Check("recomputed", str(path), f"{len(certificate.rows)} rows, {how}")


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is neither a filled object nor a filled list in some JSON, with its place."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _leaves(inner, f"{where}.{key}" if where else str(key))
    else:
        yield where, value


def _differences(stated: Json, recomputed: Json) -> Iterator[str]:
    """Yield where two JSON values differ; floating-point numbers may differ by rounding."""
    ours, theirs = dict(_leaves(stated)), dict(_leaves(recomputed))
    for place in sorted({*ours, *theirs}):
        if place not in ours or place not in theirs:
            yield f"'{place}' is in only one of them"
            continue
        one, other = ours[place], theirs[place]
        if type(one) is type(other) is float:
            if not math.isclose(one, other, rel_tol=_RELATIVE_TOLERANCE, abs_tol=_RELATIVE_TOLERANCE):
                yield f"'{place}' is {one}, recomputed {other}"
        elif type(one) is not type(other) or one != other:
            yield f"'{place}' is {one!r}, recomputed {other!r}"
