"""Commit, then draw: an append-only log of what was fixed when, and seeds that no one could choose.

Each line of a log is an entry: what is sealed, by hash, when, and the root of the Merkle tree over all lines before it.
Its root over all lines is one digest for everything that was ever sealed; once that is published, no entry can be
altered, removed or inserted (docs/commitments.md). A seed is drawn from an entry and from a public value that appeared
later, so that the person who sealed the entry could not know it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tokenbounds import merkle
from tokenbounds.certificates.checks import Check
from tokenbounds.certificates.schema import Certificate
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.corpus.manifest import MANIFEST_NAME, read_manifest
from tokenbounds.errors import CertificateError
from tokenbounds.files import canonical_json, parse_json, sha256_file, write_bytes
from tokenbounds.models.identity import checkpoint_sha256
from tokenbounds.software import program_sha256

Purpose = Literal["sample", "rescore"]

_TITLE = b"tokenbounds draw 1"
_SEED_BITS = 53  # what every reader of JSON keeps
_MOST_BYTES = 1 << 26  # of a log
_KEYS = {"previous_root", "sealed", "time"}


@dataclass(frozen=True, order=True)
class Sealed:
    """What an entry seals: a kind of thing (`certificate`, `message`, …) and its SHA-256, hexadecimal."""

    kind: str
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One line of a log, without its end.

    Attributes
    ----------
    line
        Its bytes: the leaf's data.
    time
        When it was sealed, by that machine's clock, UTC in ISO 8601.
    sealed
        What it seals.
    """

    line: bytes
    time: str
    sealed: frozenset[Sealed]


def describe(path: Path) -> set[Sealed]:
    """What sealing a path seals.

    A certificate seals its message, corpus, tokenizer and bases as well; a corpus's folder its manifest and tokenizer;
    a base's folder the hash of the model. Any other file is sealed by its hash.

    Raises
    ------
    TokenboundsError
        If the path cannot be read, or is a folder of something else.
    """
    if (path / MANIFEST_NAME).is_file():
        tokenizer = read_manifest(path / MANIFEST_NAME).tokenizer.sha256
        return {Sealed("corpus", sha256_file(path / MANIFEST_NAME)), Sealed("tokenizer", tokenizer)}
    if (path / "card.json").is_file():
        return {Sealed("base", checkpoint_sha256(path))}
    if path.is_dir():
        raise CertificateError(f"{path} holds neither a corpus nor a model. Name the files to seal.")
    if path.suffix == ".json" and path.is_file() and b'"certificate_sha256"' in path.read_bytes():
        one = read_certificate(path)
        rest = {Sealed("message", link.message.sha256) for link in one.links}
        rest |= {Sealed("base", base.sha256) for base in one.bases}
        rest |= {Sealed("corpus", one.manifest.sha256), Sealed("tokenizer", one.manifest.tokenizer["sha256"])}
        return {Sealed("certificate", sha256_file(path)), *rest}
    return {Sealed("message" if path.suffix == ".tbm" else "file", sha256_file(path))}


def append_entry(log: Path, paths: Sequence[Path], *, time: datetime | None = None) -> tuple[int, bytes]:
    """Seal files, and the program itself, in a new entry at the end of a log, which is begun if there is none.

    Parameters
    ----------
    log
        The log.
    paths
        What to seal, see `describe`.
    time
        Of sealing; None for now.

    Returns
    -------
    size : int
        Entries of the log.
    root : bytes
        Its root, to be published.

    Raises
    ------
    TokenboundsError
        If a path or the log cannot be read, or the log is damaged.
    """
    entries = read_log(log) if log.exists() else []
    sealed = {Sealed("program", program_sha256()), *(each for path in paths for each in describe(path))}
    now = (time or datetime.now(UTC)).astimezone(UTC)
    line = _render(now.strftime("%Y-%m-%dT%H:%M:%SZ"), sealed, root_of(entries))
    lines = [*(entry.line for entry in entries), line]
    write_bytes(log, b"".join(each + b"\n" for each in lines))
    return len(lines), merkle.root(merkle.leaf_hash(each) for each in lines)


def _render(time: str, sealed: Iterable[Sealed], previous_root: bytes) -> bytes:
    rows = [[each.kind, each.sha256] for each in sorted(sealed)]
    return canonical_json({"time": time, "sealed": rows, "previous_root": previous_root.hex()}).encode()


def read_log(path: Path) -> list[Entry]:
    """Read a log, whose every line must be as it was written and name the root of all before it.

    Raises
    ------
    CertificateError
        If it cannot be read, or a line was altered, removed or inserted.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CertificateError(f"{path} has more than {_MOST_BYTES} bytes. Begin another log.")
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror or error}.") from error
    entries: list[Entry] = []
    tree = _GrowingRoot()
    for number, line in enumerate(lines[:-1], start=1):
        entry = _parse(line, tree.root)
        if entry is None or lines[-1]:
            raise CertificateError(f"{path}: line {number} is not what was sealed, or one before it. Restore the log.")
        entries.append(entry)
        tree.append(merkle.leaf_hash(line))
    return entries


def _parse(line: bytes, previous_root: bytes) -> Entry | None:
    """The entry in a line; None if it is not one after entries with this root."""
    try:
        content: Any = parse_json(line)
        sealed = frozenset(Sealed(kind, sha256) for kind, sha256 in content["sealed"])
        if content.keys() == _KEYS and _render(content["time"], sealed, previous_root) == line:
            datetime.fromisoformat(content["time"])
            return Entry(line, content["time"], sealed)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    return None


class _GrowingRoot:
    """The root of a growing list, from the complete subtrees that it consists of."""

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, bytes]] = []  # leaves and digest of each, larger ones first

    def append(self, leaf: bytes) -> None:
        size = 1
        while self._subtrees and self._subtrees[-1][0] == size:
            leaf, size = merkle.node_hash(self._subtrees.pop()[1], leaf), 2 * size
        self._subtrees.append((size, leaf))

    @property
    def root(self) -> bytes:
        if not self._subtrees:
            return merkle.EMPTY_ROOT
        digest = self._subtrees[-1][1]
        for _, left in reversed(self._subtrees[:-1]):
            digest = merkle.node_hash(left, digest)
        return digest


def root_of(entries: Sequence[Entry]) -> bytes:
    """The root of a log."""
    return merkle.root(leaf_hashes(entries))


def leaf_hashes(entries: Sequence[Entry]) -> list[bytes]:
    """The hashes of a log's leaves."""
    return [merkle.leaf_hash(entry.line) for entry in entries]


def find_entry(entries: Sequence[Entry], sealed: Iterable[Sealed], what: str, log: Path) -> int:
    """The first entry that seals all of some things at once.

    Raises
    ------
    CertificateError
        If there is none.
    """
    wanted = set(sealed)
    for number, entry in enumerate(entries):
        if wanted <= entry.sealed:
            return number
    raise CertificateError(f"{log} has no entry that seals {what}. Commit first, then draw.")


def draw_seed(entry: Entry, beacon: str, purpose: Purpose) -> int:
    """The seed that an entry and a later public value give: SHA-256 of all three, the lowest 53 bits.

    The first entry counts: sealing again to draw again leaves the first one in the log.

    Raises
    ------
    CertificateError
        If the public value is empty, or not plain text.
    """
    value = beacon.strip()
    if not value or not value.isascii() or not value.isprintable() or len(value) > 1000:
        raise CertificateError("the public value must be 1 to 1000 printable ASCII characters, as it was published.")
    parts = [_TITLE, purpose.encode(), merkle.leaf_hash(entry.line).hex().encode(), value.encode()]
    return int.from_bytes(hashlib.sha256(b"\n".join(parts)).digest(), "big") % (1 << _SEED_BITS)


@dataclass(frozen=True)
class Draws:
    """A log and the public values that came after its entries.

    Attributes
    ----------
    log
        The log.
    sample
        What appeared after messages and corpus were sealed, and drew the sample; None if that is not to be checked.
    rescore
        What appeared after the certificate was sealed, and draws the blocks that are scored again; None if those are
        drawn in another way.
    """

    log: Path
    sample: str | None = None
    rescore: str | None = None


def replay_draws(certificate: Certificate, draws: Draws) -> tuple[list[Check], int | None]:
    """Check that a certificate's sample was drawn after its messages were sealed, and draw the blocks to score again.

    Returns
    -------
    checks : list of Check
        The log; the sample, if there is one.
    seed : int or None
        Of the blocks to score again, if a public value for these is given.

    Raises
    ------
    CertificateError
        If the log is damaged or does not seal what was drawn from, or the sample's seed is another one.
    """
    entries, log, path = read_log(draws.log), str(draws.log), certificate.path
    assert path is not None, "a certificate that was not read from a file was never sealed"
    checks = [Check("log intact", log, f"{len(entries)} entries with the root {root_of(entries).hex()}")]
    if certificate.plan.mode != "exhaustive" and draws.sample is None:
        checks.append(Check("sample not traced", log, "the public value that drew it is not given", made=False))
    elif certificate.plan.mode != "exhaustive":
        sealed = {Sealed("message", link.message.sha256) for link in certificate.links}
        sealed.add(Sealed("corpus", certificate.manifest.sha256))
        entry = entries[find_entry(entries, sealed, f"the messages and the corpus of {path} together", draws.log)]
        seed = draw_seed(entry, draws.sample or "", "sample")
        if certificate.plan.seed != seed:
            raise CertificateError(f"{path} was scored on the sample of seed {certificate.plan.seed}, not of {seed}.")
        checks.append(Check("sample drawn after sealing", log, f"seed {seed}, from the entry of {entry.time}"))
    if draws.rescore is None:
        return checks, None
    sealed = {Sealed("certificate", sha256_file(path))}
    entry = entries[find_entry(entries, sealed, str(path), draws.log)]
    seed = draw_seed(entry, draws.rescore, "rescore")
    checks.append(Check("blocks drawn after sealing", log, f"seed {seed}, from the entry of {entry.time}"))
    return checks, seed


def receipt(log: Path, number: int, *, since: int | None = None) -> dict[str, Any]:
    """Proof, without the log, that an entry is in it; and with `since`, that the log was only appended to.

    Parameters
    ----------
    log
        The log.
    number
        The entry's, from 0.
    since
        Entries of an earlier state of the log, whose root was published.

    Raises
    ------
    CertificateError
        If the log is damaged.
    ValueError
        If there is no such entry or earlier state.
    """
    entries = read_log(log)
    leaves = leaf_hashes(entries)
    proof = {
        "entry": entries[number].line.decode(),
        "number": number,
        "size": len(leaves),
        "root": merkle.root(leaves).hex(),
        "inclusion": [digest.hex() for digest in merkle.prove_inclusion(leaves, number)],
    }
    if since is not None:
        earlier = {"size": since, "root": merkle.root(leaves[:since]).hex()}
        consistency = [digest.hex() for digest in merkle.prove_consistency(leaves, since)]
        proof |= {"since": earlier, "consistency": consistency}
    return proof


def check_receipt(proof: dict[str, Any]) -> bool:
    """Whether a receipt proves what it says: compare its roots with the published ones."""
    try:
        size, root = proof["size"], bytes.fromhex(proof["root"])
        leaf = merkle.leaf_hash(proof["entry"].encode())
        inclusion = [bytes.fromhex(digest) for digest in proof["inclusion"]]
        if merkle.included_root(leaf, proof["number"], size, inclusion) != root:
            return False
        if "since" not in proof:
            return True
        consistency = [bytes.fromhex(digest) for digest in proof["consistency"]]
        earlier = bytes.fromhex(proof["since"]["root"])
        return merkle.is_consistent(proof["since"]["size"], earlier, size, root, consistency)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
