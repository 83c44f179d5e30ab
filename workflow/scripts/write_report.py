"""Write the page that shows everything (rule write_report)."""

from pathlib import Path

from tokenbounds.jobs import job
from tokenbounds.report.antibodies.section import antibody_section
from tokenbounds.report.compression import compression_section
from tokenbounds.report.context import context_section
from tokenbounds.report.page import write_report
from tokenbounds.report.tasks.section import task_sections

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        results = snakemake.input.antibodies
        antibodies = antibody_section(Path(results[0]).parent) if results else []
        tables = snakemake.input.tasks
        tasks = task_sections(Path(tables[0]).parent) if tables else []
        write_report(
            snakemake.input.certificates,
            Path(snakemake.output.report),
            figures=[path for path in snakemake.input.figures if path.endswith(".svg")],
            sections=[
                *compression_section(snakemake.input.certificates),
                *context_section(snakemake.input.certificates),
                *tasks,
                *antibodies,
            ],
        )
