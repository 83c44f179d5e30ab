"""Files that claim more than a corpus of their size can hold are refused before their claims size anything."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenbounds.certificates import verify
from tokenbounds.certificates.plan_check import check_plan
from tokenbounds.certificates.rescoring import choose_blocks
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config import BoundsSpec, check_row
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError, ConfigError, CorpusError, ScoreError
from tokenbounds.files import sha256_file
from tokenbounds.messages.container import render_message
from tokenbounds.scores import plan as plan_module
from tokenbounds.scores import plan_file
from tokenbounds.scores.plan import plan_scoring
from tokenbounds.scores.plan_file import PLAN_SCHEMA, read_plan, write_plan

sys.path.insert(0, str(Path(__file__).parents[1] / "certificates"))

from certified_study import TinyStudy
from json_certificates import certify_bound, write_certificate

pytestmark = pytest.mark.adversary
SPEC = BoundsSpec(top_k=(1,), alphas=(0.1, 0.3), lambdas=8)


@pytest.fixture(autouse=True)
def message_without_a_model(monkeypatch):
    """The synthetic message of these tests holds random bytes; nothing is decoded here."""

    def refuse(*_):
        raise AssertionError("an attack got as far as decoding")

    monkeypatch.setattr(verify, "_decode", refuse)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return TinyStudy(tmp_path_factory.mktemp("adversary") / "results").build()


@pytest.fixture
def copy(study, tmp_path):
    shutil.copytree(study.root, tmp_path / "results", ignore=shutil.ignore_patterns("certificates", "texts"))
    spoiled = replace(study, root=tmp_path / "results")
    certify_bound("c", "tiny", spoiled.inputs, SPEC, certificate_of(spoiled), model="m")
    return spoiled


def certificate_of(study):
    return study.root / "certificates/c.json"


def forge(study, change):
    path = certificate_of(study)
    content = json.loads(path.read_text())
    change(content)
    write_certificate(path, content)
    return path


@pytest.mark.parametrize("number", ["1e400000000", "1/1e9999999", "0.05", "９/10", "1" * 1001, " 1/20", "1/0", "-1/20"])
def test_a_fraction_is_a_few_digits_over_a_few_digits(copy, number):
    path = forge(copy, lambda c: c["ledger"]["rows"][0]["entries"][0].update(amount=number))
    with pytest.raises(CertificateError):
        verify_certificate(path)


GRIDS = [{"lambdas": 10**7}, {"alphas": [(i + 1) / 10**6 for i in range(2 * 10**5)]}, {"alphas": [5e-324]}]
GRIDS += [{"top_k": list(range(1, 10**4))}, {"link_betas": [0.5] * 1000}, {"delta": 5e-324}]


@pytest.mark.parametrize("changes", GRIDS, ids=lambda changes: next(iter(changes)))
def test_grids_have_ends(copy, changes):
    path = forge(copy, lambda c: c["bounds"].update(changes))
    with pytest.raises(CertificateError, match="bounds"):
        verify_certificate(path)
    with pytest.raises(ConfigError):
        check_row(BoundsSpec, changes, "bounds")


PLACES = ["/etc/passwd", "/proc/self/environ", "../../../etc/passwd", "../" * 30 + "etc/passwd", "a\0b", "x" * 5000]


@pytest.mark.parametrize("place", [*PLACES, "y" * 300])
def test_nothing_outside_the_results_is_opened(copy, place, monkeypatch):
    opened = []
    monkeypatch.setattr(verify, "sha256_file", lambda path: opened.append(path) or sha256_file(path))
    path = forge(copy, lambda c: c["message"].update(file=place))
    with pytest.raises(CertificateError):
        verify_certificate(path)
    assert all(each.is_relative_to(copy.root) for each in opened)


def test_links_do_not_lead_outside(copy, tmp_path):
    shard = copy.inputs.certified.scores[0]
    shutil.move(shard, tmp_path / "elsewhere.parquet")
    shard.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(CertificateError, match="outside"):
        verify_certificate(certificate_of(copy))
    with pytest.raises(CertificateError, match="recomputed"):  # which is later
        verify_certificate(certificate_of(copy), root=tmp_path)


def test_an_honest_study_reaches_decoding(copy):
    with pytest.raises(AssertionError, match="as far as decoding"):
        verify_certificate(certificate_of(copy))


def test_a_pipe_is_no_file(copy):
    copy.inputs.certified.message.unlink()
    os.mkfifo(copy.inputs.certified.message)
    with pytest.raises(CertificateError, match="does not exist"):
        verify_certificate(certificate_of(copy))


PLAN = {"context": 16, "stride": 16, "sample_tokens": 400, "seed": 3, "shards": 2}
LENGTHS = [300, 0, 40, 900]


@pytest.mark.parametrize("name", ["shards", "draws", "blocks", "tokens", "documents", "context", "stride", "seed"])
@pytest.mark.parametrize("number", ["0", "-1", str(10**15), "9" * 5000, "x\xff", "1e9"])
def test_numbers_of_plans_are_possible(tmp_path, name, number):
    if (name, number) in {("seed", "0"), ("seed", str(10**15))}:
        pytest.skip("a seed may be that")
    table = plan_scoring(LENGTHS, **PLAN)
    metadata = {**table.schema.metadata, name.encode(): number.encode("latin1")}
    path = tmp_path / "plan.parquet"
    write_plan(table.replace_schema_metadata(metadata), path, manifest_sha256="0" * 64)
    with pytest.raises(ScoreError):
        read_plan(path, 1240)


@pytest.mark.parametrize("column", ["block", "document", "start", "length", "context", "shard"])
@pytest.mark.parametrize("value", [-1, 2**31 - 1])
def test_cells_of_plans_are_inside_the_corpus(tmp_path, column, value):
    table = plan_scoring(LENGTHS, **PLAN)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    columns[column][1] = value
    path = tmp_path / "plan.parquet"
    spoiled = pa.table(columns, schema=PLAN_SCHEMA).replace_schema_metadata(table.schema.metadata)
    write_plan(spoiled, path, manifest_sha256="0" * 64)
    with pytest.raises(ScoreError, match=column):
        read_plan(path, 1240)


def test_a_plan_with_more_rows_than_blocks_is_not_read(tmp_path, monkeypatch):
    table = plan_scoring(LENGTHS, **PLAN)
    path = tmp_path / "plan.parquet"
    many = pa.concat_tables([table] * 1000).replace_schema_metadata(table.schema.metadata)
    write_plan(many, path, manifest_sha256="0" * 64)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ScoreError, match="rows for"):
        read_plan(path, 1240)


def test_reading_ends_at_the_first_rows_that_no_corpus_has(tmp_path, monkeypatch):
    table = plan_scoring([1] * 1000, **{**PLAN, "sample_tokens": None})
    lengths = pa.array([16] * 1000, pa.int32())
    spoiled = table.set_column(3, PLAN_SCHEMA.field("length"), lengths)
    write_plan(spoiled.replace_schema_metadata(table.schema.metadata), tmp_path / "p.parquet", manifest_sha256="0" * 64)
    monkeypatch.setattr(plan_file, "_BLOCKS_PER_BATCH", 50)
    seen = []
    check = plan_file._check_rows
    monkeypatch.setattr(plan_file, "_check_rows", lambda *given: seen.append(given) or check(*given))
    with pytest.raises(ScoreError, match="more tokens than the 1000"):
        read_plan(tmp_path / "p.parquet", 1000)
    assert len(seen) == 2  # 800, then 1,600 tokens


def test_a_plan_is_read_and_compared_in_batches(tmp_path, monkeypatch):
    """Memory does not grow with a plan of 200,000 blocks, which takes 8 MB whole."""
    path, lengths = tmp_path / "plan.parquet", np.ones(200_000, np.int64)
    write_plan(plan_scoring(lengths, **{**PLAN, "sample_tokens": None}), path, manifest_sha256="0" * 64)
    for module, name in ((plan_file, "_BLOCKS_PER_BATCH"), (plan_module, "_BLOCKS_PER_CHUNK")):
        monkeypatch.setattr(module, name, 1 << 12)

    def most_bytes(use):
        before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(pool)
        try:
            use(read_plan(path, len(lengths)))
        finally:
            pa.set_memory_pool(before)
        return pool.max_memory()

    assert most_bytes(lambda plan: check_plan(plan, path, lengths)) < 4 << 20
    assert most_bytes(lambda plan: choose_blocks(plan, 20, 1)) < 4 << 20
    assert most_bytes(lambda plan: plan.table) > 8 << 20


def test_shards_of_a_plan_do_not_decrease(tmp_path):
    table, path = plan_scoring(LENGTHS, **PLAN), tmp_path / "plan.parquet"
    shards = pa.array(table["shard"].to_numpy()[::-1])
    turned = table.set_column(6, PLAN_SCHEMA.field("shard"), shards).replace_schema_metadata(table.schema.metadata)
    write_plan(turned, path, manifest_sha256="0" * 64)
    with pytest.raises(ScoreError, match="column shard decreases"):
        read_plan(path, 1240)


def test_a_plan_of_one_block_that_draws_much_is_not_made_again(copy):
    plan = read_plan(copy.inputs.plan)
    metadata = {b"mode": b"sampled", b"draws": b"1000000", b"blocks": str(plan.table.num_rows).encode()}
    table = plan.table.replace_schema_metadata({**plan.table.schema.metadata, **metadata})
    write_plan(table, copy.inputs.plan, manifest_sha256=plan.manifest_sha256)
    path = forge(copy, lambda c: c["plan"].update(sha256=sha256_file(copy.inputs.plan), mode="sampled", draws=10**6))
    with pytest.raises(CertificateError):
        verify_certificate(path)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_shards_are_refused_before_they_are_unpacked(copy, codec, monkeypatch):
    path = copy.inputs.corpus / "shard-00000.arrow"
    with pa.ipc.open_stream(path) as reader:
        schema, table = reader.schema, reader.read_all()
    with pa.ipc.new_stream(path, schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    with pytest.raises(CorpusError, match="compressed"):
        Corpus.open(copy.inputs.corpus)


HEADERS = [{}, {"model": 3}, {"model": {}}, {"model": {"family": []}, "quantizer": 1}]
HEADERS += [{"model": {"parameterization": []}, "quantizer": {}}]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_header_that_describes_no_model_is_refused(copy, header):
    copy.inputs.certified.message.write_bytes(render_message(header, []))
    sha256 = sha256_file(copy.inputs.certified.message)
    path = forge(copy, lambda c: c["message"].update(sha256=sha256))
    with pytest.raises(CertificateError, match="describes no model"):
        verify_certificate(path)
