"""The command line: thin wrappers around library calls. Heavy imports happen inside the commands that need them."""

from __future__ import annotations

import secrets
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from tokenbounds import __version__, api, sandbox
from tokenbounds.errors import CertificateError, ConfigError, TokenboundsError
from tokenbounds.terminal import SafeConsole

_SECONDS = 3600.0

app = typer.Typer(
    name="tokenbounds",
    help="Certificates of how well a language model generalizes: check them, read them, take them apart.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_MOST = 10**18  # bits or tokens, beyond any file
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


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
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
    end = None if everything or rescore else _SECONDS
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def export_blocks(
    certificate: CertificateArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The block file to write.")],
) -> None:
    """Write the scores of a certificate block by block, each with its proof, for `tokenbounds audit`."""
    from tokenbounds.certificates.audit import export_blocks

    typer.echo(f"{output}: {export_blocks(certificate, output):,} bytes")


@app.command()
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


@app.command()
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


@app.command()
def inspect(message: MessageArgument, base: BaseOption = None, coarse: CoarseOption = None) -> None:
    """Print a message's header, its bits by part, and its side information."""
    from tokenbounds.console import show_message
    from tokenbounds.messages.container import read_message
    from tokenbounds.messages.side_information import SideInformation, find_places

    content = read_message(message)
    places = find_places(message, [*(base or ()), *(coarse or ())])
    show_message(SafeConsole(), content.header, content.breakdown, SideInformation.of(content).describe(places))


@app.command()
def encode(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint's folder or hub name.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MESSAGE", help="The message to write (.tbm).")],
    quantizer: Annotated[
        str | None, typer.Option(help="A quantizer's kind, as in config/README.md; by default watersic at two bits.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A key of the quantizer; dots reach nested keys.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="YAML", help="A message's row, instead of --quantizer and --option.")
    ] = None,
    gguf: Annotated[str | None, typer.Option(metavar="FILE", help="The GGUF file in the folder.")] = None,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="TEXT", help="A text for quantizers that need a calibration.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="TEXT", help="A text to score before and after, for the report.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="JSON", help="The report; by default next to the message.")
    ] = None,
    target_megabytes: Annotated[
        float | None,
        typer.Option(metavar="MB", min=1e-6, help="Size of the message in 10^6 bytes, met to within 1 %."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep finished parts in a folder next to the message (MESSAGE.work), and go on from those of a run "
            "that was interrupted.",
        ),
    ] = False,
) -> None:
    """Write the message of a checkpoint, outside any study, and report its size and the loss on a text."""
    from tokenbounds.compression.checkpoint import Texts, encode_checkpoint, message_spec
    from tokenbounds.console import show_encoding
    from tokenbounds.terminal import progress_bar

    calibrated = calibrate is not None
    spec = message_spec(quantizer, option or [], config, calibrated=calibrated, megabytes=target_megabytes)
    texts = Texts(calibration=calibrate, scored=text)
    path = report or output.with_suffix(".json")
    with progress_bar(SafeConsole(stderr=True)):
        found = encode_checkpoint(source, spec, output, path, gguf_file=gguf, texts=texts, resume=resume)
    show_encoding(SafeConsole(), found, str(output))


@app.command()
def decode(
    message: MessageArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write the model to.")
    ] = None,
    gguf: Annotated[
        Path | None, typer.Option(metavar="FILE", help="GGUF file to write the model to, float32, without tokenizer.")
    ] = None,
    base: BaseOption = None,
    coarse: CoarseOption = None,
    max_memory: MemoryOption = None,
    max_seconds: SecondsOption = None,
) -> None:
    """Decode a message into a folder that transformers' AutoModelForCausalLM.from_pretrained loads, or a GGUF file."""
    outputs = [path for path in (output, gguf) if path is not None]
    if not outputs:
        _fail("say where the model goes: a folder with --output, a file with --gguf, or both.")
    arguments = {
        "message": message,
        "folder": output,
        "gguf": gguf,
        "side_information": [*(base or ()), *(coarse or ())],
    }
    limits = sandbox.Limits(max_memory, max_seconds or _SECONDS)
    above = [next(folder for folder in path.absolute().parents if folder.is_dir()) for path in outputs]
    sandbox.confine("tokenbounds.api:decode", arguments, limits, str(message), above)
    for path in outputs:
        typer.echo(f"{path}: model decoded from {message}")


@app.command()
def sample(
    message: MessageArgument,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="What to continue; default: a document's beginning.")
    ] = "",
    tokens: Annotated[int, typer.Option(min=1, max=1 << 20, help="Tokens to draw.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    temperature: Annotated[
        float, typer.Option(min=0, max=1000, help="Divides log-probabilities; 0: the most probable token each time.")
    ] = 1.0,
    tokenizer: Annotated[
        str, typer.Option(metavar="PLACE", help="`bytes`, `antibody`, or a tokenizer's folder, GGUF file or hub name.")
    ] = "bytes",
    base: BaseOption = None,
    coarse: CoarseOption = None,
    max_memory: MemoryOption = None,
    max_seconds: SecondsOption = None,
) -> None:
    """Print text drawn from the model that a message decodes to: a network or a Markov chain."""
    arguments = {
        "message": message,
        "prompt": prompt,
        "tokens": tokens,
        "seed": seed,
        "temperature": temperature,
        "tokenizer": tokenizer,
        "side_information": [*(base or ()), *(coarse or ())],
    }
    limits = sandbox.Limits(max_memory, max_seconds or _SECONDS)
    done = sandbox.confine("tokenbounds.scores.sample_text:sample_text", arguments, limits, str(message))
    SafeConsole(soft_wrap=True, highlight=False).print(Text(done.value))


@app.command()
def bound(
    scores: Annotated[list[Path], typer.Argument(metavar="SCORES...", help="Parquet files, one row per scored token.")],
    vocabulary_size: Annotated[int, typer.Option("--vocabulary-size", "-V", min=2, help="Tokens the model predicts.")],
    bits: Annotated[
        int | None, typer.Option(min=0, help="Bits of the message that decodes to the scored model.")
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out", help="Instead of bounds: two-sided intervals, for a model that does not depend on the text."
        ),
    ] = False,
    nll_column: Annotated[str, typer.Option(help="Column of the losses, before any smoothing.")] = "nll_bits",
    rank_column: Annotated[str | None, typer.Option(help="Column of the true token's rank, from 1.")] = None,
    document: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --held-out: bounds for new documents, named by a column.")
    ] = None,
    longest_document: Annotated[
        int | None, typer.Option(min=1, metavar="TOKENS", help="With --document: a limit fixed beforehand.")
    ] = None,
    text_bytes: Annotated[
        int | None, typer.Option("--bytes", min=1, help="With --held-out: the text's bytes, for bits per byte.")
    ] = None,
    nats: Annotated[bool, typer.Option("--nats", help="Losses are in nats, not bits.")] = False,
    delta: Annotated[float, typer.Option(help="Failure probability of all bounds together.")] = 0.05,
) -> None:
    """Compute every bound from your own Parquet of token losses: all tokens of a corpus, each once, in order."""
    from tokenbounds.console import show_intervals, show_statement

    if not 0 < delta < 1:
        raise ConfigError(f"--delta is {delta}; choose a probability between 0 and 1.")
    if held_out != (bits is None):
        raise CertificateError(
            "give --bits, of the message that decodes to the model, or --held-out if it never saw the text."
        )
    if not held_out:
        bounds = {"delta": delta}
        assert bits is not None
        statement = api.bound(
            scores, bits, vocabulary_size, ranks=rank_column, column=nll_column, nats=nats, bounds=bounds
        )
        show_statement(SafeConsole(), statement)
        return

    from tokenbounds.certificates.external import ExternalScores
    from tokenbounds.certificates.intervals import Question, intervals

    question = Question(
        vocabulary_size, delta, text_bytes=text_bytes, document_column=document, longest_document=longest_document
    )
    files = ExternalScores(tuple(scores), nll_column, rank_column, nats)
    show_intervals(SafeConsole(), intervals(files, question), question)


@app.command()
def lm_eval(
    samples: Annotated[
        Path, typer.Argument(metavar="SAMPLES", help="One task's samples_TASK_DATE.jsonl, of `lm_eval --log_samples`.")
    ],
    longest_document: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST, metavar="BYTES", help="For losses per byte: a limit fixed beforehand."),
    ] = None,
    longest_words: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST, metavar="WORDS", help="For losses per word: a limit fixed beforehand."),
    ] = None,
    ceiling: Annotated[
        float,
        typer.Option(min=0.001, max=1000, metavar="BITS", help="The most that a document costs per byte; fixed too."),
    ] = 8.0,
    word_ceiling: Annotated[
        float,
        typer.Option(min=0.001, max=1000, metavar="BITS", help="The most that a document costs per word; fixed too."),
    ] = 64.0,
    delta: Annotated[float, typer.Option(help="Failure probability of all intervals together.")] = 0.05,
) -> None:
    """Print intervals for what lm-evaluation-harness measured: bits per byte, perplexities, accuracies.

    For a model that does not depend on the documents, if they are independent draws from their source. By default a
    byte costs no more than guessing bytes uniformly does, and a word eight times that.
    """
    from tokenbounds.certificates.lm_eval import Question, Unit, lm_eval_intervals
    from tokenbounds.console import show_lm_eval

    if not 0 < delta < 1:
        raise ConfigError(f"--delta is {delta}; choose a probability between 0 and 1.")
    stated = {"byte": (longest_document, ceiling), "word": (longest_words, word_ceiling)}
    units = {name: Unit(longest, most) for name, (longest, most) in stated.items() if longest is not None}
    question = Question(delta, units)
    show_lm_eval(SafeConsole(), lm_eval_intervals(samples, question), question)


@app.command()
def pin(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILES...", help="Parquet or JSON lines: files, folders, patterns, or addresses (://)."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PINS", help="The list to write (.json).")],
) -> None:
    """List the files of a corpus by reference, with their sizes, hashes and rows: the source kind `reference`."""
    from tokenbounds.corpus.pins import pin_files

    pins = pin_files(files, output)
    typer.echo(f"{output}: {len(pins.files):,} files, {pins.rows:,} rows")


@app.command()
def plan(
    message: Annotated[str, typer.Option(metavar="FILE|BITS", help="A message, or the bits that one may have.")],
    corpus: Annotated[str, typer.Option(metavar="FOLDER|TOKENS", help="A tokenized corpus, or its number of tokens.")],
    losses: Annotated[
        str, typer.Option(metavar="PARQUET|MEAN,DEVIATION", help="Scores of a pilot, or a guess of both, in bits.")
    ],
    vocabulary_size: VocabularyOption,
    width: Annotated[float, typer.Option(min=1e-9, help="What sampling may add to a bound, bits per token.")] = 0.05,
    block: Annotated[int, typer.Option(min=1, max=_MOST, metavar="TOKENS", help="Tokens of a sampled block.")] = 1024,
    documents: Annotated[
        tuple[int, int],
        typer.Option(
            metavar="CUT MEAN",
            help="For a corpus by reference of which one block of each drawn document is scored: tokens after which "
            "documents are cut, and their average number of tokens.",
        ),
    ] = (1, 1),
    delta: Annotated[float, typer.Option(help="Failure probability of the certificate.")] = 0.05,
) -> None:
    """Say which bounds to expect, how large a sample to score, and what would make them vacuous."""
    from tokenbounds.certificates.forecast import Forecast
    from tokenbounds.certificates.pilot import find_bits, find_pilot, find_tokens
    from tokenbounds.config import BoundsSpec, check_row
    from tokenbounds.console import show_forecast

    if not 0 < delta < 1:
        raise ConfigError(f"--delta is {delta}; choose a probability between 0 and 1.")
    spec = check_row(BoundsSpec, {"delta": delta}, "bounds")
    cut, mean = documents
    forecast = Forecast(find_pilot(losses), vocabulary_size, spec, block, cut / max(1, mean))
    show_forecast(SafeConsole(), forecast, find_bits(message), find_tokens(corpus), width)


@app.command()
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


@app.command()
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


@app.command()
def config(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="A study's YAML file.")],
) -> None:
    """Check a configuration and list its rows."""
    from tokenbounds.config import load_study
    from tokenbounds.console import show_study

    show_study(SafeConsole(), load_study(path))


@app.command()
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


if __name__ == "__main__":
    main()
