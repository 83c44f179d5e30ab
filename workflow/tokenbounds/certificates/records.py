"""What a certificate says about the files it rests on: their names, hashes and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tokenbounds.certificates.evidence import Evidence, LinkEvidence
from tokenbounds.certificates.file_records import (
    BaseRecord,
    BlocksRecord,
    ChainRecord,
    CoarseRecord,
    EvidenceRecord,
    FileRecord,
    ManifestRecord,
    MessageRecord,
    PlanRecord,
    PriorRecord,
    ScoreRecord,
    ShardRecord,
    TrainingRecord,
)
from tokenbounds.certificates.prior import CorpusEvidence
from tokenbounds.corpus.manifest import FileEntry
from tokenbounds.errors import CertificateError, ScoreError
from tokenbounds.files import relative_path
from tokenbounds.models.online.card import is_online
from tokenbounds.scores.block_tree import blocks_root, leaf_columns
from tokenbounds.scores.store import Scores
from tokenbounds.seals import sha256_of_sealed


def record_evidence(evidence: Evidence, folder: Path, bases: Mapping[str, BaseRecord] | None = None) -> EvidenceRecord:
    """What a certificate says about its evidence.

    Parameters
    ----------
    evidence
        The files.
    folder
        The certificate's folder: recorded paths are relative to it.
    bases
        Records of bases by hash, kept as they are: where a base is found is not part of its identity, so a verifier
        uses the certificate's name for it.

    Raises
    ------
    CertificateError
        If a message's parts do not add up to its size.
    """
    kind: Literal["message", "held_out", "online"]
    if evidence.prior.held_out:
        kind = "held_out"
    else:
        kind = "online" if is_online(evidence.links[-1].message.header) else "message"
    *chain, certified = (_record_link(link, folder, bases or {}) for link in evidence.links)
    plan = evidence.plan
    return EvidenceRecord(
        message=certified.message,
        dtype=certified.dtype,
        batch_tokens=certified.batch_tokens,
        scores=certified.scores,
        blocks=certified.blocks,
        chain=tuple(chain),
        manifest=_record_corpus(evidence.corpus, folder),
        plan=PlanRecord(
            file=relative_path(evidence.plan_path, folder),
            sha256=plan.sha256,
            mode=plan.mode,
            blocks=plan.rows,
            draws=plan.draws,
            seed=plan.seed,
            context=plan.context,
            stride=plan.stride,
            visible_tokens=plan.visible_tokens,
            blocks_per_document=plan.blocks_per_document,
        ),
        prior=PriorRecord(
            kind=kind,
            trained_on=tuple(_record_training(corpus, folder) for corpus in evidence.prior.trained_on),
            because=evidence.prior.because,
        ),
    )


def _record_link(link: LinkEvidence, folder: Path, bases: Mapping[str, BaseRecord]) -> ChainRecord:
    """A message, with its side information if it has any, and its score files."""
    size_bits = 8 * link.path.stat().st_size
    if link.message.size_bits != size_bits or sum(link.message.breakdown.values()) != size_bits:
        raise CertificateError(f"{link.path}: its parts do not add up to its {size_bits} bits. Encode the model again.")
    coarse = base = None
    if link.coarse is not None and link.coarse_message is not None:
        coarse = CoarseRecord(
            name=link.coarse.stem,
            file=relative_path(link.coarse, folder),
            sha256=link.coarse_message.sha256,
            size_bits=link.coarse_message.size_bits,
        )
    sha256 = link.side_information.base
    if sha256 is not None and link.base is not None:
        base = bases.get(sha256) or record_base(link.base, sha256, folder)
    message = MessageRecord(
        name=link.path.stem,
        file=relative_path(link.path, folder),
        sha256=link.message.sha256,
        size_bits=size_bits,
        breakdown=dict(link.message.breakdown),
        header=link.message.header,
        coarse=coarse,
        base=base,
    )
    hashed = ((part, sha256_of_sealed(part.path, ScoreError, "Score this shard again.")) for part in link.scores.parts)
    scores = (
        ScoreRecord(file=relative_path(part.path, folder), sha256=sha256, rows=part.rows) for part, sha256 in hashed
    )
    return ChainRecord(
        message=message,
        dtype=link.dtype,
        batch_tokens=link.scores.provenance.batch_tokens,
        scores=tuple(scores),
        blocks=_record_blocks(link.scores),
    )


def record_base(place: Path, sha256: str, folder: Path) -> BaseRecord:
    """What a certificate in `folder` says of a model at a place."""
    return BaseRecord(name=place.resolve().name, place=relative_path(place, folder), sha256=sha256)


def _record_blocks(scores: Scores) -> BlocksRecord | None:
    if scores.plan is None:
        return None
    names = leaf_columns(scores.provenance.schema.names)
    return BlocksRecord(root=blocks_root(scores, scores.plan), columns=tuple(names))


def _record_corpus(corpus: CorpusEvidence, folder: Path) -> ManifestRecord:
    # The hashes of files next to the manifest are taken from it: hashing a large corpus again is left to verification.
    content, manifest = corpus.manifest.to_dict(), corpus.manifest
    labels = manifest.annotations_file
    return ManifestRecord(
        file=relative_path(corpus.manifest_path, folder),
        sha256=corpus.manifest_sha256,
        source=content["source"],
        licence=content["licence"],
        tokenizer=content["tokenizer"],
        documents=content["documents"],
        documents_file=_record_beside(corpus, manifest.documents_file, folder),
        annotations_file=None if labels is None else _record_beside(corpus, labels, folder),
        shards=tuple(
            ShardRecord(
                file=relative_path(corpus.folder / shard.file, folder),
                sha256=shard.sha256,
                documents=shard.documents,
                tokens=shard.tokens,
            )
            for shard in manifest.shards
        ),
    )


def _record_beside(corpus: CorpusEvidence, entry: FileEntry, folder: Path) -> FileRecord:
    """A file next to a corpus's manifest."""
    return FileRecord(file=relative_path(corpus.folder / entry.file, folder), sha256=entry.sha256)


def _record_training(corpus: CorpusEvidence, folder: Path) -> TrainingRecord:
    return TrainingRecord(
        corpus=corpus.manifest.corpus,
        file=relative_path(corpus.manifest_path, folder),
        sha256=corpus.manifest_sha256,
        documents_file=_record_beside(corpus, corpus.manifest.documents_file, folder),
    )
