"""Published codes, read from the checkpoint that was imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tokenbounds.compression.subject import Record, Sources
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config.quantizers import PublishedQuantizer
from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.formats.published import PublishedFormat
from tokenbounds.models.build import coded_shapes
from tokenbounds.models.checkpoint import load_card
from tokenbounds.models.pretrained.lattice_layers import PublishedCodes, slots_of
from tokenbounds.models.pretrained.quip_sharp import QUIP_SHARP, QuipValues
from tokenbounds.models.pretrained.tensor_files import TensorFiles
from tokenbounds.models.weights import ORIGINAL_FILE, open_original


def quantize_published(
    spec: PublishedQuantizer, subject: Transformer, sources: Sources
) -> tuple[PublishedFormat, Record]:
    """Read the codes, and check that they give the model's values.

    Raises
    ------
    MessageError
        If there are none, or they give other values.
    """
    tensors, shapes = subject.tensors, {name: tuple(shape) for name, shape in subject.shapes.items()}
    try:
        codes = load_codes(subject.directory)
    except ModelError as error:
        raise MessageError(str(error)) from error
    coded = {weight for slot in slots_of(shapes).values() for weight in slot.weights}
    others = {name: tensors[name] for name in shapes if name not in coded}
    found = PublishedFormat(shapes, codes, others)
    for name, values in found.iter_values():
        if values.tobytes() != np.ascontiguousarray(tensors[name]).tobytes():
            raise MessageError(f"{subject.directory}: {name} is not what its codes decode to. Import the model again.")
    return found, {}


def load_codes(directory: Path) -> PublishedCodes:
    """The codes of a model that was imported from a published checkpoint, read where they are.

    Raises
    ------
    ModelError
        If it was not, or a file has changed since.
    """
    card = load_card(directory)
    if (directory / ORIGINAL_FILE).is_file():
        original, paths = open_original(directory, card)
        if original.quantization is not None and original.quantization.get("quant_method") == QUIP_SHARP:
            return QuipValues(TensorFiles(paths), original.quantization, coded_shapes(card)).codes
    raise ModelError(f"{directory} holds no codes: its model was not imported from a QuIP# checkpoint.")
