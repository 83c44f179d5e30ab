"""Small corpora of JSON lines, tokenized in the folder of their source; shared by tests of several packages."""

import json
from pathlib import Path

from tokenbounds.config import CorpusSpec, parse_row
from tokenbounds.corpus.shards import tokenize_corpus


def json_corpus(folder: Path, texts: list[str], tokenizer: str = "antibody") -> Path:
    """Tokenize texts into `folder`, which must not be there; returns the path of their source."""
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    row = {"source": {"kind": "jsonl", "paths": [str(rows)]}, "tokenizer": {"kind": tokenizer}, "shards": 2}
    tokenize_corpus(parse_row(CorpusSpec, json.dumps(row)), folder.name, folder)
    return rows
