"""Small dense checkpoints of every family and a corpus of short documents."""

import numpy as np
import pytest
import torch
from tokenbounds.models.build import build_model, coded_parameters, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint

_LLAMA = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2},
    "llama": {**_LLAMA, "tie_word_embeddings": False},
    "mistral": {**_LLAMA, "tie_word_embeddings": True, "sliding_window": 8},
    "qwen2": {**_LLAMA, "tie_word_embeddings": True},
    "qwen3": {**_LLAMA, "head_dim": 8},
}
VOCABULARY = 48


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function (family, more card values) -> folder of a checkpoint with values that look trained."""

    def make(family: str, **more):
        directory = tmp_path_factory.mktemp(family)
        values = {"vocabulary_size": VOCABULARY, "start_id": 1, "context": 32, "seed": 5, **more}
        card = ModelCard(family=family, config=CONFIGS[family], **values)
        model = build_model(card)
        initialize(model, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in coded_parameters(model).values():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        save_checkpoint(directory, model, card)
        return directory

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
