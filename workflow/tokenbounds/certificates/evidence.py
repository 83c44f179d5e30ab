"""The files a certificate rests on: opened, hashed, and checked to belong to one another.

Every link is by hash. Scores name the message, the manifest and the plan they were made with; the plan names the
manifest; the manifest names every shard. A certificate of one corpus can thus not be passed off for another.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbounds.certificates.prior import prior_record
from tokenbounds.certificates.side_information import GivenEvidence, GivenFinder
from tokenbounds.corpus.manifest import MANIFEST_NAME, Manifest, read_manifest
from tokenbounds.errors import CertificateError, TokenboundsError
from tokenbounds.files import sha256_file
from tokenbounds.messages.container import Message, read_message
from tokenbounds.messages.smoothing_head import read_alphas
from tokenbounds.scores.plan import Plan, read_plan
from tokenbounds.scores.store import Scores, open_scores


@dataclass(frozen=True)
class LinkInputs:
    """Message and score files of a cheaper model of a certificate's chain."""

    message: Path
    scores: tuple[Path, ...]


@dataclass(frozen=True)
class CertificateInputs:
    """Where a certificate's evidence lies.

    Attributes
    ----------
    message
        The message file.
    corpus
        The folder of the corpus: manifest, shards, table of documents.
    plan
        The scoring plan.
    scores
        The score files of every shard of the plan, in any order.
    chain
        Cheaper messages, cheapest first, with their scores by the same plan.
    held_out
        None if the messages' bits are paid for. Else the models never saw the corpus: the folders of the corpora
        they were trained on, none for models that were published before.
    given
        Where to look for what messages are decoded given: coarse messages, folders of bases. Of a kind that is not
        named, those of the study around a message's file are looked through.
    base_corpora
        Unless held out: folders of the corpora that bases were trained on, none for published ones.
    """

    message: Path
    corpus: Path
    plan: Path
    scores: tuple[Path, ...]
    chain: tuple[LinkInputs, ...] = ()
    held_out: tuple[Path, ...] | None = None
    given: tuple[Path, ...] = ()
    base_corpora: tuple[Path, ...] = ()


@dataclass(frozen=True)
class LinkEvidence:
    """A message, with what it is decoded given, and its scores, known to belong together."""

    path: Path
    message: Message
    scores: Scores
    given: GivenEvidence

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.scores.provenance.vocabulary_size

    @property
    def dtype(self) -> str:
        """Arithmetic of the scores."""
        return self.scores.provenance.dtype


@dataclass(frozen=True)
class Evidence:
    """Evidence whose parts are known to belong together."""

    inputs: CertificateInputs
    message: Message
    manifest: Manifest
    plan: Plan
    scores: Scores
    vocabulary_size: int
    dtype: str
    records: dict[str, Any]
    given: GivenEvidence
    chain: tuple[LinkEvidence, ...] = ()

    @property
    def links(self) -> tuple[LinkEvidence, ...]:
        """All messages with their scores, the certified one last."""
        return (*self.chain, LinkEvidence(self.inputs.message, self.message, self.scores, self.given))


def gather_evidence(inputs: CertificateInputs, folder: Path) -> Evidence:
    """Open and hash every file, and check each link between them.

    Parameters
    ----------
    inputs
        The files.
    folder
        The certificate's folder: recorded paths are relative to it.

    Raises
    ------
    CertificateError
        If a file is missing, damaged or was made from something else; the message names it.
    """
    try:
        return _gather(inputs, folder)
    except CertificateError:
        raise
    except TokenboundsError as error:
        raise CertificateError(str(error)) from error


def _gather(inputs: CertificateInputs, folder: Path) -> Evidence:
    manifest_path = inputs.corpus / MANIFEST_NAME
    manifest_sha256 = sha256_file(manifest_path)
    manifest, plan = read_manifest(manifest_path), read_plan(inputs.plan)
    if plan.manifest_sha256 != manifest_sha256:
        raise CertificateError(
            f"{inputs.plan} plans the corpus of manifest {plan.manifest_sha256[:12]}…, but {manifest_path} is "
            f"{manifest_sha256[:12]}…. Plan and score this corpus."
        )
    if (plan.tokens, plan.documents) != (manifest.tokens, manifest.documents):
        raise CertificateError(f"{inputs.plan} and {manifest_path} differ in tokens or documents. Plan again.")
    finder = GivenFinder(inputs.given)
    own_inputs = LinkInputs(inputs.message, inputs.scores)
    *chain, own = (_gather_link(link, manifest, plan, inputs.corpus, finder) for link in (*inputs.chain, own_inputs))
    _refuse_doubles([*chain, own])
    records = {
        **_link_record(own, folder),
        "manifest": _manifest_record(manifest_path, manifest, manifest_sha256, folder),
        "plan": _plan_record(inputs.plan, plan, folder),
        "chain": [_link_record(link, folder) for link in chain],
        "prior": prior_record(inputs.held_out, inputs.corpus, folder, inputs.base_corpora),
    }
    return Evidence(
        inputs=inputs,
        message=own.message,
        manifest=manifest,
        plan=plan,
        scores=own.scores,
        vocabulary_size=own.vocabulary_size,
        dtype=own.dtype,
        records=records,
        given=own.given,
        chain=tuple(chain),
    )


def _gather_link(inputs: LinkInputs, manifest: Manifest, plan: Plan, corpus: Path, finder: GivenFinder) -> LinkEvidence:
    """Open a message and its scores, which must name it and the plan."""
    message = read_message(inputs.message)
    scores = open_scores(inputs.scores, plan=plan, message_sha256=message.sha256, manifest_sha256=plan.manifest_sha256)
    _check_vocabulary(inputs.message, message, manifest, scores, corpus)
    _check_alphas(inputs.message, message, scores)
    return LinkEvidence(inputs.message, message, scores, finder.find(inputs.message, message))


def _refuse_doubles(links: Sequence[LinkEvidence]) -> None:
    seen: dict[str, Path] = {}
    for link in links:
        if link.message.sha256 in seen:
            raise CertificateError(
                f"{link.path} and {seen[link.message.sha256]} are the same message twice in a chain. Name it once."
            )
        seen[link.message.sha256] = link.path


def _check_vocabulary(path: Path, message: Message, manifest: Manifest, scores: Scores, corpus: Path) -> None:
    """The model's V must be what the scores share, and hold every token of the corpus."""
    size = scores.provenance.vocabulary_size
    card = message.header.get("model")
    declared = card.get("vocabulary_size") if isinstance(card, dict) else None
    if declared != size:
        raise CertificateError(
            f"{scores.files[0]} was scored over {size} tokens, but {path} declares a vocabulary of {declared}. Score "
            "with this message."
        )
    if manifest.tokenizer.vocabulary_size > size:
        raise CertificateError(
            f"{corpus / MANIFEST_NAME} has {manifest.tokenizer.vocabulary_size} tokens, more than the {size} that "
            f"{path} predicts. Use the model's own tokenizer."
        )


def _check_alphas(path: Path, message: Message, scores: Scores) -> None:
    """The scores' smoothing weights must be those that the message's head names."""
    named, found = read_alphas(message), scores.provenance.alphas
    if named != found:
        raise CertificateError(
            f"{scores.files[0]} has smoothing weights {list(found)}, but {path} names {list(named)}. Score with this "
            "message."
        )


def file_record(path: Path, sha256: str, folder: Path) -> dict[str, Any]:
    """A file as certificates name it: its path seen from `folder`, and its hash."""
    relative = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return {"file": relative, "sha256": sha256}


def _link_record(link: LinkEvidence, folder: Path) -> dict[str, Any]:
    scores = [
        {**file_record(part.path, sha256_file(part.path), folder), "rows": part.rows} for part in link.scores.parts
    ]
    message = {**_message_record(link.path, link.message, folder), **link.given.record(folder)}
    return {"message": message, "scores": scores}


def _message_record(path: Path, message: Message, folder: Path) -> dict[str, Any]:
    size_bits = 8 * path.stat().st_size
    if message.size_bits != size_bits or sum(message.breakdown.values()) != size_bits:
        raise CertificateError(f"{path}: its parts do not add up to its {size_bits} bits. Encode the model again.")
    record = {"name": path.stem, **file_record(path, message.sha256, folder), "size_bits": size_bits}
    return {**record, "breakdown": dict(message.breakdown), "header": message.header}


def _manifest_record(path: Path, manifest: Manifest, sha256: str, folder: Path) -> dict[str, Any]:
    # The hashes of the shards are the manifest's own: hashing a large corpus again is left to verification.
    content = manifest.to_dict()
    shards = [_beside(path, entry, folder) for entry in content["shards"]]
    kept = {key: content[key] for key in ("source", "licence", "tokenizer", "documents")}
    record = {**file_record(path, sha256, folder), **kept, "shards": shards}
    files = ("documents_file", "annotations_file")
    return record | {name: _beside(path, content[name], folder) for name in files if name in content}


def _beside(path: Path, entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A manifest's entry with its file seen from the certificate's folder."""
    return {**entry, **file_record(path.parent / entry["file"], entry["sha256"], folder)}


def _plan_record(path: Path, plan: Plan, folder: Path) -> dict[str, Any]:
    record = {**file_record(path, plan.sha256, folder), "mode": plan.mode, "blocks": plan.table.num_rows}
    record |= {"draws": plan.draws, "seed": plan.seed, "context": plan.context, "stride": plan.stride}
    return {**record, "visible_tokens": plan.visible_tokens}
