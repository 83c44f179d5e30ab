"""Files that are damaged, foreign or hostile: one error that names the file, in bounded memory."""

import bz2
import gzip
import lzma
import sqlite3
import tarfile
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from antibody_files import LIGHT, RESIDUES, rearrangement, write_oas, write_table
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import antibody_documents
from tokenbounds.antibodies.vocabulary import encode_text
from tokenbounds.config import AirrSource, CsvSource, FastaSource, KeepSpec, OasSource
from tokenbounds.corpus.source_files import source_files
from tokenbounds.corpus.sources import describe_source, read_documents
from tokenbounds.errors import CorpusError, MissingPackageError

KINDS = {
    "airr": lambda path, **more: AirrSource(kind="airr", paths=(str(path),), **more),
    "oas": lambda path, **more: OasSource(kind="oas", paths=(str(path),), **more),
    "fasta": lambda path, **more: FastaSource(kind="fasta", paths=(str(path),), **more),
    "csv": lambda path, **more: CsvSource(kind="csv", paths=(str(path),), heavy="sequence_alignment_aa", **more),
}


def read(kind, path, **settings):
    source = KINDS[kind](path, **{"regions": (), **settings})
    return list(antibody_documents(source, [path], ReadingCounts()))


def write(kind, folder):
    rows = [rearrangement(sequence_alignment_aa=RESIDUES[n:]) for n in range(3)]
    if kind == "oas":
        return write_oas(folder / "x.csv", rows)
    if kind == "fasta":
        (folder / "x.fa").write_text("".join(f">s{n}\n{RESIDUES[n:]}\n" for n in range(3)))
        return folder / "x.fa"
    return write_table(folder / "x.tsv", rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no header"),
        (b"\n", "has no header"),
        (b"a,a\n1,2\n", "names the column 'a' twice"),
        (b"sequence_alignment_aa,b\nQV\n", r"x:2 has 1 cells, the header 2 columns"),
        (b"sequence_alignment_aa,b\nQV,1,2\n", r"x:2 has 3 cells"),
        (b'sequence_alignment_aa\n"QV\nQV\n', r"x:3 cannot be read \(unexpected end of data\)"),
        (b'sequence_alignment_aa\n"Q"V\n', r"x:2 cannot be read"),
        (b"sequence_alignment_aa\nQ\xffV\n", "is not UTF-8 text"),
        (b"sequence_alignment_aa\nQ\0V\n", r"x:2, column 'sequence_alignment_aa'.*'\\x00' at residue 2"),
        (b"sequence_alignment_aa\nQVL\xc3\x84\n", r"'Ä' at residue 4"),
        (gzip.compress(b"sequence_alignment_aa\n" + b"QV\n" * 99, mtime=0)[:-12], "cannot read .*x: "),
        (b"\x1f\x8bnothing", "cannot read .*x: "),
    ],
)
def test_faults_of_tables(tmp_path, content, message):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read("csv", path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"QVQ\n", r"x:1 precedes the first header"), (b">a\nQV1\n", r"x:1, sequence 'a': '1' at residue 3")],
)
def test_faults_of_fasta(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read("fasta", tmp_path / "x")


def other_kinds(folder):
    """Files that are no text tables, and what they are named."""
    table = pa.table({"sequence_alignment_aa": [RESIDUES]})
    text = b"sequence_alignment_aa\n" + RESIDUES.encode() + b"\n"
    pq.write_table(table, folder / "a.parquet")
    with zipfile.ZipFile(folder / "book.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.csv"))
    sqlite3.connect(folder / "a.db").execute("CREATE TABLE a (b)").connection.close()
    yield "a Parquet file", (folder / "a.parquet").read_bytes()
    yield "ZIP archive or an Excel workbook", (folder / "book.xlsx").read_bytes()
    yield "tar archive", (folder / "a.tar.gz").read_bytes()
    yield "SQLite database", (folder / "a.db").read_bytes()
    yield "compressed by bzip2", bz2.compress(text)
    yield "compressed by xz", lzma.compress(text)
    yield "compressed by compress", b"\x1f\x9d\x90" + bytes(range(200))
    yield "text in UTF-16", text.decode().encode("utf-16")
    yield "compressed by bzip2", gzip.compress(bz2.compress(text))
    yield "a web page", b"\n<!DOCTYPE html>\n<html><body>404</body></html>"
    yield "Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_kinds_are_named_for_what_they_are(tmp_path, kind):
    for number, (named, content) in enumerate(other_kinds(tmp_path)):
        path = tmp_path / f"{number}.csv.gz"
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=rf"{number}\.csv\.gz is .*{named}"):
            read(kind, path)


def rows_of(path, **settings):
    counts = ReadingCounts()
    documents = list(antibody_documents(KINDS["airr"](path, **{"regions": (), **settings}), [path], counts))
    return [document.name for document in documents], counts


def test_a_quotation_mark_in_a_tab_separated_table_swallows_no_row(tmp_path):
    names = ['"first', "second", 'third"', '"in pairs"', 'a ""doubled"" one']
    lines = [f"{name}\t{RESIDUES[n:]}" for n, name in enumerate(names)]
    (tmp_path / "x.tsv").write_text("sequence_id\tsequence_aa\n" + "\n".join(lines) + "\n")
    found, counts = rows_of(tmp_path / "x.tsv")
    assert found == ['"first', "second", 'third"', "in pairs", 'a ""doubled"" one']
    assert counts.get("sequences", "read") == 5


def test_a_quotation_mark_in_a_comma_separated_table_swallows_no_row_in_silence(tmp_path):
    rows = ["sequence_id,sequence_aa", f'"first,{RESIDUES}', f'second",{RESIDUES[1:]}', f"third,{RESIDUES[2:]}"]
    (tmp_path / "x.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(CorpusError, match=r"x\.csv:3 ends a cell over 2 lines that holds whole rows.*quotation mark"):
        rows_of(tmp_path / "x.csv")
    (tmp_path / "y.csv").write_text(f'sequence_id,sequence_aa\n"a note\nof two lines",{RESIDUES}\n')
    assert rows_of(tmp_path / "y.csv")[0] == ["a note\nof two lines"]


def test_columns_that_a_spreadsheet_left_empty_are_not_read(tmp_path):
    (tmp_path / "x.csv").write_text(f",sequence_id,sequence_aa,,\n0,a,{RESIDUES},,\n1,b,{RESIDUES[1:]},,,\n")
    assert rows_of(tmp_path / "x.csv")[0] == ["a", "b"]
    (tmp_path / "x.csv").write_text(f"sequence_id,sequence_aa,,\na,{RESIDUES},,,x\n")
    with pytest.raises(CorpusError, match=r"x\.csv:2 has 5 cells, the header 4 columns"):
        rows_of(tmp_path / "x.csv")


def test_a_unit_without_its_metadata_or_saved_by_a_spreadsheet(tmp_path):
    rows = [{"sequence_alignment_aa": RESIDUES, "productive": "T"}]
    path = write_table(tmp_path / "u.csv", rows, ",")
    with pytest.raises(CorpusError, match="Its first line is the header: the line of metadata before it is missing"):
        read("oas", path)
    path = write_table(tmp_path / "v.csv", rows, ",", head='"{""Subject"": ""a""}",,,\n')
    assert len(read("oas", path)) == 1


@pytest.mark.parametrize(
    ("text", "residues", "group", "count"),
    [
        (RESIDUES + "*", RESIDUES, "changed", "final_stop_removed"),
        (RESIDUES + "_", RESIDUES, "changed", "final_stop_removed"),
        (RESIDUES[:60] + "_" + RESIDUES[60:], None, "dropped", "frame_shift"),
        (RESIDUES[:60] + "~" + RESIDUES[60:], None, "dropped", "frame_shift"),
        (RESIDUES[:60] + "#" + RESIDUES[60:], None, "dropped", "frame_shift"),
        (RESIDUES[:60] + "*" + RESIDUES[60:], None, "dropped", "stop_codon"),
        ("*", None, "dropped", "empty"),
    ],
)
def test_stops_and_frame_shifts(tmp_path, text, residues, group, count):
    path = write_table(
        tmp_path / "x.tsv", [{"sequence_id": "a", "sequence_aa": text}, {"sequence_id": "b", "sequence_aa": LIGHT}]
    )
    counts = ReadingCounts()
    found = [d.text for d in antibody_documents(KINDS["airr"](path, regions=()), [path], counts)]
    assert found == [f"{each}[ClSep]" for each in (residues, LIGHT) if each] and counts.get(group, count) == 1


@pytest.mark.parametrize("column", ["sequence_alignment_aa", "sequence_aa", "mine"])
@pytest.mark.parametrize("bases", ["GCT" * 30, "gct..." * 30, "GCTR" + "GCT" * 30, "GCU" * 30 + "N"])
def test_nucleotides_in_a_column_of_amino_acids_are_refused(tmp_path, column, bases):
    path = write_table(tmp_path / "x.tsv", [{column: bases}])
    with pytest.raises(CorpusError, match=rf"x\.tsv:2, column '{column}' looks like nucleotides.*'residues'"):
        read("airr", path, **({"residues": column} if column == "mine" else {}))


@pytest.mark.parametrize("kind", KINDS)
def test_lines_without_end_are_refused(tmp_path, kind, monkeypatch):
    path = write(kind, tmp_path)
    monkeypatch.setattr("tokenbounds.antibodies.readers.files.LONGEST_LINE", 100)
    with pytest.raises(CorpusError, match="more than 100 characters"):
        read(kind, path)


def test_endless_sequences_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenbounds.antibodies.readers.plain._LONGEST_SEQUENCE", 1000)
    (tmp_path / "x.fa").write_text(">a\n" + "QVQL\n" * 500)
    with pytest.raises(CorpusError, match=r"x\.fa:1 has more than 1000 letters"):
        read("fasta", tmp_path / "x.fa")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(tmp_path_factory, kind, data):
    folder = tmp_path_factory.mktemp("fuzz")
    path = write(kind, folder)
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=30)) + whole[stop:])
    try:
        for document in read(kind, path, keep=KeepSpec(ambiguous=True, gaps=True)):
            assert len(document.labels) == len(encode_text(document.text))
    except CorpusError as error:
        assert str(path) in str(error)


def test_memory_does_not_grow_with_the_source(tmp_path):
    path = write_table(tmp_path / "x.tsv", [{"sequence_alignment_aa": RESIDUES * 80}] * 100)
    source = KINDS["airr"](path, keep=KeepSpec(duplicates=True), regions=())
    peaks = []
    for hold in (lambda documents: sum(1 for _ in documents), lambda documents: len(list(documents))):
        tracemalloc.start()
        assert hold(antibody_documents(source, [path], ReadingCounts())) == 100
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < path.stat().st_size < peaks[1] / 3


def test_packages_that_are_not_installed_are_named(tmp_path):
    for package in ("no_such_antibodies", "../etc", "os.path"):
        source = AirrSource(kind="airr", package=package, paths=("a.tsv",))
        with pytest.raises(MissingPackageError, match="make install-antibodies"):
            source_files(source)


def test_files_inside_a_package_are_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "seqpackage"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write("airr", package)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = AirrSource(kind="airr", package="seqpackage", paths=("x.tsv",), regions=())
    assert len(list(read_documents(source))) == 3 and describe_source(source)["package_version"] == "unknown"
    with pytest.raises(CorpusError, match=r"seqpackage/y\.tsv matches no file"):
        source_files(AirrSource(kind="airr", package="seqpackage", paths=("y.tsv",)))


def test_linkers_are_no_nucleotides(tmp_path):
    path = write_table(tmp_path / "x.tsv", [{"sequence_aa": "GGGGS" * 40 + "T" * 20}])
    assert len(read("airr", path)) == 1
