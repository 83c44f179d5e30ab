"""Where documents come from. Every source is read as a stream, in an order that depends on its contents alone."""

from __future__ import annotations

import gzip
import json
import platform
import sysconfig
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import antibody_documents
from tokenbounds.config import (
    AirrSource,
    ArithmeticSource,
    CsvSource,
    FastaSource,
    HuggingFaceSource,
    IntegerSequenceSource,
    JsonLinesSource,
    OasSource,
    ParquetSource,
    PythonStdlibSource,
    PythonTopicsSource,
    ReferenceSource,
    Source,
    TextSource,
)
from tokenbounds.corpus.antibodies import token_values
from tokenbounds.corpus.arithmetic import arithmetic_documents
from tokenbounds.corpus.integer_sequences import sequence_documents
from tokenbounds.corpus.labels import TokenValues
from tokenbounds.corpus.reference import read_drawn
from tokenbounds.corpus.source_files import check_plain, readable_name, source_files
from tokenbounds.errors import CorpusError
from tokenbounds.files import parse_json, sha256_bytes
from tokenbounds.software import distribution_version

_STDLIB_EXCLUDED = frozenset({"site-packages", "dist-packages", "__pycache__"})
_ROWS_PER_BATCH = 256


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes
    ----------
    name
        Identifies its origin.
    text
        Bytes where they need not be UTF-8.
    labels
        What its source's label columns hold for it, as found there.
    token_labels
        Codes of its tokens by label column, if the source labels them one by one.
    """

    name: str
    text: str | bytes
    labels: Mapping[str, Any] = field(default_factory=dict)
    token_labels: TokenValues | None = None

    @property
    def raw(self) -> bytes:
        """The document's bytes: as found, or its text in UTF-8."""
        return self.text if isinstance(self.text, bytes) else self.text.encode("utf-8", errors="surrogatepass")


def read_documents(source: Source, counts: ReadingCounts | None = None) -> Iterator[Document]:
    """Stream the documents of a source in its deterministic order.

    Parameters
    ----------
    source
        Where they come from.
    counts
        Receives what was left out and changed, for sources that count it.

    Raises
    ------
    CorpusError
        If a path, a field or a column is missing, or a file cannot be read; the message names it.
    """
    match source:
        case PythonStdlibSource():
            return _read_stdlib(source)
        case PythonTopicsSource():
            return _read_topics(source)
        case ArithmeticSource():
            return (Document(name, text) for name, text in arithmetic_documents(source))
        case IntegerSequenceSource():
            return (Document(name, text) for name, text in sequence_documents(source))
        case TextSource():
            return _read_text(source)
        case JsonLinesSource():
            return _read_json_lines(source)
        case ParquetSource():
            return _read_parquet(source)
        case HuggingFaceSource():
            return _read_huggingface(source)
        case ReferenceSource():
            return (Document(name, text) for name, text in read_drawn(source))
        case AirrSource() | OasSource() | FastaSource() | CsvSource():
            documents = antibody_documents(source, source_files(source), counts or ReadingCounts())
            return (Document(each.name, each.text, token_labels=token_values(each.labels)) for each in documents)
    raise CorpusError(f"source of kind {getattr(source, 'kind', source)!r} is not known.")


def describe_source(source: Source) -> dict[str, Any]:
    """The source's settings for the manifest, with the version of the software that determines the documents."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(source)))
    if not source.labels:
        settings.pop("labels", None)
    if isinstance(source, PythonStdlibSource | PythonTopicsSource):
        settings["python"] = f"{platform.python_implementation()} {platform.python_version()}"
    if settings.get("package"):
        settings["package_version"] = distribution_version(settings["package"])
    return settings


def source_licence(source: Source) -> str:
    """The licence of a source's documents, as stated in its row; of those that are drawn here, none is needed."""
    if isinstance(source, ArithmeticSource | IntegerSequenceSource):
        return "CC0-1.0"
    return "PSF-2.0" if isinstance(source, PythonStdlibSource | PythonTopicsSource) else source.licence


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}. Check its permissions.") from error


def _read_stdlib(source: PythonStdlibSource) -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    relative = sorted(path.as_posix() for path in paths if _STDLIB_EXCLUDED.isdisjoint(path.parts))
    if not relative:
        raise CorpusError(f"{root} holds no Python sources. Run an interpreter whose standard library is unpacked.")
    for name in relative:
        if not (root / name).is_file():
            continue
        text = _read_bytes(root / name)
        half = "odd" if int(sha256_bytes(text), 16) % 2 else "even"
        if source.part in ("all", half):
            yield Document(name, text)


def _read_topics(source: PythonTopicsSource) -> Iterator[Document]:
    from pydoc_data import topics

    names = sorted(topics.topics)
    first_with = {topics.topics[name]: name for name in reversed(names)}  # some texts have two names
    parts = {"all": names, "even": names[::2], "odd": names[1::2]}
    for name in parts[source.part]:
        if first_with[topics.topics[name]] == name:
            yield Document(f"pydoc_data.topics:{name}", topics.topics[name])


def _read_text(source: TextSource) -> Iterator[Document]:
    for path in source_files(source):
        check_plain(path)
        try:
            yield Document(readable_name(path), _read_bytes(path).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise CorpusError(f"{path} is not UTF-8 text ({error}). Convert it to UTF-8.") from error


def _read_json_lines(source: JsonLinesSource) -> Iterator[Document]:
    for path in source_files(source):
        check_plain(path)
        try:
            with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        where = f"{readable_name(path)}:{number}"
                        row = _parse_line(line, source.field, where)
                        yield Document(where, _text_of(row, source.field, where), _labels_of(row, source.labels))
        except (OSError, EOFError, zlib.error) as error:
            raise CorpusError(f"cannot read {path}: {error}. Replace the file with an intact one.") from error


def _parse_line(line: bytes, field: str, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise CorpusError(f"{where} is not valid JSON ({error}). Correct or remove the line.") from error
    if not isinstance(row, dict):
        raise CorpusError(f"{where} holds no JSON object. Each line must be an object with the key '{field}'.")
    return row


def _labels_of(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """The row's values in the label columns; None where it has none."""
    return {column: row.get(column) for column in columns}


def _text_of(row: dict[str, Any], field: str, where: str) -> str:
    """The text under `field`, or an error that says what there is instead."""
    if field not in row:
        raise CorpusError(f"{where} has no field '{field}' (it has: {_listed(row)}). Set the source's 'field'.")
    if not isinstance(row[field], str):
        kind = type(row[field]).__name__
        raise CorpusError(f"{where}: the field '{field}' is of type {kind}, not text. Set the source's 'field'.")
    return row[field]


def _listed(names: Any) -> str:
    return ", ".join(str(name) for name in names) or "nothing"


def _read_parquet(source: ParquetSource) -> Iterator[Document]:
    for path in source_files(source):
        check_plain(path)
        try:
            with pq.ParquetFile(path) as file:
                yield from _rows_of_parquet(file, source, readable_name(path))
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"cannot read {path} as Parquet: {error}. Replace it with an intact file.") from error


def _rows_of_parquet(file: pq.ParquetFile, source: ParquetSource, where: str) -> Iterator[Document]:
    _require_columns(file.schema_arrow.names, source, where)
    number = 0
    for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=[source.field, *source.labels]):
        for row in _rows_of_batch(batch, where, number):
            name = f"{where}:{number}"
            yield Document(name, _text_of(row, source.field, name), _labels_of(row, source.labels))
            number += 1


def _rows_of_batch(batch: pa.RecordBatch, where: str, first: int) -> list[dict[str, Any]]:
    """Rows as Python values; one whose text is not UTF-8, which Parquet's writers need not check, is named."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{where}:{first + index} is not UTF-8 text ({error}). Convert it to UTF-8."
                ) from error
        raise


def _require_columns(names: Sequence[str], source: ParquetSource | HuggingFaceSource, where: str) -> None:
    """Refuse a table that lacks the column of texts or one of labels."""
    for key, column in (("field", source.field), *(("labels", label) for label in source.labels)):
        if column not in names:
            raise CorpusError(f"{where} has no column '{column}' (it has: {_listed(names)}). Set the source's '{key}'.")


def _read_huggingface(source: HuggingFaceSource) -> Iterator[Document]:
    dataset = _open_huggingface(source)
    columns = dataset.column_names
    if columns is not None:
        _require_columns(columns, source, f"dataset {source.name}")
        dataset = dataset.select_columns([source.field, *source.labels])
    rows = islice(_guarded(dataset, source.name), source.documents)
    for number, row in enumerate(rows):
        name = f"{source.name}:{source.split}:{number}"
        yield Document(name, _text_of(row, source.field, name), _labels_of(row, source.labels))


def _guarded(dataset: Any, name: str) -> Iterator[dict[str, Any]]:
    """Iterate over a dataset's rows; any failure while reading becomes one error that names the dataset."""
    rows = iter(dataset)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise CorpusError(f"cannot read dataset {name}: {error}. Download or save it again.") from error
        yield row


def _open_huggingface(source: HuggingFaceSource) -> Any:
    """Open the dataset on disk or, streaming, on the hub; no code of a dataset repository is ever run."""
    import datasets

    try:
        if _is_saved(source.name):
            dataset = datasets.load_from_disk(source.name)
        else:
            dataset = datasets.load_dataset(
                source.name, source.subset, split=source.split, revision=source.revision, streaming=True
            )
    except Exception as error:
        raise CorpusError(
            f"cannot open dataset {source.name} (subset {source.subset}, split {source.split}): {error}. "
            "Give a folder written by save_to_disk, or a hub name this machine can reach."
        ) from error
    if isinstance(dataset, dict):
        if source.split not in dataset:
            raise CorpusError(f"dataset {source.name} has no split '{source.split}' (it has: {_listed(dataset)}).")
        dataset = dataset[source.split]
    elif (saved := getattr(dataset, "split", None)) is not None and str(saved) != source.split:
        raise CorpusError(
            f"dataset {source.name} was saved from the split '{saved}', not '{source.split}'. Set 'split'."
        )
    elif saved is None and _is_saved(source.name) and source.split != "train":
        raise CorpusError(
            f"dataset {source.name} holds rows of no split, so none is '{source.split}'. Leave out 'split'."
        )
    # A format (numpy, torch, …) that was saved with a dataset would change the type of its rows.
    return dataset.with_format(None)


def _is_saved(name: str) -> bool:
    """Whether a dataset is a folder that `save_to_disk` wrote."""
    return any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json"))
