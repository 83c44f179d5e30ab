"""Quantize one model and write its message (rule encode_model)."""

from pathlib import Path

from tokenbounds.compression.best_rate import encode_best, is_searched
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.corpus.shards import Corpus
from tokenbounds.jobs import job
from tokenbounds.messages.side_information import places_of_files

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        manifest = next(iter(snakemake.input.manifest), None)
        spec = parse_row(MessageSpec, snakemake.params.row)
        encode = encode_best if is_searched(spec) else encode_model
        encode(
            Path(snakemake.input.model[0]).parent,
            spec,
            Path(snakemake.output.message),
            Path(snakemake.output.report),
            Corpus.open(Path(manifest).parent, verify=True) if manifest else None,
            next(iter(snakemake.input.calibration), None),
            places_of_files(snakemake.input.side_information),
        )
