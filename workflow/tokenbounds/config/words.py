"""Types of the configuration in the words of someone who writes YAML, for `config/README.md` and for errors."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from tokenbounds.config.base import Called, Reference

_NAMES = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", type(None): "`null`"}
_LIMITS = {
    **{"ge": "≥", "gt": ">", "le": "≤", "lt": "<"},
    **{"min_length": "at least", "max_length": "at most", "length": "exactly"},
}


def words(hint: Any, part: Callable[[type], str] | None = None) -> str:
    """A type in words, e.g. `integer (≥ 1) or null`; a configuration type as `part` writes it, or by its keys."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _annotated(arguments[0], arguments[1:], part)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        if all(is_dataclass(member) for member in arguments):
            return "of `kind` " + ", ".join(f"`{tag}`" for tag in tagged(hint))
        return " or ".join(words(member, part) for member in arguments)
    if origin is tuple:
        return f"list of {_plural(arguments[0], part)}"
    if origin is dict:
        keys = words(arguments[0], part) if get_origin(arguments[0]) is Literal else "name"
        return f"{'' if keys != 'name' else 'rows: '}{keys} → {words(arguments[1], part)}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{member.value}`" for member in hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return part(hint) if part else "keys: " + ", ".join(f"`{field.name}`" for field in fields(hint))
    return _NAMES[hint]


def tagged(hint: Any) -> dict[str, type]:
    """The members of a union of types that differ in `kind`, by their kind; none for any other type."""
    if get_origin(hint) is typing.Annotated:
        return tagged(get_args(hint)[0])
    if get_origin(hint) not in (typing.Union, types.UnionType):
        return {}
    found = {}
    for member in get_args(hint):
        if is_dataclass(member) and isinstance(member, type):
            kind = typing.get_type_hints(member).get("kind")
            found.update(dict.fromkeys(get_args(kind), member))
        else:
            found.update(tagged(member))
    return found


def _annotated(hint: Any, notes: tuple[Any, ...], part: Callable[[type], str] | None) -> str:
    for note in notes:
        if isinstance(note, Reference):
            others = [f"`{note.but}`"] if note.but else []
            others += ["`null`"] if type(None) in get_args(hint) else []
            return " or ".join([f"row of `{note.section}`", *others])
        if isinstance(note, Called):
            return note.noun
    return words(hint, part) + _limits(notes)


def _plural(hint: Any, part: Callable[[type], str] | None) -> str:
    for note in get_args(hint)[1:] if get_origin(hint) is typing.Annotated else ():
        if isinstance(note, Reference):
            return f"rows of `{note.section}`"
        if isinstance(note, Called):
            return f"{note.noun}s"
    return re.sub(r"^(integer|number)", r"\1s", words(hint, part))


def _limits(notes: tuple[Any, ...]) -> str:
    limits = []
    for note in notes:
        found: dict[str, Any] = {}
        for constraint in getattr(note, "metadata", []):
            found.update({name: getattr(constraint, name) for name in _LIMITS if hasattr(constraint, name)})
        if "min_length" in found and found["min_length"] == found.get("max_length"):
            found = {"length": found["min_length"]}
        limits += [f"{_LIMITS[name]} {value:g}" for name, value in found.items()]
    return f" ({', '.join(limits)})" if limits else ""
