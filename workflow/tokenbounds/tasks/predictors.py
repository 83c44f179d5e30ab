"""What tasks need from a decoded model besides losses: a greedy continuation of given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenbounds.scores.scorer import ChainPredictor

Tokens = npt.NDArray[np.int64]

_BATCH_TOKENS = 8192


def continue_greedily(
    predictor: Any, prefixes: Sequence[Tokens], steps: Sequence[int], allowed: Tokens, start_id: int
) -> list[Tokens]:
    """Append to each prefix the most likely of the `allowed` tokens, `steps` times.

    Parameters
    ----------
    predictor
        A transformers causal language model or a Markov chain.
    prefixes
        Tokens that precede, without the start token, int64[n] each.
    steps
        Number of tokens wanted for each prefix.
    allowed
        Tokens to choose from, int64[k]; the first of equally likely ones is taken.
    start_id
        The token before a prefix's first one.

    Returns
    -------
    list of int64[steps]
        What was appended.
    """
    grown = [np.concatenate([[start_id], prefix]).astype(np.int64) for prefix in prefixes]
    best = _best_of_chain if isinstance(predictor, ChainPredictor) else _best_of_network
    for step in range(max(steps, default=0)):
        open_ends = [number for number, wanted in enumerate(steps) if step < wanted]
        chosen = best(predictor, [grown[number] for number in open_ends], allowed)
        for number, token in zip(open_ends, chosen, strict=True):
            grown[number] = np.append(grown[number], token)
    return [tokens[len(tokens) - wanted :] for tokens, wanted in zip(grown, steps, strict=True)]


def _best_of_chain(chain: Any, windows: Sequence[Tokens], allowed: Tokens) -> list[int]:
    """The most likely allowed token after each window, which begins with the start token."""
    found = []
    for window in windows:
        context = np.concatenate([np.full(chain.order, window[0]), window])[len(window) :]
        found.append(int(allowed[np.argmax(chain.distribution(context)[allowed])]))
    return found


def _best_of_network(model: Any, windows: Sequence[Tokens], allowed: Tokens) -> list[int]:
    """The same with a network; a window that is too long for the model is cut to its end."""
    import torch

    longest = model.config.get_text_config().max_position_embeddings
    windows = [window[-longest:] for window in windows]
    # Longest first, so that windows in a batch have nearly the same length and little padding.
    order = np.argsort([len(window) for window in windows], kind="stable")[::-1]
    found = np.zeros(len(windows), np.int64)
    device = next(model.parameters()).device
    count = max(1, _BATCH_TOKENS // max(map(len, windows)))
    for first in range(0, len(order), count):
        batch = order[first : first + count]
        lengths = torch.tensor([len(windows[number]) for number in batch])
        inputs = torch.zeros(len(batch), int(lengths.max()), dtype=torch.int64)
        for row, number in enumerate(batch):
            inputs[row, : len(windows[number])] = torch.from_numpy(windows[number])
        with torch.inference_mode():
            states = model.base_model(input_ids=inputs.to(device), use_cache=False).last_hidden_state
            # Padding is to the right, where a causal model does not see it.
            last = states[torch.arange(len(batch)), (lengths - 1).to(device)]  # [batch, width]
            logits = model.get_output_embeddings()(last)[:, torch.from_numpy(allowed).to(device)]  # [batch, allowed]
        found[batch] = allowed[logits.argmax(dim=1).cpu().numpy()]
    return found.tolist()
