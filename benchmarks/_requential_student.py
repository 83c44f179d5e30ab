"""A small byte model whose training is the same on every machine, bit for bit, with any number of threads.

The model (after Bengio et al., 2003, "A neural probabilistic language model"): the last n bytes are embedded, mixed by
one hidden layer with x / √(1 + x²), and every byte gets a logit. Parameters are float64. Every product of matrices is
one of integers: parameters, activations and gradients are first rounded to multiples of powers of two so coarse that no
sum can leave the range in which floating-point numbers are exact, so that the order of a sum does not matter. What is
left are single operations of numbers, which IEEE 754 defines (+, -, x, /, √), and a table in place of exp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenbounds.models.generator import uniform

Floats = npt.NDArray[np.float64]
Parameters = dict[str, Floats]

# Bits after the point. Embeddings lie within ±2, matrices and biases within ±4.
_EMBEDDING, _MIX, _HIDDEN, _OUTPUT, _PROBABILITY = 10, 10, 7, 8, 14
_LOGIT = _HIDDEN + _OUTPUT
_PER_NAT = 8  # the table has 2^8 weights for each nat
_LARGEST_WEIGHT = 1 << 22


@dataclass(frozen=True)
class Sizes:
    """n bytes of context, width of their embeddings d, units of the hidden layer H (at most 128)."""

    context: int = 8
    width: int = 16
    hidden: int = 64

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all parameters."""
        return {
            "embedding": (256, self.width),
            "mix": (self.context, self.width, self.hidden),
            "mix_bias": (self.hidden,),
            "output": (self.hidden, 256),
            "output_bias": (256,),
        }

    def parameters(self) -> int:
        """Their number."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def initial(self, seed: int) -> Parameters:
        """Parameters before training, from a seed alone."""
        spread = {"embedding": 0.5, "mix": 1 / math.sqrt(self.context * self.width * 0.25), "output": 0.02}
        return {
            name: uniform(seed, name, shape, spread.get(name, 0.0)).astype(np.float64)
            for name, shape in self.shapes().items()
        }


def exact_product(left: Any, right: Any) -> Any:
    """left @ right for integers held as floats of one type, exact in whatever order terms are added.

    Raises
    ------
    OverflowError
        If a partial sum could be too large for that.
    """
    largest = float(np.abs(left).max()) * float(np.abs(right).max()) * left.shape[-1]
    if not largest <= 2.0 ** (np.finfo(left.dtype).nmant + 1):  # or it is not a number
        raise OverflowError(f"a sum of integers could reach {largest:g} and be rounded. Lower the learning rate.")
    return left @ right


def rounded(values: Any, bits: int, largest: float) -> Any:
    """Multiples of 2^-bits within ±largest, as integers."""
    return np.rint(np.clip(values, -largest, largest) * 2.0**bits)


@cache
def weights_table() -> npt.NDArray[np.int32]:
    """2^22 exp(-i / 2^8) to the nearest integer, as long as it is not zero: int32, decreasing to 1."""
    with localcontext(prec=40):
        length = int(Decimal(2 * _LARGEST_WEIGHT).ln() * (1 << _PER_NAT))
        weights = [round(_LARGEST_WEIGHT * (Decimal(-i) / (1 << _PER_NAT)).exp()) for i in range(length)]
    return np.array(weights, dtype=np.int32)


class Student:
    """The model as it predicts with given parameters, rounded once."""

    def __init__(self, parameters: Parameters) -> None:
        self.embedding = rounded(parameters["embedding"], _EMBEDDING, 2.0)  # [256, d]
        self.mix = rounded(parameters["mix"], _MIX, 4.0)  # [n, d, H]
        self.output = rounded(parameters["output"], _OUTPUT, 4.0).astype(np.float32)  # [H, 256]
        self._output_bias = rounded(parameters["output_bias"], _LOGIT, 32.0).astype(np.float32)
        bias = rounded(parameters["mix_bias"], _EMBEDDING + _MIX, 4.0)
        self._rows = exact_product(self.embedding, self.mix)  # what a byte in a place adds: [n, 256, H]
        self._rows[0] += bias

    def hidden(self, text: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Activations after the first n bytes of each row [R, ≥ n]: integers [R, H], in units of 2^-7."""
        total = self._rows[0][text[:, 0]]
        for place in range(1, len(self._rows)):
            total += self._rows[place][text[:, place]]
        x = np.rint(total * 2.0**-8)  # 12 bits after the point, so that its square is exact
        return np.rint(x / np.sqrt(x * x + 2.0**24) * 2.0**_HIDDEN).astype(np.float32)

    def logits(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Integers [R, 256], in units of 2^-15 nats."""
        return exact_product(hidden, self.output) + self._output_bias

    def weights(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """What the next byte's probabilities are proportional to, [R, 256]; a row's sum is below 2^31."""
        logits = self.logits(hidden)
        places = ((logits.max(axis=1, keepdims=True) - logits) * 2.0 ** (_PER_NAT - _LOGIT)).astype(np.int32)
        table = weights_table()
        return table[np.minimum(places, len(table) - 1)]

    def log2_probabilities(self, text: npt.NDArray[np.uint8]) -> Floats:
        """Of the last byte of each row [R, n + 1], bits; the integers are exact, the logarithm is the machine's."""
        weights = self.weights(self.hidden(text))
        return np.log2(weights[np.arange(len(text)), text[:, -1]] / weights.sum(axis=1))

    def continue_text(
        self, contexts: npt.NDArray[np.uint8], words: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint8], Floats]:
        """Draw bytes after contexts [R, n], each by a random word of 32 bits [R, k]: uint8 [R, n + k].

        The second result are the log2-probabilities of all drawn bytes, float64 [R, k].
        """
        (count, steps), n = words.shape, contexts.shape[1]
        text = np.concatenate([contexts, np.zeros((count, steps), dtype=np.uint8)], axis=1)
        logs = np.empty((count, steps))
        for step in range(steps):
            weights = self.weights(self.hidden(text[:, step : step + n]))
            sums = weights.cumsum(axis=1, dtype=np.int32)
            left = (words[:, step] * sums[:, -1]) >> 32  # uniform on 0 … total - 1, up to 2^-32 of its range
            drawn = (sums <= left[:, None]).sum(axis=1)
            text[:, n + step] = drawn
            logs[:, step] = np.log2(weights[np.arange(count), drawn] / sums[:, -1])
        return text, logs

    def gradient(self, text: npt.NDArray[np.uint8]) -> Parameters:
        """Of the mean loss of the last byte of each row [R, n + 1], nats, up to the rounding of its terms."""
        count, n = len(text), text.shape[1] - 1
        hidden = self.hidden(text)
        weights = self.weights(hidden)
        errors = np.rint(weights / weights.sum(axis=1, keepdims=True) * 2.0**_PROBABILITY)  # [R, 256]
        errors[np.arange(count), text[:, -1]] -= 2.0**_PROBABILITY
        wide = hidden.astype(np.float64)
        slope = 1.0 - (wide * 2.0**-_HIDDEN) ** 2  # exact: 15 bits
        back = exact_product(errors, self.output.T.astype(np.float64))  # [R, H]
        inner = np.rint(back * (slope * np.sqrt(slope)) * 2.0**-6)
        rows = np.stack([_sums_by_byte(text[:, place], inner) for place in range(n)])  # [n, 256, H]
        inner_bits = _PROBABILITY + _OUTPUT - 6
        by_byte = rows.transpose(1, 0, 2).reshape(256, -1)  # [256, n · H]
        by_unit = self.mix.transpose(0, 2, 1).reshape(by_byte.shape[1], -1)  # [n · H, d]
        sums = {
            "embedding": (exact_product(by_byte, by_unit), inner_bits + _MIX),
            "mix": (exact_product(self.embedding.T, rows), inner_bits + _EMBEDDING),
            "mix_bias": (inner.sum(axis=0), inner_bits),
            "output": (exact_product(wide.T, errors), _HIDDEN + _PROBABILITY),
            "output_bias": (errors.sum(axis=0), _PROBABILITY),
        }
        return {name: total * 2.0**-bits / count for name, (total, bits) in sums.items()}


class Adam:
    """Adam (Kingma and Ba, 2015) as a fixed sequence of IEEE operations, without corrections of the first steps."""

    def __init__(self, sizes: Sizes) -> None:
        self._first = {name: np.zeros(shape) for name, shape in sizes.shapes().items()}
        self._second = {name: np.full(shape, 2.0**-26) for name, shape in sizes.shapes().items()}

    def step(self, parameters: Parameters, gradient: Parameters, rate: float) -> Parameters:
        """The parameters after one step; the moments are changed in place."""
        after = {}
        for name, value in parameters.items():
            first, second = self._first[name], self._second[name]
            first += (gradient[name] - first) * 0.125
            second += (gradient[name] * gradient[name] - second) * 2.0**-6
            after[name] = value - first / (np.sqrt(second) + 2.0**-20) * rate
        return after


def _sums_by_byte(column: npt.NDArray[np.uint8], inner: Floats) -> Floats:
    """Sums of inner [R, H] over the rows with each byte: float64 [256, H]."""
    order = np.argsort(column, kind="stable")
    present, first = np.unique(column[order], return_index=True)
    sums = np.zeros((256, inner.shape[1]))
    sums[present] = np.add.reduceat(inner[order], first, axis=0)
    return sums
