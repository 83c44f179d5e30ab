"""Post-training quantization of a whole model: from a quantizer's row to codes, and a record of how they were found."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenbounds.compression.calibration.layers import Matrix, check_calibratable, matrices_of, of_use
from tokenbounds.compression.calibration.store import Calibration
from tokenbounds.compression.grids import join_scaled
from tokenbounds.compression.posttraining.drift import DriftFollower
from tokenbounds.compression.posttraining.kept_roundings import KeptRounding
from tokenbounds.compression.posttraining.parallel import rounding_device
from tokenbounds.compression.posttraining.roundings import Rounding, RoundToNearest
from tokenbounds.compression.posttraining.scale_search import (
    SLACK_BITS,
    TOLERANCE,
    Rounder,
    Sample,
    encoded_bits,
    find_scale,
)
from tokenbounds.compression.posttraining.tuning import tune
from tokenbounds.compression.subject import Record, Sources
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config import Target
from tokenbounds.errors import CalibrationError, MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.formats import Format
from tokenbounds.messages.formats.scaled import ScaledMatrix

LOGGER = logging.getLogger(__name__)
_FINE_TOLERANCE = 0.003
_ATTEMPTS = 6  # after code lengths are learned; two are enough unless the sample is unlike the rest

Quantize = Callable[[Any, Transformer, Sources], tuple[Format, Record]]


def quantize_to_target(rounding: type[Rounding]) -> Quantize:
    """The method that rounds matrices in one way, at the scale for the row's target."""

    def quantize(spec: Any, subject: Transformer, sources: Sources) -> tuple[Format, Record]:
        """Quantize a model.

        Returns
        -------
        format : Format
        record : dict
            Scales, bits of linear layers and tables, every evaluation of the search, and the calibration's record.

        Raises
        ------
        CalibrationError
            If the model is not supported, or the calibration is missing or another model's.
        MessageError
            If the target cannot be met, or a value is not finite.
        """
        check_calibratable(subject.dense_card(spec.kind))
        if spec.target.bound is not None:
            raise MessageError("'target: {bound: best}' is a search over encodings. Run it as a message of a study.")
        calibration = open_calibration(sources, subject)
        if calibration is None and rounding.calibrated:
            raise CalibrationError(
                f"the quantizer '{spec.kind}' needs a calibration. Name its row under 'calibration'."
            )
        way: Rounding
        way, matrices = rounding(spec, calibration), matrices_of(subject.structure)
        if sources.work is not None:
            way = KeptRounding(way, sources.work)
        rounder, shapes = Rounder(way, subject.tensors, device=rounding_device()), subject.shapes
        task = _Task(spec.target, spec.embedding_bits_per_weight, rounder, matrices, shapes, sources.coder)
        rounded, drift, later = task.run(), getattr(spec, "drift", None), Record()
        if drift is not None and calibration is not None:
            following = DriftFollower(rounder, subject, calibration.windows()[0], drift)
            rounded = task.follow_drift(rounded, following)
            later["drift"] = following.record
        scaled = join_scaled(subject.tensors, rounded, shapes)
        tuning = getattr(spec, "tuning", None)
        if tuning is not None and calibration is not None:
            scaled, later["tuning"] = tune(scaled, subject, calibration.windows(), tuning)
        return way.finish(scaled, matrices), {
            "quantization": {**task.record, **later, "calibration": _calibration_record(calibration)}
        }

    return quantize


def _calibration_record(calibration: Calibration | None) -> Record | None:
    """What the report says about a calibration: its record, and its consequences for scoring."""
    if calibration is None:
        return None
    tokens, corpus = calibration.record["tokens"], calibration.record["corpus"]
    overlap = (
        f"Calibrated on {tokens} tokens of corpus '{corpus}', in the documents listed. Where that corpus is certified, "
        "they may be among the tokens that are scored. Bounds still hold: they hold for every message at once, "
        "and this one pays for its own choice. With prior: held_out the corpus is refused."
    )
    return {**calibration.record, "overlap": overlap}


def open_calibration(sources: Sources, subject: Transformer) -> Calibration | None:
    """The calibration among the sources, if there is one.

    Raises
    ------
    CalibrationError
        If it cannot be read, or was made with another model; its file is named.
    """
    if sources.calibration is None:
        return None
    calibration = Calibration.open(sources.calibration)
    if calibration.record.get("model") != subject.card.to_dict():
        raise CalibrationError(f"{calibration.path} is the calibration of another model. Calibrate this one.")
    return calibration


def quantize_tables(
    subject: Transformer, matrices: Sequence[Matrix], bits_per_weight: float, coder: Coder
) -> tuple[dict[str, ScaledMatrix], Record]:
    """Embeddings and head of a model, rounded to nearest, with one step per row, to take this many bits.

    Returns
    -------
    tables : dict of str to ScaledMatrix
    record : dict
        As that of `quantize_to_target`.
    """
    tables = of_use(matrices, "lookup", "head", "tied")
    rounder = Rounder(RoundToNearest(), subject.tensors)
    task = _Task(Target(scale=1.0), bits_per_weight, rounder, tables, subject.shapes, coder)
    return task.run(), task.record


@dataclass
class _Task:
    """One search; `record` fills while it runs."""

    target: Target
    table_rate: float | None  # bits per weight of embeddings and head, if they have a scale of their own
    rounder: Rounder
    matrices: Sequence[Matrix]
    shapes: Mapping[str, Shape]  # of all tensors, in the model's order
    coder: Coder
    record: Record = field(default_factory=dict)

    def run(self) -> dict[str, ScaledMatrix]:
        """All matrices, quantized to the target."""
        # Tables (embeddings, head) have a size of their own, or share the layers' scale.
        target, own_rate = self.target, self.table_rate
        layers = of_use(self.matrices, "linear")
        tables = of_use(self.matrices, "lookup", "head", "tied")
        found: dict[str, ScaledMatrix] = {}
        if own_rate is not None:
            found |= self._to_size("embedding", tables, own_rate * self._weights(tables))
        shared = list(layers) if own_rate is not None else [*layers, *tables]
        if target.scale is not None:
            found |= self._at_scale("linear", shared, target.scale)
        elif target.message_megabits is not None:
            found |= self._to_size("linear", shared, target.message_megabits * 1e6, others=found)
        else:
            assert target.bits_per_weight is not None
            # The rate is that of the linear layers alone; tables then follow at the scale that was found.
            found |= self._to_size("linear", layers, target.bits_per_weight * self._weights(layers))
            if own_rate is None:
                found |= self._at_scale("embedding", tables, self.record["linear"]["scale"])
        return found

    def _to_size(
        self,
        group: str,
        matrices: Sequence[Matrix],
        wanted: float,
        others: Mapping[str, ScaledMatrix] | None = None,
    ) -> dict[str, ScaledMatrix]:
        """Matrices quantized so that, coded alone, they take `wanted` bits; or the whole message with `others`."""
        share = 1.0 if others is None else self._weights(matrices) / self._weights(self.matrices)
        sample = Sample(self.rounder, matrices, self.shapes)
        guess = sample.find(share * wanted, sample.first_guess())
        if others is None and sample.share < 1:
            return self._to_size_of_sample(group, matrices, wanted, sample, guess)
        evaluations: list[tuple[float, int]] = []
        latest: dict[str, ScaledMatrix] = {}

        def bits(scale: float) -> float:
            latest.update(self.rounder.round(matrices, scale))
            size = encoded_bits(latest, self.coder) if others is None else self._message_bits({**others, **latest})
            evaluations.append((scale, size))
            return size

        scale = find_scale(bits, wanted, guess)
        own_bits = evaluations[-1][1] if others is None else encoded_bits(latest, self.coder)
        self._note(group, scale, matrices, own_bits, evaluations)
        return latest

    def _to_size_of_sample(
        self, group: str, matrices: Sequence[Matrix], wanted: float, sample: Sample, guess: float
    ) -> dict[str, ScaledMatrix]:
        """As `_to_size`, for many matrices: all are rounded once to learn code lengths, then once, or twice if need be.

        The sample says at which scale to expect the size. The first round says how unlike the rest the sample is, and
        a size that was found, by how much to correct the scale.
        """
        expected = wanted / sample.coder_ratio(guess, self.coder)
        fine = _FINE_TOLERANCE * wanted + SLACK_BITS
        scale = sample.find(expected, guess, fine)
        evaluations: list[tuple[float, int]] = []
        self.rounder.round(matrices, scale)  # learns code lengths
        expected *= sample.likeness(self.rounder.bits, matrices)
        scale = sample.find(expected, scale, fine)
        for _ in range(_ATTEMPTS):
            rounded = self.rounder.round(matrices, scale)
            evaluations.append((scale, encoded_bits(rounded, self.coder)))
            found = evaluations[-1][1]
            LOGGER.info("scale %.5g: %d bits, wanted %.0f", scale, found, wanted)
            if abs(found - wanted) <= TOLERANCE * wanted + SLACK_BITS:
                self._note(group, scale, matrices, found, evaluations)
                return rounded
            expected *= wanted / found
            scale = sample.find(expected, scale, fine)
        raise MessageError(
            f"no scale gives a size within 1 % of {wanted:.0f} bits; the last one tried gives {found}. "
            "Choose another target."
        )

    def follow_drift(self, rounded: Mapping[str, ScaledMatrix], following: DriftFollower) -> dict[str, ScaledMatrix]:
        """All matrices, of which layers are rounded once more, for the inputs that they will see, to the same target.

        The scale is the one that was found before. It moves if the size is no longer what is wanted.
        """
        target, layers = self.target, of_use(self.matrices, "linear")
        tables = {matrix.name: rounded[matrix.name] for matrix in self.matrices if matrix.use != "linear"}
        evaluations: list[tuple[float, int]] = []
        latest = dict(rounded)

        def bits(scale: float) -> float:
            latest.update(following.round(layers, scale, tables))
            own = {matrix.name: latest[matrix.name] for matrix in layers}
            size = encoded_bits(own, self.coder) if target.message_megabits is None else self._message_bits(latest)
            evaluations.append((scale, size))
            return size

        scale = self.record["linear"]["scale"]
        if target.message_megabits is not None:
            scale = find_scale(bits, target.message_megabits * 1e6, scale)
        elif target.bits_per_weight is not None:
            scale = find_scale(bits, target.bits_per_weight * self._weights(layers), scale)
        else:
            bits(scale)
        own_bits = encoded_bits({matrix.name: latest[matrix.name] for matrix in layers}, self.coder)
        self._note("linear", scale, layers, own_bits, evaluations)
        return latest

    def _message_bits(self, matrices: Mapping[str, ScaledMatrix]) -> int:
        """Of all parts of the message; its header is too small to matter."""
        parts = join_scaled(self.rounder.tensors, matrices, self.shapes).to_parts(self.coder)
        return sum(8 * len(part.content) for part in parts)

    def _at_scale(self, group: str, matrices: Sequence[Matrix], scale: float) -> dict[str, ScaledMatrix]:
        self.rounder.round(matrices, scale)  # learns code lengths
        quantized = self.rounder.round(matrices, scale)
        self._note(group, scale, matrices, encoded_bits(quantized, self.coder), [])
        return quantized

    def _note(
        self,
        group: str,
        scale: float,
        matrices: Sequence[Matrix],
        bits: int,
        evaluations: Sequence[tuple[float, int]],
    ) -> None:
        weights = self._weights(matrices)
        rates = {"bits": bits, "weights": weights, "bits_per_weight": bits / max(weights, 1)}
        self.record[group] = {"scale": scale, **rates, "evaluations": evaluations}

    def _weights(self, matrices: Sequence[Matrix]) -> int:
        return sum(math.prod(self.shapes[matrix.name]) for matrix in matrices)
