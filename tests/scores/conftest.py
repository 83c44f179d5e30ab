"""Fixtures of the scoring tests."""

import pytest
from scoring_cases import MemoryCorpus, make_corpus


@pytest.fixture
def corpus() -> MemoryCorpus:
    return make_corpus()
