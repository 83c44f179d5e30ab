"""Write the tables and figures of antibody models (rule tabulate_antibodies)."""

from pathlib import Path

from tokenbounds.config import TaskSpec, parse_row
from tokenbounds.jobs import job
from tokenbounds.report.antibodies.section import write_antibody_results

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        write_antibody_results(
            snakemake.input.certificates,
            snakemake.input.reports,
            parse_row(dict[str, tuple[TaskSpec, list[Path]]], snakemake.params.spec),
            Path(snakemake.output[0]).parent,
        )
