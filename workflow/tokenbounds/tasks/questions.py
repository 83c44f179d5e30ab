"""Zero-shot questions: read from files, or drawn from a corpus of code or of prose."""

from __future__ import annotations

import gzip
import json
import keyword
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.config import MissingWord, NextIdentifier, QuestionFiles
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.source_files import check_plain, find_files
from tokenbounds.corpus.tokenizers import Tokenizer
from tokenbounds.draws import uniform_integers
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import parse_json, sha256_bytes, write_bytes

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_CONTEXT_CHARACTERS = 240
_CHOICES = 4
_OF_A_DOCUMENT = 4
_IDENTIFIER = re.compile(r"(?<![\w.\"'])[A-Za-z_][A-Za-z0-9_]{3,30}(?![\w\"'])")
# A sentence's last word: a space and four letters or more before a full stop and white space.
_LAST_WORD = re.compile(r" ([A-Za-z][a-z]{3,20})(?=\.\s)")
_KEYWORDS = frozenset([*keyword.kwlist, "self"])


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes
    ----------
    context
        What precedes.
    choices
        What may follow; a single text is to be predicted.
    answer
        Place of the right one.
    """

    context: str
    choices: tuple[str, ...]
    answer: int


def question_files(source: QuestionFiles | NextIdentifier | MissingWord) -> list[Path]:
    """The files of questions, sorted; none of questions that are drawn from a corpus.

    Raises
    ------
    CorpusError
        If a path matches no file.
    """
    return find_files(source.paths, SUFFIXES) if isinstance(source, QuestionFiles) else []


# --- in files ---------------------------------------------------------------------------------------------------------


def write_questions(questions: Sequence[Question], path: Path) -> None:
    """Write questions as JSON lines, one object each, in the form that `read_questions` reads."""
    rows = [
        {"context": one.context, "choices": list(one.choices), "answer": one.answer}
        if len(one.choices) > 1
        else {"context": one.context, "answer": one.choices[0]}
        for one in questions
    ]
    write_bytes(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())


def read_questions(source: QuestionFiles) -> list[Question]:
    """Read questions from files.

    Raises
    ------
    TokenboundsError
        If a file cannot be read, or a row is not a question; file and row are named.
    """
    found = [_question(raw, where) for path in question_files(source) for where, raw in _rows(path)]
    if not found:
        raise TokenboundsError(f"{', '.join(source.paths)}: there is no question. Name files with some.")
    return found


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each row with the words that name it."""
    check_plain(path)
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                number = 0
                for batch in file.iter_batches(256):
                    for raw in batch.to_pylist():
                        number += 1
                        yield f"{path}, row {number}", raw
            return
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield f"{path}, line {number}", _parsed(line, f"{path}, line {number}")
    except (OSError, EOFError, pa.ArrowException) as error:
        raise TokenboundsError(f"{path} cannot be read ({error}). Correct the task's 'paths'.") from error


def _parsed(line: bytes, where: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise TokenboundsError(f"{where} is not JSON ({error}). Write one object a line.") from error


def _question(raw: Any, where: str) -> Question:
    """Check a row."""
    if not isinstance(raw, dict) or not isinstance(raw.get("context"), str):
        raise TokenboundsError(f"{where}: a question has the key 'context', a text.")
    choices, answer = raw.get("choices"), raw.get("answer")
    if choices is None:
        if not isinstance(answer, str) or not answer:
            raise TokenboundsError(f"{where}: without 'choices', 'answer' is the text to be predicted.")
        return Question(raw["context"], (answer,), 0)
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(each, str) and each for each in choices):
        raise TokenboundsError(f"{where}: 'choices' is a list of two texts or more, none of them empty.")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise TokenboundsError(f"{where}: 'answer' is the place of the right choice, from 0 to {len(choices) - 1}.")
    return Question(raw["context"], tuple(choices), answer)


# --- from a corpus ----------------------------------------------------------------------------------------------------


def draw_questions(
    source: NextIdentifier | MissingWord, corpus: Corpus | MemoryCorpus, tokenizer: Tokenizer
) -> list[Question]:
    """Draw questions from a corpus: a few from each of its documents, which come in random order.

    Parameters
    ----------
    source
        What is asked, how many at most, and the seed.
    corpus
        Its documents.
    tokenizer
        The corpus's, which turns tokens into text.

    Raises
    ------
    TokenboundsError
        If no document allows for such a question.
    """
    questions: list[Question] = []
    for number in _shuffle(corpus.documents, f"{source.seed}"):
        if len(questions) >= source.questions:
            break
        text, seed = tokenizer.decode(corpus.document(number).tolist()), f"{source.seed}/{number}"
        found = _identifier_questions(text, seed) if isinstance(source, NextIdentifier) else _word_questions(text)
        questions += [found[place] for place in sorted(_shuffle(len(found), seed)[:_OF_A_DOCUMENT])]
    if not questions:
        raise TokenboundsError(f"no document of the corpus allows for a question of kind {source.kind}. Name another.")
    return questions[: source.questions]


def _identifier_questions(text: str, seed: str) -> list[Question]:
    """A question for every name that occurred in what precedes it, with three other names that did, too."""
    matches = [found for found in _IDENTIFIER.finditer(text) if found[0] not in _KEYWORDS]
    questions = []
    for found in matches:
        context = text[max(0, found.start() - _CONTEXT_CHARACTERS) : found.start()]
        others = sorted({name for name in _IDENTIFIER.findall(context) if name not in _KEYWORDS} - {found[0]})
        if len(context) < _CONTEXT_CHARACTERS // 2 or len(others) < _CHOICES - 1 or found[0] not in context:
            continue
        words = f"{seed}/{found.start()}"
        chosen = [others[place] for place in _shuffle(len(others), words)[: _CHOICES - 1]]
        answer = int(_draws(1, f"{words}/answer")[0] % _CHOICES)
        questions.append(Question(context, (*chosen[:answer], found[0], *chosen[answer:]), answer))
    return questions


def _word_questions(text: str) -> list[Question]:
    """A question for every last word of a sentence that occurred in what precedes it."""
    questions = []
    for found in _LAST_WORD.finditer(text):
        context = text[max(0, found.start() - _CONTEXT_CHARACTERS) : found.start()]
        if len(context) >= _CONTEXT_CHARACTERS // 2 and re.search(rf"\b{found[1]}\b", context):
            questions.append(Question(context, (found[0],), 0))
    return questions


def _shuffle(size: int, words: str) -> list[int]:
    """The numbers below `size` in an order that follows from words."""
    return np.argsort(_draws(size, words), kind="stable").tolist()


def _draws(size: int, words: str) -> np.ndarray:
    """Independent large integers, int64[size], that follow from words."""
    return uniform_integers(1 << 62, size, int(sha256_bytes(words.encode())[:12], 16))
