"""Memory of encoding does not grow with the number of blocks, and what was written is checked tensor by tensor."""

import json
import tracemalloc

import pytest
from small_checkpoints import save_noisy
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.posttraining import kept_codes
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.errors import MessageError
from tokenbounds.messages import container, stored
from tokenbounds.messages.formats.scaled import ScaledFormat
from tokenbounds.models.card import ModelCard

WIDTH, INSIDE = 128, 256
PER_BLOCK = 4 * WIDTH * WIDTH + 3 * WIDTH * INSIDE
QUANTIZERS = {
    "scaled": {"kind": "rtn", "target": {"scale": 0.8}},
    "codebook": {"kind": "codebook", "levels": 8},
    "uniform": {"kind": "uniform", "step_ratio": 0.8},
}


def peak(folder, blocks, kind="scaled"):
    """Bytes that Python and numpy have allocated at most while a model of this depth is encoded."""
    spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": QUANTIZERS[kind]}))
    sizes = {"hidden_size": WIDTH, "intermediate_size": INSIDE, "num_attention_heads": 4, "num_hidden_layers": blocks}
    save_noisy(folder / str(blocks), ModelCard("llama", sizes, 300, 1, 32), noise=0.1)
    tracemalloc.start()
    try:
        encode_model(folder / str(blocks), spec, folder / "m", folder / "r")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_memory_does_not_grow_with_depth(tmp_path, monkeypatch, kind, kept):
    monkeypatch.setattr("tokenbounds.compression.encode.compare_coders", lambda *_: {"symbols": 0})
    monkeypatch.setattr(kept_codes, "_SMALL", 0 if kept else 1 << 30)
    for module in (stored, container):
        monkeypatch.setattr(module, "IN_MEMORY", 0 if kept else 1 << 30)
    peak(tmp_path, 1, kind)  # tables of the coder, and what is imported late
    shallow, deep = peak(tmp_path, 2, kind), peak(tmp_path, 8, kind)
    grown = (deep - shallow) / (6 * PER_BLOCK)  # bytes a parameter
    # Without files, the codes are in memory, 4 bytes, and the message's own bytes, some 3 bits a parameter, twice.
    assert grown < 1.5 if kept else grown > 3


def test_values_that_decode_differently_are_noticed(tmp_path, monkeypatch):
    stream = ScaledFormat.stream_values

    def damaged(*arguments):
        for number, (name, values) in enumerate(stream(*arguments)):
            yield name, values + (number == 3)

    monkeypatch.setattr(ScaledFormat, "stream_values", damaged)
    with pytest.raises(MessageError, match="decodes to values other than those encoded"):
        peak(tmp_path, 1)
    assert not (tmp_path / "m").exists()
