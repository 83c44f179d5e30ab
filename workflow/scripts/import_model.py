"""Read a pretrained checkpoint and save it as plain values (rule import_model)."""

from pathlib import Path

from tokenbounds.config import PretrainedModel, parse_row
from tokenbounds.jobs import job
from tokenbounds.models.pretrained.loading import import_pretrained

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        import_pretrained(parse_row(PretrainedModel, snakemake.params.row), Path(snakemake.output.card).parent)
