"""Count one corpus's k-grams (rule fit_markov)."""

from pathlib import Path

from tokenbounds.config import MarkovModel, parse_row
from tokenbounds.corpus.shards import Corpus
from tokenbounds.jobs import job
from tokenbounds.models.markov.counts import fit_markov

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        fit_markov(
            parse_row(MarkovModel, snakemake.params.row),
            Corpus.open(Path(snakemake.input.manifest).parent, verify=True),
            Path(snakemake.output.card).parent,
        )
