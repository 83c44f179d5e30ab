"""Write the tables and figures of antibody models (rule tabulate_antibodies)."""

from pathlib import Path

from tokenbounds.config import TaskSpec, parse_row
from tokenbounds.jobs import job
from tokenbounds.report.antibodies.section import write_antibody_results

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        directory = Path(snakemake.output[0]).parent
        answers = [Path(path) for path in snakemake.input.answers]
        tasks = {
            name: (parse_row(TaskSpec, row), [path for path in answers if path.parent.name == name])
            for name, row in zip(*snakemake.params.tasks, strict=True)
        }
        write_antibody_results(snakemake.input.certificates, snakemake.input.reports, tasks, directory)
