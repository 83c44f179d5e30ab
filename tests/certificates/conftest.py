"""The tiny study of certified_study, once per session, scored in full and from a sample."""

from __future__ import annotations

from dataclasses import replace

import pytest
from certified_study import TinyStudy


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Every token scored once."""
    return TinyStudy(tmp_path_factory.mktemp("results")).build()


@pytest.fixture(scope="session")
def centred_study(study: TinyStudy) -> TinyStudy:
    """The same with entropies."""
    return replace(study, evaluation="centred", entropies=True).build()


@pytest.fixture(scope="session")
def sampled_study(study: TinyStudy) -> TinyStudy:
    """The same message and corpus, on a sample of blocks."""
    return replace(study, evaluation="sampled", sample_tokens=900).build()
