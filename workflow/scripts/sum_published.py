"""Write the digests of everything that a study publishes (rule sum_published)."""

from pathlib import Path

from tokenbounds.certificates.published import write_sums
from tokenbounds.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        write_sums(Path(snakemake.output.sums).parent)
