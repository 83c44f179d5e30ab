"""From a checkpoint to a message: find its integers, write, decode again, compare, report."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from tokenbounds.compression.comparison import compare_coders
from tokenbounds.compression.counted import encode_counted, is_counted
from tokenbounds.compression.methods import METHODS
from tokenbounds.compression.smoothing_head import train_smoothing_head
from tokenbounds.compression.subject import Record, Sources, Subject
from tokenbounds.compression.transformer import Transformer, load_subject
from tokenbounds.compression.written import check_values, describe
from tokenbounds.config import MessageSpec
from tokenbounds.corpus.reader import Corpus, check_known
from tokenbounds.errors import MessageError
from tokenbounds.files import atomic_path, write_json
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.container import Message, read_message, render_message, render_pieces
from tokenbounds.messages.decode import decode_message
from tokenbounds.messages.formats import Format
from tokenbounds.messages.side_information import SideInformation, find_places, message_places
from tokenbounds.messages.smoothing_head import SmoothingHead, smoothing_head_of
from tokenbounds.messages.spool import spoolable_card
from tokenbounds.models.build import coded_parameters, coded_shapes

LOGGER = logging.getLogger(__name__)
_COUNTED = 1 << 16  # codes in a narrower range are counted without being sorted


def encode_model(
    model_directory: Path | str,
    spec: MessageSpec,
    out: Path | str,
    report: Path | str,
    corpus: Corpus | None = None,
    calibration: Path | str | None = None,
    side_information: Iterable[Path | str] = (),
    work: Path | None = None,
) -> Message:
    """Write the message of a model and a report about it.

    Parameters
    ----------
    model_directory : path
        A checkpoint folder, or the folder of a Markov chain's counts.
    spec : MessageSpec
    out, report : path
        The message, and a JSON file: size and its parts in bits, hashes, comparisons, losses of the training.
    corpus : Corpus, optional
        The tokens of straight-through training and of a smoothing head; needed if the row asks for either.
    calibration : path, optional
        The calibration of the model; needed if the quantizer names one.
    side_information : paths
        The base's folder of a fine-tuned model, and the coarse message's file of a refinement.
    work : path, optional
        A folder where rounded matrices are kept, so that the same encoding need not round them again.

    Returns
    -------
    Message
        As read back from the bytes written.

    Raises
    ------
    MessageError
        If training lacks a corpus, a refinement its coarse message, or what decodes differs from what was encoded.
        Nothing is written then.
    CorpusError
        If the corpus holds a token that the model does not know.
    """
    directory, row = Path(model_directory), spec.quantizer
    if is_counted(spec):
        return encode_counted(directory, spec, out, report)
    if spec.smoothing_head is not None and row.models == "fixed":
        raise MessageError("a message that only names a model can hold no smoothing head. Leave out smoothing_head.")
    # Find the integers: the row says which sort of model it is for, the registry gives the method.
    places = find_places(directory, side_information)
    subject = load_subject(directory, row.models, places)
    if corpus is not None and isinstance(subject, Transformer):
        check_known(corpus, subject.card.vocabulary_size)
    messages = message_places(places) if row.needs().coarse else []
    coarse = read_message(messages[0]) if len(messages) == 1 else None
    sources = Sources(spec.coder, corpus, Path(calibration) if calibration else None, coarse, work)
    quantized, record = METHODS[type(row)](row, subject, sources)
    # Write them: what the decoder must know first goes into the header, hashes and codes into the parts.
    header = {"model": subject.header, "quantizer": quantized.header(), "coder": spec.coder}
    named = SideInformation(subject.base, None if coarse is None else coarse.sha256)
    parts = [*named.parts(), *quantized.to_parts(spec.coder)]
    # A message without values names the model in the folder that is encoded: decoding finds it there.
    where = places if quantized.holds_values else [directory]
    head, head_report = None, None
    if spec.smoothing_head is not None:
        head, head_report = _smoothing_head(render_message(header, parts), subject, spec, corpus, where)
        parts.append(head.to_part())
    # Nothing is written unless the bytes alone decode to the values of the codes.
    with atomic_path(out) as temporary:
        with temporary.open("wb") as file:
            file.writelines(render_pieces(header, parts))
        del parts  # their scratch files are as large as the message
        message = read_message(temporary)
        card = spoolable_card(message) if isinstance(subject, Transformer) and head is None else None
        if card is not None:
            _check_streamed(message, quantized, coded_shapes(card))
        else:
            _check_decoded(temporary.read_bytes(), quantized.dequantize(), head, where)
        described = describe(message, spec)
        if isinstance(subject, Transformer):
            described |= _report(message, quantized, subject.shapes, spec.coder)
            described |= {**record, "smoothing_head": head_report}
    write_json(report, described)
    LOGGER.info("%s: %d bits", out, message.size_bits)
    return message


def _smoothing_head(
    data: bytes, subject: Subject, spec: MessageSpec, corpus: Corpus | None, where: Sequence[Path]
) -> tuple[SmoothingHead, Record | None]:
    """A smoothing head trained for the model that `data` decodes to."""
    assert spec.smoothing_head is not None
    if corpus is None:
        raise MessageError("a smoothing head is trained on a corpus. Pass it, or leave out smoothing_head.")
    model = decode_message(data, where)
    assert isinstance(model, PreTrainedModel) and isinstance(subject, Transformer)
    return train_smoothing_head(
        model, corpus, context=subject.card.context, message_bits=8 * len(data), spec=spec.smoothing_head
    )


def _check_decoded(
    data: bytes, values: dict[str, np.ndarray], head: SmoothingHead | None, where: Sequence[Path]
) -> None:
    """Decode from the bytes and what they name alone, and compare every tensor, and the head, bit for bit."""
    decoded = decode_message(data, where)
    assert isinstance(decoded, PreTrainedModel)
    decoded_head = smoothing_head_of(decoded)
    if (decoded_head and decoded_head.to_part()) != (head and head.to_part()):
        raise MessageError("the smoothing head decodes to values other than those encoded. Report this as a defect.")
    check_values({name: value.detach().numpy() for name, value in coded_parameters(decoded).items()}, values)


def _check_streamed(message: Message, quantized: Format, shapes: Mapping[str, Shape]) -> None:
    """As `_check_decoded`, one tensor in memory at a time, in whatever order they are decoded."""
    expected = {name: _digest(values) for name, values in quantized.iter_values()}
    decoded = type(quantized).stream_values(message, shapes, message.header["coder"])
    found = {name: _digest(values) for name, values in decoded}
    if differing := sorted(set(expected.items()) ^ set(found.items())):
        raise MessageError(f"{differing[0][0]} decodes to values other than those encoded. Report this as a defect.")


def _digest(values: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").data).digest()


def _report(message: Message, quantized: Format, shapes: Mapping[str, Shape], coder: Coder) -> Record:
    """The report on a message of tensors of these shapes; a lattice has fewer codes than values."""
    symbols, count = quantized.symbols(), max(sum(map(math.prod, shapes.values())), 1)
    tensors = [
        {"name": name, "shape": list(codes.shape), "entropy_bits": round(symbols_entropy_bits(codes), 1)}
        for name, codes in zip(shapes, symbols, strict=True)
    ]
    return {
        "coded_parameters": count,
        "bits_per_parameter": message.size_bits / count,
        "tensors": tensors,
        "symbols_entropy_bits": sum(tensor["entropy_bits"] for tensor in tensors),
        **_comparison(symbols, coder),
    }


def _comparison(symbols: Sequence[np.ndarray], coder: Coder) -> Record:
    """What other compressors need for the symbols; of more than a few million only a sample is compressed."""
    compared = compare_coders(symbols, coder)
    whole = compared["symbols"] == sum(codes.size for codes in symbols)
    others = {name: compared[name] for name in ("gzip", "xz", "zstd")} if whole else {}
    return {"symbols_compressed_bits": others, "coders_compared": compared}


def symbols_entropy_bits(codes: np.ndarray) -> float:
    """Empirical order-0 entropy of an integer array, in bits in all; a table of frequencies is not counted."""
    if codes.size == 0:
        return 0.0
    least, greatest = int(codes.min()), int(codes.max())
    if greatest - least < _COUNTED:
        counts = np.bincount(codes.reshape(-1) - least)
        counts = counts[counts > 0]
    else:
        counts = np.unique(codes, return_counts=True)[1]
    return float(-(counts * np.log2(counts / codes.size)).sum())
