"""Methods: functions that find a message's integers for a model.

A method is a function of a quantizer's row, the model and what else may be read. It returns the model in a format of
`messages.formats`, and what the encoder's report says about how it was found. There is one entry per quantizer: nothing
else in the library asks what kind it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenbounds.compression.counted import COUNTED_METHODS
from tokenbounds.compression.methods.codebook import quantize_codebook
from tokenbounds.compression.methods.published import quantize_published
from tokenbounds.compression.methods.reference import quantize_reference
from tokenbounds.compression.methods.refinement import quantize_refinement
from tokenbounds.compression.methods.uniform import quantize_uniform
from tokenbounds.compression.posttraining.lattice import quantize_lattice
from tokenbounds.compression.posttraining.quantize import quantize_to_target
from tokenbounds.compression.posttraining.roundings import (
    ErrorFeedback,
    RotatedFeedback,
    RoundToNearest,
    SensitivitySteps,
)
from tokenbounds.compression.subject import Record, Sources
from tokenbounds.config.quantizers import (
    CodebookQuantizer,
    GptqQuantizer,
    PublishedQuantizer,
    QuantizerRow,
    QuipQuantizer,
    QuipSharpQuantizer,
    ReferenceQuantizer,
    RefinementQuantizer,
    RtnQuantizer,
    UniformQuantizer,
    WatersicQuantizer,
)
from tokenbounds.messages.formats import Format

# (row, Subject of the sort that the row's `models` names, sources) -> the model in a format, lines of the report
Method = Callable[[Any, Any, Sources], tuple[Format, Record]]

METHODS: dict[type[QuantizerRow], Method] = {
    UniformQuantizer: quantize_uniform,
    CodebookQuantizer: quantize_codebook,
    RefinementQuantizer: quantize_refinement,
    ReferenceQuantizer: quantize_reference,
    **COUNTED_METHODS,
    RtnQuantizer: quantize_to_target(RoundToNearest),
    GptqQuantizer: quantize_to_target(ErrorFeedback),
    QuipQuantizer: quantize_to_target(RotatedFeedback),
    WatersicQuantizer: quantize_to_target(SensitivitySteps),
    QuipSharpQuantizer: quantize_lattice,
    PublishedQuantizer: quantize_published,
}
