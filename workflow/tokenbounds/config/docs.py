"""What is generated from the configuration's types: the JSON schema, and `config/README.md`, which explains every key.

`python -m tokenbounds.config.docs` writes both into the checkout; with `--check` it only compares, and fails if a file
does not match the types.
"""

from __future__ import annotations

import re
import sys
import typing
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from tokenbounds import config
from tokenbounds.config.quantizers import QUANTIZERS
from tokenbounds.config.words import words
from tokenbounds.files import canonical_json, write_bytes

ROOT = Path(__file__).resolve().parents[3]
SCHEMA_FILE = Path("workflow/schemas/study.schema.json")
README_FILE = Path("config/README.md")

INTRODUCTION = """
# Configuration

A configuration file is one study: named rows that refer to each other by name. Give yours to Snakemake with
`snakemake --cores all --configfile my-study.yaml`; it replaces the default study, `config/config.yaml`. The smallest
useful study has a corpus, a model, a message and a certificate:

```yaml
study: my-study
corpora:
  notes: {source: {kind: text, paths: [notes/]}}
models:
  markov: {kind: markov, corpus: notes, order: 1}
messages:
  markov: {model: markov, quantizer: {kind: counts}}
certificates:
  markov: {message: markov, corpus: notes}
```

Names may contain letters, digits, `.`, `_` and `-`; they become file names. Unknown keys are errors. Editing a row
makes the next run repeat only what depends on that row; comments and the order of keys do not matter. Editors that know
JSON schemas can complete keys from `workflow/schemas/study.schema.json`. Memory, run time and GPUs are not part of a
study: they belong in Snakemake's profile (`slurm/config.yaml`).
"""

_SECTIONS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("Study", (config.Study, config.About)),
    ("Corpora", (config.CorpusSpec,)),
    (
        "Sources of a corpus",
        (
            config.PythonStdlibSource,
            config.PythonTopicsSource,
            config.ArithmeticSource,
            config.IntegerSequenceSource,
            config.TextSource,
            config.JsonLinesSource,
            config.ParquetSource,
            config.HuggingFaceSource,
            config.ReferenceSource,
            config.AirrSource,
            config.OasSource,
            config.FastaSource,
            config.CsvSource,
        ),
    ),
    (
        "Documents of an antibody source",
        (config.KeepSpec, config.SingleLayout, config.FamilyLayout, config.SplitSpec),
    ),
    (
        "Tokenizers",
        (config.ByteTokenizer, config.TransformersTokenizer, config.AntibodyTokenizer, config.IglmTokenizer),
    ),
    (
        "Models",
        (config.TrainedModel, config.PretrainedModel, config.FinetunedModel, config.MarkovModel, config.OnlineModel),
    ),
    ("Architecture and training of a model", (config.Architecture, config.Training)),
    (
        "Parameterizations",
        (
            config.Dense,
            config.Lora,
            config.Kronecker,
            config.Monarch,
            config.Subspace,
            config.SubLora,
            config.KroneckerSubspace,
            config.Tiny,
        ),
    ),
    ("Messages", (config.MessageSpec,)),
    ("Quantizers", (*QUANTIZERS.values(), config.StraightThrough, config.Drift, config.Tuning, config.Target)),
    ("Smoothing head of a message", (config.SmoothingHeadSpec,)),
    ("Calibrations", (config.CalibrationSpec,)),
    ("Evaluations", (config.EvaluationSpec,)),
    ("Certificates", (config.CertificateSpec, config.BoundsSpec)),
    (
        "Tasks",
        (
            config.GenerationTask,
            config.MemorizationTask,
            config.SamplesTask,
            config.ZeroShotTask,
            config.QuestionFiles,
            config.NextIdentifier,
            config.MissingWord,
            config.RecoveryTask,
            config.AffinityTask,
        ),
    ),
)


def render_schema() -> str:
    """The JSON schema of a configuration file."""
    return canonical_json(config.study_schema(), indent=2) + "\n"


def render_readme() -> str:
    """The reference of all keys, in Markdown."""
    parts = ["<!-- Written by `make generate` from workflow/tokenbounds/config/; do not edit. -->", INTRODUCTION]
    for title, kinds in _SECTIONS:
        parts.append(f"## {title}")
        parts.extend(_render_type(kind, alone=len(kinds) == 1) for kind in kinds)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def keys_of(kind: type) -> dict[str, Field[Any]]:
    """A type's keys, except `kind`, whose only value is part of the heading."""
    assert is_dataclass(kind)
    return {field.name: field for field in fields(kind) if field.name != "kind"}


def description(hint: Any) -> str:
    """What a key's annotation says it means."""
    notes = [note.description for note in get_args(hint)[1:] if isinstance(note, FieldInfo) and note.description]
    return notes[-1]


def _render_type(kind: type, *, alone: bool) -> str:
    hints = typing.get_type_hints(kind, include_extras=True)
    # A type without `kind` is called by the key that holds it: `TrainingSpec` by `training`.
    key = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__.removesuffix("Spec")).lower()
    title = f"kind: {get_args(hints['kind'])[0]}" if "kind" in hints else key
    lines = [] if alone else [f"### `{title}`"]
    lines.append("\n".join(line.strip() for line in (kind.__doc__ or "").strip().splitlines()))
    keys = keys_of(kind)
    if keys:
        table = ["| key | value | default | meaning |", "|:--|:--|:--|:--|"]
        for name, field in keys.items():
            hint = hints[name]
            cells = (f"`{name}`", words(hint, _render_link), _render_default(field), description(hint))
            table.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("\n".join(table))
    return "\n\n".join(lines)


def _render_default(field: Field[Any]) -> str:
    default = field.default
    factory = field.default_factory
    if isinstance(default, FieldInfo):
        factory = typing.cast(Any, default.default_factory) or MISSING
        default = MISSING
    if factory is not MISSING:
        value = typing.cast(Any, factory)()
        if value == {}:
            return "`{}`"
        tag = getattr(value, "kind", None)
        return f"`kind: {tag}`" if tag else "the defaults"
    if default is MISSING:
        return "required"
    return f"`{canonical_json(default)}`"


def _render_link(kind: type) -> str:
    title = next(title for title, kinds in _SECTIONS if kind in kinds)
    return f"see [{title}](#{title.lower().replace(' ', '-')})"


def main(arguments: list[str]) -> int:
    """Write the generated files, or with `--check` compare them; the exit status says whether all is well."""
    stale = []
    for path, text in ((SCHEMA_FILE, render_schema()), (README_FILE, render_readme())):
        if (ROOT / path).exists() and (ROOT / path).read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if "--check" not in arguments:
            write_bytes(ROOT / path, text.encode())
    for path in stale:
        print(f"{path}: {'does not match the types; run `make generate`' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
