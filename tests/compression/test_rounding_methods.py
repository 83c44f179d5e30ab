"""Rounding to grids and codebooks: steps that follow the spread, clusters, and values that are refused."""

import numpy as np
import pytest
from small_checkpoints import TENSORS
from tokenbounds.compression.grids import VECTOR_RATIO, round_by_spread, round_vectors
from tokenbounds.compression.methods import METHODS
from tokenbounds.compression.methods.codebook import assign, learn_codebook, nearest_index
from tokenbounds.compression.subject import Sources
from tokenbounds.config.quantizers import CodebookQuantizer, UniformQuantizer
from tokenbounds.errors import MessageError
from tokenbounds.messages.formats.grid import GridTensors

RNG = np.random.default_rng(1)


class Tensors:
    """What methods read of a model that is not trained further."""

    def __init__(self, tensors):
        self.tensors = tensors


def test_uniform_step_follows_the_root_mean_square_and_vectors_are_finer():
    quantized = round_by_spread(TENSORS, 0.5)
    error = np.abs(quantized.dequantize()["wte.weight"] - TENSORS["wte.weight"]).max()
    assert error <= 0.5 * 0.5 * 1.1 * np.sqrt(np.mean(TENSORS["wte.weight"] ** 2))
    assert np.abs(quantized.dequantize()["ln.weight"] - TENSORS["ln.weight"]).max() < 0.005
    assert not quantized.codes["ln.bias"].any()


def test_codebook_of_separated_clusters_is_their_means():
    values = np.array([-1.0, -1.5, 0.25, 0.0, 0.5, 4.0])
    assert learn_codebook(values, 3).tolist() == [-1.25, 0.25, 4.0]
    assert learn_codebook(np.full(7, 2.0), 16).tolist() == [2.0]
    assert learn_codebook(np.array([1.0, 2.0]), 16).tolist() == [1.0, 2.0]


def test_codebook_is_no_worse_than_a_uniform_grid_of_as_many_values():
    values = TENSORS["c_fc.weight"]
    book = learn_codebook(values, 8)
    error = np.mean((book[nearest_index(values, book)].astype(np.float64) - values) ** 2)
    for span in np.linspace(0.5, 4, 30) * values.std():
        grid = np.linspace(-span, span, 8)
        assert error <= 1.05 * np.mean((grid[nearest_index(values, grid)] - values) ** 2)


def test_nearest_index_matches_brute_force():
    book = np.array([-2.0, -0.5, 0.0, 3.0], dtype=np.float16)
    values = RNG.normal(size=200) * 2
    brute = np.abs(values[:, None] - book.astype(np.float64)).argmin(axis=1)
    assert np.array_equal(nearest_index(values, book), brute)


def test_unused_codebook_values_are_not_sent():
    book = np.array([-1, 0, 1, 2], dtype=np.float16)
    quantized = assign({"w": np.array([[-1.0, 1.1]], np.float32)}, {"w": book}, GridTensors({}, {}))
    assert quantized.codebooks["w"].tolist() == [-1.0, 1.0]
    assert quantized.dequantize()["w"].tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [UniformQuantizer(kind="uniform"), CodebookQuantizer(kind="codebook", levels=8)])
def test_values_that_are_not_finite_are_refused_by_name(row, bad):
    tensors = {"proj.weight": np.array([[1.0, bad]], dtype=np.float32)}
    with np.errstate(all="ignore"), pytest.raises(MessageError, match=r"proj\.weight"):
        METHODS[type(row)](row, Tensors(tensors), Sources())


def test_norms_far_from_one_are_rounded_by_their_own_size():
    rng = np.random.default_rng(2)
    small = (0.05 * rng.standard_t(4, 200)).astype(np.float32)  # as in the first blocks of pretrained models
    near = (1 + 0.1 * rng.normal(size=200)).astype(np.float32)
    vectors = {"small.weight": small, "near.weight": near, "zero.bias": np.zeros(3, np.float32)}

    def error(quantized):
        return np.sqrt(np.mean((quantized.dequantize()["small.weight"] - small) ** 2) / np.mean(small**2))

    by_spread, by_size = round_by_spread(vectors, VECTOR_RATIO), round_vectors(vectors)
    assert error(by_size) < 0.004 < 0.1 < error(by_spread)
    # Elsewhere nothing changes: the spread around one already asks for steps as fine.
    assert all(by_size.exponents[name] == by_spread.exponents[name] for name in ("near.weight", "zero.bias"))
