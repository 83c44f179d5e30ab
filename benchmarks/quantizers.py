"""Quantizers: speed of encoding and decoding, and peak memory, by method and model size, each in a process of its own.

    python benchmarks/quantizers.py [largest width]

Models are random LLaMA blocks of width 64, 128, 256, … over a vocabulary of 256, so that linear layers dominate. Times
are CPU seconds of one thread, in nanoseconds a parameter; memory is what encoding adds to the peak of an interpreter
that has loaded the model, in bytes a parameter. Growth is linear where the numbers of a column settle: overheads weigh
on small models. The last line of a method fits time ∝ parameters^exponent to its two largest models.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.messages.decode import decode_message
from tokenbounds.messages.encode import encode_model
from tokenbounds.models.build import build_model, coded_parameters, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint

METHODS: dict[str, dict[str, object]] = {
    "uniform": {"kind": "uniform"},
    "codebook": {"kind": "codebook"},
    "rtn": {"kind": "rtn", "target": {"scale": 0.8}},
    "quip# 2 bits": {"kind": "quip_sharp", "bits": 2},
    "quip# 3 bits": {"kind": "quip_sharp", "bits": 3},
    "quip# 4 bits": {"kind": "quip_sharp", "bits": 4},
}


def save_model(folder: Path, width: int) -> int:
    """Write a random model of two blocks; return its number of parameters."""
    sizes = {"num_hidden_layers": 2, "hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": 4}
    card = ModelCard("llama", sizes, 256, 0, 64)
    model = build_model(card)
    initialize(model, 0)
    save_checkpoint(folder, model, card)
    return sum(value.numel() for value in coded_parameters(model).values())


def measure(folder: str, method: str) -> None:
    """Encode and decode twice, the first time to compile; print the second's seconds and the memory added."""
    torch.set_num_threads(1)
    row = json.dumps({"model": "m", "quantizer": METHODS[method]})
    spec, out = parse_row(MessageSpec, row), Path(folder) / "m.tbm"
    with tempfile.TemporaryDirectory() as small:
        save_model(Path(small), 64)
        encode_model(small, spec, Path(small) / "m.tbm", Path(small) / "m.json")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    encode_model(folder, spec, out, Path(folder) / "m.json")
    encoded = time.process_time() - start
    added = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    start = time.process_time()
    decode_message(out)
    found = {"encode": encoded, "decode": time.process_time() - start, "added": added, "bits": 8 * out.stat().st_size}
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("width", type=int, nargs="?", default=512)
    largest = parser.parse_args().width
    widths = [width for width in (128, 256, 512, 1024, 2048) if width <= largest]
    print(f"{'method':<14}{'parameters':>12}{'bits':>8}{'encode ns':>12}{'decode ns':>12}{'bytes added':>13}")
    for method in METHODS:
        seconds: list[tuple[int, float, float]] = []
        for width in widths:
            with tempfile.TemporaryDirectory() as folder:
                count = save_model(Path(folder), width)
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
