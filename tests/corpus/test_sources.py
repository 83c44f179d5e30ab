"""Documents from every kind of source, in order, with errors that name what is wrong."""

import gzip
import json
from pydoc_data import topics

import datasets
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
