"""Small checkpoints of every family, plain and low-rank."""

from functools import cache

import numpy as np
import pytest
import torch
from small_checkpoints import CONFIGS, save_noisy
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.models.card import ModelCard

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
        return save_noisy(directory, card, noise=0.05)

    return make


@pytest.fixture(scope="session")
def corpus():
    """Documents that repeat a short pattern: a model learns them in a few steps."""
    return MemoryCorpus([np.tile(np.arange(2 + k, 10 + k, dtype=np.uint16), 20) for k in range(6)], 64, start_id=1)
