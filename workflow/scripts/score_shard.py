"""Decode one message and score one shard of the plan with it (rule score_shard)."""

from pathlib import Path

from tokenbounds.config import EvaluationSpec, parse_row
from tokenbounds.jobs import job
from tokenbounds.messages.side_information import places_of_files
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.scoring import score_message

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        evaluation = parse_row(EvaluationSpec, snakemake.params.row)
        score_message(
            snakemake.input.message,
            Path(snakemake.input.manifest).parent,
            snakemake.input.plan,
            int(snakemake.wildcards.shard),
            snakemake.output.scores,
            side_information=places_of_files(snakemake.input.side_information),
            options=ScoringOptions(
                dtype=evaluation.dtype, batch_tokens=evaluation.batch_tokens, placement=evaluation.placement
            ),
            original=next(iter(places_of_files(snakemake.input.original)), None),
            centre_order=snakemake.params.centre_order,
        )
