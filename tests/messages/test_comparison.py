"""Our coder beside general-purpose ones, on the same symbols."""

import numpy as np
import pytest
from tokenbounds.messages.comparison import compare_coders, compressed_bits

RNG = np.random.default_rng(0)
TENSORS = [np.rint(RNG.normal(size=(200, 150)) * width).astype(np.int32) for width in (0.3, 1.0, 3.0)]


@pytest.mark.parametrize("coder", ["adaptive", "static"])
def test_ours_is_never_larger_than_the_others(coder):
    sizes = compare_coders(TENSORS, coder)
    assert sizes["symbols"] == 90000
    assert sizes["ours"] < sizes["xz"] < sizes["gzip"]
    assert sizes["ours"] < sizes["zstd"]


@pytest.mark.parametrize("width", [0.3, 1.0, 3.0])
def test_static_coding_is_within_one_percent_and_200_bytes_of_its_ideal(width):
    codes = np.rint(RNG.normal(size=(300, 300)) * width).astype(np.int32)
    counts = np.unique(codes, return_counts=True)[1]
    ideal = -(counts * np.log2(counts / codes.size)).sum()
    assert compare_coders([codes], "static")["ours"] <= 1.01 * ideal + 1600


def test_a_sample_holds_the_first_rows_of_every_tensor():
    sizes = compare_coders([*TENSORS, np.zeros(7, dtype=np.int32)], "adaptive", limit=9000)
    assert sizes["symbols"] == 3 * 20 * 150 + 7
    assert sizes["gzip"] == compressed_bits([codes[:20] for codes in TENSORS] + [np.zeros(7, dtype=np.int32)])["gzip"]
