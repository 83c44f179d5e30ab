"""Commands that write, run, check and list studies: `certify`, `init`, `config`, `studies`; and `pin`, for a corpus."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tokenbounds.errors import ConfigError
from tokenbounds.terminal import SafeConsole

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A checkpoint's folder (a decoded message's too), a GGUF file, or a hub name."
    ),
]
CorpusOption = Annotated[
    list[str],
    typer.Option(
        "--corpus",
        metavar="PATH|DATASET",
        help="Text, JSON lines or Parquet files, folders or patterns (repeatable), or one data set of the hub or disk.",
    ),
]
BecauseOption = Annotated[
    str | None,
    typer.Option(
        metavar="SENTENCE",
        help="Why the model cannot depend on the text, with a date (2025-01-31); the certificate quotes it.",
    ),
]
TargetOption = Annotated[
    str, typer.Option(metavar="BITS|SIZE|best", help="Size of the message: bits per weight (2), 25MB, or best.")
]
SampleOption = Annotated[
    int,
    typer.Option(
        "--sample",
        min=0,
        metavar="TOKENS",
        help="About how many tokens to score; 0: all. More narrow the bound.",
    ),
]
ContextOption = Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Tokens in a window.")]

# As in tokenbounds.starter, which --help does not wait for.
DEFAULT_SAMPLE, DEFAULT_CONTEXT = 60_000, 256


class Prior(StrEnum):
    """What a certificate's model may depend on."""

    HELD_OUT = "held_out"
    MESSAGE = "message"


def certify(
    model: ModelArgument,
    corpus: CorpusOption,
    because: BecauseOption = None,
    prior: Annotated[
        Prior | None,
        typer.Option(
            help="held_out: the model never saw the text, and no bits are paid for; say why with --because. message: "
            "every bit of the compressed model is paid for. Default: held_out if --because is given."
        ),
    ] = None,
    target: TargetOption = "2",
    sample: SampleOption = DEFAULT_SAMPLE,
    context: ContextOption = DEFAULT_CONTEXT,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the results; default: results/MODEL.")
    ] = None,
    cores: Annotated[str, typer.Option(help="Cores to use, or all.")] = "all",
) -> None:
    """From a checkpoint and a text to a certificate, a table and a page: writes a study and runs it.

    The study's YAML is in the folder of the results. Edit it and run it again with Snakemake: only what an edit
    touches is computed again.
    """
    from tokenbounds import starter

    if prior is None:
        prior = Prior.HELD_OUT if because else Prior.MESSAGE
    if (prior is Prior.HELD_OUT) != bool(because):
        raise ConfigError(
            '--prior held_out needs --because "…", a sentence with a date that says why the model cannot depend on the '
            "text."
            if prior is Prior.HELD_OUT
            else "--because is for --prior held_out alone."
        )
    out = out or Path("results") / starter.row_name(model)
    choices = starter.Choices(model, tuple(corpus), str(out), because, target, sample, context)
    path = out / "study.yaml"
    starter.write_starter(starter.starter_study(choices), path)
    typer.echo(f"The study is {path}. To change it, edit it and run: {starter.command_of(path)}", err=True)
    raise typer.Exit(starter.run_study(path, cores))


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The study to write.")] = Path("study.yaml"),
    model: Annotated[
        str, typer.Option(prompt="Checkpoint (a folder, a GGUF file, or a hub name)", help="As for certify.")
    ] = "",
    corpus: Annotated[
        list[str] | None, typer.Option(help="Text to certify it for, as for certify (repeatable).")
    ] = None,
    because: BecauseOption = None,
    target: TargetOption = "2",
    sample: SampleOption = DEFAULT_SAMPLE,
    context: ContextOption = DEFAULT_CONTEXT,
) -> None:
    """Write a commented starter study; asks for the model and the text if they are not given."""
    from tokenbounds import starter

    texts = corpus or typer.prompt("Text (files, folders, patterns, or a data set's name)").split()
    results = str(Path("results") / path.stem)
    choices = starter.Choices(model, tuple(texts), results, because, target, sample, context)
    starter.write_starter(starter.starter_study(choices), path)
    typer.echo(f"{path} is written. Run it: {starter.command_of(path)}")


def config(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="A study's YAML file.")],
) -> None:
    """Check a configuration and list its rows."""
    from tokenbounds.config import load_study
    from tokenbounds.console import show_study

    show_study(SafeConsole(), load_study(path))


def studies(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to look for studies, folders below it included.")
    ] = Path("config"),
) -> None:
    """List studies: what each shows, needs and costs."""
    from tokenbounds.config import load_study
    from tokenbounds.console import show_studies

    paths = sorted(folder.rglob("*.yaml"))
    if not paths:
        raise ConfigError(f"{folder} holds no study (*.yaml). Name the folder of the studies, config/ of a checkout.")
    show_studies(SafeConsole(), {str(path): load_study(path) for path in paths})


def pin(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES...", help="Parquet, Arrow or JSON lines: files, folders, patterns, or addresses (://)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PINS", help="The list to write (.json).")],
) -> None:
    """List the files of a corpus by reference, with their sizes, hashes and rows: the source kind `reference`."""
    from tokenbounds.corpus.pins import pin_files

    pins = pin_files(files, output)
    typer.echo(f"{output}: {len(pins.files):,} files, {pins.rows:,} rows")
