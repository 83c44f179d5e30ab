"""Train one model from scratch (rule train_model)."""

from pathlib import Path

from tokenbounds.config import TrainedModel, parse_row
from tokenbounds.corpus.shards import Corpus
from tokenbounds.jobs import job
from tokenbounds.models.training.train import train_model

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        start = next(iter(snakemake.input.start), None)
        train_model(
            parse_row(TrainedModel, snakemake.params.row),
            Corpus.open(Path(snakemake.input.manifest).parent, verify=True),
            Path(snakemake.output.card).parent,
            Path(snakemake.params.workdir),
            start=Path(start).parent if start else None,
        )
