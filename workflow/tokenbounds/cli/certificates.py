"""Commands that read certificates: `verify`, `show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenbounds import sandbox
from tokenbounds.cli.options import LONGEST_SECONDS, BaseOption, CertificateArgument, MemoryOption, SecondsOption
from tokenbounds.terminal import SafeConsole


def verify(
    certificates: Annotated[
        list[Path],
        typer.Argument(
            metavar="CERTIFICATE...",
            help="Certificates' JSON files, folders of them, or a results folder with all that it publishes.",
        ),
    ],
    rescore: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Draw N blocks, in proportion to their tokens, and score them again with the decoded message; "
            "0 for none. "
            "Default: 20, where that takes a few seconds.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Choose the blocks by this seed; default: unpredictably.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Score every block again. Slow.")] = False,
    base: BaseOption = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Open nothing outside this folder, bases aside; default: the one above the certificate's.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="PATH",
            help="Tokenize the documents again from here and compare (repeatable); `installed` for Python's own.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="PLACE", help="With --source: where a tokenizer of transformers is.")
    ] = None,
    max_memory: MemoryOption = None,
    max_seconds: SecondsOption = None,
) -> None:
    """Recompute certificates from their files and say what was checked. The exit status is 0 only if all is well.

    Unless blocks are scored again, nothing shows that the scores are the message's; the output says so.
    """
    from tokenbounds.certificates.checks import Check, find_certificates, is_results
    from tokenbounds.certificates.published import verify_published
    from tokenbounds.console import show_checks

    # Scoring on request takes as long as it takes; what the files alone make a verifier do has an end.
    end = None if everything or rescore else LONGEST_SECONDS
    limits = sandbox.Limits(max_memory, max_seconds or end)
    arguments = {"rescore": "all" if everything else rescore, "seed": seed, "bases": base or [], "root": root}
    for path in find_certificates(certificates):
        done = sandbox.confine("tokenbounds.api:verify", {"certificate": path, **arguments}, limits, str(path))
        checks = [Check(**each) for each in done.value]
        if source:
            from tokenbounds.certificates.sealing import read_certificate
            from tokenbounds.certificates.source import check_source

            one = read_certificate(path)
            checks.append(check_source(one.locate(one.manifest).parent, source, tokenizer))
        show_checks(SafeConsole(), str(path), checks, done.confined)
    for path in filter(is_results, certificates):
        show_checks(SafeConsole(), str(path), verify_published(path))


def show(
    certificate: CertificateArgument,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="Write it as one HTML page instead of printing it.")
    ] = None,
) -> None:
    """Print a certificate for people: the sentence, its numbers, and where they come from."""
    from tokenbounds.certificates.sealing import read_certificate
    from tokenbounds.console import show_certificate

    if html is not None:
        from tokenbounds.report.page import write_certificate_page

        write_certificate_page(certificate, html)
        typer.echo(f"{html}: {certificate}")
        return

    show_certificate(SafeConsole(), read_certificate(certificate))
