"""Let one message's model answer the prompts of a task (rule measure_task)."""

from pathlib import Path

from tokenbounds.config import TaskSpec, TokenizerSpec, parse_row
from tokenbounds.jobs import job
from tokenbounds.messages.side_information import places_of_files
from tokenbounds.tasks.measure import Materials, measure_task

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        materials = Materials(
            message=Path(snakemake.input.message),
            side_information=tuple(places_of_files(snakemake.input.side_information)),
            tokenizers=parse_row(dict[str, TokenizerSpec], snakemake.params.tokenizers),
            corpus=Path(snakemake.input.manifest[0]).parent if snakemake.input.manifest else None,
            questions=Path(snakemake.input.drawn[0]) if snakemake.input.drawn else None,
            original=Path(snakemake.input.original[0]).parent if snakemake.input.original else None,
        )
        measure_task(parse_row(TaskSpec, snakemake.params.row), materials, Path(snakemake.output.answers))
