"""Scoring with transformers models, at little more than the cost of the forward pass.

The trunk runs on batches of windows of similar length; its output embedding is applied to a few positions at a time,
and from those logits, in float32, come log-sum-exp, the target's logit and its rank. The logits of a whole batch never
exist at once, and nothing is sorted.

Shapes, here and below: B windows in a batch, T inputs in its longest window, n scored positions in all its windows,
H the trunk's width, V tokens in the vocabulary.

    group (numpy)  ──pad──▶  inputs [B, T]  ──trunk──▶  [B, T, H]  ──scored positions──▶  states [n, H]
                                                                                            │ a few rows at a time
                                        loss, rank  [n]  ◀──reduce──  logits [rows, V]  ◀──head
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tokenbounds.errors import ScoreError
from tokenbounds.messages.smoothing_head import grid_positions, smoothing_head_of
from tokenbounds.scores.entropies import round_entropies
from tokenbounds.scores.plan import Int64Array
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.windows import Group

# Keys by which transformers' configurations change logits after the output embedding.
_LOGIT_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
    "logits_soft_cap",
    "softcap",
)
# On a CPU `benchmarks/scoring.py --sweep` was best, by a little, at 128 rows per matrix product. What follows goes over
# the logits several times, and in single trials was fastest on parts that stay in the cache. The GPU values are not
# measured.
_CPU_HEAD_ROWS = 128
_CPU_ELEMENTS = 1 << 18
_GPU_ELEMENTS = 1 << 26
_PROBE_TOKENS = 6
_PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
# What a token's loss may differ by from batch to batch, bits: as much as rescoring allows (docs/certificates.md).
_LOSS_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
_COMPARED_TOKENS = 8


class NeuralScorer:
    """Scores windows with a causal language model whose trunk and output embedding can be called separately.

    Windows are padded on the right to the longest of their batch. Attention is causal, so padding needs no mask: it
    comes after everything that is scored. Positions start at 0 in every window. Equal windows of which only the last
    position is scored are computed once.

    Parameters
    ----------
    model
        A transformers causal language model; it is moved to the device, cast, and set to evaluation, in place.
    start_id
        Token before the first of a document (used here for padding and probing).

    Raises
    ------
    ScoreError
        If the model transforms its logits after the output embedding, or looks at tokens to the right. Scoring also
        raises it, if a loss depends on the rest of the batch.
    """

    def __init__(self, model: Any, start_id: int, options: ScoringOptions) -> None:
        self._name = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
        self._device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype]
        self._batch_tokens = options.batch_tokens
        self._start_id = start_id
        self._refuse_unknown_logits(model)
        _cast(model, self._device, self._dtype)
        self._trunk, self.head = model.base_model, model.get_output_embeddings()
        self.device_kind = self._device.type
        self.order: int | None = None
        self.longest_window: int | None = getattr(model.config, "max_position_embeddings", None)
        head = smoothing_head_of(model)
        self.alphas = head.alphas if head else ()
        self.entropies = True
        self.original_sha256 = ""
        self._head_values = torch.from_numpy(head.values()).to(self._device) if head else None
        try:
            self.vocabulary_size = self._probe(model)
        except RuntimeError as error:
            what = str(error).splitlines()[0]
            raise ScoreError(
                f"model family '{self._name}' cannot be run with its configuration: {what:.200}"
            ) from error
        self._longest_probed = 0
        self._head_rows, self._reduced_rows = self._choose_rows(options.head_rows)

    @torch.inference_mode()
    def score(self, group: Group) -> tuple[np.ndarray, ...]:
        """Losses in bits, ranks, entropies, and smoothing weights if the model has a head for them, in plan order."""
        self.check_independence(int(group.width.max()))
        total = int(group.length.sum())
        nll_bits, rank = np.empty(total, np.float32), np.empty(total, np.int32)
        entropy = np.empty(total, np.float32)
        alpha = np.empty(total if self.alphas else 0, np.float32)
        first_row = np.cumsum(group.length) - group.length  # where each block's results go in plan order, [blocks]
        for blocks in self._batches(group):
            inputs, scored = _pad(group, blocks, self._start_id)  # [B, T] each
            states = self.scored_states(inputs, scored)  # [n, H], block by block
            # The i-th of them is the inside[i]-th scored position of its block: 0, 1, …, 0, 1, … [n]
            lengths = group.length[blocks]
            inside = np.arange(len(states)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            # A block's first target comes after the token before its window and the tokens that are only context.
            first_target = group.first[blocks] + 1 + group.context[blocks]
            targets = group.tokens[np.repeat(first_target, lengths) + inside]
            # Batches are ordered by length, so their results are scattered back into plan order.
            rows = np.repeat(first_row[blocks], lengths) + inside
            nll_bits[rows], rank[rows], entropy[rows] = self._score_states(states, targets)
            if self._head_values is not None:
                positions = grid_positions(states, self._head_values, len(self.alphas)).long().cpu().numpy()
                alpha[rows] = np.array(self.alphas, np.float32)[positions]
            self.observe(inputs, scored, states, rows)
        return (nll_bits, rank, entropy, alpha) if self.alphas else (nll_bits, rank, entropy)

    def observe(self, inputs: Int64Array, scored: np.ndarray, states: torch.Tensor, rows: Int64Array) -> None:
        """Called with each batch: inputs and marks [B, T], states [n, H], and where results belong [n]."""

    def _batches(self, group: Group) -> Iterator[Int64Array]:
        """Yield block indices, long windows first, at most `batch_tokens` padded inputs together."""
        width = group.width
        for order in _order_windows(group):
            first = 0
            while first < len(order):
                count = max(1, self._batch_tokens // int(width[order[first]]))
                yield order[first : first + count]
                first += count

    def scored_states(self, inputs: Int64Array, scored: np.ndarray) -> torch.Tensor:
        """Last hidden states of the scored positions, [n, H], block by block, from inputs and marks [B, T]."""
        if len(inputs) > 1 and not scored[:, :-1].any():
            # Only last positions count (`visible_tokens`), and `_order_windows` has put equal windows together:
            # each distinct window goes through the trunk once, and its state is handed to all that are equal to it.
            distinct = np.concatenate([[True], (inputs[1:] != inputs[:-1]).any(axis=1)])
            states = self._states(torch.from_numpy(inputs[distinct]).to(self._device))[:, -1]
            return states[torch.from_numpy(np.cumsum(distinct) - 1).to(self._device)]
        states = self._states(torch.from_numpy(inputs).to(self._device))
        states = states.reshape(-1, states.shape[-1])  # [B·T, H]
        if scored.all():
            return states  # no copy where there is neither padding nor context
        return states[torch.from_numpy(np.flatnonzero(scored)).to(self._device)]

    def _score_states(self, states: torch.Tensor, targets: Int64Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Losses in bits and ranks of targets int64[n], and rounded entropies in bits, from states [n, H].

        Logits exist a chunk at a time.

        The head's matrix product is fastest on many rows, what follows it on as many as stay in the cache: hence two
        loops.
        """
        wanted = torch.from_numpy(targets).to(self._device)[:, None]
        nll_nats = torch.empty(len(states), dtype=torch.float32, device=self._device)
        rank, entropy = torch.empty_like(nll_nats), torch.empty_like(nll_nats)
        scratch = torch.empty((self._reduced_rows, self.vocabulary_size), dtype=torch.float32, device=self._device)
        for first in range(0, len(states), self._head_rows):
            logits = self.head(states[first : first + self._head_rows])  # [rows, V], in the model's dtype
            for part in range(0, len(logits), self._reduced_rows):
                some = logits[part : part + self._reduced_rows].float()
                rows = slice(first + part, first + part + len(some))
                nll_nats[rows], rank[rows], entropy[rows] = _reduce(some, wanted[rows], scratch[: len(some)])
        nll_bits = nll_nats.mul_(1 / math.log(2))
        entropy_bits = round_entropies(entropy.cpu().numpy() / math.log(2))
        return nll_bits.cpu().numpy(), rank.to(torch.int32).cpu().numpy(), entropy_bits

    def _states(self, inputs: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self._trunk(input_ids=inputs, use_cache=False).last_hidden_state
        return states

    def _choose_rows(self, wanted: int | None) -> tuple[int, int]:
        """How many positions have logits at one time, and how many of those are reduced at one time."""
        if self._device.type != "cpu":
            rows = wanted or max(_CPU_HEAD_ROWS, _GPU_ELEMENTS // self.vocabulary_size)
            return rows, rows
        reduced = max(1, _CPU_ELEMENTS // self.vocabulary_size)
        rows = wanted or max(_CPU_HEAD_ROWS, reduced)
        return rows, min(rows, reduced)

    def _refuse_unknown_logits(self, model: Any) -> None:
        config = getattr(model, "config", None)
        head = getattr(model, "get_output_embeddings", lambda: None)()
        if config is None or head is None or getattr(model, "base_model", model) is model:
            raise ScoreError(f"model family '{self._name}' has no separate output embedding. Use a causal LM.")
        text_config = config.get_text_config()
        for key in _LOGIT_TRANSFORMS:
            if getattr(text_config, key, None) not in (None, 1, 1.0):
                raise ScoreError(
                    f"model family '{self._name}' transforms its logits ({key}), which scoring does not support yet."
                )

    @torch.inference_mode()
    def _probe(self, model: Any) -> int:
        """Check on a few tokens that trunk and head give the model's logits and see no later token; return V."""
        window = _PROBE_TOKENS if self.longest_window is None else min(_PROBE_TOKENS, self.longest_window)
        tokens = torch.arange(self._start_id, self._start_id + window, device=self._device)
        # Two windows that differ only in their last token: results before it must not differ.
        inputs = torch.stack([tokens, tokens]) % model.config.get_text_config().vocab_size
        inputs[1, -1] = inputs[0, 0]
        ours = self.head(self._states(inputs)).float()
        theirs = model(input_ids=inputs, use_cache=False).logits.float()
        tolerance = _PROBE_TOLERANCE[self._dtype] * max(1.0, float(theirs.abs().amax()))
        if ours.shape != theirs.shape or bool(((ours - theirs).abs() > tolerance).any()):
            raise ScoreError(
                f"model family '{self._name}' does more to its logits than its output embedding; scoring does not "
                "support it yet."
            )
        seen = (ours[0, :-1] - ours[1, :-1]).abs() > tolerance
        if window > 1 and bool(seen.any()):
            raise ScoreError(f"model family '{self._name}' looks at tokens to the right. Use a causal language model.")
        return int(ours.shape[-1])

    def check_independence(self, width: int) -> None:
        """Refuse a model whose losses depend on later tokens, on how many follow, or on what else is in the batch.

        The first half of a window is scored in a whole window of its own, and in a batch without its second half.
        Rotary frequencies, for example, may depend on the longest sequence: hence at the greatest width that is scored.

        Raises
        ------
        ScoreError
            If losses differ by more than rounding.
        """
        if width <= self._longest_probed:
            return
        self._longest_probed, half = width, (width + 1) // 2
        tokens = torch.arange(self._start_id, self._start_id + width, device=self._device) * 7919 % self.vocabulary_size
        others = (tokens[:half] + 1 + torch.arange(half, device=self._device)) % self.vocabulary_size
        compared = torch.linspace(0, half - 1, min(half, _COMPARED_TOKENS), device=self._device).round().long()
        targets = tokens[(compared + 1) % width][:, None]
        # Short windows first: what a long one changes in a model may last.
        among = self._states(torch.stack([others, others, others, tokens[:half]]))[-1, compared]
        alone = self._states(tokens[None])[0, compared]
        losses = [-self.head(each).float().log_softmax(-1).gather(1, targets) / math.log(2) for each in (alone, among)]
        # Where they are not finite, scoring says at which document.
        if bool(((losses[0] - losses[1]).abs() > _LOSS_TOLERANCE[self._dtype]).any()):
            raise ScoreError(
                f"model family '{self._name}' scores a token by more than what precedes it: its loss depends on later "
                "tokens, on the length of the window or on the rest of the batch. Use a causal language model."
            )


def _reduce(
    logits: torch.Tensor, targets: torch.Tensor, scratch: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses in nats, ranks and entropies in nats, float32[n], from logits float32[n, V].

    The logits are overwritten, as is `scratch` [n, V].

    The loss is ln Σ exp(l - max) + (max - l_target): both terms are at least zero, so no rounding makes it negative.
    The entropy is ln Σ exp(l - max) less the average of l - max, weighted by exp(l - max). Ranks are sums of zeros and
    ones in floats, exact up to 2^24 tokens and several times as fast as integers.
    """
    target = logits.gather(1, targets)  # [n, 1]
    rank = torch.ge(logits, target, out=scratch).sum(dim=1)  # before the logits are overwritten
    largest = logits.amax(dim=1, keepdim=True)  # [n, 1]
    # A logit of -inf would make 0 x inf below.
    masses = torch.exp(logits.sub_(largest).clamp_(min=torch.finfo(logits.dtype).min), out=scratch)
    total = masses.sum(dim=1)  # [n]
    log_sum = total.log()
    entropy = log_sum - masses.mul_(logits).sum(dim=1) / total
    return log_sum + (largest - target)[:, 0], rank, entropy


def _cast(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Move and cast a model in place, but leave rotary frequencies in float32: rounded, they spoil far positions."""
    frequencies = {name: value for name, value in model.named_buffers() if "inv_freq" in name}
    model.to(device=device, dtype=dtype).eval()
    for name, value in frequencies.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, value.to(device))


def _order_windows(group: Group) -> tuple[Int64Array, Int64Array]:
    """Block indices in two runs: the longest windows that score one token, by content, and all others, longest first.

    Context-limited windows are of the first kind; where they are equal, one pass through the trunk serves all.
    """
    width = group.width
    longest = int(width.max())
    single = (group.length == 1) & (width == longest)
    alone, others = np.flatnonzero(single), np.flatnonzero(~single)
    windows = group.tokens[group.first[alone][:, None] + np.arange(longest)]  # [alone, longest]
    return alone[np.lexsort(windows.T[::-1])], others[np.argsort(-width[others], kind="stable")]


def _pad(group: Group, blocks: Int64Array, pad_id: int) -> tuple[Int64Array, np.ndarray]:
    """Inputs int64[B, T] of the given blocks, padded on the right, and which positions are scored, bool[B, T]."""
    width, context = group.width[blocks][:, None], group.context[blocks][:, None]  # [B, 1]
    column = np.arange(int(width.max()))[None, :]  # [1, T]
    index = group.first[blocks][:, None] + column  # beyond a window's width it points at the next: cut, then padded
    inputs = np.where(column < width, group.tokens[np.minimum(index, len(group.tokens) - 1)], pad_id)
    return inputs, (column >= context) & (column < width)
