"""The comparison of rows with the plan at every cut of the stream."""

import numpy as np
import pyarrow as pa
import pytest
from scoring_cases import make_corpus, make_plan
from tokenbounds.errors import ScoreError
from tokenbounds.scores import checks
from tokenbounds.scores.checks import PlannedRows, PlanPieces
from tokenbounds.scores.plan_file import expand_blocks


@pytest.fixture(params=[1, 3, 1 << 14])
def planned(request, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_BLOCKS_PER_SLICE", request.param)
    plan = make_plan(tmp_path, make_corpus(), stride=5, shards=2, sample_tokens=None)
    return plan.shard(1)


def feed(rows, table, batch_rows):
    check = PlannedRows(iter(rows.to_batches()), "here.parquet")
    for batch in pa.table(table).to_batches(max_chunksize=batch_rows):
        check.check(batch)


@pytest.mark.parametrize("batch_rows", [1, 2, 7, 1000])
def test_the_planned_rows_pass_at_every_cut(planned, batch_rows):
    feed(planned, expand_blocks(planned), batch_rows)


def test_a_stream_may_begin_anywhere(planned):
    rows = expand_blocks(planned)
    for first in range(len(rows["block"])):
        rest = {name: values[first:] for name, values in rows.items()}
        for shift in (-1, 0, 1):
            pieces = PlanPieces(iter(planned.to_batches(max_chunksize=2)))
            pieces.take(max(first + shift, 0))
            batches, skipped = pieces.take(len(rows["block"]))
            check = PlannedRows(iter(batches), "here.parquet", skipped)
            batch = pa.table(rest).to_batches()[0]
            if shift == 0 or first + shift < 0:
                check.check(batch)
            else:
                with pytest.raises(ScoreError, match=r"here.parquet"):
                    check.check(batch)


@pytest.mark.parametrize("tokens", [1, 3, 12, 13])
def test_pieces_have_the_blocks_of_their_tokens_and_no_more(planned, tokens):
    rows, pieces = expand_blocks(planned)["block"], PlanPieces(iter(planned.to_batches(max_chunksize=2)))
    for first in range(0, len(rows), tokens):
        batches, skipped = pieces.take(tokens)
        found = expand_blocks(pa.Table.from_batches(batches))["block"][skipped:]
        run = rows[first : first + tokens]
        assert found[: len(run)].tolist() == run.tolist() and set(found) == set(run)
    assert not any(batch.num_rows for batch in pieces.take(tokens)[0])


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_every_single_altered_key_is_found_and_named(planned, batch_rows):
    good = expand_blocks(planned)
    for name in good:
        for row in range(len(good["block"])):
            bad = {key: values.copy() for key, values in good.items()}
            bad[name][row] += 1
            with pytest.raises(ScoreError, match=rf"here.parquet: {name} {bad[name][row]} .* {good[name][row]}: a"):
                feed(planned, bad, batch_rows)


def test_a_row_beyond_the_plan_is_found(planned):
    longer = {name: np.append(values, values[-1] + 1) for name, values in expand_blocks(planned).items()}
    with pytest.raises(ScoreError, match="plan has nothing"):
        feed(planned, longer, 7)
