"""Calibrate a model for its quantizers (rule calibrate_model)."""

from pathlib import Path

from tokenbounds.compression.calibration.calibrate import calibrate_model
from tokenbounds.config import CalibrationSpec, parse_row
from tokenbounds.corpus.reader import Corpus
from tokenbounds.files import sha256_file
from tokenbounds.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        calibrate_model(
            Path(snakemake.input.model[0]).parent,
            Corpus.open(Path(snakemake.input.manifest).parent, verify=True),
            parse_row(CalibrationSpec, snakemake.params.row),
            Path(snakemake.output.calibration),
            corpus_sha256=sha256_file(snakemake.input.manifest),
        )
