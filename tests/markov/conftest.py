"""A small corpus with the structure of text, and chains counted on it."""

import json

import pytest
from tokenbounds.config import CorpusSpec, JsonLinesSource, MarkovModel
from tokenbounds.corpus.shards import Corpus, tokenize_corpus
from tokenbounds.models.markov.counts import fit_markov

TEXT = "the cat sat on a mat while another dog ran under this old table and then slept"
WORDS = TEXT.split()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """About 40,000 bytes of sentences whose next word depends on the last two."""
    folder = tmp_path_factory.mktemp("markov")
    documents, state = ["", "q"], 1
    for _ in range(40):
        words = []
        for _ in range(250):
            state = (state * 1103515245 + 12345) % (1 << 31)
            words.append(WORDS[(state >> 16) % 4 * (len(words) % 4) % len(WORDS)])
        documents.append(" ".join(words) + ".\n")
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    source = JsonLinesSource(kind="jsonl", paths=(str(folder / "c.jsonl"),))
    tokenize_corpus(CorpusSpec(source=source), "c", folder / "corpus")
    return Corpus.open(folder / "corpus")


@pytest.fixture(scope="session")
def counted(corpus, tmp_path_factory):
    """Folder of the chain of each order from 0 to 3."""
    folders = {}
    for order in range(4):
        folders[order] = tmp_path_factory.mktemp("counts") / str(order)
        fit_markov(MarkovModel(kind="markov", corpus="c", order=order), corpus, folders[order])
    return folders
