"""Test one message's model on a task (rule run_task)."""

from pathlib import Path

from tokenbounds.config import TaskSpec, parse_row
from tokenbounds.jobs import job
from tokenbounds.tasks.run import run_task

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        run_task(
            parse_row(TaskSpec, snakemake.params.row),
            Path(snakemake.input.message),
            Path(snakemake.output.answers),
            corpus=Path(snakemake.input.manifest[0]).parent if snakemake.input.manifest else None,
        )
