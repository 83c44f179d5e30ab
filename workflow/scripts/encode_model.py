"""Quantize one model and write its message (rule encode_model)."""

from pathlib import Path

from tokenbounds.compression.counted import encode_counted, is_counted
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.corpus.shards import Corpus
from tokenbounds.jobs import job
from tokenbounds.messages.side_information import places_of_files

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        spec = parse_row(MessageSpec, snakemake.params.row)
        folder = Path(snakemake.input.model[0]).parent
        out, report = Path(snakemake.output.message), Path(snakemake.output.report)
        if is_counted(spec):
            encode_counted(folder, spec, out, report)
        else:
            # Loads torch, which takes longer than most messages of models that count.
            from tokenbounds.compression.best_rate import encode_best, is_searched
            from tokenbounds.compression.encode import encode_model

            manifest = next(iter(snakemake.input.manifest), None)
            encode = encode_best if is_searched(spec) else encode_model
            encode(
                folder,
                spec,
                out,
                report,
                Corpus.open(Path(manifest).parent, verify=True) if manifest else None,
                next(iter(snakemake.input.calibration), None),
                places_of_files(snakemake.input.side_information),
            )
