"""Commands that bound losses of the user's own: `bound`, `lm-eval`, and `plan` for losses still to be computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenbounds import api
from tokenbounds.cli.options import MOST, VocabularyOption
from tokenbounds.errors import CertificateError, ConfigError
from tokenbounds.terminal import SafeConsole


def bound(
    scores: Annotated[list[Path], typer.Argument(metavar="SCORES...", help="Parquet files, one row per scored token.")],
    vocabulary_size: Annotated[
        int | None, typer.Option("--vocabulary-size", "-V", min=2, help="Tokens the model predicts.")
    ] = None,
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
    logged: Annotated[
        bool,
        typer.Option(
            "--lm-eval", help="SCORES is one file of `lm_eval --log_samples`; the same as `tokenbounds lm-eval`."
        ),
    ] = False,
    delta: Annotated[float, typer.Option(help="Failure probability of all bounds together.")] = 0.05,
) -> None:
    """Compute every bound from your own Parquet of token losses: all tokens of a corpus, each once, in order.

    For samples that lm-evaluation-harness logged, see `tokenbounds lm-eval`.
    """
    from tokenbounds.console import show_intervals, show_statement

    if logged:
        if len(scores) > 1:
            raise CertificateError(f"--lm-eval reads one file of samples, and {len(scores)} were given. Give one.")
        lm_eval(scores[0], longest_document=longest_document, bits=bits or 0, delta=delta)
        return
    if vocabulary_size is None:
        raise ConfigError("give --vocabulary-size, the number of tokens that the model predicts.")
    _check_delta(delta)
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


def lm_eval(
    samples: Annotated[
        Path, typer.Argument(metavar="SAMPLES", help="One task's samples_TASK_DATE.jsonl, of `lm_eval --log_samples`.")
    ],
    longest_document: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, metavar="BYTES", help="For losses per byte: a limit fixed beforehand."),
    ] = None,
    longest_words: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, metavar="WORDS", help="For losses per word: a limit fixed beforehand."),
    ] = None,
    ceiling: Annotated[
        float,
        typer.Option(min=0.001, max=1000, metavar="BITS", help="The most that a document costs per byte; fixed too."),
    ] = 8.0,
    word_ceiling: Annotated[
        float,
        typer.Option(min=0.001, max=1000, metavar="BITS", help="The most that a document costs per word; fixed too."),
    ] = 64.0,
    bits: Annotated[
        int,
        typer.Option(
            min=0, max=MOST, help="Bits of the message that decodes to the model; 0 if it never saw the text."
        ),
    ] = 0,
    delta: Annotated[float, typer.Option(help="Failure probability of all intervals together.")] = 0.05,
) -> None:
    """Print intervals for what lm-evaluation-harness measured: bits per byte, perplexities, accuracies.

    For documents that are independent draws from their source, and a model that does not depend on them or, with
    --bits, is paid for. By default a byte costs no more than guessing bytes uniformly does, a word eight times that.
    """
    from tokenbounds.certificates.lm_eval import Question, Unit, lm_eval_intervals
    from tokenbounds.console import show_lm_eval

    _check_delta(delta)
    stated = {"byte": (longest_document, ceiling), "word": (longest_words, word_ceiling)}
    units = {name: Unit(longest, most) for name, (longest, most) in stated.items() if longest is not None}
    question = Question(delta, units, bits)
    show_lm_eval(SafeConsole(), lm_eval_intervals(samples, question), question)


def plan(
    message: Annotated[str, typer.Option(metavar="FILE|BITS", help="A message, or the bits that one may have.")],
    corpus: Annotated[str, typer.Option(metavar="FOLDER|TOKENS", help="A tokenized corpus, or its number of tokens.")],
    losses: Annotated[
        str, typer.Option(metavar="PARQUET|MEAN,DEVIATION", help="Scores of a pilot, or a guess of both, in bits.")
    ],
    vocabulary_size: VocabularyOption,
    width: Annotated[float, typer.Option(min=1e-9, help="What sampling may add to a bound, bits per token.")] = 0.05,
    block: Annotated[int, typer.Option(min=1, max=MOST, metavar="TOKENS", help="Tokens of a sampled block.")] = 1024,
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

    _check_delta(delta)
    spec = check_row(BoundsSpec, {"delta": delta}, "bounds")
    cut, mean = documents
    forecast = Forecast(find_pilot(losses), vocabulary_size, spec, block, cut / max(1, mean))
    show_forecast(SafeConsole(), forecast, find_bits(message), find_tokens(corpus), width)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"--delta is {delta}; choose a probability between 0 and 1.")
