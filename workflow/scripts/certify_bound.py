"""Compute one certificate (rule certify_bound)."""

from tokenbounds.certificates.certify import certify_bound
from tokenbounds.certificates.evidence import CertificateInputs
from tokenbounds.config import BoundsSpec, parse_row
from tokenbounds.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        certify_bound(
            snakemake.wildcards.certificate,
            snakemake.params.study,
            CertificateInputs.from_json(snakemake.params.inputs),
            parse_row(BoundsSpec, snakemake.params.bounds),
            snakemake.output.certificate,
            model=snakemake.params.model,
        )
