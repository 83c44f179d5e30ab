"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenbounds import sandbox

LONGEST_SECONDS = 3600.0  # that files may make a command take, unless it is told otherwise
MOST = 10**18  # bits or tokens, beyond any file

CertificateArgument = Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="A certificate's JSON file.")]
BaseOption = Annotated[
    list[Path] | None,
    typer.Option("--base", metavar="DIR", help="Where to find a base model that a message names by hash (repeatable)."),
]
CoarseOption = Annotated[
    list[Path] | None,
    typer.Option("--coarse", metavar="FILE", help="The message that a refinement names by hash."),
]
VocabularyOption = Annotated[
    int, typer.Option("--vocabulary-size", "-V", min=2, max=1 << 31, help="Tokens the model predicts.")
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        "--max-memory",
        min=sandbox.LEAST_GIB,
        metavar="GIB",
        help="Memory that the files may make this take; default: three quarters of the machine's.",
    ),
]
SecondsOption = Annotated[
    float | None,
    typer.Option(
        "--max-seconds",
        min=1,
        metavar="SECONDS",
        help="Time that the files may make this take, each; default: an hour, or without end where blocks are to be "
        "scored again.",
    ),
]
MessageArgument = Annotated[Path, typer.Argument(metavar="MESSAGE", help="A message (.tbm).")]
