"""Templates of the report: files of a package, filled in with every value escaped."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined


def read_text(package: str, name: str) -> str:
    """A file next to the modules of a package."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def render(package: str, name: str, functions: dict[str, Any], **values: Any) -> str:
    """Fill in the template `name` of a package; a value that it needs and does not get is an error.

    Parameters
    ----------
    functions
        What the template calls.
    values
        What it shows, escaped unless it is `Markup`.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(functions)
    return environment.from_string(read_text(package, name)).render(**values)
