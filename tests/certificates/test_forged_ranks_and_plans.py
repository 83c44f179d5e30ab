"""Forgeries that stay inside every single tolerance, or only touch what a table comparison does not see."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenbounds.certificates.plan_check import check_plan
from tokenbounds.certificates.tolerances import TOLERANCES, compare_errors
from tokenbounds.errors import CertificateError, ScoreError
from tokenbounds.scores.checks import check_values
from tokenbounds.scores.head import reduce_on_device
from tokenbounds.scores.plan import plan_scoring
from tokenbounds.scores.plan_file import read_plan, write_plan
from tokenbounds.scores.reduction import reduce_logits

FILES = (Path("scores/shard-00000.parquet"),)


@pytest.mark.parametrize("arithmetic", sorted(TOLERANCES))
def test_small_shifts_of_every_rank_do_not_hide_errors(arithmetic):
    tolerance = TOLERANCES[arithmetic]
    true = np.arange(5900, dtype=np.int32) % 59 + 1
    shift = tolerance.rank_slack + (tolerance.rank_share * true).astype(np.int32)
    with pytest.raises(CertificateError, match="more have a rank above 1"):
        compare_errors(true, np.maximum(1, true - shift), (1, 10), tolerance, FILES)
    compare_errors(true, true, (1, 10), tolerance, FILES)
    compare_errors(true, true + shift, (1, 10), tolerance, FILES)  # worse ranks only harm those who state them


def test_one_tie_that_breaks_otherwise_is_rounding():
    true = np.array([2, 1, 1, 7])
    compare_errors(true, np.array([1, 1, 1, 7]), (1,), TOLERANCES["float32"], FILES)


@pytest.mark.parametrize("key", ["draws", "blocks"])
def test_a_plan_may_not_claim_more_draws_than_it_holds(tmp_path, key):
    lengths = np.array([300, 0, 40, 900])
    table = plan_scoring(lengths, context=16, stride=16, sample_tokens=400, seed=3, shards=2)
    path = tmp_path / "plan.parquet"
    write_plan(table, path, manifest_sha256="0" * 64)
    check_plan(read_plan(path), path, lengths)
    metadata = dict(table.schema.metadata)
    for name in {b"draws", b"blocks"} if key == "draws" else {b"blocks"}:
        metadata[name] = str(10 * int(metadata[name])).encode()
    write_plan(table.replace_schema_metadata(metadata), path, manifest_sha256="0" * 64)
    with pytest.raises(CertificateError, match="is not the plan"):
        check_plan(read_plan(path), path, lengths)


@pytest.mark.adversary
@pytest.mark.parametrize("rank", [2, 3, 256])
def test_no_loss_is_below_what_its_rank_leaves(rank):
    """`rank` tokens are at least as probable as the true one, so that the loss is at least log2(rank)."""

    def check(nll_bits):
        columns = {"nll_bits": pa.array([5.0, nll_bits], pa.float32()), "rank": pa.array([1, rank], pa.int32())}
        check_values(pa.record_batch(columns), 256, FILES[0])

    least = np.log2(rank)
    for possible in (least, least - 1e-5, least + 3, 200.0):  # to within the rounding of a sum in float32
        check(possible)
    for forged in (0.0, least - 0.01, least / 2):
        with pytest.raises(ScoreError, match=f"shard-00000.parquet: a loss of {forged:.4f} bits at rank {rank}"):
            check(forged)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_and_ranks_of_any_precision_agree(dtype):
    """Hardest where many tokens are equally probable: there p · rank is nearly 1."""
    generator = torch.Generator().manual_seed(0)
    for scale, size in ((0.0, 50_000), (1e-6, 5_000), (1e-3, 5_000), (1.0, 300), (30.0, 300)):
        logits = (scale * torch.randn(8, size, generator=generator)).to(dtype).float()
        least = logits.argmin(dim=1, keepdim=True)  # the token of the highest rank
        on_cpu = reduce_logits(logits.numpy(), least[:, 0].numpy(), threads=1)
        on_device = (each.numpy() for each in reduce_on_device(logits, least))  # it overwrites the logits
        for nll_nats, rank, _ in (on_cpu, on_device):
            columns = {"nll_bits": (nll_nats / np.log(2)).astype(np.float32), "rank": rank}
            check_values(pa.record_batch(columns), size, FILES[0])
