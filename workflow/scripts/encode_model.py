"""Quantize one model and write its message (rule encode_model)."""

from pathlib import Path

from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.corpus.shards import Corpus
from tokenbounds.jobs import job
from tokenbounds.messages.encode import encode_model
from tokenbounds.messages.given import given_places

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        manifest = next(iter(snakemake.input.manifest), None)
        encode_model(
            Path(snakemake.input.model[0]).parent,
            parse_row(MessageSpec, snakemake.params.row),
            Path(snakemake.output.message),
            Path(snakemake.output.report),
            Corpus.open(Path(manifest).parent) if manifest else None,
            next(iter(snakemake.input.calibration), None),
            given_places(snakemake.input.given),
        )
