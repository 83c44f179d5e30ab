"""Draw a task's zero-shot questions from a corpus into a file (rule draw_questions)."""

from pathlib import Path

from tokenbounds.config import TaskSpec, TokenizerSpec, parse_row
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.jobs import job
from tokenbounds.tasks.questions import draw_questions, write_questions

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        questions = draw_questions(
            parse_row(TaskSpec, snakemake.params.row).questions,
            Corpus.open(Path(snakemake.input.manifest[0]).parent, verify=True),
            load_tokenizer(parse_row(TokenizerSpec, snakemake.params.tokenizer)),
        )
        write_questions(questions, Path(snakemake.output.questions))
