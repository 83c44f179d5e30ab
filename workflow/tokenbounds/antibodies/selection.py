"""Which antibodies of a source belong to a corpus: no duplicates, one part of a split; and checks of clones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.records import Antibody
from tokenbounds.config import SplitSpec

_HASH_BYTES = 8
_EXAMPLES = 5


def short_hash(*parts: str) -> int:
    """64 bits of a hash of texts, the same on every machine."""
    text = "\0".join(parts).encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=_HASH_BYTES).digest(), "big")


def clone_key(antibody: Antibody) -> str:
    """What distinguishes a clone from all others: donor and clone; a sequence without a clone is one of its own."""
    return "\0".join(("clone", antibody.donor, antibody.clone) if antibody.clone else ("alone", letters(antibody)))


def letters(antibody: Antibody) -> str:
    """The antibody's residues, heavy before light."""
    return "|".join(chain.residues for chain in antibody.chains)


def without_duplicates(antibodies: Iterable[Antibody], counts: ReadingCounts) -> Iterator[Antibody]:
    """Pass on the first antibody of each sequence. Memory: a 64-bit hash, 65 to 90 bytes in all, per sequence."""
    seen: set[int] = set()
    for antibody in antibodies:
        key = short_hash(letters(antibody))
        if key in seen:
            counts.add("dropped", "duplicate", len(antibody.chains))
        else:
            seen.add(key)
            yield antibody


def one_part(antibodies: Iterable[Antibody], split: SplitSpec, counts: ReadingCounts) -> Iterator[Antibody]:
    """Pass on one part of a split.

    A clone (or donor) is in the test part if a hash of the seed and its name, as a fraction of all hashes, is below
    `test_fraction`. So the parts are disjoint by construction, whatever else the two corpora read.
    """
    for antibody in antibodies:
        if split.by == "donor" and not antibody.donor:
            counts.add("dropped", "donor_unstated", len(antibody.chains))
            continue
        key = antibody.donor if split.by == "donor" else clone_key(antibody)
        in_test = short_hash(split.by, str(split.seed), key) < split.test_fraction * 2 ** (8 * _HASH_BYTES)
        if in_test == (split.part == "test"):
            yield antibody
        else:
            counts.add("dropped", "in_other_part", len(antibody.chains))


class CloneWatch:
    """Looks for clones whose members cannot descend from one cell: no V gene or junction length in common.

    Memory: about 500 bytes per clone and chain.
    """

    def __init__(self, counts: ReadingCounts) -> None:
        self._counts = counts
        self._v_genes: dict[int, frozenset[str]] = {}
        self._junctions: dict[int, int] = {}
        self._seen: set[int] = set()
        self._mixed: dict[str, dict[int, str]] = {"mixed_v_genes": {}, "mixed_junction_lengths": {}}

    def watch(self, antibodies: Iterable[Antibody]) -> Iterator[Antibody]:
        """Pass on all antibodies; after the last one, count and warn."""
        for antibody in antibodies:
            if antibody.clone:
                self._look_at(antibody)
            else:
                self._counts.add("noted", "clone_unstated", len(antibody.chains))
            yield antibody
        self._report()

    def _look_at(self, antibody: Antibody) -> None:
        self._seen.add(short_hash(clone_key(antibody)))
        name = f"{antibody.clone} ({antibody.where})"
        for chain in antibody.chains:
            key = short_hash(clone_key(antibody), Chain(chain.chain).label)
            if chain.v_genes:
                common = self._v_genes.setdefault(key, chain.v_genes) & chain.v_genes
                self._v_genes[key] = common
                if not common:
                    self._mixed["mixed_v_genes"].setdefault(key, name)
            if chain.junction_length is not None:
                length = self._junctions.setdefault(key, chain.junction_length)
                if length != chain.junction_length:
                    self._mixed["mixed_junction_lengths"].setdefault(key, name)

    def _report(self) -> None:
        self._counts.add("clones", "clones", len(self._seen))
        if not self._seen:
            self._counts.warn("No sequence states its clone, though the source says where to find it.")
        for kind, found in self._mixed.items():
            if found:
                self._counts.add("clones", kind, len(found))
                examples = ", ".join(list(found.values())[:_EXAMPLES])
                what = kind.removeprefix("mixed_").replace("_", " ").replace("v genes", "V genes")
                self._counts.warn(f"{len(found)} clones have members with different {what}, first seen in: {examples}.")
