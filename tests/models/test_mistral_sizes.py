"""The antibody models' published sizes: counted on shapes alone, nothing allocated."""

import pytest
from tokenbounds.config import load_study
from tokenbounds.config.docs import ROOT
from tokenbounds.models.architecture import card_from_spec
from tokenbounds.models.build import count_parameters

MILLIONS = {"mistral-94m": (512, 94), "mistral-212m": (768, 212), "mistral-377m": (1024, 377)}


@pytest.mark.parametrize("name", MILLIONS)
def test_the_models_of_the_paper_have_the_published_number_of_parameters(name):
    hidden, millions = MILLIONS[name]
    spec = load_study(ROOT / "config" / "studies" / "antibody-paper.yaml").models[name]
    counts = count_parameters(card_from_spec(spec, vocabulary_size=29, start_id=1))
    assert counts.total // 10**6 == millions
    # Attention with half as many key heads, a gated feed-forward, two norms; one norm and one embedding besides.
    assert counts.coded == 24 * (3 * hidden**2 + 12 * hidden**2 + 2 * hidden) + hidden + 29 * hidden
