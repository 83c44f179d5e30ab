"""Uniform quantization: one step per tensor by its spread, then straight-through training of weights and steps."""

from __future__ import annotations

from tokenbounds.compression.grids import round_by_spread
from tokenbounds.compression.posttraining.kept_codes import KeptCodes
from tokenbounds.compression.straight_through import train
from tokenbounds.compression.subject import Record, Sources
from tokenbounds.compression.trainable import TrainableGrid, freeze_grids
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.messages.formats.uniform import UniformFormat


def quantize_uniform(spec: UniformQuantizer, subject: Transformer, sources: Sources) -> tuple[UniformFormat, Record]:
    """Round every tensor to its own grid, one in memory at a time, and train weights and steps if the row says so."""
    tensors = subject.tensors
    quantized, history = round_by_spread(tensors, spec.step_ratio, KeptCodes()), None
    if spec.straight_through.steps:
        grids = {name: TrainableGrid(name, tensor, quantized.exponents[name]) for name, tensor in tensors.items()}
        history = train(subject, grids, spec.straight_through, sources.corpus)
        quantized = freeze_grids(grids)
    return UniformFormat(quantized.codes, quantized.exponents, subject.shapes), {"straight_through": history}
