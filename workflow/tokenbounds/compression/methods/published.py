"""Published codes, kept since the checkpoint was imported."""

from __future__ import annotations

import numpy as np

from tokenbounds.compression.subject import Record, Sources, Transformer
from tokenbounds.config.quantizers import PublishedQuantizer
from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.formats.published import PublishedFormat
from tokenbounds.models.pretrained.lattice_layers import slots_of
from tokenbounds.models.pretrained.quip_sharp import load_codes


def quantize_published(
    spec: PublishedQuantizer, subject: Transformer, sources: Sources
) -> tuple[PublishedFormat, Record]:
    """Read the codes, and check that they give the model's values.

    Raises
    ------
    MessageError
        If there are none, or they give other values.
    """
    tensors = subject.tensors
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        codes = load_codes(subject.directory, shapes)
    except ModelError as error:
        raise MessageError(str(error)) from error
    coded = {weight for slot in slots_of(shapes).values() for weight in slot.weights}
    others = {name: tensor for name, tensor in tensors.items() if name not in coded}
    for name, weight in codes.dense(shapes).items():
        if weight.tobytes() != np.ascontiguousarray(tensors[name]).tobytes():
            raise MessageError(f"{subject.directory}: {name} is not what its codes decode to. Import the model again.")
    return PublishedFormat(shapes, codes, others), {}
