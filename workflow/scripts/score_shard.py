"""Decode one message and score one shard of the plan with it (rule score_shard)."""

from pathlib import Path

from tokenbounds.config import EvaluationSpec, parse_row
from tokenbounds.corpus.shards import Corpus
from tokenbounds.files import sha256_file
from tokenbounds.jobs import job
from tokenbounds.messages.decode import decode_message
from tokenbounds.scores.plan import read_plan
from tokenbounds.scores.scoring import ScoringOptions, score_shard

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        evaluation = parse_row(EvaluationSpec, snakemake.params.row)
        score_shard(
            decode_message(Path(snakemake.input.message)),
            Corpus.open(Path(snakemake.input.manifest).parent),
            read_plan(snakemake.input.plan),
            int(snakemake.wildcards.shard),
            Path(snakemake.output.scores),
            message_sha256=sha256_file(snakemake.input.message),
            options=ScoringOptions(dtype=evaluation.dtype, batch_tokens=evaluation.batch_tokens),
        )
