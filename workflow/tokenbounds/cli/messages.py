"""Commands that write and read messages: `inspect`, `encode`, `decode`, `sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tokenbounds import sandbox
from tokenbounds.cli.options import (
    LONGEST_SECONDS,
    BaseOption,
    CoarseOption,
    MemoryOption,
    MessageArgument,
    SecondsOption,
)
from tokenbounds.errors import ConfigError
from tokenbounds.terminal import SafeConsole


def inspect(message: MessageArgument, base: BaseOption = None, coarse: CoarseOption = None) -> None:
    """Print a message's header, its bits by part, and its side information."""
    from tokenbounds.console import show_message
    from tokenbounds.messages.container import read_message
    from tokenbounds.messages.side_information import SideInformation, find_places

    content = read_message(message)
    places = find_places(message, [*(base or ()), *(coarse or ())])
    show_message(SafeConsole(), content.header, content.breakdown, SideInformation.of(content).describe(places))


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
        raise ConfigError("say where the model goes: a folder with --output, a file with --gguf, or both.")
    arguments = {
        "message": message,
        "folder": output,
        "gguf": gguf,
        "side_information": [*(base or ()), *(coarse or ())],
    }
    limits = sandbox.Limits(max_memory, max_seconds or LONGEST_SECONDS)
    above = [next(folder for folder in path.absolute().parents if folder.is_dir()) for path in outputs]
    sandbox.confine("tokenbounds.api:decode", arguments, limits, str(message), above)
    for path in outputs:
        typer.echo(f"{path}: model decoded from {message}")


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
    limits = sandbox.Limits(max_memory, max_seconds or LONGEST_SECONDS)
    done = sandbox.confine("tokenbounds.scores.sample_text:sample_text", arguments, limits, str(message))
    SafeConsole(soft_wrap=True, highlight=False).print(Text(done.value))
