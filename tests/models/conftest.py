"""What several tests of models share."""

import numpy as np
import pytest
import torch
from small_training import FakeCorpus

torch.set_num_threads(1)


@pytest.fixture
def corpus():
    """Five documents of up to 200 tokens."""
    generator = np.random.default_rng(0)
    return FakeCorpus([generator.integers(1, 8, size=size) for size in (3, 40, 0, 200, 17)])
