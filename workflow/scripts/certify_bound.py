"""Compute one certificate (rule certify_bound)."""

from tokenbounds.certificates.certify import certify_bound
from tokenbounds.certificates.evidence import CertificateJob
from tokenbounds.config import parse_row
from tokenbounds.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        spec = parse_row(CertificateJob, snakemake.params.spec)
        certify_bound(
            snakemake.wildcards.certificate,
            spec.study,
            spec.inputs,
            spec.bounds,
            snakemake.output.certificate,
            model=spec.model,
        )
