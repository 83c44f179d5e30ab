"""The files a certificate rests on: opened, hashed, and checked to belong to one another.

Every link is by hash. Scores name the message, the manifest and the plan they were made with; the plan names the
manifest; the manifest names every shard. A certificate of one corpus can thus not be passed off for another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbounds.corpus.manifest import MANIFEST_NAME, Manifest, read_manifest
from tokenbounds.errors import CertificateError, TokenboundsError
from tokenbounds.files import sha256_file
from tokenbounds.messages.container import Message, read_message
from tokenbounds.scores.plan import Plan, read_plan
from tokenbounds.scores.store import Scores, open_scores


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
    """

    message: Path
    corpus: Path
    plan: Path
    scores: tuple[Path, ...]


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
    message, manifest, plan = read_message(inputs.message), read_manifest(manifest_path), read_plan(inputs.plan)
    if plan.manifest_sha256 != manifest_sha256:
        raise CertificateError(
            f"{inputs.plan} plans the corpus of manifest {plan.manifest_sha256[:12]}…, but {manifest_path} is "
            f"{manifest_sha256[:12]}…. Plan and score this corpus."
        )
    if (plan.tokens, plan.documents) != (manifest.tokens, manifest.documents):
        raise CertificateError(f"{inputs.plan} and {manifest_path} differ in tokens or documents. Plan again.")
    scores = open_scores(inputs.scores, plan=plan, message_sha256=message.sha256, manifest_sha256=manifest_sha256)
    records = {
        "message": _message_record(inputs.message, message, folder),
        "manifest": _manifest_record(manifest_path, manifest, manifest_sha256, folder),
        "plan": _plan_record(inputs.plan, plan, folder),
        "scores": [
            {**_file_record(part.path, sha256_file(part.path), folder), "rows": part.rows} for part in scores.parts
        ],
    }
    return Evidence(
        inputs=inputs,
        message=message,
        manifest=manifest,
        plan=plan,
        scores=scores,
        vocabulary_size=_common_vocabulary(inputs, message, manifest, scores),
        dtype=scores.provenance.dtype,
        records=records,
    )


def _common_vocabulary(inputs: CertificateInputs, message: Message, manifest: Manifest, scores: Scores) -> int:
    """V: the model's, which the scores must share and which must hold every token of the corpus."""
    size = scores.provenance.vocabulary_size
    card = message.header.get("model")
    declared = card.get("vocabulary_size") if isinstance(card, dict) else None
    if declared != size:
        raise CertificateError(
            f"{scores.files[0]} was scored over {size} tokens, but {inputs.message} declares a vocabulary of "
            f"{declared}. Score with this message."
        )
    if manifest.tokenizer.vocabulary_size > size:
        raise CertificateError(
            f"{inputs.corpus / MANIFEST_NAME} has {manifest.tokenizer.vocabulary_size} tokens, more than the {size} "
            f"that {inputs.message} predicts. Use the model's own tokenizer."
        )
    return size


def _file_record(path: Path, sha256: str, folder: Path) -> dict[str, Any]:
    relative = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return {"file": relative, "sha256": sha256}


def _message_record(path: Path, message: Message, folder: Path) -> dict[str, Any]:
    size_bits = 8 * path.stat().st_size
    if message.size_bits != size_bits or sum(message.breakdown.values()) != size_bits:
        raise CertificateError(f"{path}: its parts do not add up to its {size_bits} bits. Encode the model again.")
    record = {"name": path.stem, **_file_record(path, message.sha256, folder), "size_bits": size_bits}
    return {**record, "breakdown": dict(message.breakdown), "header": message.header}


def _manifest_record(path: Path, manifest: Manifest, sha256: str, folder: Path) -> dict[str, Any]:
    # The hashes of the shards are the manifest's own: hashing a large corpus again is left to verification.
    content = manifest.to_dict()
    shards = [_beside(path, entry, folder) for entry in content["shards"]]
    kept = {key: content[key] for key in ("source", "licence", "tokenizer", "documents")}
    record = {**_file_record(path, sha256, folder), **kept, "shards": shards}
    return {**record, "documents_file": _beside(path, content["documents_file"], folder)}


def _beside(path: Path, entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A manifest's entry with its file seen from the certificate's folder."""
    return {**entry, **_file_record(path.parent / entry["file"], entry["sha256"], folder)}


def _plan_record(path: Path, plan: Plan, folder: Path) -> dict[str, Any]:
    record = {**_file_record(path, plan.sha256, folder), "mode": plan.mode, "blocks": plan.table.num_rows}
    return {**record, "draws": plan.draws, "seed": plan.seed, "context": plan.context, "stride": plan.stride}
