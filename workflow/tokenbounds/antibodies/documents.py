"""From a source of antibody sequences to the documents that models read, each token with its labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.labelling import label_antibody
from tokenbounds.antibodies.labels import Chain, Germline, Region, TokenLabels
from tokenbounds.antibodies.pairing import join_cells
from tokenbounds.antibodies.readers import read_source
from tokenbounds.antibodies.records import Antibody, ChainRecord
from tokenbounds.antibodies.residues import UNKNOWN_RESIDUE
from tokenbounds.antibodies.selection import CloneWatch, clone_key, one_part, short_hash, without_duplicates
from tokenbounds.antibodies.spool import Spool
from tokenbounds.antibodies.vocabulary import GAP
from tokenbounds.config import AirrSource, AntibodySource, FamilyLayout

_CHAIN_TOKENS = {Chain.HEAVY: "[AbHC]", Chain.LIGHT: "[AbLC]"}
_SEPARATOR = "[ClSep]"


@dataclass(frozen=True)
class AntibodyDocument:
    """One document.

    Attributes
    ----------
    name
        The sequence's name, or its clone's.
    text
        As `vocabulary.encode_text` reads it. `[CLS]` is not in it: it precedes every document anyway.
    labels
        One for each of its tokens.
    """

    name: str
    text: str
    labels: TokenLabels


def read_antibodies(source: AntibodySource, files: Sequence[Path], counts: ReadingCounts) -> Iterator[Antibody]:
    """Stream the antibodies of a source, selected, cleaned and labelled.

    Parameters
    ----------
    source
        What is read, and how.
    files
        The source's files, in order.
    counts
        Receives everything that is left out or changed; what is kept is counted by `antibody_documents`.

    Raises
    ------
    CorpusError
        If a file cannot be read, or a sequence cannot be labelled because a package is missing.
    """
    antibodies = read_source(source, files, counts)
    paired = isinstance(source, AirrSource) and source.chains == "paired"
    if paired:
        # Evidence is not kept on disk, so the chains of cells are labelled before they are joined.
        antibodies = join_cells(_labelled(antibodies, source, counts), counts)
    if not source.keep.duplicates:
        antibodies = without_duplicates(antibodies, counts)
    if source.split is not None:
        antibodies = one_part(antibodies, source.split, counts)
    if not paired:
        antibodies = _labelled(antibodies, source, counts)
    if source.clone is not None:
        antibodies = CloneWatch(counts).watch(antibodies)
    yield from antibodies


def _labelled(antibodies: Iterable[Antibody], source: AntibodySource, counts: ReadingCounts) -> Iterator[Antibody]:
    """Label antibodies; one whose numbering contradicts its stated chain is left out."""
    for antibody in antibodies:
        labelled = label_antibody(antibody, source.regions, counts)
        if labelled is not None:
            yield labelled


def antibody_documents(
    source: AntibodySource, files: Sequence[Path], counts: ReadingCounts
) -> Iterator[AntibodyDocument]:
    """Stream a source's documents: sequences in their order, or families in the order of hashes of their names.

    Parameters and errors are those of `read_antibodies`.
    """
    antibodies = read_antibodies(source, files, counts)
    if isinstance(source.layout, FamilyLayout):
        yield from _families(antibodies, source.layout, counts)
    else:
        for antibody in antibodies:
            yield _counted(antibody.name, [antibody], counts)


def _counted(name: str, members: Sequence[Antibody], counts: ReadingCounts) -> AntibodyDocument:
    """The document of members, with its sequences and residues counted."""
    for antibody in members:
        counts.add("sequences", "kept", len(antibody.chains))
        for chain in antibody.chains:
            counts.add("regions_from", chain.regions_from)
            letters = np.frombuffer(chain.residues.encode(), np.uint8) != ord(GAP)
            for region, amount in enumerate(np.bincount(chain.labels.region[letters]).tolist()):
                counts.add("residues", Region(region).label, amount)
            for status, amount in enumerate(np.bincount(chain.labels.germline[letters]).tolist()):
                counts.add("germline", Germline(status).label, amount)
    return make_document(name, members)


def make_document(name: str, members: Sequence[Antibody]) -> AntibodyDocument:
    """Lay out members one after the other, each followed by `[ClSep]`; a pair's chains begin with chain tokens."""
    texts: list[str] = []
    columns: list[TokenLabels] = []
    for number, antibody in enumerate(members):
        marked = len(antibody.chains) > 1
        for chain in antibody.chains:
            texts.append((_CHAIN_TOKENS[chain.chain] if marked else "") + chain.residues)
            columns.append(_chain_labels(chain, number, 1 if marked else 0))
        texts.append(_SEPARATOR)
        # The separator belongs to its member, and to no chain, region or position.
        none = np.zeros(1, np.int8)
        columns.append(TokenLabels(np.full(1, number, np.int32), none, none, none, np.zeros(1, np.int16)))
    text = "".join(texts).replace(UNKNOWN_RESIDUE, "[UNK]")
    return AntibodyDocument(name, text, _concatenate(columns))


def document_tokens(antibody: Antibody) -> int:
    """Number of tokens of an antibody in a document, its separator included."""
    chains = antibody.chains
    return sum(len(chain.residues) for chain in chains) + (len(chains) if len(chains) > 1 else 0) + 1


def _families(
    antibodies: Iterable[Antibody], layout: FamilyLayout, counts: ReadingCounts
) -> Iterator[AntibodyDocument]:
    with Spool() as spool:
        for antibody in antibodies:
            spool.add(clone_key(antibody).encode("utf-8", errors="surrogatepass"), antibody)
        for key, members in spool.groups():
            yield from _family_documents(key, members, layout, counts)


def _family_documents(
    key: bytes, members: list[Antibody], layout: FamilyLayout, counts: ReadingCounts
) -> Iterator[AntibodyDocument]:
    """Fill documents with a clone's members in random order; each document is as long as it may be."""
    shuffled = sorted(
        enumerate(members), key=lambda item: short_hash(str(layout.seed), str(item[0]), key.decode("utf-8", "replace"))
    )
    fitting: list[list[Antibody]] = [[]]
    room = layout.max_tokens - 1
    for _, antibody in shuffled:
        size = document_tokens(antibody)
        if size > layout.max_tokens - 1:
            counts.add("dropped", "longer_than_document", len(antibody.chains))
            continue
        if size > room:
            fitting.append([])
            room = layout.max_tokens - 1
        fitting[-1].append(antibody)
        room -= size
    used = fitting[: layout.documents_per_clone]
    for left_out in fitting[len(used) :]:
        counts.add("dropped", "beyond_documents_per_clone", sum(len(antibody.chains) for antibody in left_out))
    for number, document in enumerate(used):
        if document:
            first = document[0]
            clone = f"{first.donor}:{first.clone}" if first.donor else first.clone
            name = f"clone {clone}" if first.clone else first.name
            yield _counted(name if len(used) == 1 else f"{name} part {number + 1}", document, counts)


def _chain_labels(chain: ChainRecord, member: int, before: int) -> TokenLabels:
    """Labels of a chain's tokens, of which the first `before` precede the residues."""
    labels, n = chain.labels, len(chain.residues) + before
    return TokenLabels(
        member=np.full(n, member, np.int32),
        chain=np.full(n, chain.chain, np.int8),
        region=np.concatenate([np.zeros(before, np.int8), labels.region]),
        germline=np.concatenate([np.zeros(before, np.int8), labels.germline]),
        imgt=np.concatenate([np.zeros(before, np.int16), labels.imgt]),
    )


def _concatenate(parts: Sequence[TokenLabels]) -> TokenLabels:
    return TokenLabels(
        member=np.concatenate([part.member for part in parts]),
        chain=np.concatenate([part.chain for part in parts]),
        region=np.concatenate([part.region for part in parts]),
        germline=np.concatenate([part.germline for part in parts]),
        imgt=np.concatenate([part.imgt for part in parts]),
    )
