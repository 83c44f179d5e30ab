"""From a checkpoint and a text to a study: the YAML that `tokenbounds init` writes and `tokenbounds certify` also runs.

Both write the same commented file, so that someone who began with one command goes on by editing it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from tokenbounds.config import parse_study
from tokenbounds.errors import ConfigError
from tokenbounds.files import write_bytes

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*MB")
_SOURCES = {".jsonl": "jsonl", ".parquet": "parquet"}  # by a name's suffix, once .gz and .zst are taken off
_SHARE = Path(sys.prefix) / "share/tokenbounds"  # where a wheel puts the workflow


@dataclass(frozen=True)
class Choices:
    """What a starter study is about.

    Attributes
    ----------
    model
        A checkpoint's folder, a GGUF file, or a hub name.
    corpus
        Files, folders or patterns of text, JSON lines or Parquet; or one data set: a hub name, or a folder that
        `save_to_disk` wrote.
    results
        The folder of the results.
    held_out_because
        Why the model cannot depend on the corpus, with a date; None if it may, and its message is to be paid for.
    target
        Bits per weight (`2`), a size of the message (`25MB`), or `best`; only for a message that is paid for.
    sample_tokens
        Approximate number of tokens to score; 0 scores all.
    context
        Tokens in a window.
    """

    model: str
    corpus: tuple[str, ...]
    results: str
    held_out_because: str | None = None
    target: str = "2"
    sample_tokens: int = 60_000
    context: int = 256


def starter_study(choices: Choices) -> str:
    """The YAML of a study with one corpus, one model, one message and one certificate.

    Raises
    ------
    ConfigError
        If the model or the corpus is neither a path that exists nor a name that a hub could have, kinds of files are
        mixed, or the target is not valid.
    """
    name = row_name(choices.model)
    model = _model(choices.model)
    place = ", ".join(f"{key}: {_inline(value)}" for key, value in model.items())
    held_out = choices.held_out_because is not None
    sample = f", sample_tokens: {choices.sample_tokens}" if choices.sample_tokens else ""
    lines = [
        f"# How well does {name} predict this text? Every key: config/README.md. Check this file with",
        "#     tokenbounds config FILE",
        "# and run it, as often as it is edited, with",
        "#     snakemake --cores all --configfile FILE",
        f"study: {name}",
        f"results: {_inline(choices.results)}",
        "",
        "corpora:",
        "  text:",
        f"    source: {_inline(_source(choices.corpus))}",
        "    # The model's own tokenizer. It must not have been trained on this text; only you can vouch for that.",
        f"    tokenizer: {{kind: transformers, {place}}}",
        "",
        "models:",
        f"  {name}: {{kind: pretrained, {place}}}",
        "",
    ]
    if held_out:
        lines += [
            "messages:",
            "  # The model never saw the text, so no bits are paid for: this message only names it by its hash.",
            f"  {name}: {{model: {name}, quantizer: {{kind: reference}}}}",
            "",
        ]
    else:
        lines += [
            "calibrations:",
            "  # What the quantizer knows about the model beyond its weights. The text that is certified may be used.",
            f"  {name}: {{model: {name}, corpus: text}}",
            "",
            "messages:",
            "  # Every bit of this file is paid for. target: bits_per_weight, message_megabits, or bound: best.",
            f"  {name}:",
            f"    model: {name}",
            f"    quantizer: {{kind: watersic, calibration: {name}, target: {_inline(_target(choices.target))}}}",
            "",
        ]
    lines += [
        "evaluations:",
        "  # Tokens in a window, and how many to score: more of them narrow the bound. Without sample_tokens, all.",
        f"  default: {{context: {choices.context}{sample}}}",
        "",
        "certificates:",
        f"  {name}:",
        f"    message: {name}",
        "    corpus: text",
    ]
    if held_out:
        lines += ["    prior: held_out", f"    held_out_because: {_inline(choices.held_out_because)}"]
    else:
        lines += [
            "    # If the model was fixed before anyone could have this text, give `prior: held_out` and say why in",
            "    # `held_out_because`, with a date: the certificate then pays for no message.",
        ]
    return "\n".join(lines) + "\n"


def write_starter(text: str, path: Path) -> None:
    """Write a starter study that is valid; a file with the same content is left alone.

    Raises
    ------
    ConfigError
        If there is another study at `path`, or this one is not valid.
    """
    if path.exists():
        if path.read_text("utf-8") == text:
            return
        raise ConfigError(
            f"{path} exists and has other content. Run it with {command_of(path)}, or name another place."
        )
    parse_study(yaml.safe_load(text))
    write_bytes(path, text.encode())


def command_of(path: Path) -> str:
    """What people type to run a study from the current folder: where it is no checkout, the workflow is named too."""
    snakefile = _snakefile()
    where = [] if snakefile == Path.cwd() / "Snakefile" else ["--snakefile", str(snakefile)]
    return shlex.join(["snakemake", *where, "--cores", "all", "--configfile", str(path)])


def run_study(path: Path, cores: str = "all") -> int:
    """Run a study's workflow in the current folder; returns Snakemake's exit status.

    Raises
    ------
    ConfigError
        If the workflow's files are not there.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(_snakefile()), "--configfile", str(path)]
    command += ["--cores", cores, "--rerun-incomplete", "--logger", "tokenbounds"]
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    return subprocess.run(command, env=environment, check=False).returncode


def _snakefile() -> Path:
    """The workflow's entry: of the checkout that this package is in, or where a wheel put it."""
    for root in (Path(__file__).parents[2], _SHARE):
        if (root / "Snakefile").is_file() and (root / "workflow/rules/common.smk").is_file():
            return root / "Snakefile"
    raise ConfigError(
        f"the workflow's Snakefile is neither next to this package nor in {_SHARE}. Install tokenbounds again."
    )


def row_name(model: str) -> str:
    """A row's name from a model's path or hub name."""
    path = Path(model)
    stem = path.stem if path.suffix == ".gguf" else path.resolve().name if path.exists() else path.name
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-").lower() or "model"


def _model(model: str) -> dict[str, str]:
    """Where a model's files are, as the rows of models and tokenizers say it."""
    path = Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"there is no GGUF file {model}.")
        return {"name": str(path.parent), "gguf_file": path.name}
    if path.is_dir() or _HUB_NAME.fullmatch(model):
        return {"name": model}
    if path.is_file():
        raise ConfigError(f"{model} is a file. Name the checkpoint's folder, a GGUF file, or a model of the hub.")
    raise ConfigError(f"{model} is neither a folder, a GGUF file, nor a name that a model of the hub could have.")


def _source(corpus: tuple[str, ...]) -> dict[str, object]:
    """The source of a corpus, its kind known from the names."""
    if not corpus:
        raise ConfigError("name the text: files, folders or patterns, or a data set.")
    if len(corpus) == 1 and (_is_saved(Path(corpus[0])) or not _is_path(corpus[0])):
        if not _is_saved(Path(corpus[0])) and not _HUB_NAME.fullmatch(corpus[0]):
            raise ConfigError(f"{corpus[0]} is neither a path nor a name that a data set of the hub could have.")
        return {"kind": "huggingface", "name": corpus[0]}
    missing = [path for path in corpus if not _is_path(path)]
    if missing:
        raise ConfigError(f"there is no {missing[0]}. Name files, folders or patterns, or a single data set.")
    kinds = {_kind(path) for path in corpus}
    if len(kinds) > 1:
        raise ConfigError(f"--corpus mixes kinds of files: {', '.join(sorted(kinds))}. A corpus has one kind.")
    return {"kind": kinds.pop(), "paths": list(corpus)}


def _is_path(text: str) -> bool:
    return Path(text).exists() or bool(re.search(r"[*?\[]", text))


def _is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def _kind(path: str) -> str:
    suffixes = [suffix for suffix in Path(path).suffixes if suffix not in (".gz", ".zst")]
    if Path(path).is_dir():
        inside = {_kind(str(file)) for file in Path(path).iterdir() if file.is_file()} - {"text"}
        return inside.pop() if len(inside) == 1 else "text"
    return _SOURCES.get(suffixes[-1], "text") if suffixes else "text"


def _target(target: str) -> dict[str, object]:
    """The target of a quantizer: bits per weight, a size, or the best bound."""
    if target == "best":
        return {"bound": "best", "corpus": "text"}
    if size := _SIZE.fullmatch(target):
        return {"message_megabits": 8 * float(size[1])}
    try:
        return {"bits_per_weight": float(target)}
    except ValueError:
        raise ConfigError(f"--target {target}: give bits per weight (2), a size (25MB), or best.") from None


def _inline(value: object) -> str:
    """A value as YAML on one line; strings in quotes where YAML would read them as something else."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False).strip()
    return text.removesuffix("\n...").strip() if "\n" not in text.removesuffix("\n...") else json.dumps(value)
