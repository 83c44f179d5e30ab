"""Models larger than memory: peak memory of import, calibration and encoding on random checkpoints of LLaMA's shape.

    python benchmarks/model_memory.py                                    # a small one, 4 and 16 blocks deep
    python benchmarks/model_memory.py --size 1.1B --methods rtn          # 2.2 GB of shards
    python benchmarks/model_memory.py --size 3B --limit-gib 4            # every step under a limit

A checkpoint is a folder as on the hub, bfloat16, with a shard for each block and one for all else, made shard by shard.
Every step runs in a process of its own; with `--limit-gib`, that process may not allocate more (RLIMIT_DATA). Memory is
the peak resident set, of which an interpreter with torch and transformers loaded takes the part under `start`.
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
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from tokenbounds.compression.calibration.calibrate import calibrate_model
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import CalibrationSpec, MessageSpec, PretrainedModel, parse_row
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.models.pretrained.loading import import_pretrained
from transformers import LlamaConfig

GIB = 1 << 30
VOCABULARY = 32000
METHODS: dict[str, dict[str, object]] = {
    "rtn": {"kind": "rtn", "target": {"scale": 0.8}},
    "watersic": {"kind": "watersic", "calibration": "c", "target": {"bits_per_weight": 2.0}},
}


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


SIZES = {"tiny": Size(256, 688, 4), "1.1B": Size(2048, 5632, 20), "3B": Size(3200, 8640, 26)}


def make_checkpoint(folder: Path, size: Size) -> None:
    """Write a random checkpoint, one shard in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).bfloat16()

    names: dict[str, str] = {}

    def write(number: int, tensors: dict[str, torch.Tensor]) -> None:
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        names.update(dict.fromkeys(tensors, file))

    for index in range(size.blocks):
        prefix = f"model.layers.{index}."
        block = {f"{prefix}{name}.weight": random(*shape) for name, shape in size.shapes().items()}
        norms = {
            f"{prefix}{name}.weight": torch.ones(size.hidden).bfloat16()
            for name in ("input_layernorm", "post_attention_layernorm")
        }
        write(index, block | norms)
    others = {name: random(VOCABULARY, size.hidden) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    write(size.blocks, others | {"model.norm.weight": torch.ones(size.hidden).bfloat16()})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.hidden // 64,
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(folder)


def run_step(step: str, folder: Path) -> None:
    """One step, in this process."""
    model, calibration = folder / "model", folder / "calibration.safetensors"
    if step == "import":
        import_pretrained(PretrainedModel(kind="pretrained", name=str(folder / "hub")), model)
    elif step == "calibrate":
        tokens = torch.randint(1, VOCABULARY, (512,), generator=torch.Generator().manual_seed(1)).numpy()
        spec = CalibrationSpec(model="m", corpus="c", tokens=256, context=128, dtype="bfloat16")
        calibrate_model(model, MemoryCorpus([tokens], VOCABULARY, 1), spec, calibration)  # type: ignore[arg-type]
    elif step in METHODS:
        spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": METHODS[step]}))
        needed = calibration if "calibration" in METHODS[step] else None
        encode_model(model, spec, folder / f"{step}.tbm", folder / f"{step}.json", calibration=needed)


def measure(step: str, folder: Path, limit_gib: float | None = None) -> dict[str, Any]:
    """Peak memory in bytes and seconds of a step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    if limit_gib:
        command += ["--limit-gib", str(limit_gib)]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step}: {done.stderr.strip()[-2000:]}")
    return {"peak": int(done.stdout.split()[-1]), "seconds": time.monotonic() - begun}


def report(size: Size, methods: list[str], limit_gib: float | None, scratch: str | None) -> None:
    """Make a checkpoint, run all steps on it, and print a line for each."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        make_checkpoint(Path(folder) / "hub", size)
        weights = sum(path.stat().st_size for path in (Path(folder) / "hub").glob("*.safetensors"))
        block = size.block_bytes() / GIB
        print(f"{size}: {weights / GIB:.2f} GiB in bfloat16, a block {block:.3f} GiB")
        budgets = {"import": 1 + block, **dict.fromkeys(methods, 2 + 8 * block)}
        steps = ["start", "import", *(["calibrate"] if set(methods) - {"rtn"} else []), *methods]
        for step in steps:
            found = measure(step, Path(folder), limit_gib)
            budget = f", budget {budgets[step]:.2f}" if step in budgets else ""
            print(f"  {step:10} {found['peak'] / GIB:6.2f} GiB{budget}, {found['seconds']:.0f} s", flush=True)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--blocks", type=int, nargs="*", help="numbers of blocks, in place of the size's own")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--limit-gib", type=float)
    parser.add_argument("--scratch", help="where to make checkpoints")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        if arguments.limit_gib:
            resource.setrlimit(resource.RLIMIT_DATA, (int(arguments.limit_gib * GIB),) * 2)
        run_step(arguments.step, arguments.folder)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    depths = arguments.blocks or ([4, 16] if arguments.size == "tiny" else [SIZES[arguments.size].blocks])
    for blocks in depths:
        size = SIZES[arguments.size]._replace(blocks=blocks)
        report(size, arguments.methods, arguments.limit_gib, arguments.scratch)


if __name__ == "__main__":
    main()
