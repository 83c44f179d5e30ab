"""Tokenize one corpus (rule tokenize_corpus)."""

from pathlib import Path

from tokenbounds.config import CorpusSpec, parse_row
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        tokenize_corpus(
            parse_row(CorpusSpec, snakemake.params.row),
            snakemake.wildcards.corpus,
            Path(snakemake.output.manifest).parent,
            exclude_overlap_with=next(iter(snakemake.input.disjoint), None),
        )
