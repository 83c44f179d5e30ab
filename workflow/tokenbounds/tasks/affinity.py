"""Zero-shot affinity: do likelier variants of an antibody bind better? One correlation per antibody, never pooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from tokenbounds.antibodies.labels import Chain
from tokenbounds.config import AffinityTask
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.files import sha256_bytes
from tokenbounds.scores.documents import score_documents
from tokenbounds.scores.scorer import vocabulary_size
from tokenbounds.tasks.correlation import FEWEST, Correlation, Floats, correlate
from tokenbounds.tasks.layouts import Layout, layout_of
from tokenbounds.tasks.tables import Variant, count_reasons

_FEW = 20

SCHEMA: dict[str, pl.DataType] = {
    "antibody": pl.String(),
    "variant": pl.Int64(),
    "value": pl.Float64(),
    "log2_likelihood": pl.Float64(),
    "residues": pl.Int64(),
    "reason": pl.String(),
}


def score_variants(predictor: Any, variants: Sequence[Variant], species: str = "human") -> pl.DataFrame:
    """The log-likelihood of each variant's residues, summed over its chains, each of which is read on its own.

    Parameters
    ----------
    predictor
        A decoded model of the antibody vocabulary, or IgLM.
    variants
        From `read_variants`.
    species
        What IgLM is told.

    Returns
    -------
    DataFrame
        `SCHEMA`, one row per variant; `log2_likelihood` in bits, null where the row is left out.
    """
    layout = layout_of(predictor, species)
    usable = [number for number, variant in enumerate(variants) if not variant.reason]
    likelihood = np.full(len(variants), np.nan)
    likelihood[usable] = 0.0
    for kind in Chain:
        found = [(n, residues) for n in usable for chain, residues in variants[n].chains if chain is kind]
        for number, bits in zip([n for n, _ in found], _score_chains(predictor, layout, kind, found), strict=True):
            likelihood[number] -= bits
    rows = {
        "antibody": [variant.antibody for variant in variants],
        "variant": list(range(len(variants))),
        "value": [variant.value for variant in variants],
        "log2_likelihood": likelihood,
        "residues": [sum(len(residues) for _, residues in variant.chains) for variant in variants],
        "reason": [variant.reason for variant in variants],
    }
    return pl.DataFrame(rows, schema=SCHEMA).with_columns(pl.col("value", "log2_likelihood").fill_nan(None))


def _score_chains(predictor: Any, layout: Layout, kind: Chain, found: Sequence[tuple[int, str]]) -> list[float]:
    """Loss of each chain's residues, bits."""
    if not found:
        return []
    written = [layout.write(residues) for _, residues in found]
    corpus = MemoryCorpus([each.tokens for each in written], vocabulary_size(predictor), layout.start_id(kind))
    losses = score_documents(predictor, corpus)
    return [float(bits[each.chosen].sum(dtype=np.float64)) for (bits, _), each in zip(losses, written, strict=True)]


def correlate_variants(frame: pl.DataFrame, task: AffinityTask) -> list[dict[str, Any]]:
    """One row per antibody, in order of name: Spearman's coefficient, its interval, and how many rows it rests on.

    The coefficient is positive if likelier variants are better, whichever way the measured value counts. `remarks`
    says how many rows were left out for what reason, and why there is no coefficient or a rough interval.
    """
    sign = 1.0 if task.higher_is_better else -1.0
    rows = []
    for name in sorted(frame["antibody"].unique().to_list()):
        part = frame.filter(pl.col("antibody") == name)
        used = part.filter(pl.col("reason") == "")
        seed = int(sha256_bytes(f"{task.seed}:{name}".encode())[:12], 16)
        likelihoods, values = used["log2_likelihood"].to_numpy(), used["value"].to_numpy()
        found: Correlation = correlate(likelihoods, sign * values, resamples=task.resamples, seed=seed)
        rows.append(
            {
                "antibody": name,
                "variants": used.height,
                "left_out": part.height - used.height,
                "spearman": found.value,
                "low": found.low,
                "high": found.high,
                "remarks": "; ".join([*count_reasons(part["reason"]), *_doubts(likelihoods, values)]),
            }
        )
    return rows


def _doubts(likelihoods: Floats, values: Floats) -> list[str]:
    """Why there is no correlation, or why its interval is rough."""
    if len(values) < FEWEST:
        return [f"fewer than {FEWEST} variants"]
    names = {"values": values, "likelihoods": likelihoods}
    constant = [f"all {name} are equal" for name, found in names.items() if found.min() == found.max()]
    return constant or ["so few variants that the interval is rough"] * (len(values) < _FEW)
