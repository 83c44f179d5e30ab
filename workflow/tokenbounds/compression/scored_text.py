"""What encoding does to the losses of a text: the model before and after, each placed where there is room for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenbounds.compression.subject import Record
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.files import sha256_file
from tokenbounds.messages.container import read_message
from tokenbounds.models.weights import weights_file
from tokenbounds.scores.documents import score_table
from tokenbounds.scores.faithfulness import Original
from tokenbounds.scores.placement import placed_checkpoint, placed_predictor
from tokenbounds.scores.scorer import ScoringOptions

_CONTEXT = 1024


def score_text(message: Path, checkpoint: Path, text: MemoryCorpus, options: ScoringOptions | None = None) -> Record:
    """Score a text, in adjacent windows of up to 1024 tokens, with a checkpoint and with the message made of it.

    Parameters
    ----------
    message : path
    checkpoint : path
        The folder of a transformer's checkpoint.
    text : MemoryCorpus
    options : ScoringOptions, optional
        By default float32, and each model where its size allows.

    Returns
    -------
    dict
        `tokens`, how many were scored; `loss_bits`, their mean losses `before` and `after`; `kl_bits`, the mean
        divergence of the predictions, in bits per token, and `changed_first_choices`, a share of the tokens, both as
        certificates state them (`scores.faithfulness.compare_logits`).

    Raises
    ------
    TokenboundsError
        If the checkpoint or the message is damaged, or their models cannot be scored.
    """
    options = options or ScoringOptions(batch_tokens=4096)
    before = _score_alone(checkpoint, text, options)
    # The decoded model is placed first, and the original gets what room it leaves.
    with (
        placed_predictor(read_message(message), message, (checkpoint,), options) as decoded,
        placed_checkpoint(checkpoint, options) as model,
    ):
        original = Original(model, sha256_file(weights_file(checkpoint)))
        after = score_table(decoded, text, context=_CONTEXT, stride=_CONTEXT, options=options, original=original)

    return {
        "tokens": text.tokens,
        "loss_bits": {"before": _mean(before, "nll_bits"), "after": _mean(after, "nll_bits")},
        "kl_bits": _mean(after, "kl_bits"),
        "changed_first_choices": _mean(after, "first_choice_changed"),
    }


def _score_alone(checkpoint: Path, text: MemoryCorpus, options: ScoringOptions) -> pa.Table:
    """A function of its own, at whose end the model is gone: others need its place."""
    with placed_checkpoint(checkpoint, options) as model:
        return score_table(model, text, context=_CONTEXT, stride=_CONTEXT, options=options)


def _mean(scores: pa.Table, column: str) -> float:
    return float(scores[column].to_numpy().mean(dtype=np.float64))
