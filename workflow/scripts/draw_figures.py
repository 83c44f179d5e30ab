"""Draw the figures (rule draw_figures)."""

from pathlib import Path

from tokenbounds.config import parse_row
from tokenbounds.jobs import job
from tokenbounds.report.figures import draw_figures
from tokenbounds.report.published_numbers import draw_beside_published

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        draw_figures(
            snakemake.input.certificates,
            Path(snakemake.output[0]).parent,
            training=parse_row(dict[str, Path], snakemake.params.curves),
            methods=snakemake.params.methods,
            published_losses=next(map(Path, snakemake.input.losses), None),
        )
        for published in snakemake.input.published:
            draw_beside_published(snakemake.input.certificates, published, Path(snakemake.output[0]).parent)
