"""Kronecker and Monarch layers: fast products against dense ones, projections, shapes."""

import itertools

import numpy as np
import pytest
import torch
from parameterized import KRONECKER, MONARCH, check_same, fill, make_card
from tokenbounds.errors import ModelError
from tokenbounds.models.build import build_model, coded_parameters
from tokenbounds.models.generator import uniform
from tokenbounds.models.parameterizations.kronecker import KroneckerLayer, near_square, nearest_kronecker
from tokenbounds.models.parameterizations.monarch import MonarchLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

torch.set_num_threads(1)


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
    large = {**KRONECKER, "left_shapes": {"attention": [4, 17]}}
    with pytest.raises(ModelError, match=r"h\.0\.attn\.c_attn is 48 × 16; a left factor of 4 × 17 is larger"):
        build_model(make_card(kind=large, layers=1))


def test_values_of_a_projected_start_are_nearer_to_the_dense_ones():
    weight = torch.from_numpy(np.kron(uniform(1, "a", (4, 3), 1.0), uniform(1, "b", (2, 5), 1.0)))
    layer = KroneckerLayer(nn.Linear(15, 8), (4, 3), 1)
    layer.project(weight + 0.01 * torch.from_numpy(uniform(1, "noise", (8, 15), 1.0)))
    assert (layer.dense_weight() - weight).square().mean().sqrt() < 0.01


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
    odd = {**MONARCH, "blocks": blocks, "targets": ["attention"]}
    message = rf"h\.0\.attn\.c_attn is 48 × 16: {blocks} Monarch blocks .* that do: 1, 2, 4, 8, 16\. "
    with pytest.raises(ModelError, match=message):
        build_model(make_card(kind=odd))
