"""Write the tables and figures of tasks of models of text (rule tabulate_tasks)."""

from pathlib import Path

from tokenbounds.config import TaskSpec, parse_row
from tokenbounds.jobs import job
from tokenbounds.report.tasks.section import write_task_results

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        write_task_results(
            parse_row(dict[str, tuple[TaskSpec, list[Path]]], snakemake.params.spec),
            Path(snakemake.output[0]).parent,
            snakemake.input.certificates,
            snakemake.input.reports,
        )
