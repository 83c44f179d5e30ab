"""Files that are damaged, foreign or hostile: one error that names the file, in bounded memory."""

import gzip
import tracemalloc

import pytest
from antibody_files import RESIDUES, rearrangement, write_oas, write_table
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import antibody_documents
from tokenbounds.antibodies.vocabulary import encode_text
from tokenbounds.config import AirrSource, CsvSource, FastaSource, KeepSpec, OasSource
from tokenbounds.corpus.sources import describe_source, read_documents, source_files
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


@pytest.mark.parametrize("kind", KINDS)
def test_lines_without_end_are_refused(tmp_path, kind, monkeypatch):
    path = write(kind, tmp_path)
    monkeypatch.setattr("tokenbounds.antibodies.tables._LONGEST_LINE", 100)
    with pytest.raises(CorpusError, match="more than 100 characters"):
        read(kind, path)


def test_endless_sequences_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenbounds.antibodies.plain._LONGEST_SEQUENCE", 1000)
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
