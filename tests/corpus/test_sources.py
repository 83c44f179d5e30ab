"""Documents from every kind of source, in order, with errors that name what is wrong."""

import bz2
import gzip
import json
import os
from pydoc_data import topics

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenbounds.config import (
    HuggingFaceSource,
    JsonLinesSource,
    ParquetSource,
    PythonStdlibSource,
    PythonTopicsSource,
    TextSource,
)
from tokenbounds.corpus.source_files import fingerprint, source_files
from tokenbounds.corpus.sources import describe_source, read_documents, source_licence
from tokenbounds.errors import CorpusError


def texts(source):
    return [document.text for document in read_documents(source)]


def test_standard_library_is_sorted_and_has_no_installed_packages():
    names = []
    for document in read_documents(PythonStdlibSource(kind="python_stdlib")):
        names.append(document.name)
        assert isinstance(document.text, bytes)
    assert names == sorted(names)
    assert "pydoc_data/topics.py" in names and "json/decoder.py" in names
    assert not any("site-packages" in name or "__pycache__" in name for name in names)


def test_standard_library_states_its_version_and_licence():
    source = PythonStdlibSource(kind="python_stdlib")
    assert "CPython" in describe_source(source)["python"]
    assert source_licence(source) == "PSF-2.0"


def test_the_standard_library_comes_in_two_halves_that_share_no_text(tmp_path, monkeypatch):
    for number in range(40):
        (tmp_path / f"m{number}.py").write_text(f"x = {number % 30}\n")  # ten texts are there twice
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    read = {
        part: list(read_documents(PythonStdlibSource(kind="python_stdlib", part=part)))
        for part in ("all", "even", "odd")
    }
    assert len(read["even"]) + len(read["odd"]) == len(read["all"]) == 40
    texts = {part: {document.raw for document in documents} for part, documents in read.items()}
    assert texts["even"].isdisjoint(texts["odd"])
    assert min(map(len, texts.values())) > 5


def test_documentation_topics_come_in_two_disjoint_halves():
    read = {
        part: list(read_documents(PythonTopicsSource(kind="python_topics", part=part)))
        for part in ("all", "even", "odd")
    }
    parts = {part: [document.name for document in documents] for part, documents in read.items()}
    assert sorted(parts["even"] + parts["odd"]) == parts["all"]
    assert "pydoc_data.topics:with" in parts["all"]
    assert len({document.text for document in read["all"]}) == len(parts["all"])  # 'if' and 'else' have one text
    repeated = len(topics.topics) - len(parts["all"])
    assert abs(len(parts["even"]) - len(parts["odd"])) <= 1 + repeated
    assert "CPython" in describe_source(PythonTopicsSource(kind="python_topics"))["python"]


def test_text_files_folders_and_patterns_are_sorted_and_not_repeated(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("beta")
    (tmp_path / "a.txt").write_bytes("älpha\r\n".encode())
    (tmp_path / "sub" / "c.txt").write_text("")
    (tmp_path / "ignored.md").write_text("no")
    everything = TextSource(kind="text", paths=(str(tmp_path), str(tmp_path / "b.txt"), str(tmp_path / "*.txt")))
    assert texts(everything) == ["älpha\r\n", "beta", ""]
    assert texts(TextSource(kind="text", paths=(str(tmp_path / "**" / "*.txt"),))) == ["älpha\r\n", "beta", ""]


@pytest.mark.parametrize("pattern", ["absent.txt", "*.absent", "empty"])
def test_paths_without_a_match_are_named(tmp_path, pattern):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=pattern.replace("*", r"\*")):
        texts(TextSource(kind="text", paths=(str(tmp_path / pattern),)))


def test_text_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    with pytest.raises(CorpusError, match=r"latin\.txt is not UTF-8"):
        texts(TextSource(kind="text", paths=(str(tmp_path),)))


def test_json_lines_plain_and_compressed(tmp_path):
    lines = "".join(json.dumps({"body": text, "id": 1}) + "\n" for text in ("eins", "zwei"))
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({"body": "drei"}))
    assert texts(JsonLinesSource(kind="jsonl", paths=(str(tmp_path),), field="body")) == ["eins", "zwei", "drei"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not valid JSON"),
        ("[1]", "no JSON object"),
        ('{"other": "x"}', "no field 'text'.*has: other"),
        ('{"text": 3}', "type int"),
    ],
)
def test_json_lines_faults_name_file_and_line(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(CorpusError, match=r"a\.jsonl:2.*" + message):
        texts(JsonLinesSource(kind="jsonl", paths=(str(tmp_path),)))


def test_truncated_gzip_is_named(tmp_path):
    packed = gzip.compress(b'{"text": "' + bytes(range(40, 90)).replace(b"\\", b"") * 50 + b'"}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(packed[:-20])
    with pytest.raises(CorpusError, match=r"a\.jsonl\.gz"):
        texts(JsonLinesSource(kind="jsonl", paths=(str(tmp_path),)))


def test_parquet_streams_rows(tmp_path):
    pq.write_table(pa.table({"text": [f"t{i}" for i in range(600)], "n": range(600)}), tmp_path / "x.parquet")
    found = texts(ParquetSource(kind="parquet", paths=(str(tmp_path),)))
    assert found == [f"t{i}" for i in range(600)]


def test_parquet_faults(tmp_path):
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match=r"no column 'body' \(it has: text\)"):
        texts(ParquetSource(kind="parquet", paths=(str(tmp_path),), field="body"))
    with pytest.raises(CorpusError, match=r"x\.parquet:1.*NoneType"):
        texts(ParquetSource(kind="parquet", paths=(str(tmp_path),)))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing of the kind PAR1")
    with pytest.raises(CorpusError, match=r"x\.parquet as Parquet"):
        texts(ParquetSource(kind="parquet", paths=(str(tmp_path),)))


def saved_dataset(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["one", "two", "three"], "label": [0, 1, 2]})
    rows.save_to_disk(str(tmp_path / "single"))
    datasets.DatasetDict({"train": rows, "test": rows.select([2])}).save_to_disk(str(tmp_path / "splits"))
    return tmp_path


def test_hugging_face_datasets_on_disk(tmp_path):
    folder = saved_dataset(tmp_path)
    assert texts(HuggingFaceSource(kind="huggingface", name=str(folder / "single"))) == ["one", "two", "three"]
    splits = str(folder / "splits")
    assert texts(HuggingFaceSource(kind="huggingface", name=splits, split="test")) == ["three"]
    assert texts(HuggingFaceSource(kind="huggingface", name=splits, documents=2)) == ["one", "two"]


def test_hugging_face_streams_a_folder_of_files(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert texts(HuggingFaceSource(kind="huggingface", name=str(tmp_path))) == ["one", "two"]


def test_hugging_face_faults(tmp_path):
    folder = saved_dataset(tmp_path)
    with pytest.raises(CorpusError, match=r"no split 'dev' \(it has: train, test\)"):
        texts(HuggingFaceSource(kind="huggingface", name=str(folder / "splits"), split="dev"))
    with pytest.raises(CorpusError, match="no column 'body'"):
        texts(HuggingFaceSource(kind="huggingface", name=str(folder / "single"), field="body"))
    shard = next((folder / "single").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CorpusError, match="single"):
        texts(HuggingFaceSource(kind="huggingface", name=str(folder / "single")))


def test_hugging_face_split_of_a_folder_saved_from_one(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_text('{"text": "one"}\n')
    datasets.load_dataset(str(tmp_path / "files"), split="train", cache_dir=str(tmp_path / "c")).save_to_disk(
        str(tmp_path / "train")
    )
    saved_dataset(tmp_path)
    assert texts(HuggingFaceSource(kind="huggingface", name=str(tmp_path / "train"))) == ["one"]
    with pytest.raises(CorpusError, match="saved from the split 'train', not 'validation'"):
        texts(HuggingFaceSource(kind="huggingface", name=str(tmp_path / "train"), split="validation"))
    with pytest.raises(CorpusError, match="rows of no split, so none is 'validation'"):
        texts(HuggingFaceSource(kind="huggingface", name=str(tmp_path / "single"), split="validation"))


@pytest.mark.parametrize("kind", ["numpy", "pandas", "arrow", "torch"])
def test_a_format_saved_with_a_dataset_changes_nothing(tmp_path, kind):
    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "n": [1, 2]}).with_format(kind)
    rows.save_to_disk(str(tmp_path / "d"))
    source = HuggingFaceSource(kind="huggingface", name=str(tmp_path / "d"), labels=("n",))
    assert [(d.text, d.labels) for d in read_documents(source)] == [("one", {"n": 1}), ("two", {"n": 2})]


# --- nothing is left out in silence -----------------------------------------------------------------------------------


def text_source(*paths):
    return TextSource(kind="text", paths=tuple(map(str, paths)))


@pytest.mark.parametrize("where", ["", "*.txt", "**/*.txt", "c.txt"])
def test_dangling_links_are_named(tmp_path, where):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "c.txt").symlink_to("../annex/absent")
    with pytest.raises(CorpusError, match=r"c\.txt (is a link to \.\./annex/absent, which does not exist)"):
        texts(text_source(tmp_path / where))


def test_links_to_files_are_followed_and_those_to_folders_named(tmp_path):
    for folder in ("data", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "other" / "b.txt").write_text("b")
    (tmp_path / "data" / "a.txt").symlink_to(tmp_path / "other" / "b.txt")
    assert texts(text_source(tmp_path / "data")) == ["b"]
    (tmp_path / "data" / "more").symlink_to(tmp_path / "other")
    with pytest.raises(CorpusError, match="more is a link to a folder"):
        texts(text_source(tmp_path / "data"))


@pytest.mark.parametrize("where", ["", "sub/b.txt", "*/b.txt", "**/*.txt"])
def test_unreadable_folders_are_named(tmp_path, monkeypatch, where):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "sub" / "b.txt").write_text("b")
    (tmp_path / "sub").chmod(0)
    try:
        if os.access(tmp_path / "sub", os.R_OK):  # the superuser may read everything
            scandir, access = os.scandir, os.access

            def refuse(path):
                if str(path).endswith("sub"):
                    raise PermissionError(13, "Permission denied", str(path))
                return scandir(path)

            monkeypatch.setattr(os, "scandir", refuse)
            monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("sub") and access(path, mode))
        if where == "sub/b.txt" and os.access(tmp_path / "sub" / "b.txt", os.R_OK):
            pytest.skip("the superuser may read everything")
        with pytest.raises(CorpusError, match=r"cannot read .*sub"):
            source_files(text_source(tmp_path / where))
    finally:
        (tmp_path / "sub").chmod(0o755)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
def test_compressed_files_are_named_for_what_they_are(tmp_path, name):
    packed = {"a.jsonl": bz2.compress(b'{"text": "x"}'), "a.jsonl.zst": b"\x28\xb5\x2f\xfd 1234"}[name]
    (tmp_path / name).write_bytes(packed)
    with pytest.raises(CorpusError, match=rf"{name} is compressed \((bzip2|zstd)\)"):
        texts(JsonLinesSource(kind="jsonl", paths=(str(tmp_path / name),)))


def test_compressed_files_of_a_folder_are_not_passed_over(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a"))  # of which the plain version is read
    assert texts(text_source(tmp_path)) == ["a"]
    (tmp_path / "b.txt.xz").write_bytes(b"\xfd7zXZ\x00")
    with pytest.raises(CorpusError, match=r"b\.txt\.xz is compressed"):
        texts(text_source(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_pointers_of_git_lfs_are_no_documents(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    source = {"a.txt": TextSource, "a.jsonl": JsonLinesSource, "a.parquet": ParquetSource}[name]
    kind = {"a.txt": "text", "a.jsonl": "jsonl", "a.parquet": "parquet"}[name]
    with pytest.raises(CorpusError, match="is a Git LFS pointer"):
        texts(source(kind=kind, paths=(str(tmp_path / name),)))


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("ab")
    (document,) = read_documents(text_source(tmp_path))
    assert document.name.endswith("/caf\\xe9.txt") and document.text == "ab"


# --- damaged files ----------------------------------------------------------------------------------------------------


def test_deep_json_is_named(tmp_path):
    deep = b'{"text": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + deep)
    with pytest.raises(CorpusError, match=r"a\.jsonl:2 is not valid JSON \(it is nested too deeply\)"):
        texts(JsonLinesSource(kind="jsonl", paths=(str(tmp_path),)))


def test_every_flipped_byte_of_gzip_is_named_or_harmless(tmp_path):
    lines = b"".join(b'{"text": "%d"}\n' % (i * 7919 % 100003) for i in range(500))
    packed = gzip.compress(lines)
    for place in range(0, len(packed), 97):
        damaged = bytearray(packed)
        damaged[place] ^= 255
        (tmp_path / "a.jsonl.gz").write_bytes(bytes(damaged))
        source = JsonLinesSource(kind="jsonl", paths=(str(tmp_path),))
        try:
            assert len(texts(source)) == 500
        except CorpusError as error:
            assert "a.jsonl.gz" in str(error)


def test_parquet_text_that_is_not_utf8_is_named_by_its_row(tmp_path):
    buffers = [None, pa.py_buffer(np.array([0, 1, 3], np.int32).tobytes()), pa.py_buffer(b"aa\xff")]
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 2, buffers)}), tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match=r"x\.parquet:1 is not UTF-8"):
        texts(ParquetSource(kind="parquet", paths=(str(tmp_path),)))


def test_fingerprints_follow_contents_whatever_the_times_say(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    first, times = fingerprint([path]), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns and fingerprint([path]) != first
    path.rename(tmp_path / "b.txt")
    assert fingerprint([tmp_path / "b.txt"]) != fingerprint([tmp_path / "b.txt"] * 2)


def test_fingerprints_see_every_byte_up_to_4_mib_and_blocks_to_the_end_above(tmp_path):
    path = tmp_path / "a.txt"

    def is_seen(size, place):
        path.write_bytes(bytes(size))
        before = fingerprint([path])
        with path.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"1")
        return fingerprint([path]) != before

    places = np.random.default_rng(0).integers(0, 4 << 20, 8).tolist()
    assert all(is_seen(4 << 20, place) for place in [0, (1 << 16), (4 << 20) - 1, *places])
    # Of 16 MiB, every block begins 4 blocks and a bit after the one before: by hand, (2^24 - 2^16) / 63 = 265,264.8.
    seen = [is_seen(16 << 20, place) for place in (0, 265_263, 265_264, 265_264 + 65_535, (16 << 20) - 1)]
    assert seen == [True, False, True, True, True]


def test_files_of_a_saved_dataset_are_its_inputs(tmp_path):
    folder = saved_dataset(tmp_path) / "single"
    (folder / "cache-1234.arrow").write_bytes(b"")
    names = {path.name for path in source_files(HuggingFaceSource(kind="huggingface", name=str(folder)))}
    assert {"state.json", "dataset_info.json"} < names and not any("cache" in name for name in names)
    (folder / "data.arrow").symlink_to("nowhere")
    with pytest.raises(CorpusError, match=r"data\.arrow is a link to nowhere, which does not exist"):
        source_files(HuggingFaceSource(kind="huggingface", name=str(folder)))
    assert source_files(HuggingFaceSource(kind="huggingface", name="a-name/of-the-hub")) == []
