"""Corpora by reference: pinned files of which a drawn few rows are read."""

import gzip
import http.server
import json
import re
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenbounds.cli import app
from tokenbounds.config import ByteTokenizer, CorpusSpec, ReferenceSource
from tokenbounds.corpus import arrow_rows, reference
from tokenbounds.corpus import pins as pins_module
from tokenbounds.corpus.manifest import read_manifest
from tokenbounds.corpus.pins import PinnedFile, Pins, pin_files, read_pins, read_rows
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.reference import check_drawn, drawn_rows, read_drawn, reference_seed
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.errors import CorpusError
from typer.testing import CliRunner

ROWS = 500
TEXTS = [f"document {i} " + "x" * (i % 37) for i in range(ROWS)]
STREAMS = {".stream.arrow": pa.ipc.new_stream, ".file.arrow": pa.ipc.new_file}


def write_lines(path, texts):
    # Blank lines are no documents.
    data = "".join(json.dumps({"text": text, "n": 1}) + "\n" + ("\n" if len(text) % 5 == 0 else "") for text in texts)
    # Without a time in the file: the seed of a draw follows from the hashes of files.
    pack = {
        ".gz": lambda data: gzip.compress(data, mtime=0),
        ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }.get(path.suffix, bytes)
    path.write_bytes(pack(data.encode()))


def write_batches(path, texts, make):
    """Arrow, 40 rows a batch, with another column before the text."""
    table = pa.table({"n": list(range(len(texts))), "text": texts})
    with make(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=40)


def write_files(folder, ending):
    """Three files of 200, 1 and 299 rows."""
    folder.mkdir(exist_ok=True)
    for number, (first, last) in enumerate(((0, 200), (200, 201), (201, ROWS))):
        path = folder / f"part-{number}{ending}"
        if ending == ".parquet":
            pq.write_table(pa.table({"text": TEXTS[first:last]}), path, row_group_size=40)
        elif ending in STREAMS:
            write_batches(path, TEXTS[first:last], STREAMS[ending])
        else:
            write_lines(path, TEXTS[first:last])


@pytest.fixture(params=[".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", *STREAMS])
def pinned(request, tmp_path, monkeypatch):
    """A list of files of each kind, offsets every seven lines."""
    monkeypatch.setattr(pins_module, "_LINES_PER_OFFSET", 7)
    write_files(tmp_path / "data", request.param)
    pin_files([str(tmp_path / "data")], tmp_path / "pins.json")
    return tmp_path / "pins.json"


def source(path, **changes):
    return ReferenceSource(**{"kind": "reference", "pins": str(path), "documents": 60, **changes})


def test_a_draw_gives_the_rows_of_its_seed_whatever_holds_them(pinned):
    assert read_pins(pinned).rows == ROWS
    rows = drawn_rows(ROWS, 60, 3)
    assert len(rows) == 60 and len(set(rows)) < 60  # with replacement
    found = list(read_drawn(source(pinned, seed=3)))
    assert [text for _, text in found] == [TEXTS[row] for row in rows]
    starts = {"part-0": 0, "part-1": 200, "part-2": 201}
    for (name, _), row in zip(found, rows, strict=True):
        part, inside = re.fullmatch(r"data/(part-\d)[^:]*:(\d+)", name).groups()
        assert starts[part] + int(inside) == row


def test_the_seed_follows_from_the_list_unless_it_is_given(pinned):
    assert reference_seed(source(pinned, seed=5)) == 5
    before = reference_seed(source(pinned))
    pinned.write_text(pinned.read_text() + "\n")
    assert reference_seed(source(pinned)) != before


def test_only_what_is_drawn_is_decoded(tmp_path, monkeypatch):
    write_files(tmp_path / "data", ".parquet")
    pins = pin_files([str(tmp_path / "data" / "part-0.parquet")], tmp_path / "pins.json")
    groups, iterate = [], pq.ParquetFile.iter_batches

    def spy(self, *arguments, row_groups, **options):
        groups.extend(row_groups)
        return iterate(self, *arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    found = list(read_rows(pins.files[0], "parquet", [41, 42, 199], "text", tmp_path))
    assert found == [TEXTS[row] for row in (41, 42, 199)]
    assert groups == [1, 4]


@pytest.mark.parametrize("ending", STREAMS)
def test_batches_of_arrow_that_hold_no_drawn_row_are_not_read(tmp_path, monkeypatch, ending):
    write_files(tmp_path / "data", ending)
    (file,) = pin_files([str(tmp_path / "data" / f"part-0{ending}")], tmp_path / "pins.json").files
    assert file.batches == (40,) * 5
    numbers, read = [], arrow_rows._batch
    monkeypatch.setattr(arrow_rows, "_batch", lambda *found: numbers.append(found[-1]) or read(*found))
    found = list(read_rows(file, "arrow", [41, 42, 199], "text", tmp_path))
    assert found == [TEXTS[row] for row in (41, 42, 199)]
    assert numbers == [1, 4]
    with pytest.raises(CorpusError, match=r"no column 'words' \(it has: n, text\)"):
        list(read_rows(file, "arrow", [0], "words", tmp_path))
    with pytest.raises(CorpusError, match="not those that were pinned"):
        list(read_rows(replace(file, batches=(41, 39, 120)), "arrow", [0], "text", tmp_path))


def test_damaged_arrow_is_named(tmp_path):
    write_files(tmp_path / "data", ".file.arrow")
    for number, data in enumerate((b"", b"ARROW1", (tmp_path / "data/part-0.file.arrow").read_bytes()[:-200])):
        (tmp_path / f"{number}.arrow").write_bytes(data)
        with pytest.raises(CorpusError, match=rf"cannot read .*{number}\.arrow"):
            pin_files([str(tmp_path / f"{number}.arrow")], tmp_path / "pins.json")


def test_files_elsewhere_are_read_by_ranges(tmp_path):
    pq.write_table(pa.table({"text": ["y" * 4000 + str(np.random.default_rng(i).bytes(2000)) for i in range(3000)]}),
                   tmp_path / "big.parquet", row_group_size=100, compression="none")  # fmt: skip
    sent = []

    class Ranges(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            data = Path(self.translate_path(self.path)).read_bytes()
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first, last = (int(asked[1]), int(asked[2] or len(data) - 1)) if asked else (0, len(data) - 1)
            part = data[first : last + 1]
            sent.append(len(part))
            self.send_response(206 if asked else 200)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(part)

        def end_headers(self):
            self.send_header("Accept-Ranges", "bytes")
            super().end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}/big.parquet"
        pins = pin_files([address], tmp_path / "pins.json")
        assert (pins.files[0].path, pins.rows) == (address, 3000)
        assert next(iter(read_rows(pins.files[0], "parquet", [1234], "text", tmp_path))).startswith("yyyy")
        assert 0 < sum(sent) < 0.8 * (tmp_path / "big.parquet").stat().st_size
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_that_changed_is_refused_by_size_and_by_contents(pinned):
    part = sorted(pinned.parent.glob("data/part-2*"))[0]
    data = part.read_bytes()
    part.write_bytes(data[:-9] + bytes(9))
    with pytest.raises(CorpusError, match=r"part-2.* has changed since it was pinned: its contents"):
        list(read_drawn(source(pinned)))
    part.write_bytes(data + b" ")
    with pytest.raises(CorpusError, match=r"has changed since it was pinned \(\d+ bytes"):
        list(read_drawn(source(pinned)))
    part.unlink()
    with pytest.raises(CorpusError, match="cannot read"):
        list(read_drawn(source(pinned)))


def test_a_row_without_text_is_named(tmp_path):
    write_lines(tmp_path / "a.jsonl", ["a"])
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"words": 1}\n')
    pins = pin_files([str(tmp_path / "a.jsonl")], tmp_path / "pins.json")
    with pytest.raises(CorpusError, match=r"a.jsonl:1 has no text under 'text'"):
        list(read_rows(pins.files[0], "jsonl", [1], "text", tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.update(rows=7), "do not add up"),
        (lambda raw: raw.update(schema_version=9), "another version"),
        (lambda raw: raw["files"][0].update(rows=-1), "out of its range"),
        (lambda raw: raw["files"][0].update(rows=10**30), "out of its range"),
        (lambda raw: raw["files"][0].update(path="\x1b[2J"), "no text"),
        (lambda raw: raw.update(kind="arrow"), "batches do not add up"),
        (lambda raw: raw["files"][0].pop("rows"), "not a list of pinned files"),
        (lambda raw: raw.update(files=[]) or raw.update(rows=0), "no row"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, change, words):
    write_files(tmp_path / "data", ".jsonl")
    pin_files([str(tmp_path / "data")], tmp_path / "pins.json")
    raw = json.loads((tmp_path / "pins.json").read_text())
    change(raw)
    (tmp_path / "pins.json").write_text(json.dumps(raw))
    with pytest.raises(CorpusError, match=words):
        read_pins(tmp_path / "pins.json")


def test_what_cannot_be_pinned_is_named_and_nothing_is_written(tmp_path):
    write_files(tmp_path / "data", ".jsonl")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "b.txt").write_text("b")
    for files, words in ((["a.parquet"], "a.parquet"), (["b.txt"], "neither"), (["data", "a.parquet"], "2 kinds")):
        with pytest.raises(CorpusError, match=words):
            pin_files([str(tmp_path / file) for file in files], tmp_path / "pins.json")
    assert not (tmp_path / "pins.json").exists()


def test_the_corpus_of_a_draw_is_cut_and_says_what_it_is_a_draw_of(pinned, tmp_path):
    spec = CorpusSpec(source=source(pinned, max_tokens=12), tokenizer=ByteTokenizer(kind="bytes"), shards=2)
    manifest = tokenize_corpus(spec, "drawn", tmp_path / "corpus")
    assert (manifest.documents, manifest.schema_version) == (60, 3)
    corpus = Corpus.open(tmp_path / "corpus", verify=True)
    wanted = [TEXTS[row].encode()[:12] for row in drawn_rows(ROWS, 60, manifest.reference.seed)]
    assert [bytes(tokens.astype(np.uint8)) for tokens in corpus.iterate()] == wanted
    entry = read_manifest(tmp_path / "corpus/manifest.json").reference
    assert (entry.rows, entry.max_tokens) == (ROWS, 12)
    documents = tmp_path / "corpus" / manifest.documents_file.file
    check_drawn(entry, tmp_path / "corpus", documents)
    # A document that the seed did not draw, another seed, another list, a document that is too long.
    table = pq.read_table(documents)
    names = table["name"].to_pylist()
    pq.write_table(table.set_column(1, "name", pa.array([names[-1], *names[1:]])), tmp_path / "other.parquet")
    for changed, file in (
        (entry, "other.parquet"),
        (reference.ReferenceEntry(**{**entry.__dict__, "seed": 1}), documents),
    ):
        with pytest.raises(CorpusError, match="does not hold the rows that seed"):
            check_drawn(changed, tmp_path / "corpus", tmp_path / file)
    with pytest.raises(CorpusError, match="more than 9 tokens"):
        check_drawn(replace(entry, max_tokens=9), tmp_path / "corpus", documents)
    (tmp_path / "corpus/pins.json").write_text("{}")
    with pytest.raises(CorpusError, match="differs from its manifest"):
        check_drawn(entry, tmp_path / "corpus", documents)


def test_a_trillion_tokens_are_drawn_from_in_no_time_and_memory(tmp_path, monkeypatch):
    """Rows that exist only as pins; a function stands for the storage."""
    files = tuple(PinnedFile(f"part-{i:04d}.parquet", 10**9, 10**6) for i in range(1000))
    (tmp_path / "pins.json").write_text(json.dumps(Pins("parquet", files).to_dict()))
    asked = []

    def rows_of(file, kind, rows, field, folder):
        asked.extend(rows)
        return (f"{file.path} {row} " * 50 for row in rows)

    monkeypatch.setattr(reference, "read_rows", rows_of)
    spec = CorpusSpec(source=source(tmp_path / "pins.json", documents=500, max_tokens=1000), shards=1)
    manifest = tokenize_corpus(spec, "huge", tmp_path / "corpus")
    assert manifest.reference.rows == 10**9 and manifest.documents == 500 and len(asked) == 500
    assert sum(path.stat().st_size for path in (tmp_path / "corpus").iterdir()) < 3 * 10**6


def test_the_command_pins(tmp_path):
    write_files(tmp_path / "data", ".jsonl.gz")
    done = CliRunner().invoke(app, ["pin", str(tmp_path / "data"), "-o", str(tmp_path / "pins.json")])
    assert done.exit_code == 0 and "3 files, 500 rows" in done.output
