"""Compute one certificate (rule certify_bound)."""

from pathlib import Path

from tokenbounds.bounds.certificate import certify_bound
from tokenbounds.bounds.evidence import CertificateInputs
from tokenbounds.config import BoundsSpec, parse_row
from tokenbounds.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        certify_bound(
            snakemake.wildcards.certificate,
            snakemake.params.study,
            CertificateInputs(
                message=Path(snakemake.input.message),
                corpus=Path(snakemake.input.manifest).parent,
                plan=Path(snakemake.input.plan),
                scores=tuple(map(Path, snakemake.input.scores)),
            ),
            parse_row(BoundsSpec, snakemake.params.bounds),
            Path(snakemake.output.certificate),
            model=snakemake.params.model,
        )
