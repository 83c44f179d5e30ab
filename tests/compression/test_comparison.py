"""Our coder compared with general-purpose ones, on the same symbols."""

import numpy as np
import pytest
from tokenbounds.compression.comparison import compare_coders, compressed_bits
from tokenbounds.messages.coding.lossless import encode_bytes

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


def test_bytes_are_compared_as_messages_code_them():
    """Columns of bytes have codes of their own: ours is what the message holds, and no larger than any other's."""
    skewed, even = RNG.geometric(0.05, size=40000).clip(1, 256) - 1, RNG.integers(0, 256, size=40000)
    table = np.stack([skewed, even], axis=1).astype(np.uint8)
    sizes = compare_coders([table, *TENSORS], "adaptive")
    alone = len(encode_bytes(table[:, 0].copy())) + len(encode_bytes(table[:, 1].copy()))
    assert sizes["ours"] == 8 * alone + compare_coders(TENSORS, "adaptive")["ours"]
    assert sizes["ours"] < min(sizes[name] for name in ("gzip", "xz", "zstd"))
    assert compare_coders([table], "adaptive", limit=16_000)["symbols"] == 4000


def test_a_sample_holds_the_first_rows_of_every_tensor_a_quarter_of_the_limit():
    sizes = compare_coders([*TENSORS, np.zeros(7, dtype=np.int32)], "adaptive", limit=36_000)
    assert sizes["symbols"] == 3 * 20 * 150 + 7
    assert sizes["gzip"] == compressed_bits([codes[:20] for codes in TENSORS] + [np.zeros(7, dtype=np.int32)])["gzip"]
