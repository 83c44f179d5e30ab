"""Scoring with transformers models, at little more than the cost of the forward pass.

The trunk runs on batches of windows of similar length; its output embedding is applied to a few positions at a time
(`head`), and from those logits, in float32, come log-sum-exp, the target's logit and its rank. The logits of a whole
batch never exist at once, and nothing is sorted.

Shapes, here and below: B windows in a batch, T inputs in its longest window, n scored positions in all its windows,
H the trunk's width, V tokens in the vocabulary.

    group (numpy)  ──pad──▶  inputs [B, T]  ──trunk──▶  [B, T, H]  ──scored positions──▶  states [n, H]
                                                                                            │ a few rows at a time
                                        loss, rank  [n]  ◀──reduce──  logits [rows, V]  ◀──head
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from tokenbounds.errors import ScoreError
from tokenbounds.messages.smoothing_head import grid_positions, smoothing_head_of
from tokenbounds.scores.head import ScoringHead
from tokenbounds.scores.plan_file import Int64Array
from tokenbounds.scores.provenance import Dtype
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
TORCH_DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PROBE_TOKENS = 6
_PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
# What a token's loss may differ by from batch to batch, bits: as much as rescoring allows (docs/certificates.md).
_LOSS_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
_COMPARED_TOKENS = 8
# What the activations of one block may take in one forward pass, bytes.
_ACTIVATION_BYTES = 1 << 29


@runtime_checkable
class Trunk(Protocol):
    """The layers of a model without its output embedding.

    Attributes
    ----------
    model
        Which has at least its configuration and output embedding, where they compute.
    most_inputs
        How many inputs [B · T], summed over all batches, may be given at once.
    """

    model: Any
    most_inputs: int

    def states(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the last hidden states [B, T, H] of each batch of inputs [B, T].

        The output embedding may be used until the next are asked for.
        """


class WholeTrunk:
    """A trunk in memory: batches pass through it one after the other."""

    most_inputs = 0  # a group at a time

    def __init__(self, model: Any) -> None:
        self.model = model

    def states(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """See `Trunk`."""
        for inputs in batches:
            yield self.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state


class Batch:
    """Blocks of a group that pass through the trunk together, [B] of them, and where their results go."""

    def __init__(self, group: Group, blocks: Int64Array) -> None:
        self.group, self._blocks = group, blocks
        self._scored = np.empty(0, dtype=bool)
        self._distinct: NDArray[np.bool_] | None = None

    def inputs(self, pad_id: int) -> Int64Array:
        """What goes through the trunk, int64 [B, T], each distinct window once where only last positions count."""
        inputs, self._scored = _pad(self.group, self._blocks, pad_id)
        if len(inputs) > 1 and not self._scored[:, :-1].any():
            # Only last positions count (`visible_tokens`), and `_order_windows` has put equal windows together:
            # each distinct window goes through the trunk once, and its state is handed to all that are equal to it.
            self._distinct = np.concatenate([[True], (inputs[1:] != inputs[:-1]).any(axis=1)])
            return inputs[self._distinct]
        return inputs

    def pick(self, states: torch.Tensor) -> torch.Tensor:
        """States of the scored positions, [n, H], block by block, from those of all inputs [B, T, H]."""
        if self._distinct is not None:
            return states[:, -1][torch.from_numpy(np.cumsum(self._distinct) - 1).to(states.device)]
        states = states.reshape(-1, states.shape[-1])  # [B·T, H]
        if self._scored.all():
            return states  # no copy where there is neither padding nor context
        return states[torch.from_numpy(np.flatnonzero(self._scored)).to(states.device)]

    def places(self) -> tuple[Int64Array, Int64Array]:
        """True tokens of the scored positions, and their rows in plan order: int64 [n] each."""
        group, lengths = self.group, self.group.length[self._blocks]
        # The i-th of them is the inside[i]-th scored position of its block: 0, 1, …, 0, 1, … [n]
        inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        # A block's first target comes after the token before its window and the tokens that are only context.
        first_target = group.first[self._blocks] + 1 + group.context[self._blocks]
        # Batches are ordered by length, so their results are scattered back into plan order.
        first_row = np.cumsum(group.length) - group.length  # where each block's results go, [blocks]
        rows = np.repeat(first_row[self._blocks], lengths) + inside
        return group.tokens[np.repeat(first_target, lengths) + inside], rows


class NeuralScorer:
    """Scores windows with a causal language model whose trunk and output embedding can be called separately.

    Windows are padded on the right to the longest of their batch. Attention is causal, so padding needs no mask: it
    comes after everything that is scored. Positions start at 0 in every window. Equal windows of which only the last
    position is scored are computed once.

    Parameters
    ----------
    model
        A transformers causal language model; it is moved to the device, cast, and set to evaluation, in place, unless
        accelerate has dispatched it. Or the trunk of one, which is then as it should be.
    start_id
        Token before the first of a document (used here for padding and probing).

    Raises
    ------
    ScoreError
        If the model transforms its logits after the output embedding, or looks at tokens to the right. Scoring also
        raises it, if a loss depends on the rest of the batch.
    """

    def __init__(self, model: Any, start_id: int, options: ScoringOptions) -> None:
        trunk = model if isinstance(model, Trunk) else None
        model = model if trunk is None else trunk.model
        self._name = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
        self._device = device_of(options)
        self._dtype = TORCH_DTYPES[options.dtype]
        self._start_id = start_id
        self._refuse_unknown_logits(model)
        self._batch_tokens = min(options.batch_tokens, _most_tokens(model.config.get_text_config(), self._dtype))
        if trunk is None and not hasattr(model, "hf_device_map"):  # dispatched models are where they should be
            _cast(model, self._device, self._dtype)
        self._trunk = trunk or WholeTrunk(model)
        self.most_inputs = self._trunk.most_inputs
        self.head = ScoringHead(model.get_output_embeddings(), self._device, options.head_rows)
        self.device_kind = self._device.type
        self.order: int | None = None
        self.longest_window: int | None = getattr(model.config, "max_position_embeddings", None)
        head = smoothing_head_of(model)
        self.alphas = head.alphas if head else ()
        self.entropies = True
        self.original_sha256 = ""
        self.centre_order = 0
        self.on_scored: Callable[[int], object] = lambda tokens: None
        self._head_values = torch.from_numpy(head.values()).to(self._device) if head else None
        try:
            self.vocabulary_size = self._probe(model) if trunk is None else model.get_output_embeddings().out_features
        except RuntimeError as error:
            what = str(error).splitlines()[0]
            raise ScoreError(
                f"model family '{self._name}' cannot be run with its configuration: {what:.200}"
            ) from error
        self._longest_probed = 0

    def score(self, group: Group) -> tuple[np.ndarray, ...]:
        """Losses in bits, ranks, entropies, and smoothing weights if the model has a head for them, in plan order."""
        return next(self.score_groups([group]))

    @torch.inference_mode()
    def score_groups(self, groups: Iterable[Group]) -> Iterator[tuple[np.ndarray, ...]]:
        """What `score` returns for each group in turn; the trunk decides how many pass through it together."""
        for run in self._runs(groups):
            self.check_independence(max(int(group.width.max()) for group in run))
            batches = [Batch(group, blocks) for group in run for blocks in self._batches(group)]
            scored = {id(group): self._columns(int(group.length.sum())) for group in run}
            # Two models go through the windows side by side, each in its own time.
            for batch, states, others in zip(
                batches, self.batch_states(batches), self.other_states(batches), strict=False
            ):
                targets, rows = batch.places()
                nll_bits, rank, entropy, *extra, alpha = scored[id(batch.group)]
                nll_bits[rows], rank[rows], entropy[rows] = self.head.score(states, targets)
                self.observe(states, others, rows, tuple(extra))
                if self._head_values is not None:
                    values = self._head_values.to(states.device)
                    positions = grid_positions(states, values, len(self.alphas)).long().cpu().numpy()
                    alpha[rows] = np.array(self.alphas, np.float32)[positions]
                self.on_scored(len(rows))
            for group in run:
                *known, alpha = scored[id(group)]
                yield (*known, alpha) if self.alphas else tuple(known)

    def _columns(self, total: int) -> tuple[np.ndarray, ...]:
        """Places for the results of a group: losses, ranks, entropies, extra columns, smoothing weights."""
        basic = np.empty(total, np.float32), np.empty(total, np.int32), np.empty(total, np.float32)
        return *basic, *self.extra_columns(total), np.empty(total if self.alphas else 0, np.float32)

    def _runs(self, groups: Iterable[Group]) -> Iterator[list[Group]]:
        """Groups that pass through the trunk together: as many inputs, padding included, as it can hold."""
        run: list[Group] = []
        inputs = 0
        for group in groups:
            width = group.width
            padded = sum(len(blocks) * int(width[blocks].max()) for blocks in self._batches(group))
            if run and inputs + padded > self.most_inputs:
                yield run
                run, inputs = [], 0
            run.append(group)
            inputs += padded
        if run:
            yield run

    def extra_columns(self, total: int) -> tuple[np.ndarray, ...]:
        """Places for `total` results of what else is known about each token, before smoothing weights."""
        return ()

    def other_states(self, batches: Sequence[Batch]) -> Iterator[torch.Tensor | None]:
        """For each batch what another model, with which this one is compared, makes of it; None without one."""
        return repeat(None)

    def observe(
        self, states: torch.Tensor, others: torch.Tensor | None, rows: Int64Array, extra: tuple[np.ndarray, ...]
    ) -> None:
        """Fill `rows` [n] of the extra columns, given a batch's states [n, H] and those of the other model."""

    def batch_states(self, batches: Sequence[Batch]) -> Iterator[torch.Tensor]:
        """States of each batch's scored positions, [n, H], block by block."""
        inputs = (torch.from_numpy(batch.inputs(self._start_id)).to(self._device) for batch in batches)
        for batch, states in zip(batches, self._trunk.states(inputs), strict=True):
            yield batch.pick(states)

    def _batches(self, group: Group) -> Iterator[Int64Array]:
        """Yield block indices, long windows first, at most `batch_tokens` padded inputs together."""
        width = group.width
        for order in _order_windows(group):
            first = 0
            while first < len(order):
                count = max(1, self._batch_tokens // int(width[order[first]]))
                yield order[first : first + count]
                first += count

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
        states = next(iter(self._trunk.states([inputs])))
        ours = torch.stack([self.head.logits(each).float().clone() for each in states])
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
        targets = tokens[(compared + 1) % width][:, None].cpu()
        # Short windows first: what a long one changes in a model may last.
        among, alone = (
            self.head.logits(states[-1, compared.to(states.device)]).float().log_softmax(-1).cpu().gather(1, targets)
            for states in self._trunk.states([torch.stack([others, others, others, tokens[:half]]), tokens[None]])
        )
        # Where they are not finite, scoring says at which document.
        if bool(((alone - among).abs() / math.log(2) > _LOSS_TOLERANCE[self._dtype]).any()):
            raise ScoreError(
                f"model family '{self._name}' scores a token by more than what precedes it: its loss depends on later "
                "tokens, on the length of the window or on the rest of the batch. Use a causal language model."
            )


def device_of(options: ScoringOptions) -> torch.device:
    """Where to compute: as the options say, or on a GPU if there is one."""
    return torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _cast(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Move and cast a model in place, but leave rotary frequencies in float32: rounded, they spoil far positions."""
    frequencies = {name: value for name, value in model.named_buffers() if "inv_freq" in name}
    model.to(device=device, dtype=dtype).eval()
    for name, value in frequencies.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, value.to(device))


def _most_tokens(config: Any, dtype: torch.dtype) -> int:
    """How many tokens may pass through a block together; by the model alone, so that rounding is that of any placement.

    For each token, about six vectors of the trunk's width and three of the feed-forward layer's are there at one time.
    """
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    return max(1, _ACTIVATION_BYTES // (dtype.itemsize * (6 * config.hidden_size + 3 * inner)))


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
