"""A corpus in memory, a model of one layer, and a row of every parameterization: what tests of training share."""

from types import SimpleNamespace

import numpy as np
from tokenbounds.config import (
    Architecture,
    Dense,
    Kronecker,
    KroneckerSubspace,
    Lora,
    Monarch,
    SubLora,
    Subspace,
    TrainedModel,
    Training,
)
from tokenbounds.corpus.memory import MemoryCorpus
from transformers import TrainerCallback

PARAMETERIZATIONS = (
    Dense(kind="dense"),
    Lora(kind="lora", rank=2, targets=("mlp", "head")),
    Kronecker(kind="kronecker", initialization="dense_projection"),
    Monarch(kind="monarch", blocks=2),
    Subspace(kind="subspace", dimension=100),
    SubLora(kind="sublora", dimension=100, rank=2),
    KroneckerSubspace(kind="kronecker_subspace", dimension=100, covers=("attention", "mlp")),
)


class FakeCorpus(MemoryCorpus):
    """A corpus in memory with the hashes that training keeps."""

    def __init__(self, documents, vocabulary_size=32, start_id=0):
        super().__init__([np.asarray(document, dtype=np.uint16) for document in documents], vocabulary_size, start_id)
        self.manifest = SimpleNamespace(shards=(SimpleNamespace(sha256=str(self.lengths.tolist())),))


def make_spec(parameterization=None, **training):
    defaults = {"steps": 6, "batch_tokens": 64, "learning_rate": 1e-2, "save_steps": 2}
    return TrainedModel(
        kind="trained",
        corpus="c",
        architecture=Architecture(layers=1, hidden=16, heads=2, context=16),
        parameterization=parameterization or Dense(kind="dense"),
        training=Training(**{**defaults, **training}),
        seed=5,
    )


class Kill(TrainerCallback):
    """Raises as a kill would, in the given step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt
