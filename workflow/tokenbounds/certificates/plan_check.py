"""The plan of a certificate, made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.certificates.checks import Check
from tokenbounds.errors import CertificateError
from tokenbounds.scores.plan import count_blocks, plan_batches
from tokenbounds.scores.plan_file import Plan


def check_plan(plan: Plan, path: Path, lengths: npt.NDArray[np.int64]) -> Check:
    """Plan again from the corpus's document lengths; a sample must be the one its seed draws."""
    different = f"{path} is not the plan that its settings and the corpus give. Plan again."
    if plan.blocks != int(count_blocks(lengths, plan.context, plan.stride).sum()):
        raise CertificateError(different)
    # The smallest number of tokens for which the planner makes this number of draws.
    sample_tokens = max(1, plan.draws * plan.tokens // plan.blocks) if plan.mode == "sampled" else None
    schema, batches = plan_batches(
        lengths,
        context=plan.context,
        stride=plan.stride,
        sample_tokens=sample_tokens,
        seed=plan.seed,
        shards=plan.shards,
        visible_tokens=plan.visible_tokens,
        blocks_per_document=plan.blocks_per_document,
    )
    stated = {name: str(getattr(plan, name)) for name in ("mode", "draws", "tokens", "documents", "blocks")}
    planned = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    if any(planned[name] != value for name, value in stated.items()) or not _same_rows(plan.iter_batches(), batches):
        raise CertificateError(different)
    what = "every token once"
    if plan.mode != "exhaustive":
        what = f"{plan.draws} {'draws' if plan.mode == 'sampled' else 'blocks'} of seed {plan.seed}"
    return Check("plan made again", str(path), what)


def _same_rows(first: Iterator[pa.RecordBatch], second: Iterator[pa.RecordBatch]) -> bool:
    """Whether two streams hold the same rows, however they are cut into batches."""
    ours, theirs = next(first, None), next(second, None)
    while ours is not None and theirs is not None:
        count = min(ours.num_rows, theirs.num_rows)
        if not ours.slice(0, count).equals(theirs.slice(0, count)):
            return False
        ours = ours.slice(count) if ours.num_rows > count else next(first, None)
        theirs = theirs.slice(count) if theirs.num_rows > count else next(second, None)
    return ours is None and theirs is None
