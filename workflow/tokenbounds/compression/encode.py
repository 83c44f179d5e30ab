"""From a checkpoint to a message: quantize, fine-tune, write, decode again, compare, report."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from tokenbounds.compression.calibration.store import Calibration
from tokenbounds.compression.comparison import compare_coders
from tokenbounds.compression.posttraining.lattice import quantize_lattice
from tokenbounds.compression.posttraining.quantize import quantize_pretrained
from tokenbounds.config import MessageSpec, row_json
from tokenbounds.config.quantizers import (
    CodebookQuantizer,
    CountsQuantizer,
    PublishedQuantizer,
    QuipSharpQuantizer,
    ReferenceQuantizer,
    RefinementQuantizer,
    UniformQuantizer,
)
from tokenbounds.errors import MessageError
from tokenbounds.files import write_bytes, write_json
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.container import Message, parse_message, read_message, render_message
from tokenbounds.messages.decode import decode_message, decode_quantized
from tokenbounds.messages.formats import Quantized, quantizer_class
from tokenbounds.messages.formats.published import PublishedQuantized
from tokenbounds.messages.formats.refinement import RefinedQuantized
from tokenbounds.messages.formats.uniform import UniformQuantized
from tokenbounds.messages.side_information import SideInformation, find_places, message_places, model_places
from tokenbounds.messages.smoothing_head import SmoothingHead, smoothing_head_of
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from tokenbounds.corpus.reader import Corpus
    from tokenbounds.models.adapters import AdapterCard
    from tokenbounds.models.card import ModelCard

LOGGER = logging.getLogger(__name__)
REPORT_VERSION = 1


@dataclass(frozen=True)
class _Subject:
    """A model to encode: its card, what its message's header says of it, and the hash of the base that it needs."""

    model: PreTrainedModel
    card: ModelCard | AdapterCard
    header: dict[str, Any]
    base: str | None = None

    @property
    def context(self) -> int:
        """Tokens in a window of training."""
        return self.card.context

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """The coded values, float32."""
        return {name: value.detach().float().cpu().numpy() for name, value in coded_parameters(self.model).items()}


def encode_model(
    model_directory: Path | str,
    spec: MessageSpec,
    out: Path | str,
    report: Path | str,
    corpus: Corpus | None = None,
    calibration: Path | str | None = None,
    side_information: Iterable[Path | str] = (),
) -> Message:
    """Write the message of a model and a report about it.

    Parameters
    ----------
    model_directory : path
        A checkpoint folder, or the folder of a Markov chain's counts.
    spec : MessageSpec
    out, report : path
        The message, and a JSON file: size and its parts in bits, hashes, comparisons, losses of the fine-tuning.
    corpus : Corpus, optional
        The tokens of straight-through fine-tuning and of a smoothing head; needed if the row asks for either.
    calibration : path, optional
        The calibration of the model; needed if the quantizer names one.
    side_information : paths
        The base's folder of a fine-tuned model, and the coarse message's file of a refinement.

    Returns
    -------
    Message
        As read back from the bytes written.

    Raises
    ------
    MessageError
        If fine-tuning lacks a corpus, a refinement its coarse message, or what decodes differs from what was encoded.
        Nothing is written then.
    """
    if isinstance(spec.quantizer, CountsQuantizer):
        if spec.smoothing_head is not None:
            raise MessageError("a Markov chain has no hidden state for a smoothing head. Leave out smoothing_head.")
        return _encode_markov(Path(model_directory), spec, Path(out), Path(report))
    if isinstance(spec.quantizer, ReferenceQuantizer):
        return _encode_reference(Path(model_directory), spec, Path(out), Path(report))
    places = find_places(model_directory, side_information)
    subject = _load(Path(model_directory), places)
    coarse = _coarse_message(spec, places)
    quantized: Quantized | RefinedQuantized
    history: dict[str, Any] = {}
    if isinstance(spec.quantizer, PublishedQuantizer):
        quantized = PublishedQuantized.read(Path(model_directory), subject.tensors)
    elif coarse is None:
        quantized, history = _quantize(subject, spec, corpus, calibration)
    else:
        quantized = _refine(subject, spec, coarse)
    header = {"model": subject.header, "quantizer": quantized.header(), "coder": spec.coder}
    named = SideInformation(subject.base, None if coarse is None else coarse.sha256)
    parts = [*named.parts(), *quantized.to_parts(spec.coder)]
    head, head_report = _smoothing_head(render_message(header, parts), subject.context, spec, corpus, places)
    data = render_message(header, [*parts, *([head.to_part()] if head else [])])
    message = parse_message(data)
    values = quantized.dequantize()
    _check_decoded(data, values, head, places)
    write_bytes(out, data)
    described = _report(message, quantized, {name: value.size for name, value in values.items()}, spec)
    write_json(report, {**described, **history, "smoothing_head": head_report})
    LOGGER.info("%s: %d bits, %.3f a value", out, message.size_bits, described["bits_per_parameter"])
    return message


def _load(directory: Path, places: Sequence[Path]) -> _Subject:
    """The model of a checkpoint folder, together with its base if it has one."""
    from tokenbounds.models.base import is_finetuned, load_finetuned

    if is_finetuned(directory):
        model, adapters = load_finetuned(directory, model_places(places))
        return _Subject(model, adapters, adapters.header(), adapters.base_sha256)
    model, card = load_checkpoint(directory)
    described = {**card.to_dict(), "vocabulary_size": card.vocabulary_size}  # named always: auditors read it
    return _Subject(model, card, described)


def _quantize(
    subject: _Subject, spec: MessageSpec, corpus: Corpus | None, calibration: Path | str | None
) -> tuple[Quantized, dict[str, Any]]:
    """The quantized model, and what the report says of how it was found."""
    from tokenbounds.models.card import ModelCard

    if not isinstance(spec.quantizer, CodebookQuantizer | UniformQuantizer):
        assert not isinstance(spec.quantizer, CountsQuantizer | PublishedQuantizer)
        assert not isinstance(spec.quantizer, ReferenceQuantizer | RefinementQuantizer)
        if not isinstance(subject.card, ModelCard):
            raise MessageError(f"adapters cannot be quantized by '{spec.quantizer.kind}'. Use codebook or uniform.")
        opened = Calibration.open(calibration) if calibration else None
        if isinstance(spec.quantizer, QuipSharpQuantizer):
            loaded = (subject.model, subject.card, subject.tensors, opened)
            lattice, record = quantize_lattice(spec.quantizer, *loaded, coder=spec.coder)
            return lattice, {"quantization": record}
        settings = (spec.quantizer, subject.model, subject.card, subject.tensors, opened)
        scaled, record = quantize_pretrained(*settings, coder=spec.coder)
        return scaled, {"quantization": record}
    quantized = quantizer_class(spec.quantizer.kind).quantize(spec.quantizer, subject.tensors)
    if spec.quantizer.straight_through.steps == 0:
        return quantized, {"straight_through": None}
    if corpus is None:
        raise MessageError("straight-through training needs a corpus. Pass it, or set straight_through.steps to 0.")
    from tokenbounds.compression.straight_through import finetune

    training = spec.quantizer.straight_through
    tuned, history = finetune(subject.model, quantized, corpus, context=subject.context, spec=training)
    return tuned, {"straight_through": history}


def _smoothing_head(
    data: bytes, context: int, spec: MessageSpec, corpus: Corpus | None, places: Sequence[Path]
) -> tuple[SmoothingHead | None, dict[str, Any] | None]:
    """A smoothing head trained for the model that `data` decodes to, if there is to be one."""
    if spec.smoothing_head is None:
        return None, None
    if corpus is None:
        raise MessageError("a smoothing head is trained on a corpus. Pass it, or leave out smoothing_head.")
    from tokenbounds.compression.smoothing_head import train_smoothing_head

    model = decode_message(data, places)
    assert isinstance(model, PreTrainedModel)
    bits = 8 * len(data)
    return train_smoothing_head(model, corpus, context=context, message_bits=bits, spec=spec.smoothing_head)


def _coarse_message(spec: MessageSpec, places: Sequence[Path]) -> Message | None:
    """The message that a refinement refines; None for other quantizers."""
    if not isinstance(spec.quantizer, RefinementQuantizer):
        return None
    messages = message_places(places)
    if len(messages) != 1:
        raise MessageError(f"a refinement of '{spec.quantizer.of}' needs that one message. Pass its file.")
    return read_message(messages[0])


def _refine(subject: _Subject, spec: MessageSpec, coarse: Message) -> RefinedQuantized:
    """The refinement of a coarse message of the same model."""
    assert isinstance(spec.quantizer, RefinementQuantizer)
    if coarse.header.get("model") != subject.header:
        raise MessageError(f"message '{spec.quantizer.of}' is one of another model. Refine one of the same model.")
    beneath = decode_quantized(coarse, subject.model)
    if not isinstance(beneath, UniformQuantized):
        raise MessageError(f"message '{spec.quantizer.of}' is not uniform, and only uniform messages can be refined.")
    return RefinedQuantized.refine(beneath, spec.quantizer.factor, subject.tensors)


def _check_decoded(
    data: bytes, values: dict[str, np.ndarray], head: SmoothingHead | None, places: Sequence[Path]
) -> None:
    """Decode from the bytes and what they name alone, and compare every tensor, and the head, bit for bit."""
    decoded = decode_message(data, places)
    assert isinstance(decoded, torch.nn.Module)
    found = smoothing_head_of(decoded)
    if (found and found.to_part()) != (head and head.to_part()):
        raise MessageError("the smoothing head decodes to other values than were encoded. Report this as a defect.")
    parameters = coded_parameters(decoded)
    for name, value in values.items():
        if parameters[name].detach().numpy().tobytes() != np.ascontiguousarray(value).tobytes():
            raise MessageError(f"{name} decodes to other values than were encoded. Report this as a defect.")


def _encode_reference(model_directory: Path, spec: MessageSpec, out: Path, report: Path) -> Message:
    """The message that names a model by its hash and holds no value."""
    from tokenbounds.models.adapters import base_header
    from tokenbounds.models.checkpoint import load_card
    from tokenbounds.models.identity import checkpoint_sha256

    header = base_header(load_card(model_directory).vocabulary_size)
    named = SideInformation(base=checkpoint_sha256(model_directory))
    data = render_message({"model": header, "quantizer": {"kind": "reference"}, "coder": spec.coder}, named.parts())
    decode_message(data, [model_directory])
    write_bytes(out, data)
    message = parse_message(data)
    write_json(report, _common_report(message, spec))
    return message


def _encode_markov(model_directory: Path, spec: MessageSpec, out: Path, report: Path) -> Message:
    from tokenbounds.models.markov.chain import encode_counts

    encode_counts(model_directory, spec, out)
    message = read_message(out)
    write_json(report, _common_report(message, spec))
    return message


def _common_report(message: Message, spec: MessageSpec) -> dict[str, Any]:
    return {
        "schema_version": REPORT_VERSION,
        "size_bits": message.size_bits,
        "breakdown": message.breakdown,
        "sha256": message.sha256,
        "message": json.loads(row_json(spec)),
        "header": message.header,
        **{name: each for name, each in vars(SideInformation.of(message)).items() if each is not None},
    }


def _report(
    message: Message, quantized: Quantized | RefinedQuantized, sizes: Mapping[str, int], spec: MessageSpec
) -> dict[str, Any]:
    """About a message of tensors with so many values each; a lattice has fewer codes than values."""
    symbols, count = quantized.symbols(), max(sum(sizes.values()), 1)
    entropies = {name: round(symbols_entropy_bits(codes), 1) for name, codes in zip(sizes, symbols, strict=True)}
    return {
        **_common_report(message, spec),
        "coded_parameters": count,
        "bits_per_parameter": message.size_bits / count,
        "tensors": [
            {"name": name, "shape": list(codes.shape), "entropy_bits": entropies[name]}
            for name, codes in zip(sizes, symbols, strict=True)
        ],
        "symbols_entropy_bits": sum(entropies.values()),
        **_comparison(symbols, spec.coder),
    }


def _comparison(symbols: Sequence[np.ndarray], coder: Coder) -> dict[str, Any]:
    """What other compressors need for the symbols; of more than a few million only a sample is compressed."""
    compared = compare_coders(symbols, coder)
    whole = compared["symbols"] == sum(codes.size for codes in symbols)
    others = {name: compared[name] for name in ("gzip", "xz", "zstd")} if whole else {}
    return {"symbols_compressed_bits": others, "coders_compared": compared}


def symbols_entropy_bits(codes: np.ndarray) -> float:
    """Empirical order-0 entropy of an integer array, in bits in all; a table of frequencies is not counted."""
    if codes.size == 0:
        return 0.0
    counts = np.unique(codes, return_counts=True)[1]
    return float(-(counts * np.log2(counts / codes.size)).sum())
