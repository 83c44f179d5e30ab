"""The command line: thin wrappers around library calls. Heavy imports happen inside the commands that need them."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from tokenbounds import __version__
from tokenbounds.cli import audits, certificates, losses, messages, studies
from tokenbounds.errors import TokenboundsError
from tokenbounds.terminal import SafeConsole

app = typer.Typer(
    name="tokenbounds",
    help="Certificates of how well a language model generalizes: check them, read them, take them apart.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# In the order of --help.
COMMANDS = (
    certificates.verify,
    audits.commit,
    audits.draw,
    audits.trace,
    audits.export_blocks,
    audits.audit,
    certificates.show,
    messages.inspect,
    messages.encode,
    messages.decode,
    messages.sample,
    losses.bound,
    losses.lm_eval,
    studies.pin,
    losses.plan,
    studies.certify,
    studies.init,
    studies.config,
    studies.studies,
)
for command in COMMANDS:
    app.command()(command)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line. A mistake the user can correct is one line on stderr and exit status 1."""
    try:
        app()
    except TokenboundsError as error:
        _fail(str(error))
    except OSError as error:  # a name too long, no permission, a full disk
        if error.filename is None:
            raise
        _fail(f"cannot use {error.filename!s:.200}: {error.strerror}.")


def _fail(message: str) -> NoReturn:
    console = SafeConsole(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error:", "red"), f" {message}"))
    sys.exit(1)
