"""A refinement: a model rounded to finer steps than those of a coarse message of the same model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tokenbounds.compression.grids import nearest_codes
from tokenbounds.compression.subject import Record, Sources
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config.quantizers import RefinementQuantizer
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import MAX_MAGNITUDE
from tokenbounds.messages.decode import decode_format
from tokenbounds.messages.formats.grid import GridTensors
from tokenbounds.messages.formats.refinement import RefinementFormat, fine_step


def quantize_refinement(
    spec: RefinementQuantizer, subject: Transformer, sources: Sources
) -> tuple[RefinementFormat, Record]:
    """Refine the coarse message among the sources.

    Raises
    ------
    MessageError
        If there is none, or it is not a uniform message of the same model.
    """
    if sources.coarse is None:
        raise MessageError(f"a refinement of '{spec.of}' needs that message. Pass its file.")
    if sources.coarse.header.get("model") != subject.header:
        raise MessageError(f"message '{spec.of}' belongs to another model. Refine one of the same model.")
    coarse = decode_format(sources.coarse, {name: tensor.shape for name, tensor in subject.tensors.items()})
    if not isinstance(coarse, GridTensors):
        raise MessageError(f"message '{spec.of}' is not uniform, and only uniform messages can be refined.")
    return refine(coarse, spec.factor, subject.tensors), {}


def refine(coarse: GridTensors, factor: int, tensors: Mapping[str, np.ndarray]) -> RefinementFormat:
    """Round `tensors` (float32) to the fine steps, halves to even.

    Raises
    ------
    MessageError
        If names or shapes are not those of the coarse codes, or a value is too large.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if {name: codes.shape for name, codes in coarse.codes.items()} != shapes:
        raise MessageError("the coarse message belongs to another model: its tensors differ.")
    offsets = {}
    for name, tensor in tensors.items():
        fine = nearest_codes(name, tensor, fine_step(coarse.exponents[name], factor))
        # Coarse code k is fine code factor · k: what is left is small, about −factor / 2 to factor / 2.
        offset = fine - factor * coarse.codes[name].astype(np.int64)
        if offset.size and int(np.abs(offset).max()) > MAX_MAGNITUDE:
            raise MessageError(f"{name} is too far from its coarse values. Use a smaller factor.")
        offsets[name] = offset.astype(np.int32)
    return RefinementFormat(coarse, factor, offsets)
