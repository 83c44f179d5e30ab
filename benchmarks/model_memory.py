"""Models larger than memory: peak memory of import, calibration, encoding and scoring, on random LLaMAs.

    python benchmarks/model_memory.py                                    # a small one, 4 and 16 blocks deep
    python benchmarks/model_memory.py --size 1.1B --methods rtn          # 2.2 GB of shards
    python benchmarks/model_memory.py --size 3B --methods rtn --limit-gib 4

A checkpoint is a folder as on the hub, bfloat16, with a shard for each block and one for all else, made shard by shard.
Every step, the making of the checkpoint too, runs in a process of its own that this one, which is small, starts: a
process that a larger one starts may count the other's memory as its own. With `--limit-gib` no step may allocate more
(RLIMIT_DATA). Memory is the peak resident set, of which an interpreter with all that the steps import takes the part
under `start`. `score` decodes the last method's message and scores 512 tokens, block by block, in float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

GIB = 1 << 30
STEPS = Path(__file__).with_name("_memory_steps.py")
METHODS = ("rtn", "watersic")


class Size(NamedTuple):
    """Widths of a LLaMA, and its number of blocks."""

    hidden: int
    feed_forward: int
    blocks: int

    def shapes(self) -> dict[str, tuple[int, int]]:
        """The matrices of a block."""
        attention = dict.fromkeys(
            [f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")], (self.hidden, self.hidden)
        )
        wide = (self.feed_forward, self.hidden)
        return attention | {"mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": wide[::-1]}

    def block_bytes(self) -> int:
        """Bytes of a block in bfloat16."""
        return 2 * sum(rows * columns for rows, columns in self.shapes().values())


SIZES = {"tiny": Size(256, 688, 4), "1.1B": Size(2048, 5632, 22), "3B": Size(3200, 8640, 26)}


def budget_gib(step: str, size: Size) -> float | None:
    """Peak memory that a step is meant to stay below, whatever the depth of the model."""
    block = size.block_bytes() / GIB
    if step in ("start", "calibrate"):
        return None
    return {"import": 1 + block, "score": 1.5 + 4 * block}.get(step, 2 + 8 * block)


def measure(step: str, folder: Path, size: Size, limit_gib: float | None = None) -> tuple[int, float]:
    """Peak memory in bytes and seconds of a step in a process of its own.

    Raises
    ------
    SystemExit
        If the step fails, as it does where it needs more than `limit_gib`.
    """
    # No torch in this process: a program's peak may be inherited from what started it.
    assert "torch" not in sys.modules

    def restrict() -> None:
        if limit_gib is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gib * GIB),) * 2)

    command = [sys.executable, str(STEPS), step, str(folder), json.dumps(size)]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=restrict)
    if done.returncode:
        raise SystemExit(f"{step}: exit status {done.returncode}. {done.stderr.strip()[-2000:]}")
    return int(done.stdout.split()[-1]), time.monotonic() - begun


def report(size: Size, methods: list[str], limit_gib: float | None, scratch: str | None) -> None:
    """Make a checkpoint, run all steps on it, and print a line for each."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        measure("make", folder, size)
        weights = sum(path.stat().st_size for path in (folder / "hub").glob("*.safetensors"))
        limited = "" if limit_gib is None else f"; no step may allocate more than {limit_gib} GiB"
        print(f"{size}: {weights / GIB:.2f} GiB in bfloat16, a block {size.block_bytes() / GIB:.3f} GiB{limited}")
        calibrated = ["calibrate"] if set(methods) - {"rtn"} else []
        for step in ["start", "import", *calibrated, *methods, *(["score"] if methods else [])]:
            peak, seconds = measure(step, folder, size, limit_gib)
            budget = budget_gib(step, size)
            above = "" if budget is None else f", budget {budget:.2f}{', EXCEEDED' if peak > budget * GIB else ''}"
            print(f"  {step:10} {peak / GIB:6.2f} GiB{above}, {seconds:.0f} s", flush=True)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--blocks", type=int, nargs="*", help="numbers of blocks, in place of the size's own")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--limit-gib", type=float)
    parser.add_argument("--scratch", help="where to make checkpoints")
    arguments = parser.parse_args()
    depths = arguments.blocks or ([4, 16] if arguments.size == "tiny" else [SIZES[arguments.size].blocks])
    for blocks in depths:
        size = SIZES[arguments.size]._replace(blocks=blocks)
        report(size, arguments.methods, arguments.limit_gib, arguments.scratch)


if __name__ == "__main__":
    main()
