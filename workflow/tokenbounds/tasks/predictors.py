"""What tasks need from a decoded model besides losses: tokens appended to given ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenbounds.scores.scorer import ChainPredictor

Tokens = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

# Chooses a token for each of some prefixes: their numbers int64[b], the step, and log-probabilities up to a constant
# [b, V] to tokens int64[b].
Choose = Callable[[npt.NDArray[np.int64], int, Scores], Tokens]

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
    return continue_tokens(
        predictor, prefixes, steps, start_id, lambda _, __, scores: allowed[scores[:, allowed].argmax(axis=1)]
    )


def continue_tokens(
    predictor: Any, prefixes: Sequence[Tokens], steps: Sequence[int], start_id: int, choose: Choose
) -> list[Tokens]:
    """Append tokens to each prefix, as `choose` says, `steps` times; otherwise as `continue_greedily`."""
    grown = [np.concatenate([[start_id], prefix]).astype(np.int64) for prefix in prefixes]
    score = _score_with_chain if isinstance(predictor, ChainPredictor) else _score_with_network
    for step in range(max(steps, default=0)):
        open_ends = np.array([number for number, wanted in enumerate(steps) if step < wanted])
        for places, scores in score(predictor, [grown[number] for number in open_ends]):
            for number, token in zip(open_ends[places], choose(open_ends[places], step, scores), strict=True):
                grown[number] = np.append(grown[number], token)
    return [tokens[len(tokens) - wanted :] for tokens, wanted in zip(grown, steps, strict=True)]


def _score_with_chain(chain: Any, windows: Sequence[Tokens]) -> Iterator[tuple[npt.NDArray[np.int64], Scores]]:
    """Yield places of windows, which begin with the start token, and log-probabilities [1, V] of what follows them."""
    for place, window in enumerate(windows):
        context = np.concatenate([np.full(chain.order, window[0]), window])[len(window) :]
        with np.errstate(divide="ignore"):
            yield np.array([place]), np.log(chain.distribution(context))[None]


def _score_with_network(model: Any, windows: Sequence[Tokens]) -> Iterator[tuple[npt.NDArray[np.int64], Scores]]:
    """The same with a network, in batches; a window that is too long for the model is cut to its end."""
    import torch

    longest = model.config.get_text_config().max_position_embeddings
    windows = [window[-longest:] for window in windows]
    # Longest first, so that windows in a batch have nearly the same length and little padding.
    order = np.argsort([len(window) for window in windows], kind="stable")[::-1]
    device = next(model.base_model.parameters(), next(model.base_model.buffers(), torch.empty(0))).device
    count = max(1, _BATCH_TOKENS // max(map(len, windows)))
    for first in range(0, len(order), count):
        batch = order[first : first + count]
        lengths = torch.tensor([len(windows[place]) for place in batch])
        inputs = torch.zeros(len(batch), int(lengths.max()), dtype=torch.int64)
        for row, place in enumerate(batch):
            inputs[row, : len(windows[place])] = torch.from_numpy(windows[place])
        with torch.inference_mode():
            states = model.base_model(input_ids=inputs.to(device), use_cache=False).last_hidden_state
            # Padding is to the right, where a causal model does not see it.
            last = states[torch.arange(len(batch)), (lengths - 1).to(device)]  # [batch, width]
            logits = model.get_output_embeddings()(last).double().cpu().numpy()  # [batch, V]
        yield batch, logits
