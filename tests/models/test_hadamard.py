"""Rotations: matrices with orthogonal ±1 rows, exact inverses, pinned bits, and incoherence of what is rotated."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from tokenbounds.models.pretrained.hadamard import (
    MAX_ORDER,
    Rotation,
    hadamard_matrix,
    hadamard_order,
    hadamard_transform,
    restore_weight,
    rotate_hessian,
    rotate_weight,
)

RNG = np.random.default_rng(0)
SIZES = (1, 2, 3, 7, 12, 13, 24, 64, 96, 100, 144, 152, 172, 200, 576)
PINNED = """
import hashlib
import numpy as np
from tokenbounds.models.pretrained.hadamard import restore_weight
codes = (np.arange(576 * 24, dtype=np.float32) % 7 - 3).reshape(576, 24)
print(hashlib.sha256(restore_weight(codes, 3, "layer").astype("<f4").tobytes()).hexdigest())
"""


def dense(rotation):
    return rotation.apply(np.eye(rotation.size))


@pytest.mark.parametrize("order", [12, 20, 28, 36, 44, 52, 60, 76, 108, 116, 124, 140, 148, 156, 172, 200])
def test_hadamard_matrices_have_orthogonal_rows_of_signs(order):
    matrix = hadamard_matrix(order).astype(np.int64)
    assert np.array_equal(np.abs(matrix), np.ones((order, order)))
    assert np.array_equal(matrix @ matrix.T, order * np.eye(order))


def test_orders():
    assert [hadamard_order(size) for size in (1, 4096, 1536, 192, 576, 11008, 13824, 28672)] == [
        1, 1, 12, 12, 36, 172, 108, 28
    ]  # fmt: skip
    assert hadamard_order(1600) == 200  # 100 = 99 + 1 = 2 · (49 + 1), neither prime; 199 is
    assert hadamard_order(6) == hadamard_order(25) == hadamard_order(2 * 172 + 2) == 0
    assert max(map(hadamard_order, range(1, 2000))) <= MAX_ORDER


def test_transform_by_hand():
    values = np.array([[1.0], [2.0], [3.0], [5.0]])
    assert hadamard_transform(values)[:, 0].tolist() == [5.5, -1.5, -2.5, 0.5]


@pytest.mark.parametrize("size", [4, 24, 144, 172])
def test_transform_is_the_kronecker_product(size):
    order = hadamard_order(size)
    sylvester = np.ones((1, 1))
    while len(sylvester) < size // order:
        sylvester = np.kron([[1, 1], [1, -1]], sylvester)
    matrix = np.kron(hadamard_matrix(order), sylvester) / np.sqrt(size)
    values = RNG.normal(size=(size, 5))
    assert np.allclose(hadamard_transform(values), matrix @ values)
    assert np.allclose(hadamard_transform(values, transpose=True), matrix.T @ values)


@pytest.mark.parametrize("size", SIZES)
def test_rotations_are_orthogonal_and_undone(size):
    rotation = Rotation(size, seed=1, name="w")
    assert np.allclose(dense(rotation) @ dense(rotation).T, np.eye(size), atol=1e-12)
    values = RNG.normal(size=(size, 3))
    assert np.allclose(rotation.undo(rotation.apply(values)), values, atol=1e-12)
    assert rotation.apply(values.astype(np.float32)).dtype == np.float32


def test_seeds_and_names_choose_the_signs():
    base = dense(Rotation(32, 1, "a"))
    for other in (Rotation(32, 2, "a"), Rotation(32, 1, "b")):
        differing = np.mean(np.sign(dense(other)) != np.sign(base))
        assert 0.2 < differing < 0.8


@pytest.mark.parametrize("shape", [(24, 16), (12, 20), (7, 5), (1, 9)])
def test_weights_and_hessians_rotate_together(shape):
    weight, inputs = RNG.normal(size=shape), RNG.normal(size=(shape[1], 40))
    hessian = inputs @ inputs.T
    rotated, turned = rotate_weight(weight, 3, "w"), rotate_hessian(hessian, 3, "w")
    loss = np.trace(weight @ hessian @ weight.T)
    assert np.isclose(np.trace(rotated @ turned @ rotated.T), loss)
    assert np.allclose(restore_weight(rotated, 3, "w"), weight)
    broken = rotate_hessian(hessian, 4, "w")
    assert not np.isclose(np.trace(rotated @ broken @ rotated.T), loss)


@pytest.mark.parametrize("shape", [(64, 64), (576, 192), (96, 100), (120, 170)])
def test_rotated_weights_are_incoherent(shape):
    weight = np.zeros(shape)
    weight[1, 2] = 1.0  # the worst outlier there is
    weight[-1, -1] = -1.0
    share = np.abs(rotate_weight(weight, 0, "w")).max() * np.sqrt(weight.size)
    if 0 in (hadamard_order(shape[0]), hadamard_order(shape[1])):
        assert share < 20  # overlapping transforms leave some entries larger
    else:
        assert share <= 2 + 1e-9


def test_bits_are_pinned_in_a_fresh_process():
    done = subprocess.run([sys.executable, "-c", PINNED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "97f4798fdd69c2fa1379fff35fd20e00fa94b4ddb839b800554fa845650c0b74"


def test_decoding_uses_additions_in_a_fixed_order():
    """A scalar reference, one IEEE operation at a time, gives the very same float32 bits as the array code."""
    values = RNG.normal(size=24).astype(np.float32)
    expected = [np.float32(value) for value in values]
    expected = [
        expected[pair] + expected[pair + 1] if index == 0 else expected[pair] - expected[pair + 1]
        for pair in range(0, 24, 2)
        for index in range(2)
    ]
    factor, scale = hadamard_matrix(12), np.float32(1 / np.sqrt(24.0))
    result = []
    for row in range(12):
        for place in range(2):
            total = np.float32(factor[row, 0]) * expected[place]
            for column in range(1, 12):
                total = total + np.float32(factor[row, column]) * expected[2 * column + place]
            result.append(total * scale)
    got = hadamard_transform(values[:, None])[:, 0]
    assert got.tobytes() == np.array(result, dtype=np.float32).tobytes()
    matmul = (np.kron(factor, [[1, 1], [1, -1]]).astype(np.float32) @ values) * scale
    assert matmul.tobytes() != got.tobytes()  # a library's product adds in an order of its own
    assert hashlib.sha256(got.tobytes()).digest() != hashlib.sha256(matmul.tobytes()).digest()
