"""How far the predictions of a model are from those of the model that it was made of."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from tokenbounds.compression.subject import Record
from tokenbounds.models.loss import IGNORED
from tokenbounds.scores.faithfulness import compare_logits

_CHUNK_LOGITS = 1 << 24  # logits in memory at one time


@torch.no_grad()
def compare_predictions(
    original: PreTrainedModel,
    other: PreTrainedModel,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> Record:
    """The mean KL divergence of one model's predictions from another's, and how often the likeliest token differs.

    Parameters
    ----------
    original, other : PreTrainedModel
    inputs, targets : int64 tensor [windows, context]
        Positions whose target is -100 do not count.
    dtype : torch.dtype
        Of the original's matrix products.

    Returns
    -------
    dict
        `kl_bits`, the divergence that certificates bound (`scores.faithfulness.compare_logits`), in bits per token, and
        `changed_first_choices`, a share of the positions.
    """
    kl_bits, changed, count = 0.0, 0, 0
    for ids, following in zip(inputs.split(1), targets.split(1), strict=True):
        kept = following.flatten() != IGNORED
        taught, hidden = final_states(original, ids, dtype)[kept], final_states(other, ids)[kept]  # [tokens, width]
        for here in chunks(len(hidden), original.config.vocab_size):
            logarithms = log_predictions(original, taught[here], dtype)
            divergences, differ = compare_logits(logarithms, log_predictions(other, hidden[here]))
            kl_bits += float(divergences.sum(dtype=torch.float64))
            changed += int(differ.sum())
        count += len(hidden)
    return {"kl_bits": kl_bits / max(count, 1), "changed_first_choices": changed / max(count, 1)}


def final_states(model: PreTrainedModel, ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a model's head sees, [windows · time, width]."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)


def log_predictions(model: PreTrainedModel, states: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logarithms of a model's predictions, float32 [tokens, vocabulary]."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = model.lm_head(states)
    return torch.log_softmax(logits.float(), dim=-1)


def chunks(tokens: int, vocabulary_size: int) -> Iterator[slice]:
    """Slices of tokens whose logits are in memory together."""
    size = max(1, _CHUNK_LOGITS // vocabulary_size)
    return (slice(first, first + size) for first in range(0, tokens, size))
