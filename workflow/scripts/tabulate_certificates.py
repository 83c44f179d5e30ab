"""Write the table of certificates (rule tabulate_certificates)."""

from pathlib import Path

from tokenbounds.jobs import job
from tokenbounds.report.tables import tabulate

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        tabulate(snakemake.input.certificates, Path(snakemake.output.parquet).parent)
