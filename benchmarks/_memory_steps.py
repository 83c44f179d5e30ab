"""The steps of `model_memory`, each in a process of its own, which prints its peak memory in bytes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from _peak import peak_bytes as whole_peak_bytes
from model_memory import Size
from safetensors.torch import save_file
from tokenbounds.compression.calibration.calibrate import calibrate_model
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import CalibrationSpec, MessageSpec, PretrainedModel, parse_row
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.messages.container import read_message
from tokenbounds.models.pretrained.loading import import_pretrained
from tokenbounds.scores.placement import placed_predictor
from tokenbounds.scores.plan import plan_scoring
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.scoring import make_scorer, score_blocks
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 32000
TOKENS, CONTEXT = 512, 256
METHODS: dict[str, dict[str, object]] = {
    "rtn": {"kind": "rtn", "target": {"scale": 0.8}},
    "watersic": {"kind": "watersic", "calibration": "c", "target": {"bits_per_weight": 2.0}},
}


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
        architectures=[LlamaForCausalLM.__name__],  # which also loads transformers' model at the start of every step
        dtype="bfloat16",
    ).save_pretrained(folder)


def corpus() -> MemoryCorpus:
    """A document of random tokens."""
    tokens = torch.randint(1, VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(1))
    return MemoryCorpus([tokens.numpy().astype(np.uint16)], VOCABULARY, 1)


def score(message: Path) -> None:
    """Decode a message and score the corpus, one block in memory at a time."""
    options = ScoringOptions(device="cpu", placement="blocks")
    rows = plan_scoring(corpus().lengths, context=CONTEXT, stride=CONTEXT, sample_tokens=None, seed=0, shards=1)
    with placed_predictor(read_message(message), message, (), options) as predictor:
        scorer = make_scorer(predictor, corpus(), options)
        scored = sum(batch.num_rows for batch in score_blocks(scorer, corpus(), rows))
    assert scored == TOKENS


def run_step(step: str, folder: Path, size: Size) -> None:
    """One step, in this process."""
    model, calibration = folder / "model", folder / "calibration.safetensors"
    if step == "make":
        make_checkpoint(folder / "hub", size)
    elif step == "import":
        import_pretrained(PretrainedModel(kind="pretrained", name=str(folder / "hub")), model)
    elif step == "calibrate":
        spec = CalibrationSpec(model="m", corpus="c", tokens=256, context=128, dtype="bfloat16")
        calibrate_model(model, corpus(), spec, calibration)  # type: ignore[arg-type]
    elif step in METHODS:
        spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": METHODS[step]}))
        needed = calibration if "calibration" in METHODS[step] else None
        encode_model(model, spec, folder / "message.tbm", folder / "report.json", calibration=needed)
    elif step == "score":
        score(folder / "message.tbm")


def peak_bytes() -> int:
    """Peak resident set of this program: on Linux since it began, elsewhere since its process did."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return whole_peak_bytes()


if __name__ == "__main__":
    run_step(sys.argv[1], Path(sys.argv[2]), Size(*json.loads(sys.argv[3])))
    print(peak_bytes())
