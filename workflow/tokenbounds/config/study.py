"""A whole configuration: read, checked, and taken apart into rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT
from tokenbounds.config.calibrations import CalibrationSpec
from tokenbounds.config.certificates import CertificateSpec, EvaluationSpec
from tokenbounds.config.corpora import CorpusSpec
from tokenbounds.config.faults import explain_errors, study_faults
from tokenbounds.config.messages import MessageSpec
from tokenbounds.config.models import ModelSpec
from tokenbounds.config.tasks import TaskSpec
from tokenbounds.errors import ConfigError
from tokenbounds.files import canonical_json


@dataclass(frozen=True, config=STRICT)
class Study:
    """A whole study. Rows refer to each other by name."""

    study: str
    corpora: Annotated[dict[str, CorpusSpec], Field(min_length=1)]
    models: Annotated[dict[str, ModelSpec], Field(min_length=1)]
    messages: Annotated[dict[str, MessageSpec], Field(min_length=1)]
    certificates: Annotated[dict[str, CertificateSpec], Field(min_length=1)]
    calibrations: dict[str, CalibrationSpec] = Field(default_factory=dict)
    evaluations: dict[str, EvaluationSpec] = Field(default_factory=lambda: {"default": EvaluationSpec()})
    tasks: dict[str, TaskSpec] = Field(default_factory=dict)
    results: str = "results"


_STUDY = TypeAdapter(Study)


def parse_study(raw: dict[str, Any]) -> Study:
    """Check a configuration and return it as a `Study`.

    Raises
    ------
    ConfigError
        With one line per fault: the path of the key, what is wrong, and the nearest valid key or name.
    """
    try:
        study = _STUDY.validate_python(raw)
    except ValidationError as error:
        lines = explain_errors(raw, error, study_schema())
        raise ConfigError("the configuration is not valid:\n" + "\n".join(lines)) from error
    faults = list(study_faults(study))
    if faults:
        raise ConfigError("the configuration is not valid:\n" + "\n".join(faults))
    return study


def load_study(path: Path | str) -> Study:
    """Read a YAML configuration and check it.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, or does not describe a study.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist. Pass an existing configuration file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no mapping of keys. Start from config/config.yaml.")
    return parse_study(raw)


def row_json(row: Any) -> str:
    """Canonical JSON of one row, defaults filled in: equal for configurations that mean the same."""
    return canonical_json(TypeAdapter(type(row)).dump_python(row, mode="json"))


def parse_row(kind: Any, text: str) -> Any:
    """Rebuild a row from `row_json`; `kind` is its type, e.g. `CorpusSpec` or the union `ModelSpec`."""
    return TypeAdapter(kind).validate_json(text)


def study_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a configuration file."""
    schema = _STUDY.json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
