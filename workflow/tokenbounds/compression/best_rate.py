"""The rate that minimises a bound: a search over real encodings of a model, each judged by its expected bound.

Finer steps lower the loss and lengthen the message. Each candidate is encoded, decoded again and scored on a pilot
sample of the corpus; `forecast` says what bound its losses and its size give on the whole corpus. The search is free: a
bound holds for all messages at once, and the scale that is chosen is inside the message. The choice must not depend on
the sample that a certificate scores; the pilot has a seed of its own.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.certificates.forecast import Forecast
from tokenbounds.certificates.pilot import Pilot
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.subject import Record
from tokenbounds.config import BoundsSpec, MessageSpec, Target
from tokenbounds.errors import MessageError, ScoreError
from tokenbounds.files import read_json, write_bytes, write_json
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.training.data import BlockSampler
from tokenbounds.scores.documents import score_windows
from tokenbounds.scores.plan import window_rows

if TYPE_CHECKING:
    from tokenbounds.corpus.reader import Corpus

LOGGER = logging.getLogger(__name__)
_FIRST_RATE = 3.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_RESOLUTION = 0.125  # octaves of the scale
_MAX_STEPS = 12
_BOUND = BoundKind.BETTING


def is_searched(spec: MessageSpec) -> bool:
    """Whether a message's steps are to be searched for the best bound."""
    return getattr(getattr(spec.quantizer, "target", None), "bound", None) is not None


def encode_best(
    model_directory: Path | str,
    spec: MessageSpec,
    out: Path | str,
    report: Path | str,
    corpus: Corpus | None = None,
    calibration: Path | str | None = None,
    side_information: Iterable[Path | str] = (),
) -> None:
    """Write the message whose expected betting bound on bits per token is least; see `encode_model`.

    Parameters
    ----------
    model_directory, out, report, calibration, side_information
        As of `encode_model`.
    spec : MessageSpec
        Its quantizer has `target: {bound: best, …}`.
    corpus : Corpus
        What the message is to be certified for.

    Raises
    ------
    MessageError
        As `encode_model`; or if there is no corpus.
    """
    if corpus is None:
        raise MessageError("a search for the best bound needs its corpus. Pass it, or give the target as a rate.")
    with tempfile.TemporaryDirectory() as folder:
        trials = _Trials(
            partial(encode_model, model_directory, calibration=calibration, side_information=side_information),
            spec,
            corpus,
            Path(folder),
        )
        scale = minimise(trials.bound, trials.first_scale())
        best = Path(folder) / trials.name(scale)
        content = {**read_json(best.with_suffix(".json")), "search": trials.record}
        content["message"]["quantizer"]["target"] = dataclasses.asdict(spec.quantizer.target)  # type: ignore[union-attr]
        write_bytes(out, best.read_bytes())
        write_json(report, content)
    LOGGER.info("%s: scale %.5g of %d tried", out, scale, len(trials.record))


def minimise(value: Callable[[float], float], start: float) -> float:
    """The argument near which a function with one minimum, on a logarithmic scale, is least; it is evaluated there.

    From `start` it goes downhill by octaves, then narrows the bracket by golden sections to an eighth of an octave.
    """
    known: dict[float, float] = {}

    def at(position: float) -> float:
        if position not in known:
            known[position] = value(2.0**position)
        return known[position]

    middle = math.log2(start)
    for _ in range(_MAX_STEPS):
        lower, upper = at(middle - 1), at(middle + 1)
        if at(middle) <= min(lower, upper):
            break
        middle += 1 if upper < lower else -1
    low, high = middle - 1, middle + 1
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    while high - low > _RESOLUTION:
        if at(left) <= at(right):
            high, right = right, left
            left = high - _GOLDEN * (high - low)
        else:
            low, left = left, right
            right = low + _GOLDEN * (high - low)
    return float(2.0 ** min(known, key=lambda position: (known[position], position)))


class _Trials:
    """Encodings at several scales, kept in a folder, and the bounds to expect from them."""

    def __init__(self, encode: Callable[..., Any], spec: MessageSpec, corpus: Corpus, folder: Path) -> None:
        self._encoder, self._spec, self._corpus, self._folder = encode, spec, corpus, folder
        self.record: list[Record] = []

    def name(self, scale: float) -> str:
        """File name of the message at a scale."""
        return f"{scale.hex()}.tbm"

    def first_scale(self) -> float:
        """The scale at three bits per weight."""
        self._encode("first.tbm", Target(bits_per_weight=_FIRST_RATE))
        return float(read_json(self._folder / "first.json")["quantization"]["linear"]["scale"])

    def bound(self, scale: float) -> float:
        """The bound to expect, in bits per token, of the message at a scale."""
        path = self._encode(self.name(scale), Target(scale=scale))
        losses = self._losses(path)
        pilot = Pilot(losses, np.ones(len(losses)))
        forecast = Forecast(pilot, self._corpus.vocabulary_size, BoundsSpec(), block_tokens=1)
        size_bits = 8 * path.stat().st_size
        value = forecast.expect(_BOUND, size_bits, self._corpus.tokens).value
        self.record.append(
            {"scale": scale, "size_bits": size_bits, "loss_bits": float(losses.mean()), "expected_bound": value}
        )
        return value

    def _encode(self, name: str, target: Target) -> Path:
        path = self._folder / name
        quantizer = dataclasses.replace(self._spec.quantizer, target=target)  # type: ignore[arg-type]
        spec = dataclasses.replace(self._spec, quantizer=quantizer)
        self._encoder(spec, path, path.with_suffix(".json"))
        return path

    def _losses(self, path: Path) -> np.ndarray:
        """Losses in bits of the pilot's tokens, from windows drawn as in training, float64[n]."""
        model: Any = decode_message(path)
        target = self._spec.quantizer.target  # type: ignore[union-attr]
        context = min(512, model.config.max_position_embeddings)
        sampler = BlockSampler(self._corpus, context, context, target.seed)
        sampled: list[tuple[np.ndarray, ...]] = []
        while sum(int(lengths.sum()) for _, _, lengths in sampled) < target.pilot_tokens:
            sampled.append(sampler.windows(len(sampled)))
        rows = window_rows(*(np.concatenate(column) for column in zip(*sampled, strict=True)))
        try:
            return score_windows(model, self._corpus, rows).nll_bits.astype(np.float64)
        except ScoreError as error:
            raise MessageError(f"a trial cannot be scored: {error} Give the target as a rate.") from error
