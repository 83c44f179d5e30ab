"""Messages of models that count, Markov chains and online references: encoding them does not load torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenbounds.compression.markov import quantize_counts
from tokenbounds.compression.online import quantize_online
from tokenbounds.compression.subject import Chain, Record, Sources, Subject
from tokenbounds.compression.written import check_values, describe
from tokenbounds.config import MessageSpec
from tokenbounds.config.quantizers import CountsQuantizer, OnlineQuantizer, QuantizerRow
from tokenbounds.errors import MessageError
from tokenbounds.files import atomic_path, read_json, write_json
from tokenbounds.messages.container import Message, read_message, render_message
from tokenbounds.messages.counted import decode_counted
from tokenbounds.messages.formats import Format
from tokenbounds.models.markov.chain import MarkovChain
from tokenbounds.models.markov.counts import load_counts
from tokenbounds.models.online.card import OnlineCard
from tokenbounds.models.weights import CARD_FILE

LOGGER = logging.getLogger(__name__)

COUNTED_METHODS: dict[type[QuantizerRow], Callable[[Any, Any, Sources], tuple[Format, Record]]] = {
    CountsQuantizer: quantize_counts,
    OnlineQuantizer: quantize_online,
}
"""Part of `compression.methods.METHODS`: the methods for models that count."""


def is_counted(spec: MessageSpec) -> bool:
    """Whether a message is of a model that counts."""
    return type(spec.quantizer) in COUNTED_METHODS


def encode_counted(model_directory: Path | str, spec: MessageSpec, out: Path | str, report: Path | str) -> Message:
    """Write the message of a Markov chain or an online reference, and a report about it.

    Parameters
    ----------
    model_directory, out, report
        As of `encode.encode_model`.
    spec : MessageSpec
        A row for which `is_counted` holds.

    Raises
    ------
    MessageError
        If the row asks for a smoothing head, or what decodes differs from what was encoded. Nothing is written then.
    """
    row = spec.quantizer
    if spec.smoothing_head is not None:
        what = "a Markov chain" if row.models == "chain" else "an online reference"
        raise MessageError(f"{what} has no hidden state for a smoothing head. Leave out smoothing_head.")
    subject = _load(Path(model_directory), row)
    quantized, _ = COUNTED_METHODS[type(row)](row, subject, Sources(spec.coder))
    header = {"model": subject.header, "quantizer": quantized.header(), "coder": spec.coder}
    with atomic_path(out) as temporary:
        temporary.write_bytes(render_message(header, quantized.to_parts(spec.coder)))
        message = read_message(temporary)
        decoded = decode_counted(message)
        tables = decoded.tables if isinstance(decoded, MarkovChain) else ()
        again = {f"order {order}": table.weights for order, table in enumerate(tables)}
        check_values(again, quantized.dequantize())
    write_json(report, describe(message, spec))
    LOGGER.info("%s: %d bits", out, message.size_bits)
    return message


def _load(directory: Path, row: QuantizerRow) -> Subject:
    if row.models == "chain":
        card, grams, counts = load_counts(directory)
        return Chain(directory=directory, header=card.to_dict(), card=card, grams=grams, counts=counts)
    header = OnlineCard.from_dict(read_json(directory / CARD_FILE)).to_dict()
    return Subject(directory=directory, header=header)
