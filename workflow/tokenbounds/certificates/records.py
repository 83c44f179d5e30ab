"""What a certificate says of the files it rests on: their names, hashes and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenbounds.certificates.evidence import Evidence, LinkEvidence
from tokenbounds.certificates.prior import CorpusEvidence, Prior
from tokenbounds.corpus.manifest import FileEntry
from tokenbounds.errors import CertificateError
from tokenbounds.files import relative_path, sha256_file

Record = dict[str, Any]


def record_evidence(evidence: Evidence, folder: Path, bases: Mapping[str, Record] | None = None) -> Record:
    """The fields `message`, `scores`, `chain`, `manifest`, `plan` and `prior` of a certificate.

    Parameters
    ----------
    evidence
        The files.
    folder
        The certificate's folder: recorded paths are relative to it.
    bases
        Records of bases by hash, kept as they are: where a base is found is no part of what it is, so a verifier
        calls it what the certificate does.

    Raises
    ------
    CertificateError
        If a message's parts do not add up to its size.
    """
    *chain, certified = (_record_link(link, folder, bases or {}) for link in evidence.links)
    plan = evidence.plan
    return {
        **certified,
        "chain": chain,
        "manifest": _record_corpus(evidence.corpus, folder),
        "plan": {
            **_record_file(evidence.plan_path, plan.sha256, folder),
            "mode": plan.mode,
            "blocks": plan.table.num_rows,
            "draws": plan.draws,
            "seed": plan.seed,
            "context": plan.context,
            "stride": plan.stride,
            "visible_tokens": plan.visible_tokens,
        },
        "prior": _record_prior(evidence.prior, folder),
    }


def _record_file(path: Path, sha256: str, folder: Path) -> Record:
    return {"file": relative_path(path, folder), "sha256": sha256}


def _record_link(link: LinkEvidence, folder: Path, bases: Mapping[str, Record]) -> Record:
    """A message, with its side information if it has any, and its score files."""
    size_bits = 8 * link.path.stat().st_size
    if link.message.size_bits != size_bits or sum(link.message.breakdown.values()) != size_bits:
        raise CertificateError(f"{link.path}: its parts do not add up to its {size_bits} bits. Encode the model again.")
    message = {
        "name": link.path.stem,
        **_record_file(link.path, link.message.sha256, folder),
        "size_bits": size_bits,
        "breakdown": dict(link.message.breakdown),
        "header": link.message.header,
    }
    if link.coarse is not None and link.coarse_message is not None:
        message["coarse"] = {
            "name": link.coarse.stem,
            **_record_file(link.coarse, link.coarse_message.sha256, folder),
            "size_bits": link.coarse_message.size_bits,
        }
    sha256 = link.side_information.base
    if sha256 is not None and link.base is not None:
        found = {"name": link.base.resolve().name, "place": relative_path(link.base, folder), "sha256": sha256}
        message["base"] = bases.get(sha256, found)
    scores = [
        {**_record_file(part.path, sha256_file(part.path), folder), "rows": part.rows} for part in link.scores.parts
    ]
    return {"message": message, "scores": scores}


def _record_corpus(corpus: CorpusEvidence, folder: Path) -> Record:
    # The hashes of files beside the manifest are its own: hashing a large corpus again is left to verification.
    content, manifest = corpus.manifest.to_dict(), corpus.manifest

    def beside(entry: FileEntry) -> Record:
        return _record_file(corpus.folder / entry.file, entry.sha256, folder)

    record = {
        **_record_file(corpus.manifest_path, corpus.manifest_sha256, folder),
        **{key: content[key] for key in ("source", "licence", "tokenizer", "documents")},
        "shards": [
            {
                **_record_file(corpus.folder / shard.file, shard.sha256, folder),
                "documents": shard.documents,
                "tokens": shard.tokens,
            }
            for shard in manifest.shards
        ],
        "documents_file": beside(manifest.documents_file),
    }
    if manifest.annotations_file is not None:
        record["annotations_file"] = beside(manifest.annotations_file)
    return record


def _record_prior(prior: Prior, folder: Path) -> Record:
    trained_on = []
    for corpus in prior.trained_on:
        documents = corpus.manifest.documents_file
        trained_on.append(
            {
                "corpus": corpus.manifest.corpus,
                **_record_file(corpus.manifest_path, corpus.manifest_sha256, folder),
                "documents_file": _record_file(corpus.folder / documents.file, documents.sha256, folder),
            }
        )
    return {"kind": "held_out" if prior.held_out else "message", "trained_on": trained_on}
