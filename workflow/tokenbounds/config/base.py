"""What the types of a configuration share: strictness, ranges of values, and references from one row to another."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import AfterValidator, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=False)

_SMALLEST = 1e-100  # so that it can still be divided among rows, and has a logarithm


def _check_size(probability: float) -> float:
    if probability < _SMALLEST:
        raise ValueError(f"is smaller than {_SMALLEST:g}")
    return probability


PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(gt=0, lt=1), AfterValidator(_check_size)]
Coefficient = Annotated[float, Field(gt=0, le=1)]
LabelName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]

Section = Literal["corpora", "models", "calibrations", "messages", "evaluations", "certificates", "tasks"]


@dataclass(frozen=True)
class Reference:
    """Marks a field, or the members of a list, that name a row of a section: `Annotated[str, Reference("models")]`.

    `but` is the one value that names no row.
    """

    section: Section
    but: str | None = None


@dataclass(frozen=True)
class Called:
    """Marks what a string is: `Annotated[str, Called("file")]`, where "text" would say too little."""

    noun: str


Paths = Annotated[tuple[Annotated[str, Called("file")], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Use:
    """One use of a row's name: the key that holds it, relative to the row that was walked, and the row it names."""

    key: str
    section: Section
    name: str


def references(row: Any) -> Iterator[Use]:
    """Yield every row that a row names, in the order of its keys; keys of nested types are joined by dots."""
    for key, value, reference in _walk(row):
        if reference is not None and value is not None and value != reference.but:
            yield Use(key, reference.section, value)


def nested(row: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a row and every part of it that is a type of its own, each with its key; the row itself has the key ''."""
    yield key, row
    for field in dataclasses.fields(row):
        name, value = field.name, getattr(row, field.name)
        if dataclasses.is_dataclass(value):
            yield from nested(value, f"{key}.{name}".lstrip("."))


def _walk(row: Any) -> Iterator[tuple[str, Any, Reference | None]]:
    for key, part in nested(row):
        for name, (own, each) in _annotations(part.__class__).items():
            value = getattr(part, name)
            where = f"{key}.{name}".lstrip(".")
            if isinstance(value, tuple):
                yield from ((where, member, each) for member in value)
            else:
                yield where, value, own


@cache
def _annotations(kind: type) -> dict[str, tuple[Reference | None, Reference | None]]:
    """For each key of a type: the reference in its value, and the one in each member of its list."""
    hints, found = typing.get_type_hints(kind, include_extras=True), {}
    for name in (field.name for field in dataclasses.fields(kind)):
        hint = hints[name]
        arguments = get_args(hint)
        inner = arguments[0] if get_origin(hint) is Annotated else hint
        members = get_args(inner) if get_origin(inner) is tuple else ()
        found[name] = (_reference(hint), _reference(members[0]) if members else None)
    return found


def _reference(hint: Any) -> Reference | None:
    """The reference in an annotation's metadata, if there is one."""
    metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((note for note in metadata if isinstance(note, Reference)), None)


class Fault(NamedTuple):
    """What is wrong with a row, or a part of one: the key ('' for all of it), and what to do instead."""

    key: str
    sentence: str


class Checked:
    """A type whose keys must fit together."""

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong with this part of a study, regardless of the rest."""
        raise NotImplementedError
