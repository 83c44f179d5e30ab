"""Tokenizing a corpus again from its source, to check what a certificate's files alone cannot show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from tokenbounds.certificates.checks import Check
from tokenbounds.config import CorpusSpec
from tokenbounds.corpus.manifest import Manifest
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.sources import read_documents
from tokenbounds.corpus.tokenizers import Tokenizer, load_tokenizer, row_of_identity
from tokenbounds.errors import CertificateError
from tokenbounds.files import canonical_json, sha256_file
from tokenbounds.parquet_pages import check_pages

INSTALLED = "installed"
"""Names the source of corpora that come from the running Python itself."""
_BATCH = 256
_ADDED = ("python", "package_version")  # keys of a manifest's source that are not settings


def check_source(folder: Path, places: Sequence[str], tokenizer: str | None = None) -> Check:
    """Tokenize a corpus's documents again and compare them, one by one.

    Parameters
    ----------
    folder
        The corpus; its files must have been compared with their hashes.
    places
        Where its documents are: files, folders or patterns, a dataset's name, the list of a corpus by reference,
        or `INSTALLED`.
    tokenizer
        A folder, hub name or GGUF file, for tokenizers of transformers.

    Raises
    ------
    CertificateError
        If the source cannot be that of the manifest, the tokenizer is a different one, or a document differs.
    CorpusError
        If the source or the tokenizer cannot be read.
    """
    corpus = Corpus.open(folder)
    spec = _find_source(corpus.manifest, folder, places)
    encoder = _find_tokenizer(corpus.manifest, folder, tokenizer)
    documents = folder / corpus.manifest.documents_file.file
    check_pages(documents, CertificateError)
    table = pq.read_table(documents, columns=["sha256"])["sha256"]
    most = corpus.manifest.reference.max_tokens if corpus.manifest.reference else None
    number = 0
    for texts in _batches(spec.source):
        for text, tokens in zip(texts, encoder.encode(texts), strict=True):
            if number >= corpus.documents:
                raise CertificateError(f"{folder} has {corpus.documents} documents, its source more. Name its source.")
            raw = text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogatepass")
            if table[number].as_py() != hashlib.sha256(raw).hexdigest():
                raise CertificateError(f"document {number} of {folder} is not what its source holds there.")
            if not np.array_equal(tokens[:most], corpus.document(number)):
                raise CertificateError(f"document {number} of {folder} has other tokens than its source gives.")
            number += 1
    if number < corpus.documents:
        raise CertificateError(f"{folder} has {corpus.documents} documents, its source {number}. Name its source.")
    return Check("tokenized again", str(folder), f"{number:,} documents, {corpus.tokens:,} tokens: the same")


def _batches(source: Any) -> Iterator[list[str | bytes]]:
    documents = (document.text for document in read_documents(source))
    groups = zip_longest(*[documents] * _BATCH)
    return ([text for text in group if text is not None] for group in groups)


def _find_source(manifest: Manifest, folder: Path, places: Sequence[str]) -> CorpusSpec:
    """The source that a manifest describes, at places on this machine."""
    settings = {key: value for key, value in manifest.source.items() if key not in _ADDED}
    if "paths" in settings:
        settings["paths"] = list(places)
    elif settings.get("kind") == "huggingface" and len(places) == 1:
        settings["name"] = places[0]
    elif manifest.reference is not None and len(places) == 1:
        if not Path(places[0]).is_file() or sha256_file(Path(places[0])) != manifest.reference.sha256:
            raise CertificateError(f"{places[0]} is not the list of pinned files that {folder} is a draw of.")
        settings["pins"] = places[0]
    elif list(places) != [INSTALLED]:
        raise CertificateError(
            f"the documents of {folder} come from '{settings.get('kind')}', which has no files: --source {INSTALLED}."
        )
    try:
        text = canonical_json({"source": settings, "tokenizer": {"kind": "bytes"}})
        return TypeAdapter(CorpusSpec).validate_json(text, extra="forbid")
    except ValidationError as error:
        fault = error.errors()[0]["msg"]
        raise CertificateError(f"{folder}: its manifest describes no source that can be read ({fault}).") from error


def _find_tokenizer(manifest: Manifest, folder: Path, place: str | None) -> Tokenizer:
    """The tokenizer of a manifest, known by its hash."""
    known = row_of_identity(manifest.tokenizer.identity)
    if place is not None:
        path = Path(place)
        named = {"name": str(path.parent), "gguf_file": path.name} if path.is_file() else {"name": place}
        rows = [{"kind": "transformers", **named, "split_special_tokens": split} for split in (False, True)]
    elif known is not None:
        rows = [known]
    else:
        raise CertificateError(
            f"{folder} was tokenized with '{manifest.tokenizer.identity}'. Say where that is: --tokenizer FOLDER."
        )
    for row in rows:
        text = json.dumps({"source": {"kind": "python_stdlib"}, "tokenizer": row})
        found = load_tokenizer(TypeAdapter(CorpusSpec).validate_json(text).tokenizer)
        if found.sha256 == manifest.tokenizer.sha256:
            return found
    raise CertificateError(
        f"{folder} was tokenized with another tokenizer than {place or manifest.tokenizer.identity} (SHA-256 of all "
        f"that decides tokens: {manifest.tokenizer.sha256[:16]}…). Name the right one."
    )
