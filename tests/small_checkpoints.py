"""Checkpoints of every family that take milliseconds, with values that look trained, and tensors to quantize."""

import numpy as np
import torch
from tokenbounds.models.build import build_model, coded_parameters, initialize
from tokenbounds.models.checkpoint import save_checkpoint

LLAMA = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2},
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
}

_RNG = np.random.default_rng(0)
TENSORS = {
    "wte.weight": _RNG.normal(size=(20, 12)).astype(np.float32),
    "ln.weight": (1 + 0.1 * _RNG.normal(size=12)).astype(np.float32),
    "ln.bias": np.zeros(12, dtype=np.float32),
    "c_fc.weight": (0.01 * _RNG.standard_t(3, size=(12, 48))).astype(np.float32),
}


def save_noisy(directory, card, noise):
    """Save a model of a card: initial values, and Gaussian noise on top, so that norms and biases are not trivial."""
    model = build_model(card)
    initialize(model, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in coded_parameters(model).values():
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    save_checkpoint(directory, model, card)
    return directory
