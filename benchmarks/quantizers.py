"""Quantizers: speed of encoding and decoding, and peak memory, by method and model size, each in a process of its own.

    python benchmarks/quantizers.py                     # up to 16 blocks of width 256
    python benchmarks/quantizers.py --blocks 4 --width 1024

Models are random LLaMA blocks over a vocabulary of 256, so that linear layers dominate; calibrated on random tokens
where a method asks for it. Neither that nor the report's comparison with other compressors is in the times: CPU seconds
of one thread, in nanoseconds per parameter. Memory is what encoding adds to the peak of an interpreter that has loaded
the model, in bytes per parameter. Growth is linear where the numbers in a column settle; small models show overheads.
The last line of a method fits time ∝ parameters^exponent to its two largest models. Width is a different matter: the
error feedback of gptq, quip, watersic and calibrated QuIP# multiplies each row by a matrix of inputs × inputs, as a
forward pass over as many tokens does.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _peak import peak_bytes
from tokenbounds.compression import encode as encoding
from tokenbounds.compression.calibration.calibrate import calibrate_model
from tokenbounds.config import CalibrationSpec, MessageSpec, parse_row
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.build import build_model, coded_parameters, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint

METHODS: dict[str, dict[str, object]] = {
    "uniform": {"kind": "uniform"},
    "codebook": {"kind": "codebook"},
    "rtn": {"kind": "rtn", "target": {"scale": 0.8}},
    "gptq": {"kind": "gptq", "calibration": "c", "target": {"scale": 0.8}},
    "quip": {"kind": "quip", "calibration": "c", "target": {"scale": 0.8}},
    "watersic": {"kind": "watersic", "calibration": "c", "target": {"bits_per_weight": 2.0}},
    "no trellis": {"kind": "watersic", "calibration": "c", "target": {"bits_per_weight": 2.0}, "trellis": None},
    "quip# 2 bits": {"kind": "quip_sharp", "bits": 2},
    "quip# 3 bits": {"kind": "quip_sharp", "bits": 3},
    "quip# 4 bits": {"kind": "quip_sharp", "bits": 4},
}


VOCABULARY, CONTEXT = 256, 64


class RandomTokens:
    """A corpus of one document of random tokens."""

    vocabulary_size, start_id, lengths = VOCABULARY, 0, (4096,)

    def document(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(1, VOCABULARY, self.lengths[number])


def save_model(folder: Path, blocks: int, width: int) -> int:
    """Write a random model and its calibration; return its number of parameters."""
    sizes = {"num_hidden_layers": blocks, "hidden_size": width, "intermediate_size": 3 * width}
    card = ModelCard("llama", {**sizes, "num_attention_heads": 4}, VOCABULARY, 0, CONTEXT)
    model = build_model(card)
    initialize(model, 0)
    save_checkpoint(folder, model, card)
    spec = CalibrationSpec(model="m", corpus="c", tokens=2048, context=CONTEXT)
    calibrate_model(folder, RandomTokens(), spec, folder / "c.safetensors")  # type: ignore[arg-type]
    return sum(value.numel() for value in coded_parameters(model).values())


def encode(folder: Path, method: str) -> None:
    """Encode the model of a folder into `m.tbm` there."""
    spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": METHODS[method]}))
    calibration = folder / "c.safetensors" if "calibration" in METHODS[method] else None
    encoding.encode_model(folder, spec, folder / "m.tbm", folder / "m.json", calibration=calibration)


def measure(folder: str, method: str) -> None:
    """Encode and decode twice, the first time to compile; print the second's seconds and the memory added."""
    torch.set_num_threads(1)
    encoding._comparison = lambda *_: {}  # gzip, xz and zstd take longer on these sizes than all else
    with tempfile.TemporaryDirectory() as small:
        save_model(Path(small), 1, 64)
        encode(Path(small), method)
    before = peak_bytes()
    start = time.process_time()
    encode(Path(folder), method)
    encoded = time.process_time() - start
    added = peak_bytes() - before
    out = Path(folder) / "m.tbm"
    start = time.process_time()
    decode_message(out)
    found = {"encode": encoded, "decode": time.process_time() - start, "added": added, "bits": 8 * out.stat().st_size}
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=16, help="of the largest model")
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    sizes = [2**power for power in range(1, 10) if 2**power <= arguments.blocks]
    print(f"{'method':<14}{'parameters':>12}{'bits':>8}{'encode ns':>12}{'decode ns':>12}{'bytes added':>13}")
    for method in METHODS:
        seconds: list[tuple[int, float, float]] = []
        for blocks in sizes:
            with tempfile.TemporaryDirectory() as folder:
                count = save_model(Path(folder), blocks, arguments.width)
                command = [sys.executable, __file__, "--measure", folder, method]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            seconds.append((count, found["encode"], found["decode"]))
            cells = (1e9 * found["encode"] / count, 1e9 * found["decode"] / count, found["added"] / count)
            numbers = f"{found['bits'] / count:>8.2f}{cells[0]:>12.0f}{cells[1]:>12.0f}{cells[2]:>13.1f}"
            print(f"{method:<14}{count:>12,}{numbers}", flush=True)
        if len(seconds) > 1:
            (few, *before), (many, *after) = seconds[-2:]
            exponents = [math.log(b / a) / math.log(many / few) for a, b in zip(before, after, strict=True)]
            print(f"{method:<14}time ∝ parameters^{exponents[0]:.2f} (encode), ^{exponents[1]:.2f} (decode)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:4])
    else:
        main()
