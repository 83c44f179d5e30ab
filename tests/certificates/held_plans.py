"""Plans whose rows are in memory, for tests of what is computed from them."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tokenbounds.scores.plan_file import Plan

NUMBERS = ("draws", "tokens", "documents", "blocks", "context", "stride", "seed", "shards", "blocks_per_document")


@dataclass(frozen=True)
class HeldPlan(Plan):
    """A plan that was never written."""

    held: pa.Table | None = None

    @property
    def table(self):
        return self.held

    def _read(self, columns, groups):
        yield from self.held.select(list(columns or self.held.column_names)).to_batches(max_chunksize=100)


def hold(table: pa.Table, mode: str | None = None) -> HeldPlan:
    """The plan of a table that `plan_scoring` gave, perhaps as one of another mode."""
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    numbers = {key: int(metadata[key]) for key in NUMBERS if key in metadata}
    held = {"manifest_sha256": "", "sha256": "", "held": table}
    return HeldPlan(Path("held"), table.num_rows, ((0, 0),), mode or metadata["mode"], **numbers, **held)
