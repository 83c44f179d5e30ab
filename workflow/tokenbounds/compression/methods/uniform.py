"""Uniform quantization: one step per tensor by its spread, then straight-through training of weights and steps.

Training may start from steps that follow what the loss depends on, and without the values that it hardly depends on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tokenbounds.compression.grids import exponent_by_spread, round_by_spread
from tokenbounds.compression.posttraining.kept_codes import KeptCodes
from tokenbounds.compression.sensitivity import drop_values, exponents_by_curvature, loss_curvatures
from tokenbounds.compression.straight_through import check_training, train
from tokenbounds.compression.subject import Record, Sources
from tokenbounds.compression.trainable import TrainableGrid, freeze_grids
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.corpus.reader import Corpus
from tokenbounds.messages.formats.uniform import UniformFormat


def quantize_uniform(spec: UniformQuantizer, subject: Transformer, sources: Sources) -> tuple[UniformFormat, Record]:
    """Round every tensor to its own grid, one in memory at a time, and train weights and steps if the row says so."""
    history = None
    if spec.straight_through.steps:
        corpus = check_training(subject.shapes, sources.corpus)
        tensors, exponents = _starting_point(spec, subject, corpus)
        grids = {name: TrainableGrid(name, tensor, exponents[name]) for name, tensor in tensors.items()}
        history = train(subject, grids, spec.straight_through, corpus)
        quantized = freeze_grids(grids)
    else:
        quantized = round_by_spread(subject.tensors, spec.step_ratio, KeptCodes())
    return UniformFormat(quantized.codes, quantized.exponents, subject.shapes), {"straight_through": history}


def _starting_point(
    spec: UniformQuantizer, subject: Transformer, corpus: Corpus
) -> tuple[Mapping[str, np.ndarray], dict[str, int]]:
    """Tensors and step exponents to start training from: by spread, or by sensitivity if the row says so."""
    training, tensors = spec.straight_through, subject.tensors
    if spec.sensitivity_tokens is None:
        return tensors, {name: exponent_by_spread(name, tensor, spec.step_ratio) for name, tensor in tensors.items()}
    curvatures = loss_curvatures(
        subject.model, corpus, context=subject.card.context, tokens=spec.sensitivity_tokens, seed=training.seed
    )
    if spec.drop_values:
        tensors = drop_values(tensors, curvatures, training.rate_weight / max(corpus.tokens, 1))
    return tensors, exponents_by_curvature(tensors, curvatures, spec.step_ratio)
