"""Small dense checkpoints of every family and a corpus of short documents."""

from functools import cache

import numpy as np
import pytest
import torch
from small_checkpoints import CONFIGS, save_noisy
from tokenbounds.compression.calibration.calibrate import calibrate_model
from tokenbounds.models.card import ModelCard

# Tied and untied heads, a sliding window, heads of a width of their own.
_MORE = {
    "gpt2": {},
    "llama": {"tie_word_embeddings": False},
    "mistral": {"tie_word_embeddings": True, "sliding_window": 8},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
}
VOCABULARY = 48


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function (family, more card values) -> folder of a checkpoint with values that look trained."""

    def make(family: str, **more):
        values = {"vocabulary_size": VOCABULARY, "start_id": 1, "context": 32, "seed": 5, **more}
        card = ModelCard(family=family, config=CONFIGS[family] | _MORE[family], **values)
        return save_noisy(tmp_path_factory.mktemp(family), card, noise=0.1)

    return make


class ShortDocuments:
    """Twelve documents of 20 to 42 tokens."""

    start_id, vocabulary_size = 1, VOCABULARY

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self._documents = [rng.integers(2, VOCABULARY, 20 + 2 * k).astype(np.uint16) for k in range(12)]
        self.lengths = np.array([len(document) for document in self._documents])
        self.documents, self.tokens = len(self._documents), int(self.lengths.sum())

    def document(self, number: int) -> np.ndarray:
        return self._documents[number]


@pytest.fixture(scope="session")
def corpus():
    return ShortDocuments()


@pytest.fixture(scope="session")
def calibrate(checkpoint, corpus, tmp_path_factory):
    """A function (family, calibration's row) -> checkpoint folder, path of its calibration, made once."""

    @cache
    def make(family, spec):
        directory, out = checkpoint(family), tmp_path_factory.mktemp("calibration") / "c.safetensors"
        calibrate_model(directory, corpus, spec, out, corpus_sha256="ab")
        return directory, out

    return make
