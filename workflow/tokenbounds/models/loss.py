"""The training loss: summed cross-entropy of the next token, with the head applied in chunks when logits are large."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

IGNORED = -100

_CHUNK_LOGITS = 1 << 25


def summed_loss_nats(model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of `targets` given `inputs`, summed over all targets that are not -100.

    Above 2^25 logits the head and its softmax run in chunks of rows whose logits are recomputed in the backward pass,
    so that memory does not grow with batch × vocabulary.

    Parameters
    ----------
    model
        A causal language model made by `build_model`.
    inputs, targets
        int64[batch, time]; `targets[b, t]` is the token after `inputs[b, t]`.

    Returns
    -------
    Scalar float32 in nats.
    """
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
    rows, labels = hidden.flatten(0, 1), targets.flatten()
    vocabulary_size = model.config.vocab_size
    if rows.shape[0] * vocabulary_size <= _CHUNK_LOGITS:
        return _head_loss(model, rows, labels)
    size = max(1, _CHUNK_LOGITS // vocabulary_size)
    total = torch.zeros((), dtype=torch.float32, device=rows.device)
    for part, part_labels in zip(rows.split(size), labels.split(size), strict=True):
        total = total + checkpoint(_head_loss, model, part, part_labels, use_reentrant=False)
    return total


def _head_loss(model: PreTrainedModel, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = model.lm_head(rows)
    return functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
