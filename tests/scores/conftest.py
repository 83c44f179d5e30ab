"""Fixtures of the scoring tests."""

import pytest
from scoring_cases import make_corpus
from tokenbounds.corpus.memory import MemoryCorpus


@pytest.fixture
def corpus() -> MemoryCorpus:
    return make_corpus()
