"""Whole models of every parameterization: dense twins, counts, cards, rows of a configuration."""

import json
import math

import pytest
import torch
from parameterized import KINDS, fill, make_card
from tokenbounds.config import TrainedModel, parse_row
from tokenbounds.errors import ModelError
from tokenbounds.files import canonical_json
from tokenbounds.models.architecture import card_from_spec
from tokenbounds.models.build import build_model, coded_parameters, count_parameters, initialize, to_dense
from tokenbounds.models.card import ModelCard
from tokenbounds.models.families import FAMILIES, ROLES
from tokenbounds.models.parameterizations.layers import FactoredLayer
from tokenbounds.models.parameterizations.subspace import Subspace

torch.set_num_threads(1)

# Every family with every kind, every kind both with tied and with untied embeddings.
CASES = [(family, kind, n % 2 == 0) for kind in KINDS for n, family in enumerate(FAMILIES)]


# --- whole models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind", "tied"), CASES)
def test_to_dense_computes_the_same(family, kind, tied):
    model = fill(build_model(make_card(family, kind, tie_word_embeddings=tied))).double()
    dense = to_dense(model)
    assert not any(isinstance(module, FactoredLayer | Subspace) for module in dense.modules())
    ids = torch.arange(40).reshape(2, 20) % 30
    torch.testing.assert_close(model(ids).logits, dense(ids).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "kind", "tied"), CASES)
def test_counts_are_exact_for_any_number_of_layers(family, kind, tied):
    for layers in (1, 3):
        card = make_card(family, kind, layers, tie_word_embeddings=tied)
        counts, model = count_parameters(card), build_model(card)
        implied = sum(module.implied_values for module in model.modules() if isinstance(module, FactoredLayer))
        assert counts.coded == sum(value.numel() for value in coded_parameters(model).values())
        assert counts.total == counts.coded + sum(buffer.numel() for buffer in model.buffers()) + implied
        if kind in ("kronecker", "monarch"):
            plain = count_parameters(ModelCard(family, card.config, 30, 1, 20))
            assert counts.total >= plain.total


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_have_the_spread_of_dense_ones(kind):
    model = build_model(make_card(kind=kind, n_embd=64))
    initialize(model, seed=1)
    dense = to_dense(model)
    std = 0.02 * math.sqrt(768 / 64)
    for name, factor in (("attn.c_attn", 1.0), ("mlp.c_proj", 0.5)):
        found = dense.get_submodule(f"transformer.h.1.{name}").weight.std().item()
        assert found == pytest.approx(std * factor, rel=0.35), name
    values = coded_parameters(model)
    again = build_model(make_card(kind=kind, n_embd=64))
    initialize(again, seed=1)
    assert all(torch.equal(value, values[name]) for name, value in coded_parameters(again).items())


@pytest.mark.parametrize("kind", KINDS)
def test_card_round_trip(kind):
    card = make_card(kind=kind)
    raw = json.loads(canonical_json(card.to_dict()))
    assert ModelCard.from_dict(raw) == card
    assert raw == card.to_dict()


HOSTILE = [
    ({"kind": "kronecker", "terms": 1 << 20}, "terms"),
    ({"kind": "kronecker", "left_shapes": [3, 5]}, "left_shapes"),
    ({"kind": "kronecker", "left_shapes": {"body": [3, 5]}}, "left_shapes"),
    ({"kind": "kronecker", "left_shapes": {"mlp": [3]}}, "rows and columns"),
    ({"kind": "kronecker", "left_shapes": {"mlp": [0, 1]}}, "left_shapes.mlp"),
    ({"kind": "kronecker", "initialization": "random"}, "initialization is unknown"),
    ({"kind": "monarch", "blocks": 0}, "blocks"),
    ({"kind": "subspace", "dimension": 1 << 60}, "dimension"),
    ({"kind": "subspace", "over": 3}, "mapping"),
    ({"kind": "subspace", "over": {"kind": ["lora"]}}, "kind"),
    ({"kind": "subspace", "over": {"kind": "subspace", "over": {}}}, "subspace of a subspace"),
    ({"kind": "subspace", "covers": []}, "covers"),
    ({"kind": "sublora"}, "kind"),
]


@pytest.mark.parametrize(("parameterization", "message"), HOSTILE)
def test_hostile_parameterizations_are_refused(parameterization, message):
    with pytest.raises(ModelError, match=message):
        ModelCard.from_dict({**make_card().to_dict(), "parameterization": parameterization})


@pytest.mark.parametrize(
    "parameterization",
    [
        {"kind": "kronecker", "terms": 4096, "targets": list(ROLES)},
        {"kind": "monarch", "blocks": 1 << 16, "targets": ["attention"]},
        {"kind": "subspace", "dimension": 1 << 32},
        {"kind": "subspace", "dimension": 1 << 32, "over": {"kind": "lora", "rank": 1 << 16}},
    ],
)
def test_huge_models_are_refused_before_allocation(parameterization):
    huge = {"n_layer": 4096, "n_embd": 1 << 16, "n_head": 16, "n_inner": 1 << 20}
    card = ModelCard("gpt2", huge, 1 << 24, 0, 1 << 24, parameterization)
    assert count_parameters(card).total > 1 << 40
    with pytest.raises(ModelError, match="parameters; at most"):
        build_model(card, max_parameters=1 << 30)


# --- rows of a configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"kind": "kronecker", "terms": 2, "initialization": "dense_projection"}, {"kind": "kronecker", "terms": 2}),
        ({"kind": "kronecker", "left_shapes": {"mlp": [4, 4]}}, {"kind": "kronecker", "left_shapes": {"mlp": [4, 4]}}),
        ({"kind": "monarch"}, {"kind": "monarch"}),
        (
            {"kind": "subspace", "dimension": 50, "over": {"kind": "monarch", "blocks": 2}},
            {"kind": "subspace", "dimension": 50, "over": {"kind": "monarch", "blocks": 2}},
        ),
        (
            {"kind": "sublora", "dimension": 50, "rank": 2, "covers": ["mlp"]},
            {"kind": "subspace", "dimension": 50, "over": {"kind": "lora", "rank": 2}, "covers": ["mlp"]},
        ),
        (
            {"kind": "kronecker_subspace", "dimension": 50, "targets": ["mlp"]},
            {"kind": "subspace", "dimension": 50, "over": {"kind": "kronecker", "targets": ["mlp"]}},
        ),
    ],
)
def test_rows_become_cards(row, expected):
    spec = parse_row(TrainedModel, json.dumps({"kind": "trained", "corpus": "c", "parameterization": row}))
    assert card_from_spec(spec, vocabulary_size=256, start_id=0).to_dict()["parameterization"] == expected
