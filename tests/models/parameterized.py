"""Small models of every parameterization: what their tests share."""

import torch
from tokenbounds.models.card import ModelCard
from tokenbounds.models.families import ROLES

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


def make_card(family="gpt2", kind="kronecker", layers=2, **config):
    """The card of a small model; `kind` is a name in `KINDS` or a parameterization of its own."""
    names = {"gpt2": ("n_layer", "n_embd", "n_head")}.get(
        family, ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    sizes = dict(zip(names, (layers, 16, 4), strict=True))
    if family != "gpt2":
        sizes |= {"intermediate_size": 24, "num_key_value_heads": 2}
    return ModelCard(family, {**sizes, **config}, 30, 1, 20, KINDS[kind] if isinstance(kind, str) else kind, seed=3)


def fill(module):
    """Give a module's parameters normal values, the same each time."""
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
