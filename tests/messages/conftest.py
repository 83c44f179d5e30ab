"""Small checkpoints of every family, plain and low-rank."""

from functools import cache

import numpy as np
import pytest
import torch
from tokenbounds.corpus.memory import MemoryCorpus
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
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
PARAMETERIZATIONS = {
    "dense": {"kind": "dense"},
    "lora": {"kind": "lora", "rank": 2, "targets": ["attention", "mlp", "embedding"]},
    "kronecker": {"kind": "kronecker", "terms": 2, "targets": ["attention", "mlp", "embedding"]},
    "monarch": {"kind": "monarch", "blocks": 2},
    "subspace": {"kind": "subspace", "dimension": 200},
    "sublora": {"kind": "subspace", "dimension": 200, "over": {"kind": "lora", "rank": 4}},
    "kronecker_subspace": {
        "kind": "subspace",
        "dimension": 200,
        "over": {"kind": "kronecker", "left_shapes": {"mlp": [4, 4]}},
        "covers": ["attention", "mlp"],
    },
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function (family, parameterization) -> folder of a checkpoint with values that look trained; read it only."""

    @cache
    def make(family: str, parameterization: str = "dense"):
        directory = tmp_path_factory.mktemp(f"{family}-{parameterization}")
        card = ModelCard(
            family=family,
            config=CONFIGS[family],
            vocabulary_size=64,
            start_id=1,
            context=16,
            parameterization=PARAMETERIZATIONS[parameterization],
            seed=5,
        )
        model = build_model(card)
        initialize(model, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in coded_parameters(model).values():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        save_checkpoint(directory, model, card)
        return directory

    return make


@pytest.fixture(scope="session")
def corpus():
    """Documents that repeat a short pattern: a model learns them in a few steps."""
    return MemoryCorpus([np.tile(np.arange(2 + k, 10 + k, dtype=np.uint16), 20) for k in range(6)], 64, start_id=1)
