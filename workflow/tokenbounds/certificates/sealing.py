"""Certificates as files: their canonical bytes, and the hash of itself that each carries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokenbounds.certificates.schema import CERTIFICATE, SCHEMA_VERSION, Certificate
from tokenbounds.errors import CertificateError
from tokenbounds.files import canonical_json, sha256_bytes, write_bytes

Json = dict[str, Any]
"""A certificate's JSON, as `json.loads` gives it."""


def to_json(certificate: Certificate) -> Json:
    """The JSON of a certificate: every field but those that are absent."""
    content: Json = CERTIFICATE.dump_python(certificate, mode="json", by_alias=True, exclude_defaults=True)
    return content


def self_hash(content: Json) -> str:
    """SHA-256 of the compact canonical JSON of everything but `certificate_sha256`."""
    rest = {key: value for key, value in content.items() if key != "certificate_sha256"}
    return sha256_bytes(canonical_json(rest).encode())


def render(content: Json) -> bytes:
    """The only bytes that a file with this content may have."""
    return (canonical_json(content, indent=2) + "\n").encode()


def seal(certificate: Certificate) -> Certificate:
    """The certificate with `certificate_sha256` set."""
    return replace(certificate, certificate_sha256=self_hash(to_json(certificate)))


def write_certificate(path: Path | str, certificate: Certificate) -> None:
    """Write a sealed certificate atomically.

    Raises
    ------
    CertificateError
        If a field is not as documented (a fault of the caller).
    """
    data = render(to_json(certificate))
    _parse(data, path)
    write_bytes(path, data)


def read_certificate(path: Path | str) -> Certificate:
    """Read a certificate, refusing any whose bytes or own hash are not what the writer would have written.

    Raises
    ------
    CertificateError
        If the file is missing, is not canonical JSON, breaks the schema, contradicts itself, or its hash of itself does
        not match.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read certificate {path}: {error.strerror or error}.") from error
    damaged = f"{path} is not the certificate that was written"
    try:
        content = json.loads(data)
        canonical = isinstance(content, dict) and render(content) == data
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"{damaged}: not JSON. Get an intact copy, or certify again.") from error
    if not canonical:
        raise CertificateError(f"{damaged}: its bytes are not canonical JSON. Get an intact copy, or certify again.")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise CertificateError(
            f"{path} has schema_version {content.get('schema_version')!r}, and this version reads {SCHEMA_VERSION}. "
            "Get an intact copy, or the tokenbounds version that wrote it."
        )
    if content.get("certificate_sha256") != self_hash(content):
        raise CertificateError(f"{damaged}: certificate_sha256 does not match. Get an intact copy, or certify again.")
    return replace(_parse(data, path), path=Path(path))


def _parse(data: bytes, path: Path | str) -> Certificate:
    """The certificate in some bytes, which must be exactly those that it is written as."""
    try:
        certificate = CERTIFICATE.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CertificateError(f"{path}: {where}: {first['msg']}. It was not written by this version.") from error
    if render(to_json(certificate)) != data:
        raise CertificateError(f"{path} leaves out fields, or has empty ones. It was not written by this version.")
    parts = {"": certificate.rows, **{f"subsets[{i}].": one.rows for i, one in enumerate(certificate.subsets)}}
    for where, rows in parts.items():
        for index, row in enumerate(rows):
            if row.vacuous != (row.value >= row.random_guess):
                raise CertificateError(f"{path}: {where}rows[{index}].vacuous contradicts its value. Certify again.")
    return certificate
