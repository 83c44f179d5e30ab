"""A small invented study on disk: certificates by the schema, with score and plan files behind them."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from json_certificates import write_certificate
from tokenbounds.bounds.kinds import BoundKind, Metric
from tokenbounds.bounds.ledger import RowBudget, split_delta
from tokenbounds.bounds.result import Bound
from tokenbounds.certificates.rows.ledger_lines import ledger_row
from tokenbounds.certificates.schema import SCHEMA_VERSION, dump_settings
from tokenbounds.config import BoundsSpec

TOKENS = 10_600_000
TOP_K = (1, 10, 100)


def certificate_dict(
    name: str = "lora-16",
    *,
    size_bits: int = 251_904,
    empirical: float = 3.31,
    vocabulary: int = 256,
    corpus: str = "stdlib",
    model: str = "lora",
    mode: str = "exhaustive",
) -> dict[str, Any]:
    """A certificate with plausible numbers; files it names need not exist."""
    rows = [_row("bpd", bound, empirical, vocabulary, size_bits) for bound in ("azuma", "betting")]
    for k in (k for k in TOP_K if k < vocabulary):
        error = min(0.999, 0.06 * empirical * (1 + math.log(3)) / (1 + math.log(k) * 2.2) * 1.8)
        rows += [_row(f"top{k}_error", bound, error, vocabulary, size_bits, k) for bound in ("azuma", "betting")]
    budget = split_delta(
        0.05,
        [(Metric(row["metric"]), BoundKind(row["bound"])) for row in rows],
        message_bits=size_bits,
        alphas=6,
        lambdas=32,
    )
    entries = [{"metric": row.metric, "bound": row.bound, "entries": _entries(row)} for row in budget.rows]
    ledger = {"delta": str(budget.delta), "rows": entries}
    sha, shared = ("".join(f"{(37 * i + len(text)) % 16:x}" for i in range(64)) for text in (name, corpus))
    parts = {"header": 1352, "codebooks": 2176, "scales": 1536, "container": 328}
    parts = {**parts, "symbols": size_bits - sum(parts.values())} if size_bits > 6000 else {"symbols": size_bits}
    return {
        "schema_version": SCHEMA_VERSION,
        "certificate": name,
        "study": "default",
        "corpus": corpus,
        "model": model,
        "message": {
            "name": name,
            "file": f"../messages/{name}.tbm",
            "sha256": sha,
            "size_bits": size_bits,
            "breakdown": parts,
            "header": {"coder": "adaptive", "model": {"family": "gpt2", "parameterization": {"kind": "lora"}}},
        },
        "dtype": "float32",
        "chain": [],
        "prior": {"kind": "message", "trained_on": []},
        "manifest": {
            "file": f"../corpora/{corpus}/manifest.json",
            "sha256": shared[::-1],
            "source": {"kind": "python_stdlib"},
            "licence": "PSF-2.0",
            "tokenizer": {"identity": "bytes", "vocabulary_size": vocabulary, "start_id": 0},
            "documents": 1723,
            "documents_file": {"file": f"../corpora/{corpus}/documents.parquet", "sha256": sha},
            "shards": [
                {
                    "file": f"../corpora/{corpus}/shard-00000.arrow",
                    "sha256": sha,
                    "documents": 1723,
                    "tokens": TOKENS,
                }
            ],
        },
        "plan": {
            "file": f"../plans/{corpus}/default.parquet",
            "sha256": shared,
            "mode": mode,
            "blocks": 41_000,
            "draws": 41_000,
            "seed": 0,
            "context": 256,
            "stride": 256,
            "visible_tokens": None,
        },
        "scores": [{"file": f"../scores/{corpus}/default/{name}/shard-00000.parquet", "sha256": sha, "rows": TOKENS}],
        "tokens": TOKENS,
        "scored_tokens": TOKENS,
        "vocabulary_size": vocabulary,
        "delta": 0.05,
        "ledger": ledger,
        "bounds": dump_settings(BoundsSpec(alphas=(0.0001, 0.001, 0.003, 0.01, 0.03, 0.1), top_k=TOP_K)),
        "rows": rows,
        "notes": [],
        "assumptions": [
            "The corpus is one sequence of tokens, documents in ascending order. No independence is assumed.",
            "The tokenizer (bytes) was fixed before the corpus and independently of it.",
        ],
        "software": {"tokenbounds": "0.1.0", "python": "3.11.2", "numpy": "2.2.0"},
    }


def _entries(budget: RowBudget) -> list[dict[str, Any]]:
    bound = Bound(0.0, 0.0, 0.0, 1, 1.0, price_nats=math.log(32))
    entries = ledger_row(budget, bound).entries
    return [{key: value for key, value in asdict(entry).items() if value is not None} for entry in entries]


def _row(
    metric: str, bound: str, empirical: float, vocabulary: int, size_bits: int, k: int | None = None
) -> dict[str, Any]:
    complexity = size_bits * math.log(2) + math.log(8 / 0.05) + 3.5
    width = 1.0 if k else math.log2(1 + 0.99 * vocabulary / 0.01)
    shrink = 0.9 if bound == "azuma" else 0.42
    gap = shrink * width * math.sqrt(complexity / (2 * TOKENS))
    guess = 1 - k / vocabulary if k else math.log2(vocabulary)
    return {
        "metric": metric,
        "bound": bound,
        "value": empirical + gap,
        "empirical": empirical,
        "gap": gap,
        "complexity": complexity,
        "range": width,
        "alpha": None if k else 0.01,
        "lambda": None if bound == "azuma" else 0.05,
        "sampling": 0.0,
        "random_guess": guess,
        "vacuous": empirical + gap >= guess,
        "delta": 0.05 / 8,
    }


def write_study(root: Path, *, scores: bool = True) -> list[Path]:
    """Write a study of several sizes, models and a vacuous certificate; return the certificates' paths."""
    rows = [
        certificate_dict("lora-8", size_bits=121_000, empirical=3.92, model="lora"),
        certificate_dict("lora-16", size_bits=251_904, empirical=3.31, model="lora"),
        certificate_dict("lora-32", size_bits=520_000, empirical=2.95, model="lora"),
        certificate_dict("dense-16", size_bits=1_520_000, empirical=2.62, model="dense"),
        certificate_dict("dense-64", size_bits=5_900_000, empirical=2.35, model="dense"),
        certificate_dict("huge", size_bits=60_000_000, empirical=2.1, model="dense"),
        certificate_dict("markov-0", size_bits=1_960, empirical=4.93, model="markov-0"),
        certificate_dict("markov-1", size_bits=60_400, empirical=3.75, model="markov-1"),
        certificate_dict("markov-2", size_bits=1_204_000, empirical=2.88, model="markov-2"),
    ]
    paths = []
    for index, row in enumerate(rows):
        path = root / "certificates" / f"{row['certificate']}.json"
        write_certificate(path, row)
        paths.append(path)
        if scores:
            _write_scores(path.parent, row, index)
    return paths


def _write_scores(folder: Path, row: dict[str, Any], seed: int) -> None:
    """40 documents of up to 700 tokens, windows of 256, losses that fall with the tokens visible."""
    generator = np.random.default_rng(seed)
    blocks, tables, block = [], [], 0
    for document in range(40):
        length = 1 + 163 * document % 700
        for start in range(0, length, 256):
            count = min(256, length - start)
            position = np.arange(start, start + count)
            mean = row["rows"][0]["empirical"] + 3.5 / (1 + position - start) ** 0.7
            loss = generator.gamma(1.2, mean / 1.2).astype(np.float32)
            tables.append({"block": block, "document": document, "position": position, "nll_bits": loss})
            blocks.append((block, document, start, count, 0, 1, 0))
            block += 1
    frame = pl.concat(
        [
            pl.DataFrame(
                {
                    "block": np.full(len(t["position"]), t["block"], np.int64),
                    "document": np.full(len(t["position"]), t["document"], np.int64),
                    "position": t["position"],
                    "token": np.zeros(len(t["position"]), np.int32),
                    "nll_bits": t["nll_bits"],
                    "rank": np.ones(len(t["position"]), np.int32),
                }
            )
            for t in tables
        ]
    )
    scores = folder / row["scores"][0]["file"]
    scores.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(scores)
    plan = folder / row["plan"]["file"]
    plan.parent.mkdir(parents=True, exist_ok=True)
    schema = {"block": pl.Int64, "document": pl.Int64, "start": pl.Int64, "length": pl.Int32}
    schema |= {"context": pl.Int32, "draws": pl.Int32, "shard": pl.Int32}
    pl.DataFrame(blocks, schema=schema, orient="row").write_parquet(plan)


def write_training(path: Path, seed: int = 0) -> Path:
    """A loss curve as models' training writes it."""
    steps = np.arange(10, 2001, 10)
    noise = np.random.default_rng(seed).normal(0, 0.06, len(steps))
    loss = 2.9 - 0.2 * seed + 5.1 * np.exp(-steps / 250) + noise
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame({"step": steps, "loss_bits": loss, "learning_rate": 1e-3 * (1 - steps / 2001)})
    frame.write_parquet(path)
    return path
