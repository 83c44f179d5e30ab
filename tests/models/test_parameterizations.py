"""Kronecker, Monarch and subspace parameterizations: fast products against dense ones, projections, counts."""

import hashlib
import itertools
import json
import math

import numpy as np
import pytest
import torch
from tokenbounds.config import TrainedModel, parse_row
from tokenbounds.errors import ModelError
from tokenbounds.files import canonical_json
from tokenbounds.models.architecture import card_from_spec
from tokenbounds.models.build import build_model, coded_parameters, count_parameters, initialize, to_dense
from tokenbounds.models.card import ModelCard
from tokenbounds.models.families import FAMILIES, ROLES
from tokenbounds.models.generator import uniform
from tokenbounds.models.parameterizations.kronecker import KroneckerLayer, near_square, nearest_kronecker
from tokenbounds.models.parameterizations.layers import FactoredLayer
from tokenbounds.models.parameterizations.monarch import MonarchLayer
from tokenbounds.models.parameterizations.subspace import Subspace, dimension_shape, projector_values
from torch import nn
from transformers.pytorch_utils import Conv1D

torch.set_num_threads(1)

KRONECKER = {"kind": "kronecker", "terms": 2, "left_shapes": {"mlp": [3, 5]}, "targets": list(ROLES)}
MONARCH = {"kind": "monarch", "blocks": 2, "targets": list(ROLES)}
LORA = {"kind": "lora", "rank": 2, "targets": list(ROLES)}
KINDS = {
    "kronecker": KRONECKER,
    "monarch": MONARCH,
    "subspace": {"kind": "subspace", "dimension": 30},
    "sublora": {"kind": "subspace", "dimension": 24, "over": LORA},
    "kronecker_subspace": {"kind": "subspace", "dimension": 30, "over": KRONECKER, "covers": ["attention", "mlp"]},
    "monarch_subspace": {"kind": "subspace", "dimension": 30, "over": MONARCH, "covers": ["embedding", "norms"]},
}
# Every family with every kind, every kind both with tied and with untied embeddings.
CASES = [(family, kind, n % 2 == 0) for kind in KINDS for n, family in enumerate(FAMILIES)]
GOLDEN_FIXED = {
    "subspace": "ea0ab8d3c09b4ff61d0d4b4bf7f2a4b882927d5a90da7b003fdb77eedf308f3d",
    "sublora": "ca49ccd92ed36bad0de1db6dc1a5cafbfc0cdcaf479a08ab445db5e75b731af5",
    "kronecker_subspace": "8e54aecdb0c7150d175ec15d45db9255c57be5aafa554f293fab93565e7ba493",
}


def make_card(family="gpt2", kind="kronecker", layers=2, **config):
    names = {"gpt2": ("n_layer", "n_embd", "n_head")}.get(
        family, ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    sizes = dict(zip(names, (layers, 16, 4), strict=True))
    if family != "gpt2":
        sizes |= {"intermediate_size": 24, "num_key_value_heads": 2}
    return ModelCard(family, {**sizes, **config}, 30, 1, 20, KINDS[kind], seed=3)


def fill(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def check_same(layer, x, dense):
    """Values and gradients of the layer's product and of the dense one agree to float64."""
    parameters = [*layer.parameters(), *([x] if x.requires_grad else [])]
    results = []
    for output in (layer(x), dense()):
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
        results.append((output, *torch.autograd.grad((output * weights).sum(), parameters)))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


PLAIN = {
    "linear": lambda outputs, inputs: nn.Linear(inputs, outputs),
    "linear-no-bias": lambda outputs, inputs: nn.Linear(inputs, outputs, bias=False),
    "conv1d": lambda outputs, inputs: Conv1D(outputs, inputs),
    "embedding": lambda outputs, inputs: nn.Embedding(outputs, inputs),
}
FACTORED = {
    "kronecker": lambda layer: KroneckerLayer(layer, (2, 3), 1),
    "kronecker-left-first": lambda layer: KroneckerLayer(layer, (2, 6), 3),
    "kronecker-cut": lambda layer: KroneckerLayer(layer, (5, 5), 2),
    "monarch": lambda layer: MonarchLayer(layer, 2),
    "monarch-four": lambda layer: MonarchLayer(layer, 4),
}


@pytest.mark.parametrize(("plain", "make"), list(itertools.product(PLAIN, FACTORED)))
@pytest.mark.parametrize(("outputs", "inputs"), [(8, 12), (12, 8), (8, 8)])
def test_fast_product_equals_dense_product(plain, make, outputs, inputs):
    layer = fill(FACTORED[make](PLAIN[plain](outputs, inputs)).double())
    assert layer.dense_weight().shape == (outputs, inputs)
    if plain == "embedding":
        ids = torch.tensor([[0, 7, 3], [3, 3, 1]])
        check_same(layer, ids, lambda: nn.functional.embedding(ids, layer.dense_weight()))
        return
    for rows in (1, 30):
        x = torch.randn(2, rows, inputs, dtype=torch.float64, requires_grad=True)
        check_same(layer, x, lambda x=x: nn.functional.linear(x, layer.dense_weight(), layer.bias))
        bias = 0 if layer.bias is None else layer.bias
        torch.testing.assert_close(layer.product(x) + bias, layer(x), rtol=1e-12, atol=1e-12)


def test_the_cheaper_factor_comes_first_and_small_layers_form_their_weight():
    orders = [KroneckerLayer(nn.Linear(64, 64), left, 1)._right_first() for left in ((4, 16), (16, 4))]
    assert orders == [False, True]
    assert KroneckerLayer(nn.Linear(8, 8), (2, 2), 1).should_form_weight(100)
    assert not KroneckerLayer(nn.Linear(8, 8), (2, 2), 1).should_form_weight(1)
    assert not KroneckerLayer(nn.Linear(1024, 1024, device="meta"), (32, 32), 1).should_form_weight(100)


# --- Kronecker --------------------------------------------------------------------------------------------------------


def test_near_square_by_hand():
    assert [near_square(size) for size in (1, 2, 3, 4, 12, 128, 384, 512)] == [
        (1, 1), (1, 2), (1, 3), (2, 2), (3, 4), (8, 16), (16, 24), (16, 32),
    ]  # fmt: skip
    assert near_square(257) == (16, 17)
    assert near_square(50257) == (224, 225)  # 29 · 1733 is too lopsided
    assert all(low * high >= size and high <= 4 * low for size in range(1, 400) for low, high in [near_square(size)])


def test_dense_weight_is_the_kronecker_product_of_the_textbook():
    layer = fill(KroneckerLayer(nn.Linear(6, 8), (2, 3), 2))
    expected = sum(torch.kron(a, b) for a, b in zip(layer.kronecker_a, layer.kronecker_b, strict=True))
    torch.testing.assert_close(layer.dense_weight(), expected)
    cut = fill(KroneckerLayer(nn.Linear(5, 7), (2, 3), 2))
    assert cut.right == (4, 2)
    expected = sum(torch.kron(a, b) for a, b in zip(cut.kronecker_a, cut.kronecker_b, strict=True))
    torch.testing.assert_close(cut.dense_weight(), expected[:7, :5])


@pytest.mark.parametrize("terms", [1, 3])
def test_projection_is_exact_for_sums_of_kronecker_products(terms):
    layer = fill(KroneckerLayer(nn.Linear(12, 8), (4, 3), terms).double())
    wanted = layer.dense_weight().detach().clone()
    again = KroneckerLayer(nn.Linear(12, 8), (4, 3), terms).double()
    again.project(wanted)
    torch.testing.assert_close(again.dense_weight(), wanted, rtol=1e-12, atol=1e-12)


def rearranged(weight, left, right):
    """Row (i1, j1) and column (i2, j2) hold W[i1 m2 + i2, j1 n2 + j2]: one loop an index."""
    (m1, n1), (m2, n2) = left, right
    rows = [
        [weight[i1 * m2 + i2, j1 * n2 + j2] for i2 in range(m2) for j2 in range(n2)]
        for i1 in range(m1)
        for j1 in range(n1)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("terms", [1, 2])
def test_projection_is_the_best_of_its_rank(terms):
    weight = torch.randn(6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left, right = (2, 3), (3, 4)
    a, b = nearest_kronecker(weight, left, right, terms)

    def error(a, b):
        return (weight - sum(torch.kron(x, y) for x, y in zip(a, b, strict=True))).square().sum().item()

    singular = torch.linalg.svdvals(rearranged(weight, left, right))
    assert error(a, b) == pytest.approx(singular[terms:].square().sum().item(), rel=1e-12)
    u, s, vt = torch.linalg.svd(weight.reshape(6, 12))  # the same without rearranging: far from the best
    wrong = (u[:, 0] * s[0]).reshape(2, 3), vt[0].reshape(3, 4)
    assert error(wrong[0][None], wrong[1][None]) > 1.05 * error(a, b)
    for _ in range(20):
        assert error(a + 1e-3 * torch.randn_like(a), b + 1e-3 * torch.randn_like(b)) > error(a, b)


def test_more_terms_than_the_rank_are_zero():
    a, b = nearest_kronecker(torch.eye(4), (2, 2), (2, 2), 9)
    torch.testing.assert_close(sum(torch.kron(x, y) for x, y in zip(a, b, strict=True)), torch.eye(4))
    assert not a[4:].any()


def test_left_shapes_belong_to_roles_and_must_fit():
    model = build_model(make_card())
    values = coded_parameters(model)
    assert values["transformer.h.0.mlp.c_fc.kronecker_a"].shape == (2, 3, 5)
    assert values["transformer.h.0.mlp.c_fc.kronecker_b"].shape == (2, 22, 4)
    assert values["transformer.h.0.attn.c_attn.kronecker_a"].shape == (2, 6, 4)
    KINDS["large"] = {**KRONECKER, "left_shapes": {"attention": [4, 17]}}
    with pytest.raises(ModelError, match=r"h\.0\.attn\.c_attn is 48 × 16; a left factor of 4 × 17 is larger"):
        build_model(make_card(kind="large", layers=1))
    del KINDS["large"]


# --- Monarch ----------------------------------------------------------------------------------------------------------


def test_monarch_by_hand():
    layer = MonarchLayer(nn.Linear(4, 4, bias=False), 2)
    with torch.no_grad():
        layer.monarch_r.copy_(torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]))
        layer.monarch_l.copy_(torch.tensor([[[1.0, 10.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 100.0]]]))
    # R x for x = e0 + e3: blocks [1, 3] and [6, 8]; middle values 0, 2 go to block 0 of L, and 1, 3 to block 1.
    # L: block 0 [1 + 60, 6], block 1 [6, 800]; outputs take turns between the blocks.
    assert layer(torch.tensor([1.0, 0.0, 0.0, 1.0])).tolist() == [61.0, 6.0, 6.0, 800.0]
    assert layer.dense_weight().sum(0).tolist() == layer(torch.eye(4)).sum(1).tolist()


@pytest.mark.parametrize(("outputs", "inputs"), [(12, 8), (8, 12), (16, 16)])
def test_monarch_projection_is_exact_for_monarch_matrices_and_best_for_others(outputs, inputs):
    layer = fill(MonarchLayer(nn.Linear(inputs, outputs), 2).double())
    wanted = layer.dense_weight().detach().clone()
    again = MonarchLayer(nn.Linear(inputs, outputs), 2).double()
    again.project(wanted)
    torch.testing.assert_close(again.dense_weight(), wanted, rtol=1e-10, atol=1e-10)
    weight = torch.randn(outputs, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    again.project(weight)
    error = (again.dense_weight() - weight).square().sum()
    gradients = torch.autograd.grad(error, [again.monarch_r, again.monarch_l])
    assert all(gradient.abs().max() < 1e-9 for gradient in gradients)
    assert error < 0.8 * weight.square().sum()


@pytest.mark.parametrize("blocks", [3, 32])
def test_blocks_that_do_not_divide_name_layer_and_divisors(blocks):
    KINDS["odd"] = {**MONARCH, "blocks": blocks, "targets": ["attention"]}
    message = rf"h\.0\.attn\.c_attn is 48 × 16: {blocks} Monarch blocks .* that do: 1, 2, 4, 8, 16\. "
    with pytest.raises(ModelError, match=message):
        build_model(make_card(kind="odd"))
    del KINDS["odd"]


# --- subspaces --------------------------------------------------------------------------------------------------------


def test_projector_is_the_kronecker_product_of_two_matrices():
    subspace = fill(Subspace(6, 50, torch.device("cpu"))).double()
    assert (subspace.left.shape, subspace.right.shape) == ((8, 2), (7, 3))
    subspace.left, subspace.right = torch.randn(8, 2, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    whole = torch.kron(subspace.left, subspace.right) @ subspace.z.flatten()
    parts = [subspace.shift(first, (count,)) for first, count in ((0, 1), (1, 20), (21, 29))]
    torch.testing.assert_close(torch.cat(parts), whole[:50])
    torch.testing.assert_close(subspace.shift(3, (4, 5)), whole[3:23].view(4, 5))


def test_dimensions_are_products_of_near_equal_numbers():
    assert [dimension_shape(size) for size in (1, 2, 30, 1000, 10000, 997)] == [
        (1, 1), (1, 2), (5, 6), (25, 40), (100, 100), (31, 32),
    ]  # fmt: skip
    for size in range(1, 3000):
        low, high = dimension_shape(size)
        assert size - math.isqrt(size) < low * high <= size
    assert projector_values(10**6, 10**4) == 2 * 1000 * 100


def test_projector_moves_parameters_as_much_as_its_coordinates():
    card = make_card(kind="subspace", layers=4, n_embd=32)
    model = build_model(card)
    with torch.no_grad():
        before = model.transformer.h[1].mlp.c_fc.weight.clone()
        model.subspace.z.copy_(torch.randn(model.subspace.z.shape, generator=torch.Generator().manual_seed(1)))
        change = model.transformer.h[1].mlp.c_fc.weight - before
    assert change.std().item() == pytest.approx(model.subspace.z.square().mean().sqrt().item(), rel=0.3)


@pytest.mark.parametrize("kind", ["subspace", "sublora", "kronecker_subspace"])
def test_start_and_projector_come_from_the_seed_alone(kind):
    digests = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = build_model(make_card(kind=kind))
        fixed = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        digests.add(hashlib.sha256(b"".join(value.numpy().tobytes() for value in fixed.values())).hexdigest())
    assert digests == {GOLDEN_FIXED[kind]}
    assert torch.equal(
        model.subspace.left,
        torch.from_numpy(
            uniform(3, "fixed/subspace.left", tuple(model.subspace.left.shape), 1 / math.sqrt(len(model.subspace.z)))
        ),
    )


def test_a_subspace_starts_from_a_usual_initialization():
    model = build_model(make_card(kind="subspace", layers=3))
    assert list(coded_parameters(model)) == ["subspace.z"]
    assert not model.subspace.z.any()
    std = 0.02 * math.sqrt(768 / 16)
    assert model.transformer.wte.weight.std().item() == pytest.approx(std, rel=0.1)
    assert model.transformer.h[0].attn.c_proj.weight.std().item() == pytest.approx(std / math.sqrt(6), rel=0.15)
    assert model.transformer.ln_f.weight.eq(1).all()
    assert not model.transformer.h[0].mlp.c_fc.bias.any()
    assert torch.equal(model.lm_head.weight, model.transformer.wte.weight)


def test_what_a_subspace_does_not_cover_is_coded_whole():
    names = set(coded_parameters(build_model(make_card(kind="kronecker_subspace"))))
    assert "subspace.z" in names
    assert {"transformer.wte.kronecker_a", "transformer.ln_f.weight", "transformer.ln_f.bias"} <= names
    assert not [name for name in names if "attn" in name or "mlp" in name]
    names = set(coded_parameters(build_model(make_card("llama", "monarch_subspace"))))
    assert "lm_head.monarch_l" in names
    assert not [name for name in names if "norm" in name or "embed" in name]


def test_a_subspace_larger_than_what_it_covers_is_refused():
    KINDS["wide"] = {"kind": "subspace", "dimension": 200, "covers": ["norms"]}
    with pytest.raises(ModelError, match=r"dimension is 200, but the subspace covers only 160 parameters"):
        build_model(make_card(kind="wide"))
    KINDS["wide"]["dimension"] = 160
    assert build_model(make_card(kind="wide")) is not None
    del KINDS["wide"]


def test_a_subspace_of_a_subspace_is_refused():
    with pytest.raises(ModelError, match="just a smaller subspace"):
        ModelCard("gpt2", {}, 30, 1, 20, {"kind": "subspace", "over": {"kind": "subspace"}})


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


def test_values_of_a_projected_start_are_nearer_to_the_dense_ones():
    weight = torch.from_numpy(np.kron(uniform(1, "a", (4, 3), 1.0), uniform(1, "b", (2, 5), 1.0)))
    layer = KroneckerLayer(nn.Linear(15, 8), (4, 3), 1)
    layer.project(weight + 0.01 * torch.from_numpy(uniform(1, "noise", (8, 15), 1.0)))
    assert (layer.dense_weight() - weight).square().mean().sqrt() < 0.01
