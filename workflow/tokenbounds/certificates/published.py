"""Digests of what a study publishes: certificates, tables, figures, the page, and encoders' reports on messages.

A certificate names every file that its numbers rest on. It cannot name what is made from certificates for people: that
is in `SHA256SUMS`, which `sha256sum --check` also reads.
"""

from __future__ import annotations

import re
from pathlib import Path

from tokenbounds.certificates.checks import Check
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file, write_bytes

SUMS_NAME = "SHA256SUMS"
_PLACES = (
    *("report.html", "certificates/*.json", "messages/*.json", "tables/*", "figures/*"),
    *("tasks/*", "tasks/*/questions.jsonl", "antibody/*"),
)
_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f\x7f\\]+)")  # `sha256sum` writes other names in another form
_MOST_BYTES = 1 << 24  # of the file of sums


def published_files(results: Path) -> list[str]:
    """The files of a results folder that people read, relative to it, in the order of their names."""
    found = (path for place in _PLACES for path in results.glob(place))
    return sorted(path.relative_to(results).as_posix() for path in found if path.is_file() and path.name[0] != ".")


def write_sums(results: Path | str) -> None:
    """Write the SHA-256 of everything that a results folder publishes into its `SHA256SUMS`.

    Raises
    ------
    CertificateError
        If a file has a name that such a list cannot hold.
    TokenboundsError
        If a file cannot be read.
    """
    results = Path(results)
    lines = [f"{sha256_file(results / name)}  {name}\n" for name in published_files(results)]
    if odd := next((line for line in lines if not _LINE.fullmatch(line[:-1])), None):
        raise CertificateError(f"{results / odd[66:-1]} has an unusual name. Remove it, or rename it.")
    write_bytes(results / SUMS_NAME, "".join(lines).encode(errors="surrogateescape"))


def check_sums(results: Path | str) -> str:
    """Compare everything that a results folder publishes with its `SHA256SUMS`.

    Returns
    -------
    str
        What was compared, and the SHA-256 of the sums: to know that from elsewhere is to know all of them.

    Raises
    ------
    CertificateError
        If there are no sums, or a file differs from its sum, is missing, or is not among them; it is named.
    """
    results = Path(results)
    sums = _read_sums(results / SUMS_NAME)
    found = set(published_files(results))
    if missing := sorted(sums.keys() - found):
        raise CertificateError(f"{results / missing[0]} is missing, but {SUMS_NAME} names it. Restore it.")
    if later := sorted(found - sums.keys()):
        raise CertificateError(
            f"{results / later[0]} is not in {SUMS_NAME}. Remove it, or `snakemake --forcerun sum_published` to add it."
        )
    for name, digest in sums.items():
        path = results / name
        if not path.resolve().is_relative_to(results.resolve()):
            raise CertificateError(f"{path} is a link to a place outside {results}. Replace it with the file.")
        if sha256_file(path) != digest:
            raise CertificateError(f"{path} is not what was published: it differs from {SUMS_NAME}. Restore it.")
    return f"{len(sums)} files; the sums have the SHA-256 {sha256_file(results / SUMS_NAME)}"


def verify_published(results: Path) -> list[Check]:
    """Compare what a results folder publishes besides its certificates with its sums, if it has any.

    Raises
    ------
    CertificateError
        If a file differs; see `check_sums`.
    """
    if not (results / SUMS_NAME).exists():
        detail = f"there is no {SUMS_NAME}, so tables, figures and the page could say anything"
        return [Check("published files not checked", str(results), detail, made=False)]
    return [Check("published files intact", str(results), check_sums(results))]


def _read_sums(path: Path) -> dict[str, str]:
    """Digests by file, from a file that must be just as `write_sums` writes it."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CertificateError(f"{path} is too long for a list of sums. Restore it.")
        lines = path.read_bytes().decode(errors="surrogateescape").split("\n")
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror or error}.") from error
    matches = [_LINE.fullmatch(line) for line in lines[:-1]]
    names = [match[2] for match in matches if match]
    if lines[-1] or len(names) < len(matches) or names != sorted(set(names)):
        raise CertificateError(f"{path} is not the list of sums that was written. Restore it, or run the study again.")
    return {match[2]: match[1] for match in matches if match}
