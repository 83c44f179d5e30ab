"""Write the card of an online reference (rule name_online)."""

from tokenbounds.config import OnlineModel, parse_row
from tokenbounds.jobs import job
from tokenbounds.models.online.card import DEFAULT_ORDER, OnlineCard, name_online

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        row = parse_row(OnlineModel, snakemake.params.row)
        order = (row.order or DEFAULT_ORDER) if row.predictor == "ngrams" else None
        name_online(OnlineCard(row.table_bits, row.vocabulary_size, order), snakemake.output.card)
