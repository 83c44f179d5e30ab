"""Subspaces: the projector, what it comes from, and what it covers."""

import hashlib
import math

import pytest
import torch
from parameterized import fill, make_card
from tokenbounds.errors import ModelError
from tokenbounds.models.build import build_model, coded_parameters
from tokenbounds.models.card import ModelCard
from tokenbounds.models.generator import uniform
from tokenbounds.models.parameterizations.subspace import Subspace, dimension_shape, projector_values

torch.set_num_threads(1)

GOLDEN_FIXED = {
    "subspace": "ea0ab8d3c09b4ff61d0d4b4bf7f2a4b882927d5a90da7b003fdb77eedf308f3d",
    "sublora": "ca49ccd92ed36bad0de1db6dc1a5cafbfc0cdcaf479a08ab445db5e75b731af5",
    "kronecker_subspace": "8e54aecdb0c7150d175ec15d45db9255c57be5aafa554f293fab93565e7ba493",
}


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
    wide = {"kind": "subspace", "dimension": 200, "covers": ["norms"]}
    with pytest.raises(ModelError, match=r"dimension is 200, but the subspace covers only 160 parameters"):
        build_model(make_card(kind=wide))
    assert build_model(make_card(kind={**wide, "dimension": 160})) is not None


def test_a_subspace_of_a_subspace_is_refused():
    with pytest.raises(ModelError, match="just a smaller subspace"):
        ModelCard("gpt2", {}, 30, 1, 20, {"kind": "subspace", "over": {"kind": "subspace"}})
