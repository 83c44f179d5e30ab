"""Commands for audits whose draws nobody can foresee: `commit`, `draw`, `trace`, `export-blocks`, `audit`."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tokenbounds import sandbox
from tokenbounds.cli.options import BaseOption, CertificateArgument, MemoryOption, SecondsOption
from tokenbounds.terminal import SafeConsole


def commit(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="The log, a file of JSON lines; begun if there is none.")],
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Certificates, messages, folders of corpora and bases, other files."),
    ],
) -> None:
    """Seal files by hash in an append-only log, before anything is drawn from them. Publish the root that it prints."""
    from tokenbounds.certificates.commitments import append_entry

    size, root = append_entry(log, paths)
    typer.echo(f"{log}: {size} entries, root {root.hex()}")


def draw(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="The log.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="What one entry sealed.")],
    beacon: Annotated[str, typer.Option(metavar="VALUE", help="A public value that appeared after that.")],
) -> None:
    """Print the seed of a sample, drawn from what was sealed and a later public value."""
    from tokenbounds.certificates.commitments import describe, draw_seed, find_entry, read_log

    entries = read_log(log)
    sealed = {each for path in paths for each in describe(path)}
    what = " and ".join(map(str, paths))
    typer.echo(draw_seed(entries[find_entry(entries, sealed, what, log)], beacon, "sample"))


def trace(
    certificate: CertificateArgument,
    log: Annotated[Path, typer.Option(metavar="LOG", help="The log in which messages and certificate were sealed.")],
    sample_beacon: Annotated[
        str | None, typer.Option(metavar="VALUE", help="What appeared after the messages were sealed: drew the sample.")
    ] = None,
    beacon: Annotated[
        str | None, typer.Option(metavar="VALUE", help="What appeared after the certificate was sealed.")
    ] = None,
    rescore: Annotated[
        int, typer.Option(min=1, metavar="N", help="With --beacon: verify with N blocks drawn from it.")
    ] = 20,
    base: BaseOption = None,
    max_memory: MemoryOption = None,
    max_seconds: SecondsOption = None,
) -> None:
    """Check that what a certificate's draws test was sealed beforehand, and verify it with blocks drawn in that way."""
    from tokenbounds.certificates.checks import Check
    from tokenbounds.certificates.commitments import Draws, replay_draws
    from tokenbounds.certificates.sealing import read_certificate
    from tokenbounds.console import show_checks

    checks, seed = replay_draws(read_certificate(certificate), Draws(log, sample_beacon, beacon))
    confined: tuple[str, ...] = ()
    if seed is not None:
        arguments = {"certificate": certificate, "rescore": rescore, "seed": seed, "bases": base or []}
        done = sandbox.confine(
            "tokenbounds.api:verify", arguments, sandbox.Limits(max_memory, max_seconds), str(certificate)
        )
        checks, confined = [*checks, *(Check(**each) for each in done.value)], done.confined
    show_checks(SafeConsole(), str(certificate), checks, confined)


def export_blocks(
    certificate: CertificateArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The block file to write.")],
) -> None:
    """Write the scores of a certificate block by block, each with its proof, for `tokenbounds audit`."""
    from tokenbounds.certificates.audit import export_blocks

    typer.echo(f"{output}: {export_blocks(certificate, output):,} bytes")


def audit(
    certificate: CertificateArgument,
    blocks: Annotated[str, typer.Argument(metavar="BLOCKS", help="The block file: a path, or an http(s) URL.")],
    rescore: Annotated[int, typer.Option(min=1, metavar="N", help="Blocks to draw, and to score again.")] = 20,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Choose the blocks by this seed; default: unpredictably.")
    ] = None,
    base: BaseOption = None,
    max_memory: MemoryOption = None,
    max_seconds: SecondsOption = None,
) -> None:
    """Score a few blocks again without the score files: only these are read from a block file, by ranges of bytes.

    The certificate's numbers are not computed again. That takes all scores: `tokenbounds verify`.
    """
    from tokenbounds.certificates.audit import fetch_blocks
    from tokenbounds.certificates.checks import Check
    from tokenbounds.console import show_checks

    seed = secrets.randbits(64) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="tokenbounds-") as folder:
        # The process that decodes and scores has no network: this one fetches for it.
        fetched, size = fetch_blocks(certificate, blocks, Path(folder), draws=rescore, seed=seed)
        arguments = {"path": certificate, "place": fetched, "draws": rescore, "seed": seed, "bases": base or []}
        function = "tokenbounds.certificates.audit:audit_blocks"
        done = sandbox.confine(function, arguments, sandbox.Limits(max_memory, max_seconds), str(certificate))
    checks = [Check("blocks fetched", blocks, f"{size:,} bytes of {blocks}"), *(Check(**each) for each in done.value)]
    show_checks(SafeConsole(), str(certificate), checks, done.confined)
