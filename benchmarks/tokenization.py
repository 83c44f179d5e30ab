"""Tokenization: does memory stay constant as the corpus grows, and what does writing shards cost?

Run `python benchmarks/tokenization.py`. Each measurement is a process of its own, so that its peak memory is its own.
Prints, for bytes and for a byte-pair encoding, the peak memory at ten times the data over that at one times, and for
the latter the pipeline's tokens/s over the tokenizer's own on the same batches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path


def write_lines(path: Path, megabytes: float) -> None:
    """Write JSON lines of about that size, from the standard library's sources, over and over."""
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    left = megabytes * 1e6
    with path.open("w", encoding="utf-8") as stream:
        while left > 0:
            for source in sources:
                line = json.dumps({"text": source.read_text(encoding="utf-8", errors="replace")}) + "\n"
                left -= stream.write(line)
                if left <= 0:
                    break


def save_tokenizer(folder: Path, data: Path) -> None:
    """Train a small byte-pair encoding on the data: the speed matters here, not what it learns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<s>"], show_progress=False)
    with data.open(encoding="utf-8") as stream:
        backend.train_from_iterator((json.loads(line)["text"] for line in stream), trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(folder)


def measure(data: str, tokenizer: str, raw: bool) -> None:
    """Tokenize in this process and print tokens, seconds and peak memory in KiB as JSON."""
    import resource

    from tokenbounds.config import ByteTokenizer, CorpusSpec, JsonLinesSource, TransformersTokenizer
    from tokenbounds.corpus import shards
    from tokenbounds.corpus.sources import read_documents
    from tokenbounds.corpus.tokenizers import load_tokenizer

    source = JsonLinesSource(kind="jsonl", paths=(data,))
    choice = ByteTokenizer(kind="bytes") if tokenizer == "bytes" else None
    spec = CorpusSpec(source=source, tokenizer=choice or TransformersTokenizer(kind="transformers", name=tokenizer))
    if raw:
        loaded = load_tokenizer(spec.tokenizer)
        tokens, seconds = 0, 0.0
        for batch in shards._batches(read_documents(source)):
            texts = [document.text for document in batch]
            start = time.perf_counter()
            tokens += sum(len(ids) for ids in loaded.encode(texts))
            seconds += time.perf_counter() - start
    else:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            tokens = shards.tokenize_corpus(spec, "benchmark", Path(folder)).tokens
            seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"tokens": tokens, "seconds": seconds, "peak_kib": peak}))


def run(data: Path, tokenizer: str, raw: bool = False) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--measure", str(data), tokenizer, "raw" if raw else "whole"]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(result.stdout.splitlines()[-1])


def compare(label: str, tokenizer: str, small: Path, large: Path) -> None:
    """Print the memory and speed ratios of one tokenizer."""
    one, ten = run(small, tokenizer), run(large, tokenizer)
    memory = ten["peak_kib"] / one["peak_kib"]
    speed = ten["tokens"] / ten["seconds"]
    growth = f"{one['peak_kib'] / 1024:.0f} → {ten['peak_kib'] / 1024:.0f} MiB"
    print(f"{label:20} peak memory at 10× the data: {memory:.3f} × ({growth}); goal ≤ 1.2")
    if tokenizer == "bytes":  # encoding bytes is only a view of them: there is no speed of its own to compare with
        print(f"{label:20} pipeline: {speed:,.0f} tokens/s")
        return
    raw = run(large, tokenizer, raw=True)
    own = raw["tokens"] / raw["seconds"]
    print(f"{label:20} pipeline over tokenizer alone: {speed / own:.2f} ({speed:,.0f} of {own:,.0f} tokens/s)")


def main() -> None:
    """Make the data, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=4.0, help="size of the smaller data set")
    parser.add_argument("--measure", nargs=3, metavar=("DATA", "TOKENIZER", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        data, tokenizer, what = options.measure
        measure(data, tokenizer, what == "raw")
        return
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.jsonl", Path(folder) / "large.jsonl"
        write_lines(small, options.megabytes)
        write_lines(large, 10 * options.megabytes)
        compare("bytes", "bytes", small, large)
        # Trained in a process of its own: a child's peak memory is never below its parent's.
        train = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pathlib, tokenization\n"
        train += f"tokenization.save_tokenizer(pathlib.Path({folder!r}) / 'bpe', pathlib.Path({str(small)!r}))"
        subprocess.run([sys.executable, "-c", train], check=True)
        compare("byte-pair encoding", str(Path(folder) / "bpe"), small, large)


if __name__ == "__main__":
    main()
