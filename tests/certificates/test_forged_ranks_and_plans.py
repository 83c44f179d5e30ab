"""Forgeries that stay inside every single tolerance, or only touch what a table comparison does not see."""

from pathlib import Path

import numpy as np
import pytest
from tokenbounds.certificates.rescoring import TOLERANCES, compare_errors
from tokenbounds.certificates.verify import check_plan
from tokenbounds.errors import CertificateError
from tokenbounds.scores.plan import plan_scoring, read_plan, write_plan

FILES = (Path("scores/shard-00000.parquet"),)


@pytest.mark.parametrize("arithmetic", sorted(TOLERANCES))
def test_small_shifts_of_every_rank_do_not_hide_errors(arithmetic):
    tolerance = TOLERANCES[arithmetic]
    true = np.arange(5900, dtype=np.int32) % 59 + 1
    shift = tolerance.rank_slack + (tolerance.rank_share * true).astype(np.int32)
    with pytest.raises(CertificateError, match="more have a rank above 1"):
        compare_errors(true, np.maximum(1, true - shift), (1, 10), tolerance, FILES)
    compare_errors(true, true, (1, 10), tolerance, FILES)
    compare_errors(true, true + shift, (1, 10), tolerance, FILES)  # worse ranks only harm those who state them


def test_one_tie_that_breaks_otherwise_is_rounding():
    true = np.array([2, 1, 1, 7])
    compare_errors(true, np.array([1, 1, 1, 7]), (1,), TOLERANCES["float32"], FILES)


@pytest.mark.parametrize("key", ["draws", "blocks"])
def test_a_plan_may_not_claim_more_draws_than_it_holds(tmp_path, key):
    lengths = np.array([300, 0, 40, 900])
    table = plan_scoring(lengths, context=16, stride=16, sample_tokens=400, seed=3, shards=2)
    path = tmp_path / "plan.parquet"
    write_plan(table, path, manifest_sha256="0" * 64)
    check_plan(read_plan(path), path, lengths)
    metadata = dict(table.schema.metadata)
    for name in {b"draws", b"blocks"} if key == "draws" else {b"blocks"}:
        metadata[name] = str(10 * int(metadata[name])).encode()
    write_plan(table.replace_schema_metadata(metadata), path, manifest_sha256="0" * 64)
    with pytest.raises(CertificateError, match="is not the plan"):
        check_plan(read_plan(path), path, lengths)
