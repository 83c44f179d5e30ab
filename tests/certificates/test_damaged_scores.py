"""Between jobs, scores and plans are protected by their own digests: no damage reaches a certificate."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from forged_messages import write_message
from tokenbounds.certificates.certify import certify_bound
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import sha256_file
from tokenbounds.messages.container import Part
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.provenance import Provenance
from tokenbounds.scores.store import open_scores, score_writer
from tokenbounds.seals import SEAL_KEY

SPEC = BoundsSpec(bounds=("azuma",))


@pytest.fixture
def copied(study, tmp_path):
    shutil.copytree(study.root, tmp_path / "study")
    return replace(study, root=tmp_path / "study").inputs


def damage(path, original, place, size):
    data = bytearray(original)
    data[place : place + size] = bytes(size) if size > 1 else bytes([data[place] ^ 1])
    path.write_bytes(bytes(data))
    return bytes(data) != original


@pytest.mark.parametrize("size", [1, 64])
def test_damaged_scores_never_become_a_certificate(copied, tmp_path, size):
    path = copied.certified.scores[1]
    original = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(original) - size, 25).tolist():
        if damage(path, original, place, size):
            with pytest.raises(TokenboundsError):
                certify_bound("c", "s", copied, SPEC, tmp_path / "c.json", model="m")
            assert not (tmp_path / "c.json").exists()
    path.write_bytes(original)
    certify_bound("c", "s", copied, SPEC, tmp_path / "c.json", model="m")


def test_a_page_is_refused_while_it_streams(copied):
    path, plan = copied.certified.scores[0], read_plan(copied.plan)
    original = path.read_bytes()
    losses = pq.ParquetFile(path).metadata.row_group(0).column(4)
    assert losses.path_in_schema == "nll_bits"
    damage(path, original, losses.data_page_offset + losses.total_compressed_size - 40, 1)
    with pytest.raises(TokenboundsError, match=r"shard-00000\.parquet is damaged"):
        open_scores(copied.certified.scores, plan=plan).check()


@pytest.mark.parametrize("size", [1, 16])
def test_a_damaged_plan_is_named(copied, size):
    original = copied.plan.read_bytes()
    for place in range(0, len(original) - size, 97):
        if damage(copied.plan, original, place, size):
            with pytest.raises(TokenboundsError, match=r"default\.parquet"):
                read_plan(copied.plan)
    for length in (0, 3, 50, len(original) - 1):
        copied.plan.write_bytes(original[:length])
        with pytest.raises(TokenboundsError, match=r"default\.parquet"):
            read_plan(copied.plan)


def test_scores_of_earlier_releases_are_read_and_noted(copied, tmp_path):
    path = copied.certified.scores[0]
    table = pq.read_table(path, partitioning=None)
    table = table.replace_schema_metadata({k: v for k, v in table.schema.metadata.items() if k != SEAL_KEY.encode()})
    pq.write_table(table, path)
    assert open_scores(copied.certified.scores, plan=read_plan(copied.plan)).check() > table.num_rows
    certificate = certify_bound("c", "s", copied, SPEC, tmp_path / "c.json", model="m")
    (note,) = [note for note in certificate.notes if "digest" in note]
    assert "(shard-00000.parquet)" in note
    assert certificate.notes[-1] == note


def test_another_first_token_than_the_model_s_own_is_noted(copied, tmp_path):
    header = {"coder": "static", "quantizer": {"kind": "counts", "levels": 16, "threshold": 2}}
    header["model"] = {"family": "markov", "order": 0, "start_id": 7, "vocabulary_size": 256}
    write_message(copied.certified.message, header, [Part("symbols", bytes(25))])
    for path in copied.certified.scores:
        table = pq.read_table(path, partitioning=None)
        origin = Provenance.from_metadata(table.schema.metadata, path)
        with score_writer(path, replace(origin, message_sha256=sha256_file(copied.certified.message))) as writer:
            writer.write(table.combine_chunks().to_batches()[0])
    certificate = certify_bound("c", "s", copied, SPEC, tmp_path / "c.json", model="m")
    (note,) = [note for note in certificate.notes if "scored behind" in note]
    assert "behind token 0" in note and "names 7" in note
