"""Heavy and light chains of the same cell, joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.records import Antibody
from tokenbounds.antibodies.spool import Spool


def join_cells(chains: Iterable[Antibody], counts: ReadingCounts) -> Iterator[Antibody]:
    """Join single chains by their cell, which is their name, by their donor and by their file; in order of cells.

    Barcodes of cells repeat from sample to sample, so equal ones in two files are two cells; where a cell's chains
    are in several files, a warning says so. A cell with one heavy and one light chain gives an antibody. Chains of
    other cells are left out and counted: without a partner, or in a cell with more than two chains, whose partners
    are not known. Clone and donor are the heavy chain's, or the light one's where it has none.
    """
    repeated = 0
    with Spool() as spool:
        for antibody in chains:
            spool.add(f"{antibody.donor}\0{antibody.name}".encode("utf-8", "surrogatepass"), antibody)
        for _, group in spool.groups():
            cells: dict[str, list[Antibody]] = {}
            for antibody in group:
                cells.setdefault(antibody.where.rpartition(":")[0], []).append(antibody)
            repeated += len(cells) > 1
            for cell in cells.values():
                yield from _join_cell(cell, counts)
    if repeated:
        counts.add("noted", "cells_named_in_several_files", repeated)
        counts.warn(
            f"The names of {repeated} cells are in several files; chains were not joined across files. If they are "
            "the same cells, put both chains into one file."
        )


def _join_cell(cell: list[Antibody], counts: ReadingCounts) -> Iterator[Antibody]:
    kinds = sorted(antibody.chains[0].chain for antibody in cell)
    if kinds == [Chain.HEAVY, Chain.LIGHT]:
        heavy, light = sorted(cell, key=lambda antibody: antibody.chains[0].chain)
        clone, donor = heavy.clone or light.clone, heavy.donor or light.donor
        yield replace(heavy, chains=heavy.chains + light.chains, clone=clone, donor=donor)
    else:
        counts.add("dropped", "unpaired" if len(cell) == 1 else "several_chains_in_cell", len(cell))
