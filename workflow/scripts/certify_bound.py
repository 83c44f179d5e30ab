"""Compute one certificate (rule certify_bound)."""

from pathlib import Path

from tokenbounds.certificates.certify import certify_bound
from tokenbounds.certificates.evidence import CertificateInputs, LinkInputs
from tokenbounds.config import BoundsSpec, parse_row
from tokenbounds.jobs import job
from tokenbounds.messages.side_information import given_places

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        scores = list(map(Path, snakemake.input.scores))
        links = map(Path, snakemake.input.chain_messages)
        chain_scores = list(map(Path, snakemake.input.chain_scores))
        trained_on = tuple(Path(path).parent for path in snakemake.input.trained_on)
        held_out = snakemake.params.choices[0] == "held_out"
        certify_bound(
            snakemake.wildcards.certificate,
            snakemake.params.study,
            CertificateInputs(
                message=Path(snakemake.input.message),
                corpus=Path(snakemake.input.manifest).parent,
                plan=Path(snakemake.input.plan),
                scores=tuple(scores),
                chain=tuple(
                    LinkInputs(link, tuple(chain_scores[place * len(scores) : (place + 1) * len(scores)]))
                    for place, link in enumerate(links)
                ),
                held_out=trained_on if held_out else None,
                given=tuple(given_places(snakemake.input.given)),
                base_corpora=() if held_out else trained_on,
            ),
            parse_row(BoundsSpec, snakemake.params.bounds),
            Path(snakemake.output.certificate),
            model=snakemake.params.model,
        )
