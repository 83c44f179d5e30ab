"""A whole configuration: read, checked, and taken apart into rows."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.config.base import STRICT, Checked, Fault, Section
from tokenbounds.config.calibrations import CalibrationSpec
from tokenbounds.config.certificates import CertificateSpec, EvaluationSpec
from tokenbounds.config.checks import own_faults, study_faults
from tokenbounds.config.corpora import CorpusSpec
from tokenbounds.config.explain import explain_errors
from tokenbounds.config.messages import MessageSpec
from tokenbounds.config.models import ModelSpec
from tokenbounds.config.tasks import TaskSpec
from tokenbounds.config.yaml_file import read_yaml
from tokenbounds.errors import ConfigError

Row = TypeVar("Row")


@dataclass(frozen=True, config=STRICT)
class About:
    """What a study is for, in a sentence each; `tokenbounds studies` lists it."""

    shows: Annotated[str, Field(description="What its results show.")]
    needs: Annotated[str, Field(description="Data, packages and machine that it needs.")]
    costs: Annotated[str, Field(description="Time, memory and disk, and on what machine.")]


@dataclass(frozen=True, config=STRICT)
class Study(Checked):
    """A whole study. Rows refer to each other by name."""

    study: Annotated[str, Field(description="Name of the study; certificates, tables and the report show it.")]
    corpora: Annotated[
        dict[str, CorpusSpec],
        Field(min_length=1, description="The texts that models are trained on and certified for."),
    ]
    models: Annotated[dict[str, ModelSpec], Field(min_length=1, description="What is to be compressed.")]
    messages: Annotated[dict[str, MessageSpec], Field(min_length=1, description="How models become bits.")]
    certificates: Annotated[
        dict[str, CertificateSpec],
        Field(min_length=1, description="What is to be certified. Only what a certificate needs is computed."),
    ]
    calibrations: Annotated[
        dict[str, CalibrationSpec],
        Field(description="What quantizers of pretrained models know about them beyond their values."),
    ] = Field(default_factory=dict)
    evaluations: Annotated[
        dict[str, EvaluationSpec],
        Field(description="How tokens are scored. Without this key there is one row, `default`, all defaults."),
    ] = Field(default_factory=lambda: {"default": EvaluationSpec()})
    tasks: Annotated[
        dict[str, TaskSpec],
        Field(
            description="What models are tested on in addition to certificates: docs/generation.md, docs/zero-shot.md, "
            "and for antibodies docs/antibody.md."
        ),
    ] = Field(default_factory=dict)
    results: Annotated[str, Field(description="Folder of all results, relative to where Snakemake runs.")] = "results"
    published_numbers: Annotated[
        str | None,
        Field(
            description="Draw the study's bounds beside published ones, in the same axes: a CSV file with the columns "
            "`series`, `label`, `message_bytes`, `empirical_bits` and `bound_bits`, whose comments (`#`) say where "
            "they are from."
        ),
    ] = None
    published_losses: Annotated[
        str | None,
        Field(
            description="Draw published losses into the panel of bounds against trained parameters, which is there if "
            "several models share a method of compression: a CSV file with the columns `series`, `label`, "
            "`trained_parameters` and `empirical_bits`, whose comments (`#`) say where they are from."
        ),
    ] = None
    about: Annotated[About | None, Field(description="What the study shows, needs and costs.")] = None

    def section(self, name: Section) -> Mapping[str, Any]:
        """The rows of a section, by name."""
        rows: Mapping[str, Any] = getattr(self, name)
        return rows

    def faults(self) -> Iterator[Fault]:
        """Yield a folder of results that would hold more than results, or whose name no folder can have."""
        if not self.study.isprintable():
            yield Fault("study", "the name holds characters that cannot be printed.")
        if not self.results.isprintable() or any(len(part.encode()) > 255 for part in self.results.split("/")):
            yield Fault("results", "no folder can have this name: it is too long, or cannot be printed.")
            return
        if posixpath.basename(posixpath.normpath(self.results)) in ("", ".", ".."):
            yield Fault("results", f"'{self.results}' is not a folder of its own. Name one, e.g. results/{self.study}.")
        if re.search(r"[{}<>]", self.results):
            yield Fault("results", f"'{self.results}' holds one of {{ }} < >, which Snakemake reads as syntax.")


_SMALL_VOCABULARY, _SMALL_TOP_K = 100, (1, 3, 5, 10)
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
        raise _invalid(explain_errors(Study, error)) from error
    study = _with_fitting_bounds(study, raw)
    faults = list(study_faults(study))
    if faults:
        raise _invalid(faults)
    return study


def _with_fitting_bounds(study: Study, raw: dict[str, Any]) -> Study:
    """The study, with what fits for certificates that leave out `top_k`, `bounds` or `certificates_per_sample`."""
    certificates = dict(study.certificates)
    for name, row in study.certificates.items():
        corpus = study.corpora.get(row.corpus)
        size = corpus.tokenizer.vocabulary_size if corpus else None
        stated, bounds = raw["certificates"][name].get("bounds", {}), row.bounds
        if "top_k" not in stated and size is not None and size <= _SMALL_VOCABULARY:
            bounds = dataclasses.replace(bounds, top_k=tuple(k for k in _SMALL_TOP_K if k < size))
        if "bounds" not in stated and row.prior == "held_out":
            bounds = dataclasses.replace(bounds, bounds=(BoundKind.BETTING,))
        if "certificates_per_sample" not in stated and row.prior == "held_out":
            bounds = dataclasses.replace(bounds, certificates_per_sample=1)
        certificates[name] = dataclasses.replace(row, bounds=bounds)
    return dataclasses.replace(study, certificates=certificates)


def check_row(kind: type[Row], raw: Mapping[str, Any], name: str) -> Row:
    """Check a row that belongs to no study and return it as its type; `name` is what an error calls it.

    Raises
    ------
    ConfigError
        With one line per fault, as for a whole study.
    """
    try:
        row: Row = TypeAdapter(kind).validate_python(dict(raw))
    except ValidationError as error:
        raise _invalid(explain_errors(kind, error), name) from error
    faults = list(own_faults("", row))
    if faults:
        raise _invalid(faults, name)
    return row


def _invalid(faults: Iterable[str], name: str = "the configuration") -> ConfigError:
    return ConfigError("\n  ".join([f"{name} is not valid:", *faults]))


def load_study(path: Path | str) -> Study:
    """Read a YAML configuration and check it.

    Raises
    ------
    ConfigError
        If the file cannot be read, holds a key twice, or does not describe a study.
    """
    return parse_study(read_yaml(path))


def study_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a configuration file; every property has a description."""
    schema = _STUDY.json_schema()
    for definition in schema["$defs"].values():
        # Editors show a type's docstring where the user chooses among kinds.
        if "kind" in definition.get("properties", {}):
            definition["properties"]["kind"]["description"] = definition["description"].split("\n\n")[0]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
