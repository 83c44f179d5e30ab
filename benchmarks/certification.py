"""Certification speed: rows of score Parquet per second, and peak memory.

    python benchmarks/certification.py                  # 10^7 and 10^8 rows: up to 0.7 GB of disk in a temporary folder
    python benchmarks/certification.py --rows 10000000  # one size; there may be several

Four measurements, each in a process of its own (peak memory is that process's `ru_maxrss`, imports included):

    read       only reading the columns nll_bits and rank with pyarrow, nothing computed
    bounds     every row of a certificate (loss and top-1/10/100 errors under azuma, freedman and betting), from a
               stream of the two columns, in one pass
    certified  the same through the project's reader, which compares every row with the scoring plan
    centred    the same with the column entropy_bits, and every centre of the default grid

At the end, for `certified`: rows per second as a ratio to `read`, and how much more memory ten times as many rows need,
with a goal of at most 1.2 times. Only one size's data are on disk at a time.

Rows per second depend on what else the machine does; rows per CPU-second less so. Work and memory per row do not depend
on the number of rows, apart from the plan, which is kept in memory (40 bytes per block).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _peak import peak_bytes

VOCABULARY = 49152
DOCUMENT = 4096
CONTEXT = 1024
BATCH = 1 << 18
MODES = ("read", "bounds", "certified", "centred")
SIZES = (10_000_000, 100_000_000)
MEMORY_GOAL = 1.2


class PlainStream:
    """The two columns that bounds need, from one Parquet file, unchecked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the named columns."""
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=BATCH, columns=columns)


def make_scores(directory: Path, rows: int) -> None:
    """Write a plan and one shard of plausible scores: a third easy tokens, a long tail, a few impossible ones."""
    from tokenbounds.files import sha256_file
    from tokenbounds.scores.entropies import round_entropies
    from tokenbounds.scores.plan import plan_scoring
    from tokenbounds.scores.plan_file import expand_blocks, write_plan
    from tokenbounds.scores.provenance import Provenance
    from tokenbounds.scores.store import score_writer

    lengths = np.full(-(-rows // DOCUMENT), DOCUMENT, dtype=np.int64)
    lengths[-1] = rows - DOCUMENT * (len(lengths) - 1)
    plan = plan_scoring(lengths, context=CONTEXT, stride=None, sample_tokens=None, seed=0, shards=1)
    write_plan(plan, directory / "plan.parquet", manifest_sha256="0" * 64)
    plan_sha256 = sha256_file(directory / "plan.parquet")
    provenance = Provenance("0" * 64, "0" * 64, plan_sha256, 0, "float32", VOCABULARY, {}, entropies=True)
    rng = np.random.default_rng(0)
    with score_writer(directory / "shard-00000.parquet", provenance) as writer:
        for first in range(0, plan.num_rows, BATCH // CONTEXT):
            columns = expand_blocks(plan.slice(first, BATCH // CONTEXT))
            size = len(columns["block"])
            nll = np.where(rng.random(size) < 0.3, rng.exponential(0.1, size), rng.gamma(2.0, 2.6, size))
            values = {
                **columns,
                "token": rng.integers(0, VOCABULARY, size),
                "nll_bits": nll.astype(np.float32),
                "rank": np.clip(np.exp2(nll * 0.9).astype(np.int64), 1, VOCABULARY),
                "entropy_bits": round_entropies(np.minimum(0.5 * nll + rng.exponential(1.0, size), 15.0)),
            }
            schema = provenance.schema
            writer.write(pa.record_batch([pa.array(values[f.name], f.type) for f in schema], schema))


def measure(directory: Path, mode: str) -> dict[str, float]:
    """Run one measurement in this process."""
    from tokenbounds.certificates.averages.passes import ScoreStream
    from tokenbounds.certificates.rows.setting import Setting
    from tokenbounds.certificates.rows.tokens import state_bounds
    from tokenbounds.config import BoundsSpec
    from tokenbounds.scores.plan_file import read_plan
    from tokenbounds.scores.store import open_scores

    path = directory / "shard-00000.parquet"
    rows = pq.ParquetFile(path).metadata.num_rows
    start, cpu_start = time.perf_counter(), time.process_time()
    if mode == "read":
        for batch in PlainStream(path).iter_batches(["nll_bits", "rank"]):
            batch["nll_bits"].to_numpy()
    else:
        spec = BoundsSpec(bounds=("azuma", "freedman", "betting"))
        scores: ScoreStream = PlainStream(path)
        if mode in ("certified", "centred"):
            scores = open_scores([path], plan=read_plan(directory / "plan.parquet"))
        setting = Setting(spec, rows, VOCABULARY, None, entropies=mode == "centred")
        state_bounds(scores, setting, message_bits=rows // 20)
    seconds = time.perf_counter() - start
    peak = peak_bytes() / 2**20
    cpu = time.process_time() - cpu_start
    return {"rows": rows, "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}


def measure_size(rows: int) -> dict[str, dict[str, float]]:
    """All measurements of one size, on data that are deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        make_scores(Path(folder), rows)
        results = {}
        for mode in MODES:
            command = [sys.executable, __file__, "--measure", folder, mode]
            results[mode] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return results


def print_size(results: dict[str, dict[str, float]]) -> None:
    for mode, result in results.items():
        millions = result["rows"] / 1e6
        print(
            f"{mode:10} {result['rows']:12,} {result['seconds']:8.2f} {millions / result['seconds']:9.1f} "
            f"{result['cpu_seconds']:7.2f} {millions / result['cpu_seconds']:13.1f} {result['peak_mib']:9.0f}",
            flush=True,
        )


def print_ratios(sizes: dict[int, dict[str, dict[str, float]]]) -> None:
    """What `certified` costs compared with `read`, and with itself at a tenth of the rows."""
    for rows, results in sizes.items():
        ratio = results["read"]["seconds"] / results["certified"]["seconds"]
        print(f"certified, {rows:,} rows: {ratio:.3f} x the rows per second of read")
    for rows, results in sizes.items():
        if 10 * rows in sizes:
            ratio = sizes[10 * rows]["certified"]["peak_mib"] / results["certified"]["peak_mib"]
            verdict = "met" if ratio <= MEMORY_GOAL else "missed"
            print(
                f"certified, {10 * rows:,} rows: {ratio:.3f} x the peak memory of {rows:,} "
                f"(goal: at most {MEMORY_GOAL}, {verdict})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure[0]), arguments.measure[1])))
        return
    print(f"{'mode':10} {'rows':>12} {'seconds':>8} {'M rows/s':>9} {'CPU s':>7} {'M rows/CPU s':>13} {'peak MiB':>9}")
    sizes = {}
    for rows in sorted(set(arguments.rows)):
        sizes[rows] = measure_size(rows)
        print_size(sizes[rows])
    print_ratios(sizes)


if __name__ == "__main__":
    main()
