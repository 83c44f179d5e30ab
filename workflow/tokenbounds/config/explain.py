"""Pydantic's errors in the user's words: the key, what to give instead, and the nearest valid word."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from tokenbounds.config.words import tagged, words


def explain_errors(kind: type, error: ValidationError) -> Iterator[str]:
    """Yield one line for each fault that pydantic found in a value of type `kind`."""
    faults = error.errors()
    inner = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    for fault in faults:
        if fault["loc"] in inner:
            continue  # a list is wrong because one of its parts is wrong, which has a line of its own
        keys, hint = _place(kind, fault["loc"])
        where, given = ".".join(keys), json.dumps(fault["input"], default=str, ensure_ascii=False)
        given = given if len(given) <= 60 else f"{given[:57]}..."
        match fault["type"]:
            case "unexpected_keyword_argument":
                _, owner = _place(kind, fault["loc"][:-1])
                valid = _keys_of(owner)
                yield f"{where}: unknown key{nearest(keys[-1], valid)} Known keys: {', '.join(valid)}."
            case "missing" | "missing_argument":
                yield f"{where}: this key is required and missing."
            case "union_tag_not_found":
                yield f"{where}: give 'kind', one of {', '.join(tagged(hint))}."
            case "union_tag_invalid":
                tag = str(fault["input"].get("kind"))
                known = ", ".join(tagged(hint))
                yield f"{where}.kind: there is no kind '{tag}'{nearest(tag, tagged(hint))} Known kinds: {known}."
            case "value_error":  # of a check of our own, which says what is wrong with the value
                yield f"{where}: {given} {fault['ctx']['error']}."
            case _ if hint is None:
                yield f"{where}: {fault['msg']}, not {given}."
            case _:
                bare = _bare(hint)
                members = list(bare) if isinstance(bare, type) and issubclass(bare, StrEnum) else get_args(bare)
                choices = [str(value) for value in members if isinstance(value, str)]
                guess = nearest(str(fault["input"]), choices) if isinstance(fault["input"], str) else "."
                yield f"{where}: give {_wanted(hint)}, not {given}{guess}"


def nearest(word: str, candidates: Iterable[str]) -> str:
    """The end of a sentence about `word`: a guess of what was meant, or a full stop."""
    others = sorted(name for name in candidates if name != word)
    close = difflib.get_close_matches(word, others, n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else "."


def _place(kind: Any, location: tuple[Any, ...]) -> tuple[list[str], Any]:
    """The user's keys that lead to a place, and the type that belongs there.

    Pydantic puts the chosen `kind` after the key that holds a union, and `[key]` after a key whose name is wrong;
    neither is one of the user's keys. The type is None where there is none: after an unknown key.
    """
    keys: list[str] = []
    hint, owner = kind, None
    for part in location:
        members = tagged(hint)
        bare = _bare(hint)
        if part in members:
            hint = members[part]
            continue
        if part == "[key]":
            hint = owner
            continue
        keys.append(str(part))
        if is_dataclass(bare) and isinstance(bare, type):
            hint = typing.get_type_hints(bare, include_extras=True).get(part)
        elif get_origin(bare) is dict:
            owner, hint = get_args(bare)
        elif get_origin(bare) is tuple:
            hint = get_args(bare)[0]
        else:
            hint = None
    return keys, hint


def _bare(hint: Any) -> Any:
    """A type without notes and without null."""
    if get_origin(hint) is typing.Annotated:
        return _bare(get_args(hint)[0])
    others = [member for member in get_args(hint) if member is not type(None)]
    return _bare(others[0]) if len(others) == 1 and type(None) in get_args(hint) else hint


def _keys_of(hint: Any) -> list[str]:
    bare = _bare(hint)
    return [field.name for field in fields(bare)] if is_dataclass(bare) else []


def _wanted(hint: Any) -> str:
    """What belongs at a key, as the object of a sentence."""
    if tagged(hint):
        return f"'kind', one of {', '.join(tagged(hint))}"
    if keys := _keys_of(hint):
        return f"keys, of {', '.join(keys)}"
    phrase = words(hint).replace("`", "'")
    if get_origin(_bare(hint)) is dict and phrase.startswith("rows: "):
        return "rows, at least one: each a name and its keys"
    article = {"integer": "an ", "number": "a ", "list": "a ", "row": "a ", "file": "a "}
    return article.get(phrase.split()[0], "") + phrase
