"""Reading a YAML configuration: a key that occurs twice is an error, and every error is one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from tokenbounds.errors import ConfigError

_MOST_VALUES = 10**6


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping of keys.

    Raises
    ------
    ConfigError
        In one line: if the file cannot be read, is not YAML in UTF-8, holds no mapping, or holds a key twice in the
        same mapping, of which YAML itself would take the last.
    """
    try:
        raw = parse_yaml(Path(path).read_bytes().decode("utf-8-sig"), str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist. Pass an existing configuration file.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text. Save it with the encoding UTF-8.") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no mapping of keys. Start from config/config.yaml.")
    return raw


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; `where` is what an error calls it.

    Raises
    ------
    ConfigError
        In one line: if it is not YAML, holds a key twice in the same place, or repeats itself endlessly by aliases.
    """
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        if node is not None and _count_values(node, {}) > _MOST_VALUES:
            raise ConfigError(f"{where} has more than {_MOST_VALUES:,} values, aliases followed. Write fewer.")
        return None if node is None else loader.construct_document(node)
    except _RepeatedKey as error:
        raise ConfigError(f"{where}: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where} is not valid YAML: {_in_one_line(error)}") from error


def _count_values(node: yaml.Node, counts: dict[int, float]) -> float:
    """Number of values below a node if each alias were expanded: infinite if one names what it is part of."""
    if id(node) not in counts:
        counts[id(node)] = math.inf
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        below = (part for entry in inside for part in (entry if isinstance(entry, tuple) else (entry,)))
        counts[id(node)] = 1 + sum(_count_values(part, counts) for part in below)
    return counts[id(node)]


class _RepeatedKey(Exception):
    """A key occurs twice in one mapping."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses keys that occur twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # At this point merged mappings (`<<: *anchor`), whose keys may occur again, are not yet expanded.
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise _RepeatedKey(
                    f"the key '{key.value}' occurs twice, in line {lines[name]} and in line {line}. Keep one."
                )
            lines[name] = line
        return super().construct_mapping(node, deep=deep)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}."
    return " ".join(str(error).split())
