"""Auditing a few blocks of a certificate's scores from a block file, which may be far away.

The certificate names the root of the tree over all blocks' scores. So someone who has the certificate, the message, the
corpus and the plan needs only the drawn blocks, each with its proof: some kilobytes, read as ranges of bytes.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.certificates.checks import Check
from tokenbounds.certificates.file_records import BlocksRecord
from tokenbounds.certificates.original import find_original, placed_original
from tokenbounds.certificates.plan_check import check_plan
from tokenbounds.certificates.rescoring import Choice, choose_blocks, rescore_blocks, rescoring_options
from tokenbounds.certificates.schema import Certificate
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file
from tokenbounds.messages.container import read_message
from tokenbounds.messages.smoothing_head import read_alphas
from tokenbounds.scores.block_tree import blocks_root, decode_leaf, read_record, record_places, write_blocks
from tokenbounds.scores.checks import check_values
from tokenbounds.scores.plan_file import column, expand_blocks, read_plan
from tokenbounds.scores.provenance import CROSS_ENTROPY_FIELD, DTYPES, ENTROPY_FIELD, KL_FIELD, Provenance
from tokenbounds.scores.scoring import decoded_predictor
from tokenbounds.scores.store import open_scores

_SECONDS = 60.0
_NEEDED = ("message", "coarse message", "plan", "manifest", "documents", "shard")


@dataclass(frozen=True)
class AuditedScores:
    """Scores of a few blocks instead of all: what `rescore_blocks` needs from scores."""

    files: tuple[Path, ...]
    provenance: Provenance
    batch: pa.RecordBatch

    def iter_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows at once."""
        yield self.batch.select(list(columns))


def read_ranges(place: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Read ranges of bytes of a file, or of what an http or https URL leads to.

    Raises
    ------
    CertificateError
        If a range cannot be read, or the server does not answer with just that range.
    """
    remote = place.startswith(("http://", "https://"))
    for start, stop in ranges:
        try:
            data = _fetch(place, start, stop) if remote else _read(Path(place), start, stop)
        except (OSError, urllib.error.URLError, ValueError) as error:
            raise CertificateError(f"cannot read bytes {start} to {stop} of {place}: {error}.") from error
        if len(data) != stop - start:
            raise CertificateError(f"{place} has no bytes {start} to {stop}: it is not the whole block file.")
        yield data


def _read(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(stop - start)


def _fetch(url: str, start: int, stop: int) -> bytes:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-{stop - 1}"})
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        if answer.status != 206:
            raise CertificateError(f"{url}: its server does not answer range requests. Download it, and name the file.")
        data: bytes = answer.read(stop - start + 1)
        return data


def fetch_blocks(path: Path, place: str, folder: Path, *, draws: int, seed: int) -> tuple[str, int]:
    """Copy what an audit reads from a block file; the rest of the copy is a hole.

    Parameters
    ----------
    path, place, draws, seed
        See `audit_blocks`.
    folder
        Where the copy goes.

    Returns
    -------
    place : str
        The copy.
    size : int
        Bytes that were read.

    Raises
    ------
    CertificateError
        If the certificate, its plan or the block file cannot be read.
    """
    certificate = read_certificate(path)
    if certificate.blocks is None:
        raise CertificateError(f"{path} names no digest of its blocks. Certify again.")
    plan = read_plan(certificate.locate(certificate.plan), certificate.tokens)
    choice = choose_blocks(plan, draws, seed)
    ranges = record_places(plan, list(certificate.blocks.columns), choice.numbers)
    copy = folder / "fetched.blocks"
    with copy.open("wb") as stream:
        for (start, _), data in zip(ranges, read_ranges(place, ranges), strict=True):
            stream.seek(start)
            stream.write(data)
    return str(copy), sum(stop - start for start, stop in ranges)


def audit_blocks(
    path: Path | str, place: str, *, draws: int, seed: int | None = None, bases: Sequence[Path | str] = ()
) -> list[Check]:
    """Score some blocks again and compare them with those of a block file that the certificate's root covers.

    The certificate's numbers are not computed again: that takes all scores (`verify_certificate`).

    Parameters
    ----------
    path
        The certificate; its message, corpus and plan must be where it says, its scores need not.
    place
        The block file: a path, or a URL on a server that answers ranges.
    draws
        How many blocks to draw, by their tokens, with replacement.
    seed
        Of the draws; None chooses unpredictably.
    bases
        Where bases are, if not where the certificate says.

    Raises
    ------
    CertificateError
        If a file differs, a block is not covered by the root, or the message gives other scores.
    """
    path = Path(path)
    certificate = read_certificate(path)
    if certificate.blocks is None:
        raise CertificateError(f"{path} names no digest of its blocks. Certify again.")
    wanted = [record for role, record in certificate.files() if role in _NEEDED]
    for record in wanted:
        file = certificate.locate(record)
        if not file.is_file() or sha256_file(file) != record.sha256:
            raise CertificateError(f"{file} is missing, or not what {path} names. Restore it.")
    checks = [Check("certificate and files intact", str(path), f"SHA-256 of {len(wanted)} files, scores aside")]
    corpus = Corpus.open(certificate.locate(certificate.manifest).parent)
    plan = read_plan(certificate.locate(certificate.plan), corpus.tokens)
    checks.append(check_plan(plan, certificate.locate(certificate.plan), corpus.lengths))
    choice = choose_blocks(plan, draws, seed)
    places = record_places(plan, list(certificate.blocks.columns), choice.numbers)
    scores = _fetch_scores(certificate, certificate.blocks, plan.rows, choice, places, place)
    size = sum(stop - start for start, stop in places)
    checks.append(Check("blocks are covered", place, f"{len(places)} blocks, {size:,} bytes with their proofs"))
    _check_tokens(scores, corpus, place)
    own = [path.parent / base.place for base in certificate.bases]
    coarse = [certificate.locate(record) for role, record in certificate.files() if role == "coarse message"]
    message, beside = certificate.locate(certificate.message), [*coarse, *(map(Path, bases) if bases else own)]
    options, top_k = rescoring_options(scores), certificate.settings.top_k
    compared = find_original(path, certificate, [Path(base) for base in bases])
    with (
        decoded_predictor(message, beside, options) as predictor,
        placed_original(compared, scores.provenance.original_sha256, options) as original,
    ):
        again = rescore_blocks(predictor, scores, plan, corpus, choice, top_k=top_k, original=original)
    return [*checks, Check("scored again", place, again.detail)]


def _fetch_scores(
    certificate: Certificate,
    record: BlocksRecord,
    size: int,
    choice: Choice,
    places: Sequence[tuple[int, int]],
    place: str,
) -> AuditedScores:
    """The scores of some of a plan's `size` rows, each proven to be what the certificate's root covers."""
    names, found = list(record.columns), dict[str, list[npt.NDArray[Any]]]()
    blocks = column(choice.rows, "block").tolist()
    for row, block, data in zip(choice.numbers.tolist(), blocks, read_ranges(place, places), strict=True):
        proven, leaf = read_record(data, row, size)
        if proven.hex() != record.root:
            raise CertificateError(f"{place}: the scores of block {block} are not those that were certified.")
        number, values = decode_leaf(leaf, names)
        if number != block:
            raise CertificateError(f"{place}: block {number} is where the plan has block {block}.")
        for name, part in values.items():
            found.setdefault(name, []).append(part)
    columns = {name: np.concatenate(parts) for name, parts in found.items()}
    provenance = Provenance(
        message_sha256=certificate.message.sha256,
        manifest_sha256=certificate.manifest.sha256,
        plan_sha256=certificate.plan.sha256,
        shard=0,
        dtype=DTYPES[DTYPES.index(certificate.dtype)],
        vocabulary_size=certificate.vocabulary_size,
        software={} if certificate.batch_tokens is None else {"batch_tokens": str(certificate.batch_tokens)},
        alphas=read_alphas(read_message(certificate.locate(certificate.message))),
        entropies=ENTROPY_FIELD.name in names,
        original_sha256=_original_sha256(certificate, names),
        centre_order=(certificate.settings.centre_order or 0) if CROSS_ENTROPY_FIELD.name in names else 0,
    )
    keys = expand_blocks(choice.rows)
    values = {**keys, **columns}
    arrays = [pa.array(values[field.name]).cast(field.type) for field in provenance.schema]
    batch = pa.RecordBatch.from_arrays(arrays, schema=provenance.schema)
    check_values(batch, provenance.vocabulary_size, Path(place))
    return AuditedScores((Path(place),), provenance, batch)


def _original_sha256(certificate: Certificate, names: Sequence[str]) -> str:
    """Hash of the model that predictions were compared with; if the certificate does not say, that they were."""
    if KL_FIELD.name not in names:
        return ""
    return "compared" if certificate.faithfulness is None else certificate.faithfulness.original.sha256


def _check_tokens(scores: AuditedScores, corpus: Corpus, place: str) -> None:
    """The tokens of audited blocks are the corpus's."""
    documents, positions, tokens = (scores.batch[name].to_numpy() for name in ("document", "position", "token"))
    for document in np.unique(documents):
        here = documents == document
        if not np.array_equal(corpus.document(int(document))[positions[here]], tokens[here]):
            raise CertificateError(f"{place}: document {document} has other tokens than the corpus. Score again.")


def export_blocks(path: Path, out: Path) -> int:
    """Write the block file of a certificate's scores, to be published; return its bytes.

    Raises
    ------
    CertificateError
        If the certificate cannot be read, or its scores are not what it names.
    """
    certificate = read_certificate(path)
    corpus = Corpus.open(certificate.locate(certificate.manifest).parent)
    plan = read_plan(certificate.locate(certificate.plan), corpus.tokens)
    scores = open_scores([certificate.locate(record) for record in certificate.scores], plan=plan)
    if certificate.blocks is None or blocks_root(scores, plan) != certificate.blocks.root:
        raise CertificateError(f"the scores of {path} are not those that it names by their digest. Certify again.")
    write_blocks(scores, plan, out)
    return out.stat().st_size
