"""Read a pretrained checkpoint and save it as plain values (rule import_model)."""

from pathlib import Path

from tokenbounds.config import PretrainedModel, parse_row
from tokenbounds.jobs import job
from tokenbounds.models.checkpoint import save_checkpoint
from tokenbounds.models.loading import load_pretrained

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        model, card = load_pretrained(parse_row(PretrainedModel, snakemake.params.row))
        save_checkpoint(Path(snakemake.output.card).parent, model, card)
