"""Attention through a sliding window in memory that grows with the sequence's length, not with its square.

transformers hands a mask [T, T] to torch where T exceeds the window. Here queries go in blocks, each with the keys that
its windows reach.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

WINDOWED = "windowed_sdpa"
_BLOCK = 256


def attend_in_window(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    sliding_window: int,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention in which a token sees the last `sliding_window` tokens, itself included.

    Parameters
    ----------
    query
        [B, heads, T, D].
    key, value
        [B, key heads, T, D]; as many keys as queries, as nothing is kept from call to call.
    attention_mask
        None: no batch here is padded on the left, and what pads it on the right is seen by nothing that counts.
    scaling
        Factor of the products.
    sliding_window
        W.

    Returns
    -------
    tensor [B, T, heads, D], None
    """
    tokens = query.shape[2]
    if tokens <= sliding_window:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    key, value = (repeat_kv(each, query.shape[1] // key.shape[1]) for each in (key, value))
    parts = []
    for first in range(0, tokens, _BLOCK):
        last, reached = min(first + _BLOCK, tokens), max(0, first - sliding_window + 1)
        # seen [queries of the block, keys they reach]: a key is not later than its query, and less than W before it.
        back = torch.arange(first, last, device=query.device)[:, None] - torch.arange(
            reached, last, device=query.device
        )
        seen = (back >= 0) & (back < sliding_window)
        block = query[:, :, first:last], key[:, :, reached:last], value[:, :, reached:last]
        parts.append(functional.scaled_dot_product_attention(*block, attn_mask=seen, scale=scaling))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(WINDOWED, attend_in_window)
