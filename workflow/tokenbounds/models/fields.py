"""Checked values of a model card: each field knows its default and its bounds, and refuses what breaks them.

A card travels inside a message and may be hostile, so every value is checked against explicit bounds before
anything is built from it. A card stores only values that differ from the defaults. Those defaults are part of the
message format: a decoder years from now must read a missing key as the same value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tokenbounds.errors import ModelError


class Field(Protocol):
    """A value of a card: its default, and a check that returns the value in canonical form."""

    @property
    def default(self) -> Any:
        """The value of a missing key."""

    def check(self, value: Any, where: str) -> Any:
        """Return `value` in canonical form, or raise ModelError naming `where`."""


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]; None is also accepted if it is the default."""

    default: int | None
    low: int
    high: int

    def check(self, value: Any, where: str) -> int | None:
        """Refuse what is not an integer in range."""
        if value is None and self.default is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ModelError(f"{where} is {value!r:.80}; it must be an integer from {self.low} to {self.high}.")
        return value


@dataclass(frozen=True)
class Real:
    """A finite number in [low, high]."""

    default: float
    low: float
    high: float

    def check(self, value: Any, where: str) -> float:
        """Refuse what is not a finite number in range."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not self.low <= value <= self.high:
            raise ModelError(f"{where} is {value!r:.80}; it must be a number from {self.low} to {self.high}.")
        return float(value)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    default: bool

    def check(self, value: Any, where: str) -> bool:
        """Refuse what is not a Boolean."""
        if not isinstance(value, bool):
            raise ModelError(f"{where} is {value!r:.80}; it must be true or false.")
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few strings."""

    default: str
    options: tuple[str, ...]

    def check(self, value: Any, where: str) -> str:
        """Refuse what is not among the options."""
        if not isinstance(value, str) or value not in self.options:
            raise ModelError(f"{where} is {value!r:.80}; it must be one of {', '.join(self.options)}.")
        return value


@dataclass(frozen=True)
class Subset:
    """A non-empty list of distinct strings among the options, kept in the options' order."""

    default: tuple[str, ...]
    options: tuple[str, ...]

    def check(self, value: Any, where: str) -> tuple[str, ...]:
        """Refuse lists that are empty, too long, or hold anything but the options."""
        if not isinstance(value, list | tuple) or not 0 < len(value) <= len(self.options):
            raise ModelError(f"{where} is {value!r:.80}; it must list some of {', '.join(self.options)}.")
        if any(not isinstance(item, str) or item not in self.options for item in value):
            raise ModelError(f"{where} is {value!r:.80}; it may hold only {', '.join(self.options)}.")
        return tuple(option for option in self.options if option in value)


@dataclass(frozen=True)
class Shapes:
    """A mapping from some of the options to two whole numbers in [1, high], rows and columns; empty by default."""

    options: tuple[str, ...]
    high: int

    @property
    def default(self) -> dict[str, list[int]]:
        """No shape at all."""
        return {}

    def check(self, value: Any, where: str) -> dict[str, list[int]]:
        """Refuse unknown keys and values that are not two integers in range."""
        if not isinstance(value, Mapping) or any(key not in self.options for key in value):
            raise ModelError(f"{where} is {value!r:.80}; it must map some of {', '.join(self.options)} to shapes.")
        side = Integer(1, 1, self.high)
        for key, shape in value.items():
            if not isinstance(shape, list | tuple) or len(shape) != 2:
                raise ModelError(f"{where}.{key} is {shape!r:.80}; it must be a list of rows and columns.")
        return {
            option: [side.check(size, f"{where}.{option}") or 1 for size in value[option]]
            for option in self.options
            if option in value
        }


_ROPE_NUMBERS = {
    "rope_theta", "factor", "attention_factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor",
    "original_max_position_embeddings", "mscale", "mscale_all_dim",
}  # fmt: skip
_ROPE_LISTS = {"short_factor", "long_factor"}
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


@dataclass(frozen=True)
class Rope:
    """Parameters of rotary position embeddings under the names transformers gives them; the default is theta alone."""

    theta: float = 10000.0

    @property
    def default(self) -> dict[str, Any]:
        """Plain rotary embeddings."""
        return {"rope_theta": self.theta, "rope_type": "default"}

    def check(self, value: Any, where: str) -> dict[str, Any]:
        """Refuse unknown keys, unknown scaling or one that depends on later tokens, and numbers not positive."""
        if not isinstance(value, Mapping):
            raise ModelError(f"{where} is {value!r:.80}; it must be a mapping.")
        checked = {**self.default, **{key: self._check_one(key, item, where) for key, item in value.items()}}
        if checked["rope_type"] == "longrope" and checked.get("short_factor") != checked.get("long_factor"):
            raise ModelError(
                f"{where}: longrope with two lists of factors is not supported: which one applies depends on the "
                "longest sequence of a batch, so a token's loss would depend on more than what precedes it."
            )
        return dict(sorted(checked.items()))

    def _check_one(self, key: Any, value: Any, where: str) -> Any:
        where = f"{where}.{key!s:.40}"
        if key == "rope_type":
            return Choice("default", _ROPE_TYPES).check(value, where)
        if key == "truncate":
            return Flag(True).check(value, where)
        if key in _ROPE_LISTS:
            if not isinstance(value, list | tuple) or len(value) > 4096:
                raise ModelError(f"{where} must be a list of at most 4096 numbers.")
            return [Real(1.0, 1e-9, 1e9).check(item, where) for item in value]
        if key in _ROPE_NUMBERS:
            Real(1.0, 1e-9, 1e15).check(value, where)
            return value
        raise ModelError(f"{where} is a rotary parameter this version does not know.")


def check_values(fields: Mapping[str, Field], values: Any, where: str) -> dict[str, Any]:
    """Check `values` field by field and return all fields, defaults filled in.

    Raises
    ------
    ModelError
        If `values` is not a mapping, holds an unknown key, or breaks a field's bounds.
    """
    if not isinstance(values, Mapping):
        raise ModelError(f"{where} must be a mapping of keys to values.")
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise ModelError(f"{where}.{unknown[0]!s:.40} is unknown; known keys: {', '.join(fields)}.")
    return {
        key: field.check(values[key], f"{where}.{key}") if key in values else field.default
        for key, field in fields.items()
    }


def without_defaults(fields: Mapping[str, Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep only what differs from the fields' defaults, in mappings too; tuples become lists, as in JSON."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        default = fields[key].default
        if isinstance(value, Mapping):
            kept[key] = {name: item for name, item in value.items() if name not in default or default[name] != item}
        else:
            kept[key] = list(value) if isinstance(value, tuple) else value
    return {key: value for key, value in kept.items() if values[key] != fields[key].default}
