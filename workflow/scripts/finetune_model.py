"""Train adapters over a fixed base (rule finetune_model)."""

from pathlib import Path

from tokenbounds.config import FinetunedModel, parse_row
from tokenbounds.corpus.shards import Corpus
from tokenbounds.jobs import job
from tokenbounds.models.training.finetune import finetune_model

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        finetune_model(
            parse_row(FinetunedModel, snakemake.params.row),
            Path(snakemake.input.base[0]).parent,
            Corpus.open(Path(snakemake.input.manifest).parent, verify=True),
            Path(snakemake.output.card).parent,
            Path(snakemake.params.workdir),
        )
