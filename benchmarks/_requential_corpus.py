"""Python's standard library for `requential`: batches, losses, bounds to expect; and the rival, rounded parameters.

The rival is the student's architecture trained on the corpus itself and then for its size, as the `uniform` quantizer
does it: steps by curvature, values dropped that are not worth their bits, straight-through training of values and steps
for loss + rate, and the adaptive coder's real bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from _requential_student import Parameters, Sizes, Student
from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.certificates.forecast import Forecast
from tokenbounds.certificates.pilot import Pilot
from tokenbounds.compression.sensitivity import drop_values, exponents_by_curvature
from tokenbounds.compression.trainable import TrainableGrid, freeze_grids
from tokenbounds.config import BoundsSpec, PythonStdlibSource
from tokenbounds.corpus.sources import read_documents
from tokenbounds.draws import uniform_integers
from tokenbounds.messages.container import render_message
from tokenbounds.messages.formats.uniform import UniformFormat

Bytes = npt.NDArray[np.uint8]
Tensors = dict[str, npt.NDArray[np.float32]]

SCORED = 20000
_BATCH = 1024
_CURVATURE_TOKENS = 400


class Standard:
    """Python's standard library as bytes, each document after `context` zeros."""

    def __init__(self, context: int) -> None:
        texts = [each.text for each in read_documents(PythonStdlibSource(kind="python_stdlib"))]
        documents = [text if isinstance(text, bytes) else text.encode() for text in texts]
        self._context = context
        self._text = np.frombuffer(b"".join(bytes(context) + document for document in documents), dtype=np.uint8)
        self._ends = np.cumsum([len(document) for document in documents])
        self.tokens = int(self._ends[-1])
        self.counts = np.bincount(self._text, minlength=256)
        self.counts[0] -= context * len(documents)
        self._scored = self.rows(uniform_integers(self.tokens, SCORED, seed=99))

    def rows(self, places: npt.NDArray[np.int64]) -> Bytes:
        """Bytes of the corpus [R], each with the n before it in its document or zeros: [R, n + 1]."""
        document = np.searchsorted(self._ends, places, side="right")
        ends = places + self._context * (document + 1)
        return self._text[ends[:, None] + np.arange(-self._context, 1)]

    def batches(self, size: int, seed: int) -> Iterator[Bytes]:
        """Rows at random places, without end."""
        step = 0
        while True:
            yield self.rows(uniform_integers(self.tokens, size, seed=(seed << 32) + step))
            step += 1

    def losses(self, parameters: Parameters) -> npt.NDArray[np.float64]:
        """Of `SCORED` random bytes, the same for all, bits."""
        return -Student(parameters).log2_probabilities(self._scored)

    def describe(self, parameters: Parameters, size_bits: int) -> str:
        """Bits for each parameter, mean loss and the betting bound to expect, without centres."""
        losses = self.losses(parameters)
        forecast = Forecast(Pilot(losses, np.ones(len(losses))), 256, BoundsSpec(), block_tokens=1)
        bound = forecast.expect(BoundKind.BETTING, size_bits, self.tokens).value
        count = sum(value.size for value in parameters.values())
        return (
            f"{size_bits} bits, {size_bits / count:.2f} for each of {count} parameters; "
            f"loss {losses.mean():.3f} bits per byte, expected bound {bound:.3f}"
        )


def quantized(sizes: Sizes, corpus: Standard) -> Iterator[str]:
    """Train on the corpus, then round to several sizes; describe each."""
    initial = {name: value.astype(np.float32) for name, value in sizes.initial(1).items()}
    trained = {name: torch.nn.Parameter(torch.from_numpy(value)) for name, value in initial.items()}
    batches = corpus.batches(_BATCH, seed=1)
    optimizer = torch.optim.Adam([{"params": list(trained.values()), "base": 0.01}], betas=(0.9, 0.99))
    for step in range(1500):
        _set_rate(optimizer, step / 1500)
        optimizer.zero_grad()
        _loss_bits(trained, next(batches)).backward()
        optimizer.step()
    tensors = {name: value.detach().numpy().copy() for name, value in trained.items()}
    wide = {name: value.astype(np.float64) for name, value in tensors.items()}
    yield f"not rounded: {corpus.describe(wide, 32 * sizes.parameters())}"
    squares = {name: np.zeros_like(value) for name, value in tensors.items()}
    for row in next(corpus.batches(_CURVATURE_TOKENS, seed=2)):
        gradients = torch.autograd.grad(_loss_bits(trained, row[None]), list(trained.values()))
        for total, gradient in zip(squares.values(), gradients, strict=True):
            total += gradient.numpy() ** 2
    curvatures = {name: total * math.log(2) / _CURVATURE_TOKENS for name, total in squares.items()}
    for step_ratio, rate_weight in ((1.0, 20.0), (2.0, 60.0), (3.0, 200.0), (4.0, 500.0), (4.0, 1500.0)):
        rounded, size_bits = _rounded(tensors, curvatures, step_ratio, rate_weight, corpus)
        yield f"step ratio {step_ratio}, rate weight {rate_weight}: {corpus.describe(rounded, size_bits)}"


def _rounded(
    tensors: Tensors, curvatures: Tensors, step_ratio: float, rate_weight: float, corpus: Standard
) -> tuple[Parameters, int]:
    """What a message decodes to after 200 steps for loss + rate, and the message's bits."""
    bit_price, batches = rate_weight / corpus.tokens, corpus.batches(_BATCH, seed=3)
    kept = drop_values(tensors, curvatures, bit_price)
    exponents = exponents_by_curvature(kept, curvatures, step_ratio)
    grids = {name: TrainableGrid(name, value, exponents[name]) for name, value in kept.items()}
    values = [{"params": [grid.weight for grid in grids.values()], "base": 0.01}]
    steps = [{"params": [scale for grid in grids.values() for scale in grid.scales()], "base": 0.04}]
    optimizer = torch.optim.Adam(values + steps, betas=(0.9, 0.99))
    for step in range(200):
        _set_rate(optimizer, step / 200)
        if step % 10 == 0:
            for grid in grids.values():
                grid.refit()
        optimizer.zero_grad()
        pairs = {name: grid.quantized() for name, grid in grids.items()}
        loss = _loss_bits({name: value for name, (value, _) in pairs.items()}, next(batches))
        (loss + bit_price * sum(bits for _, bits in pairs.values())).backward()
        optimizer.step()
    final = freeze_grids(grids)
    parts = UniformFormat(final.codes, final.exponents).to_parts("adaptive")
    message = render_message({"shapes": [list(value.shape) for value in tensors.values()]}, parts)
    return {name: value.astype(np.float64) for name, value in final.iter_values()}, 8 * len(message)


def _loss_bits(values: dict[str, torch.Tensor], rows: Bytes) -> torch.Tensor:
    """The student's mean loss in floating point, without its rounding."""
    text = torch.from_numpy(rows.astype(np.int64))
    mix = values["mix"].flatten(0, 1)  # [n · d, H]
    x = values["embedding"][text[:, :-1]].flatten(1) @ mix + values["mix_bias"]
    logits = x / torch.sqrt(1 + x * x) @ values["output"] + values["output_bias"]
    return torch.nn.functional.cross_entropy(logits, text[:, -1]) / math.log(2)


def _set_rate(optimizer: torch.optim.Optimizer, done: float) -> None:
    """A short rise, then linearly to zero."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * min(1.0, (done + 0.01) / 0.05) * (1.0 - done)
