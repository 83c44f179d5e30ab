"""What tasks ask of a decoded model: losses of given tokens, and a greedy continuation of given ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenbounds.scores.plan import plan_scoring
from tokenbounds.scores.scoring import ChainPredictor, Losses, ScoringOptions, make_scorer, score_blocks

Tokens = npt.NDArray[np.int64]

_BATCH_TOKENS = 8192
_LONGEST_CHAIN_WINDOW = 1 << 20


class MemoryCorpus:
    """Documents in memory, with the reader's interface."""

    def __init__(self, contents: Sequence[Tokens], vocabulary_size: int, start_id: int) -> None:
        self.contents = contents
        self.vocabulary_size = vocabulary_size
        self.start_id = start_id
        self.tokens = sum(map(len, contents))

    def document(self, number: int) -> Tokens:
        """Tokens of one document."""
        return self.contents[number]


def score_documents(predictor: Any, documents: Sequence[Tokens], start_id: int) -> list[Losses]:
    """Raw loss in bits, float32[n], and rank, int32[n], of every token of every document.

    A window is as long as the model's positions allow; of a longer document the second half of each window is scored.

    Raises
    ------
    ScoreError
        If the model cannot be scored.
    """
    size = vocabulary_size(predictor)
    corpus = MemoryCorpus(documents, size, start_id)
    scorer = make_scorer(predictor, corpus, ScoringOptions())
    context = scorer.longest_window or _LONGEST_CHAIN_WINDOW
    lengths = np.array([len(document) for document in documents], np.int64)
    rows = plan_scoring(lengths, context=context, stride=max(1, context // 2), sample_tokens=None, seed=0, shards=1)
    batches = list(score_blocks(scorer, corpus, rows, _BATCH_TOKENS))
    nll_bits, rank = (np.concatenate([batch[name].to_numpy() for batch in batches]) for name in ("nll_bits", "rank"))
    ends = np.cumsum(lengths)
    return [(nll_bits[end - length : end], rank[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def vocabulary_size(predictor: Any) -> int:
    """V of a decoded predictor."""
    if isinstance(predictor, ChainPredictor):
        return predictor.vocabulary_size
    return int(predictor.config.get_text_config().vocab_size)


def continue_greedily(
    predictor: Any, prefixes: Sequence[Tokens], steps: Sequence[int], allowed: Tokens, start_id: int
) -> list[Tokens]:
    """Append to each prefix the likeliest of the `allowed` tokens, as often as `steps` says.

    Parameters
    ----------
    predictor
        A transformers causal language model or a Markov chain.
    prefixes
        Tokens that precede, without the start token, int64[n] each.
    steps
        Number of tokens wanted for each prefix.
    allowed
        Tokens to choose from, int64[k]; the first of the likeliest wins a tie.
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
    """The likeliest allowed token after each window, which begins with the start token."""
    found = []
    for window in windows:
        context = np.concatenate([np.full(chain.order, window[0]), window])[len(window) :]
        found.append(int(allowed[np.argmax(chain.distribution(context)[allowed])]))
    return found


def _best_of_network(model: Any, windows: Sequence[Tokens], allowed: Tokens) -> list[int]:
    """The same with a network; of a window too long for the model the end is taken."""
    import torch

    longest = model.config.get_text_config().max_position_embeddings
    windows = [window[-longest:] for window in windows]
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
            last = states[torch.arange(len(batch)), (lengths - 1).to(device)]
            logits = model.get_output_embeddings()(last)[:, torch.from_numpy(allowed).to(device)]
        found[batch] = allowed[logits.argmax(dim=1).cpu().numpy()]
    return found.tolist()
