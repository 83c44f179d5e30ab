"""The antibody models' published sizes: counted on shapes alone, nothing allocated."""

import pytest
from tokenbounds.config import Architecture, TrainedModel
from tokenbounds.models.architecture import card_from_spec
from tokenbounds.models.build import count_parameters

MILLIONS = {512: 94, 768: 212, 1024: 377}


@pytest.mark.parametrize("hidden", MILLIONS)
def test_mistral_has_the_published_number_of_parameters(hidden):
    architecture = Architecture(
        family="mistral",
        layers=24,
        hidden=hidden,
        heads=16,
        key_value_heads=8,
        feed_forward=4 * hidden,
        context=2048,
    )
    spec = TrainedModel(kind="trained", corpus="oas", architecture=architecture)
    counts = count_parameters(card_from_spec(spec, vocabulary_size=29, start_id=1))
    assert counts.total // 10**6 == MILLIONS[hidden]
    # Attention with half as many key heads, a gated feed-forward, two norms; one norm and one embedding besides.
    assert counts.coded == 24 * (3 * hidden**2 + 12 * hidden**2 + 2 * hidden) + hidden + 29 * hidden
