"""Write the tables of certificates and of compression (rule tabulate_certificates)."""

from pathlib import Path

from tokenbounds.jobs import job
from tokenbounds.report.compression import tabulate_compression
from tokenbounds.report.tables import tabulate

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        folder = Path(snakemake.output.parquet).parent
        tabulate(snakemake.input.certificates, folder)
        tabulate_compression(snakemake.input.certificates, folder)
