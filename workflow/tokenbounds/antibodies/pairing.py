"""Heavy and light chains of the same cell, joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.records import Antibody
from tokenbounds.antibodies.spool import Spool


def join_cells(chains: Iterable[Antibody], counts: ReadingCounts) -> Iterator[Antibody]:
    """Join single chains by their cell, which is their name, and by their donor; in order of cells.

    A cell with one heavy and one light chain gives an antibody. Chains of other cells are left out and counted:
    without a partner, or of a cell with more than two chains, whose partners are not known. The pair takes clone and
    donor from its heavy chain, or from the light one where the heavy one has none.
    """
    with Spool() as spool:
        for antibody in chains:
            spool.add(f"{antibody.donor}\0{antibody.name}".encode("utf-8", "surrogatepass"), antibody)
        for _, cell in spool.groups():
            kinds = sorted(antibody.chains[0].chain for antibody in cell)
            if kinds == [Chain.HEAVY, Chain.LIGHT]:
                heavy, light = sorted(cell, key=lambda antibody: antibody.chains[0].chain)
                clone, donor = heavy.clone or light.clone, heavy.donor or light.donor
                yield replace(heavy, chains=heavy.chains + light.chains, clone=clone, donor=donor)
            else:
                counts.add("dropped", "unpaired" if len(cell) == 1 else "several_chains_in_cell", len(cell))
