"""A second, plain-Python encoder written from docs/message-format.md: the page is complete, and the code follows it."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from tokenbounds.messages.coding.adaptive import encode_planes

LIMIT = 2900


def tables():
    with localcontext() as context:
        context.prec = 30
        squash = [
            min(max(int((65536 / (1 + (-Decimal(x) / 256).exp())).to_integral_value()), 1), 65535)
            for x in range(-LIMIT, LIMIT + 1)
        ]
    stretch, x = [], 0
    for p in range(65536):
        while x < 2 * LIMIT and squash[x] < p:
            x += 1
        stretch.append(x - LIMIT)
    return squash, stretch


SQUASH, STRETCH = tables()


def level(x):
    length = x.bit_length()
    return x if x < 4 else min(4 * (length - 2) + (x >> (length - 3) & 3), 47)


LEAST_OF_LEVEL = {level(x): x for x in reversed(range(4096))}


class Reference:
    """One adaptive stream; `number` holds all bytes so far as one integer, so that carries need no care."""

    def __init__(self):
        self.number, self.width, self.shifts = 0, (1 << 32) - 1, 0
        self.states, self.counts, self.weights, self.updates, self.escapes = {}, {}, {}, {}, {}

    def bit(self, p, bit):
        bound = (self.width * p) >> 16
        if bit:
            self.width = bound
        else:
            self.number += bound
            self.width -= bound
        while self.width < 1 << 24:
            self.width <<= 8
            self.number <<= 8
            self.shifts += 1

    def mixed(self, contexts, which, bit):
        slots = [(k, context, which) for k, context in enumerate(contexts)]
        weights = self.weights.setdefault(which, [9830, 26214, 13107, 13107, 13107])
        inputs = []
        for slot in slots:
            if slot not in self.states:
                prior = slot[0] == 1 and which != 1
                start = min((64 << 22) // (64 + LEAST_OF_LEVEL[slot[1]]), (1 << 22) - (1 << 12)) if prior else 1 << 21
                self.states[slot], self.counts[slot] = start, 4 if prior else 0
            n = self.counts[slot]
            inputs.append(STRETCH[self.states[slot] >> 6] * ((256 * (2 * n + 1)) // (2 * n + 7)) >> 8)
        total = sum(a * b for a, b in zip(inputs, weights, strict=True)) >> 16
        p = SQUASH[min(max(total, -LIMIT), LIMIT) + LIMIT]
        self.bit(p, bit)
        seen = self.updates.get(which, 0)
        error = ((bit << 16) - p) * (10 + 1536 // (seen + 64))
        self.updates[which] = seen + 1
        for k, slot in enumerate(slots):
            weights[k] += (inputs[k] * error + (1 << 19)) >> 20
            n, s = self.counts[slot], self.states[slot]
            s += (((bit << 22) - s) * (655360 // (10 * n + 16))) >> 16
            self.states[slot] = min(max(s, 64), (1 << 22) - 64)
            self.counts[slot] = min(n + 1, 1023)

    def plain(self, slot, bit):
        p = self.escapes.get(slot, 32768)
        self.bit(p, bit)
        self.escapes[slot] = min(max(p + ((((bit << 16) - p) * 3) >> 6), 64), 65472)

    def escape(self, which, w):
        exponent = w.bit_length() - 1
        for k in range(min(exponent + 1, 30)):
            self.plain((which, "length", k), int(k < exponent))
        node = 1
        for k in range(exponent):
            bit = w >> (exponent - 1 - k) & 1
            if k < 6:
                self.plain((which, exponent, node), bit)
                node = 2 * node + bit
            else:
                self.bit(32768, bit)

    def symbol(self, contexts, direct, v):
        self.mixed(contexts, 0, int(v == 0))
        if v == 0:
            return
        negative = int(v < 0)
        self.mixed(contexts, 1, negative)
        if direct:
            return self.escape((negative, "direct"), abs(v))
        for m in range(1, 15):
            self.mixed(contexts, 1 + m + 14 * negative, int(abs(v) == m))
            if abs(v) == m:
                return
        self.escape((negative, "unary"), abs(v) - 14)

    def near(self, side, i, j):
        rows, cols = side.shape
        beside = [(i, j - 1), (i, j + 1), (i - 1, j), (i + 1, j)]
        around = sum(abs(int(side[r, c])) for r, c in beside if 0 <= r < rows and 0 <= c < cols)
        return min(abs(int(side[i, j])), 4), min(around, 4)

    def array(self, a, side=None):
        rows, cols = a.shape
        m = 64 * np.minimum(np.abs(a), 63)
        total, number = 64, 1
        for i in range(rows):
            for j in range(cols):
                mean = max(total // number, 1)
                by_row = (int(m[i, :j].sum()) + 4 * mean) // (j + 4)
                by_column = (int(m[:i, j].sum()) + 4 * mean) // (i + 4)
                left = int(a[i, j - 1]) if j else 0
                second = int(a[i, j - 2]) if j > 1 else left
                up = int(a[i - 1, j]) if i else 0
                right = int(a[i - 1, j + 1]) if i and j + 1 < cols else up
                corner = int(a[i - 1, j - 1]) if i and j else 0
                local = 16 * min(2 * abs(left) + abs(second) + 2 * abs(up) + abs(right) + abs(corner), 255)
                near = (min(max(left, -2), 2) + 2, min(max(up, -2), 2) + 2)
                near = near if side is None else self.near(side, i, j)
                contexts = (
                    0,
                    level(min(by_row * by_column // mean, 4095)),
                    level(local),
                    near,
                    tuple(min(level(min(x, 4095)) // 2, 23) for x in (by_row, by_column)),
                )
                self.symbol(contexts, total > 40 * 64 * number, int(a[i, j]))
                total, number = total + int(m[i, j]), number + 1
        for slot in self.counts:
            self.counts[slot] = min(self.counts[slot], 30)

    def finish(self):
        for zeros in range(32, -1, -1):
            value = (self.number + (1 << zeros) - 1) >> zeros << zeros
            if value < self.number + self.width:
                break
        return value.to_bytes(4 + self.shifts, "big").rstrip(b"\0")


CASES = {
    "weights": [np.rint(np.random.default_rng(0).normal(size=(40, 30)) * 2), np.array([[3, -4, 0, 1]])],
    "sparse": [np.random.default_rng(1).random((50, 50)) < 0.01],
    "escapes": [np.rint(np.random.default_rng(2).standard_t(1, size=(20, 20)) * 5)],
    "direct": [np.random.default_rng(3).integers(-(1 << 29), 1 << 29, (9, 9))],
    "widest": [np.array([[(1 << 30) - 1, -(1 << 30) + 1], [0, 1]])],
    "constant": [np.zeros((60, 60)), np.full((3, 50), -7)],
    "shapes": [np.ones((1, 1)), np.ones((7, 1)), np.zeros((0, 5)), np.ones((1, 9)) * -20],
}


@pytest.mark.parametrize("case", CASES)
def test_fast_coder_writes_the_documented_bytes(case):
    planes = [np.asarray(plane).astype(np.int64) for plane in CASES[case]]
    reference = Reference()
    for plane in planes:
        reference.array(plane)
    assert encode_planes(planes) == reference.finish()


def test_fast_coder_writes_the_documented_bytes_given_what_the_decoder_knows():
    rng = np.random.default_rng(4)
    planes = [rng.integers(-3, 4, (20, 30)), rng.integers(-40, 41, (1, 9)), np.ones((1, 1), dtype=np.int64)]
    sides = [rng.integers(-6, 7, plane.shape) for plane in planes]
    reference = Reference()
    for plane, side in zip(planes, sides, strict=True):
        reference.array(plane, side)
    assert encode_planes(planes, sides=sides) == reference.finish() != encode_planes(planes)
