"""Label columns: what a corpus declares about its tokens, and how values in documents become labels.

A label is stored as a small integer, its code, which the column's categories give a name. Codes travel with tokens
through annotations and score files; the categories are in the manifest and in both files' metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from tokenbounds.errors import CorpusError
from tokenbounds.files import canonical_json

MISSING, EMPTY = "(missing)", "(empty)"
MOST_LABELS = 256
_MOST_CHARACTERS = 200
_INTEGERS = {"int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32()}

TokenValues = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class LabelColumn:
    """One declared column.

    Attributes
    ----------
    name
        Of the column in annotations and score files, and in `bounds.subsets`.
    meaning
        What the labels say, in words.
    categories
        Names of the codes 0, 1, …; none if the values are plain numbers, such as which sequence of its document a
        token belongs to. Numbers stay in the annotations: score files do not carry them and no subset is made of them.
    integer
        Type of the codes: int8, int16 or int32.
    codes_of_tokens
        Code of each token of the vocabulary, int[V], if the label follows from the token alone. Such a column is
        stored nowhere.
    """

    name: str
    meaning: str
    categories: tuple[str, ...] = ()
    integer: str = "int16"
    codes_of_tokens: tuple[int, ...] | None = None

    @property
    def is_stored(self) -> bool:
        """Whether the annotations hold it."""
        return self.codes_of_tokens is None

    @property
    def is_scored(self) -> bool:
        """Whether score files carry it."""
        return self.is_stored and bool(self.categories)

    @property
    def field(self) -> pa.Field:
        """Its column in annotations and score files."""
        return pa.field(self.name, _INTEGERS[self.integer])

    def to_dict(self) -> dict[str, Any]:
        """The column as JSON values, without absent entries."""
        told: dict[str, Any] = {"name": self.name, "meaning": self.meaning, "integer": self.integer}
        if self.categories:
            told["categories"] = list(self.categories)
        if self.codes_of_tokens is not None:
            told["codes_of_tokens"] = list(self.codes_of_tokens)
        return told

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LabelColumn:
        """Read `to_dict` back.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is not such a column.
        """
        categories = tuple(raw.get("categories", ()))
        codes = tuple(raw["codes_of_tokens"]) if "codes_of_tokens" in raw else None
        column = cls(raw["name"], raw["meaning"], categories, raw["integer"], codes)
        if not (isinstance(column.name, str) and isinstance(column.meaning, str) and column.integer in _INTEGERS):
            raise ValueError(f"label column {column.name!r} has a wrong type")
        if not all(isinstance(name, str) for name in categories) or len(set(categories)) != len(categories):
            raise ValueError(f"label column {column.name!r} names a category twice, or one that is not text")
        if not all(type(code) is int and 0 <= code < len(categories) for code in codes or ()):
            raise ValueError(f"label column {column.name!r} has a code without a name")
        return column


def labels_json(columns: Sequence[LabelColumn]) -> str:
    """Columns as text for a file's metadata."""
    return canonical_json([column.to_dict() for column in columns])


class DocumentLabels:
    """Codes of one column's values, which label whole documents; a new value gets the next code.

    A value may be text, a whole number or true/false; the type is the same throughout the column. Text is taken
    literally: nothing is trimmed, case-folded or normalized. No value (the key is absent, or null) is the label
    `(missing)`, empty text the label `(empty)`.

    Parameters
    ----------
    name
        Of the column in the source.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._codes: dict[str, int] = {}
        self._kind: type | None = None

    def code(self, value: Any, where: str) -> int:
        """The code of one document's value.

        Parameters
        ----------
        value
            As the source holds it.
        where
            The document's name, for errors.

        Raises
        ------
        CorpusError
            If the value's type is not allowed or differs from earlier ones, it cannot be printed safely, is longer than
            200 characters or looks like `(missing)` or `(empty)`, or if there are more than 256 labels.
        """
        label = MISSING if value is None else self._text(value, where)
        if label not in self._codes:
            if len(self._codes) == MOST_LABELS:
                raise CorpusError(
                    f"{where}: the label column '{self._name}' has more than {MOST_LABELS} labels. Each has rows of "
                    "its own in a certificate: use a coarser column, or leave it out of 'labels'."
                )
            self._codes[label] = len(self._codes)
        return self._codes[label]

    def column(self) -> LabelColumn:
        """What is declared in the manifest, once all documents have been read.

        Raises
        ------
        CorpusError
            If no document had a value.
        """
        if self._codes.keys() <= {MISSING}:
            raise CorpusError(
                f"no document has a value in the label column '{self._name}'. Correct the source's 'labels'."
            )
        return LabelColumn(self._name, f"the document's {self._name}, as its source states it", tuple(self._codes))

    def _text(self, value: Any, where: str) -> str:
        kind = type(value)
        if kind not in (str, int, bool):
            raise CorpusError(
                f"{where}: the label column '{self._name}' holds a value of type {kind.__name__}. Labels are text, "
                "whole numbers or true/false."
            )
        if self._kind not in (None, kind):
            raise CorpusError(
                f"{where}: the label column '{self._name}' holds {ascii(value)[:80]} of type {kind.__name__} after "
                f"values of type {self._kind.__name__ if self._kind else ''}. Write all of them alike."
            )
        self._kind = kind
        if kind is bool:
            return "true" if value else "false"
        text = str(value)
        if text in (MISSING, EMPTY):
            raise CorpusError(
                f"{where}: the label column '{self._name}' holds the text {text!r}, which means that there is "
                "no value. Rename it."
            )
        if len(text) > _MOST_CHARACTERS or not text.isprintable():
            raise CorpusError(
                f"{where}: the label column '{self._name}' holds {text[:80]!a}, which is longer than "
                f"{_MOST_CHARACTERS} characters or has some that cannot be printed. Correct the label."
            )
        return text or EMPTY
