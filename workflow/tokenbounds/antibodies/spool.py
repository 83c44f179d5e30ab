"""Antibodies grouped by a key, on disk: memory holds one group at a time, whatever the size of the source."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tokenbounds.antibodies.labels import Chain, Labels
from tokenbounds.antibodies.records import Antibody, ChainRecord
from tokenbounds.errors import CorpusError

_LABEL_BYTES = 4


class Spool:
    """A temporary database of labelled antibodies, in the folder for temporary files (the variable TMPDIR).

    Used as a context manager; the file goes away with it.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tokenbounds-")
        self._database = sqlite3.connect(Path(self._folder.name) / "antibodies.sqlite", isolation_level=None)
        for line in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536", "temp_store = FILE"):
            self._database.execute(f"PRAGMA {line}")
        self._database.execute("CREATE TABLE antibodies (number INTEGER PRIMARY KEY, key BLOB, content BLOB)")
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()
        self._folder.cleanup()

    def add(self, key: bytes, antibody: Antibody) -> None:
        """Keep an antibody under a key.

        Raises
        ------
        CorpusError
            If there is no space.
        """
        try:
            self._database.execute("INSERT INTO antibodies (key, content) VALUES (?, ?)", (key, _pack(antibody)))
        except sqlite3.Error as error:
            raise _disk_error(error) from error

    def groups(self) -> Iterator[tuple[bytes, list[Antibody]]]:
        """Yield keys in order of their bytes, each with its antibodies in the order in which they were added.

        Raises
        ------
        CorpusError
            If there is no space to sort them.
        """
        try:
            self._database.execute("COMMIT")
            with closing(self._database.execute("SELECT key, content FROM antibodies ORDER BY key, number")) as rows:
                for key, group in groupby(rows, key=lambda row: row[0]):
                    yield key, [_unpack(content) for _, content in group]
        except sqlite3.Error as error:
            raise _disk_error(error) from error


def _disk_error(error: sqlite3.Error) -> CorpusError:
    return CorpusError(
        f"sequences cannot be sorted in {tempfile.gettempdir()} ({error}). Free space there, or set TMPDIR to another "
        "folder."
    )


def _pack(antibody: Antibody) -> bytes:
    """An antibody as a line of JSON and the labels of its chains; evidence is not kept."""
    header = {
        "antibody": [antibody.name, antibody.where, antibody.clone, antibody.donor],
        "chains": [
            [chain.residues, int(chain.chain), sorted(chain.v_genes), chain.junction_length, chain.regions_from]
            for chain in antibody.chains
        ],
    }
    arrays = [
        part.tobytes()
        for chain in antibody.chains
        for part in (chain.labels.region, chain.labels.germline, chain.labels.imgt)
    ]
    return b"".join([json.dumps(header).encode(), b"\n", *arrays])


def _unpack(content: bytes) -> Antibody:
    line, _, arrays = content.partition(b"\n")
    header = json.loads(line)
    chains: list[ChainRecord] = []
    for fields in header["chains"]:
        size = _LABEL_BYTES * len(fields[0])
        chains.append(_unpack_chain(fields, arrays[:size]))
        arrays = arrays[size:]
    name, where, clone, donor = header["antibody"]
    return Antibody(name=name, where=where, chains=tuple(chains), clone=clone, donor=donor)


def _unpack_chain(fields: list[Any], arrays: bytes) -> ChainRecord:
    residues, chain, genes, junction_length, method = fields
    n = len(residues)
    labels = Labels(
        region=np.frombuffer(arrays, np.int8, n),
        germline=np.frombuffer(arrays, np.int8, n, n),
        imgt=np.frombuffer(arrays, np.int16, n, 2 * n),
    )
    return ChainRecord(residues, Chain(chain), labels, frozenset(genes), junction_length, regions_from=method)
