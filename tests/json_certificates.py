"""Certificates as the JSON in their files, for tests that look at files or forge them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenbounds.certificates import certify, sealing
from tokenbounds.certificates.schema import CERTIFICATE, Certificate
from tokenbounds.files import write_bytes


def certify_bound(name: str, study: str, inputs: Any, spec: Any, out: Path, *, model: str) -> dict[str, Any]:
    """Certify, and return what was written."""
    certify.certify_bound(name, study, inputs, spec, out, model=model)
    return read_certificate(out)


def parse_certificate(content: dict[str, Any]) -> Certificate:
    """The certificate with some JSON, which no file needs to hold."""
    return CERTIFICATE.validate_json(json.dumps({"certificate_sha256": "0" * 64, **content}))


def read_certificate(path: Path) -> dict[str, Any]:
    """The JSON of a certificate that the library also reads."""
    sealing.read_certificate(path)
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content


def write_certificate(path: Path, content: dict[str, Any]) -> None:
    """Write any JSON with a matching hash of itself."""
    write_bytes(path, sealing.render({**content, "certificate_sha256": sealing.self_hash(content)}))
