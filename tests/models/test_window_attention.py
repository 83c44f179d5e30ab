"""Attention in blocks through a sliding window computes what transformers does with a mask of all pairs of tokens."""

import pytest
import torch
from tokenbounds.models import window_attention
from tokenbounds.models.build import build_model, dense_skeleton, initialize
from tokenbounds.models.card import ModelCard

SIZES = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 4}


def models(window, context=700):
    card = ModelCard("mistral", {**SIZES, "num_key_value_heads": 2, "sliding_window": window}, 32, 0, context)
    model = build_model(card)
    initialize(model, 1)
    plain = dense_skeleton(card, torch.device("cpu"))
    plain.load_state_dict(model.state_dict())
    plain.config._attn_implementation = "sdpa"
    return model, plain.eval()


@pytest.mark.parametrize("window, tokens", [(8, 600), (300, 600), (256, 256), (1, 257), (700, 600)])
def test_it_is_attention_with_a_mask(window, tokens):
    model, plain = models(window)
    ids = torch.arange(2 * tokens).reshape(2, tokens) * 7919 % 32
    expected, found = plain(ids).logits, model(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for one, logits in ((model, found), (plain, expected)):
        logits.square().sum().backward()
        assert one.model.layers[0].self_attn.k_proj.weight.grad is not None
    gradients = [one.model.layers[0].self_attn.k_proj.weight.grad for one in (model, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_a_wider_window_would_show():
    model, plain = models(8)
    plain.config.sliding_window = 9
    ids = torch.arange(600)[None] * 7919 % 32
    assert (model(ids).logits - plain(ids).logits).abs().max() > 1e-4


def test_no_mask_holds_all_pairs_of_tokens(monkeypatch):
    sizes, attend = [], torch.nn.functional.scaled_dot_product_attention

    def watched(*states, attn_mask, **options):
        sizes.append(attn_mask.numel())
        return attend(*states, attn_mask=attn_mask, **options)

    monkeypatch.setattr(window_attention.functional, "scaled_dot_product_attention", watched)
    with torch.inference_mode():
        models(16, 3000)[0].base_model(torch.zeros(1, 3000, dtype=torch.long))
    assert sum(sizes) < 3000 * 300 and max(sizes) <= 256 * (256 + 16)
