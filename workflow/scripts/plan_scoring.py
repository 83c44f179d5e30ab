"""Plan which tokens are scored by which job (rule plan_scoring)."""

from pathlib import Path

from tokenbounds.config import EvaluationSpec, parse_row
from tokenbounds.jobs import job
from tokenbounds.scores.plan import plan_corpus

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        plan_corpus(
            Path(snakemake.input.manifest).parent,
            parse_row(EvaluationSpec, snakemake.params.row),
            Path(snakemake.output.plan),
        )
