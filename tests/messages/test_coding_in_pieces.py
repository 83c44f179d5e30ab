"""Codes that leave the coder's buffer piece by piece, and arrays that are made when their turn comes."""

import numpy as np
import pytest
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding import adaptive
from tokenbounds.messages.coding.adaptive import decode_planes, encode_planes
from tokenbounds.messages.coding.tensors import CodeSequence, encode_codes
from tokenbounds.messages.coding.trellis import grid_points, trellis

RNG = np.random.default_rng(3)
PLANES = {
    "noise": [RNG.integers(-3, 4, (40, 70)), RNG.integers(-900, 900, (30, 50))],
    "zeros": [np.zeros((30, 40), dtype=np.int64)],
    "ends in zeros": [RNG.integers(-9, 9, (9, 9)), np.zeros((300, 40), dtype=np.int64)],
    "one": [np.array([[1]])],
    "nothing": [],
}


@pytest.mark.parametrize("name", PLANES)
def test_a_small_buffer_gives_the_same_bytes(name, monkeypatch):
    planes = PLANES[name]
    whole = encode_planes(planes)
    monkeypatch.setattr(adaptive, "_BUFFER_BYTES", adaptive.MARGIN_BYTES + 3)
    assert encode_planes(planes) == whole
    decoded = decode_planes(whole, [plane.shape for plane in planes])
    assert all(np.array_equal(found, plane) for found, plane in zip(decoded, planes, strict=True))


@pytest.mark.parametrize("coder", ["adaptive", "static"])
def test_arrays_are_made_one_at_a_time(coder):
    arrays = [RNG.integers(-4, 5, shape) for shape in ((12, 30), (7,), (20, 5), (5,))]
    alive, most = 0, 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= self.base is None

    def make(index):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        made = Counted(arrays[index].shape, dtype=np.int64)
        made[...] = arrays[index]
        return made

    lazily = CodeSequence([array.shape for array in arrays], make)
    assert encode_codes(lazily, coder) == encode_codes(arrays, coder)
    assert most <= 3


def test_a_point_off_its_grid_is_found_in_whichever_part_it_is(monkeypatch):
    machine = trellis(8)
    points = grid_points(RNG.integers(-3, 4, (30, 11)), machine)
    monkeypatch.setattr(adaptive, "_CHECKED_TOGETHER", 90)
    encode_planes([points], [machine])
    points[17, 10] += 1
    with pytest.raises(MessageError, match="not on the grids"):
        encode_planes([points], [machine])
