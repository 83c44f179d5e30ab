"""Score files: round trip, every refusal, bounded reading, and other programs' readers."""

import dataclasses

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring_cases import VOCABULARY, make_corpus, make_plan
from tokenbounds.errors import ScoreError, TokenboundsError
from tokenbounds.scores.entropies import entropy_levels, round_entropies
from tokenbounds.scores.plan_file import expand_blocks
from tokenbounds.scores.provenance import SCORE_SCHEMA, Provenance
from tokenbounds.scores.store import open_scores, score_writer

SHARDS = 3


@pytest.fixture(params=["exhaustive", "sampled"])
def plan(request, tmp_path):
    sample = None if request.param == "exhaustive" else 60
    return make_plan(tmp_path, make_corpus(), stride=5, shards=SHARDS, sample_tokens=sample)


def provenance(plan, shard):
    return Provenance("me", plan.manifest_sha256, plan.sha256, shard, "float32", VOCABULARY, {"torch": "0"})


def shard_table(plan, shard):
    where = expand_blocks(plan.shard(shard))
    size = len(where["block"])
    generator = np.random.default_rng(shard)
    values = {"token": generator.integers(0, VOCABULARY, size), "rank": generator.integers(1, VOCABULARY + 1, size)}
    values |= {**where, "nll_bits": np.log2(values["rank"]) + generator.random(size)}
    return pa.table([pa.array(values[field.name]).cast(field.type) for field in SCORE_SCHEMA], schema=SCORE_SCHEMA)


def write(path, table, origin):
    with score_writer(path, origin) as writer:
        for batch in table.to_batches(max_chunksize=7):
            writer.write(batch)
    return path


def write_all(folder, plan, edit=None, **changes):
    """All shards of a plan; `edit` alters shard 1's table, `changes` its provenance."""
    paths = []
    for shard in range(SHARDS):
        table = shard_table(plan, shard)
        table = edit(table) if edit and shard == 1 else table
        origin = dataclasses.replace(provenance(plan, shard), **(changes if shard == 1 else {}))
        paths.append(write(folder / f"shard-{shard}.parquet", table, origin))
    return paths


def rows_of(table, order):
    return table.take(pa.array(order))


def test_round_trip_in_any_order_and_batch_size(plan, tmp_path):
    paths = write_all(tmp_path, plan)
    scores = open_scores(paths[::-1], plan=plan, message_sha256="me", manifest_sha256="ma")
    expected = pa.concat_tables([shard_table(plan, shard) for shard in range(SHARDS)])
    assert scores.rows == sum(plan.table["length"].to_pylist()) == len(expected) and scores.check() == scores.rows
    assert scores.files == tuple(paths) and scores.provenance == provenance(plan, 0)
    for batch_rows in (1, 5, 1000):
        batches = list(scores.iter_batches(batch_rows=batch_rows))
        assert max(batch.num_rows for batch in batches) <= batch_rows
        assert pa.Table.from_batches(batches).combine_chunks().equals(expected.combine_chunks())
    narrow = pa.Table.from_batches(list(scores.iter_batches(["rank", "nll_bits"], batch_rows=4)))
    assert narrow.combine_chunks() == expected.select(["rank", "nll_bits"]).combine_chunks()
    assert open_scores(paths).check() == scores.rows


def regroup(paths):
    """The same files in row groups of seven rows."""
    for path in paths:
        pq.write_table(pq.read_table(path), path, row_group_size=7)


def test_pieces_are_the_scores_in_any_order(plan, tmp_path):
    paths = write_all(tmp_path, plan)
    regroup(paths)
    scores = open_scores(paths, plan=plan)
    pieces = list(scores.iter_pieces(["document", "position", "rank"], batch_rows=3))
    assert len(pieces) == sum(pq.ParquetFile(path).num_row_groups for path in paths) > SHARDS
    read = [pa.Table.from_batches(list(piece)) for piece in reversed(pieces)][::-1]
    expected = pa.Table.from_batches(list(scores.iter_batches(["document", "position", "rank"])))
    assert pa.concat_tables(read).combine_chunks() == expected.combine_chunks()
    (whole,) = open_scores(paths).iter_pieces(["rank"])
    assert sum(batch.num_rows for batch in whole) == scores.rows


EDITS = {
    "missing row": lambda table: rows_of(table, [*range(4), *range(5, len(table))]),
    "missing last row": lambda table: table.slice(0, len(table) - 1),
    "doubled row": lambda table: rows_of(table, [*range(5), *range(4, len(table))]),
    "doubled for another": lambda table: rows_of(table, [*range(5), 4, *range(6, len(table))]),
    "swapped rows": lambda table: rows_of(table, [1, 0, *range(2, len(table))]),
}


def with_value(name, value):
    def edit(table):
        values = table[name].to_pylist()
        values[3] = value
        index = table.schema.get_field_index(name)
        return table.set_column(index, SCORE_SCHEMA.field(name), pa.array(values, SCORE_SCHEMA.field(name).type))

    return edit


@pytest.mark.parametrize("name", EDITS)
def test_lost_doubled_and_moved_tokens_are_refused(name, plan, tmp_path):
    paths = write_all(tmp_path, plan, EDITS[name])
    with pytest.raises(ScoreError, match=r"shard-1\.parquet"):
        open_scores(paths, plan=plan).check()
    if name in ("doubled for another", "swapped rows"):
        regroup(paths)
        with pytest.raises(ScoreError, match=r"shard-1\.parquet.*repeated"):
            for piece in open_scores(paths, plan=plan).iter_pieces(["rank"]):
                list(piece)
    if "missing" not in name:
        with pytest.raises(ScoreError, match=r"shard-1\.parquet.*(repeated|twice)"):
            open_scores(paths).check()


@pytest.mark.parametrize(
    "column,value",
    [
        ("rank", 0),
        ("rank", VOCABULARY + 1),
        ("token", -1),
        ("token", VOCABULARY),
        ("nll_bits", -0.5),
        ("nll_bits", float("nan")),
        ("nll_bits", float("inf")),
        ("nll_bits", None),
        ("position", None),
        ("block", 99999),
        ("document", 0),
    ],
)
def test_impossible_values_are_refused(column, value, plan, tmp_path):
    paths = write_all(tmp_path, plan, with_value(column, value))
    with pytest.raises(ScoreError, match=r"shard-1\.parquet"):
        open_scores(paths, plan=plan).check()


def with_entropies(path, plan, values):
    """Shard 0 of a plan with a column of entropies, cycled from some values."""
    table, origin = shard_table(plan, 0), dataclasses.replace(provenance(plan, 0), entropies=True)
    column = pa.array(np.resize(np.array(values, np.float32), len(table)))
    return write(path, table.append_column(origin.schema.field("entropy_bits"), column), origin)


def test_entropies_are_multiples_of_an_eighth(plan, tmp_path):
    """Of as many bits as a prediction may have; files without them, of earlier versions, are read as before."""
    most = entropy_levels(VOCABULARY) / 8 - 1 / 8
    assert np.log2(VOCABULARY) <= most < np.log2(VOCABULARY) + 1 / 8
    assert round_entropies([-1e-7, 0.06, 0.07, 3.3]).tolist() == [0.0, 0.0, 0.125, 3.25]
    found = open_scores([with_entropies(tmp_path / "a.parquet", plan, [0.0, 0.125, most])])
    assert found.provenance.entropies and found.check() == found.rows
    assert not open_scores(
        [write(tmp_path / "b.parquet", shard_table(plan, 0), provenance(plan, 0))]
    ).provenance.entropies
    for wrong in (0.3, -0.125, most + 0.125, np.nan):
        with pytest.raises(ScoreError, match=r"c\.parquet.*entropy_bits"):
            open_scores([with_entropies(tmp_path / "c.parquet", plan, [0.125, wrong])]).check()


@pytest.mark.parametrize(
    "changes,named",
    [
        ({"message_sha256": "other"}, "message_sha256"),
        ({"manifest_sha256": "other"}, "manifest_sha256"),
        ({"plan_sha256": "other"}, "plan_sha256"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"vocabulary_size": 99}, "vocabulary_size"),
        ({"software": {"torch": "1"}}, "software"),
        ({"shard": 0}, "both shard 0"),
    ],
)
def test_mixed_provenance_is_refused(changes, named, plan, tmp_path):
    paths = write_all(tmp_path, plan, **changes)
    with pytest.raises(ScoreError, match=named):
        open_scores(paths)


def test_other_message_corpus_or_plan_is_refused(plan, tmp_path):
    paths = write_all(tmp_path, plan)
    with pytest.raises(ScoreError, match="message me"):
        open_scores(paths, message_sha256="you")
    with pytest.raises(ScoreError, match="manifest ma"):
        open_scores(paths, manifest_sha256="pa")
    with pytest.raises(ScoreError, match="plan"):
        open_scores(paths, plan=dataclasses.replace(plan, sha256="other"))
    with pytest.raises(ScoreError, match="manifest"):
        open_scores(paths, plan=dataclasses.replace(plan, manifest_sha256="other"))
    with pytest.raises(ScoreError, match=r"shards \[1\] of 3"):
        open_scores([paths[0], paths[2]], plan=plan)
    with pytest.raises(ScoreError, match="no score files"):
        open_scores([])


def test_unknown_versions_and_damage_are_refused(plan, tmp_path):
    path = tmp_path / "scores.parquet"
    table = shard_table(plan, 0)
    metadata = provenance(plan, 0).to_metadata()
    pq.write_table(table.replace_schema_metadata({**metadata, "schema_version": "99"}), path)
    with pytest.raises(ScoreError, match="version 99"):
        open_scores([path])
    pq.write_table(table.replace_schema_metadata({**metadata, "software": "["}), path)
    with pytest.raises(ScoreError, match="provenance"):
        open_scores([path])
    pq.write_table(table.drop_columns("rank").replace_schema_metadata(metadata), path)
    with pytest.raises(ScoreError, match="columns"):
        open_scores([path])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ScoreError, match=r"scores\.parquet"):
        open_scores([path])
    with pytest.raises(ScoreError, match=r"absent\.parquet"):
        open_scores([tmp_path / "absent.parquet"])


def test_a_failing_block_leaves_no_file(plan, tmp_path):
    path = tmp_path / "out" / "scores.parquet"
    with pytest.raises(KeyError), score_writer(path, provenance(plan, 0)) as writer:
        writer.write(shard_table(plan, 0).to_batches()[0])
        raise KeyError
    assert list(path.parent.iterdir()) == []


def test_a_failing_write_is_one_error_and_leaves_no_file(plan, tmp_path):
    path = tmp_path / "out" / "scores.parquet"
    batch = shard_table(plan, 0).to_batches()[0]

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    expected = pytest.raises(TokenboundsError, match=r"scores\.parquet.*No space")
    with expected, score_writer(path, provenance(plan, 0)) as writer:
        writer._writer.write_table = full
        for _ in range(20):
            writer.write(batch)
    assert list(path.parent.iterdir()) == []


def test_polars_and_duckdb_read_the_files(plan, tmp_path):
    paths = write_all(tmp_path, plan)
    expected = pa.concat_tables([shard_table(plan, shard) for shard in range(SHARDS)])["nll_bits"].to_numpy()
    frame = pl.read_parquet(paths)
    assert frame.columns == SCORE_SCHEMA.names and frame.height == len(expected)
    assert frame["nll_bits"].cast(pl.Float64).mean() == pytest.approx(expected.mean(dtype=float))
    query = f"select avg(nll_bits::double), count(*) from '{tmp_path}/shard-*.parquet'"
    assert duckdb.sql(query).fetchall() == [(pytest.approx(expected.mean(dtype=float)), len(expected))]
