"""Reading a YAML configuration: a key that occurs twice is an error, and every error is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tokenbounds.errors import ConfigError


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping of keys.

    Raises
    ------
    ConfigError
        In one line: if the file cannot be read, is not YAML in UTF-8, holds no mapping, or holds a key twice in the
        same mapping, of which YAML itself would take the last.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        raw = yaml.load(text, Loader=_StrictLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist. Pass an existing configuration file.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text. Save it with the encoding UTF-8.") from error
    except _RepeatedKey as error:
        raise ConfigError(f"{path}: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_in_one_line(error)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no mapping of keys. Start from config/config.yaml.")
    return raw


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
