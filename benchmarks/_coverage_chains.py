"""Rows of certificates with a chain, searched as certificates search them, on the sources of `bound_coverage.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from _coverage_centres import DRAWS, LAMBDAS, SHARE, draw_blocks
from _coverage_sources import ALPHAS, BLOCK, DELTA, Floats, Trial
from tokenbounds.bounds.kinds import BPD, BoundKind
from tokenbounds.bounds.ledger import split_delta
from tokenbounds.bounds.sampling import draw_order
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.bounds.telescoped import link_losses
from tokenbounds.certificates.averages.passes import Sample
from tokenbounds.certificates.rows.chains import ChainModel, bound_chains
from tokenbounds.config import BoundsSpec

WIDE_VOCABULARY = 256  # models choose among many tokens, of which two occur, so that smoothing towards others pays
_HALVED = 4  # of this many contexts in a row the cheaper model of control variates knows the first half


class _Stream:
    """One model's losses and entropies on one sequence, or on some blocks of it, as score files give them."""

    def __init__(self, nll_bits: Floats, entropy_bits: Floats, rows: npt.NDArray[np.int64]) -> None:
        names = ("block", "document", "position", "nll_bits", "entropy_bits")
        columns = (rows // BLOCK, np.zeros_like(rows), rows, nll_bits[rows], entropy_bits[rows].astype(np.float32))
        self._batch = pa.RecordBatch.from_arrays([pa.array(values) for values in columns], names=list(names))

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows at once."""
        yield self._batch.select(list(columns or self._batch.schema.names))


def chain_excess(
    trial: Trial,
    kind: BoundKind,
    *,
    span: float = 1.0,
    bits: float = 1.0,
    peek: bool = False,
    sampled: bool = False,
    ignore: bool = False,
) -> float:
    """The truth minus a row's bound, with factors on its gap and on the messages' bits.

    A telescoped row mixes the chosen model with fair coins. The others have centres too: what stands for the chosen
    model's entropy is known from the last token, or with `peek` from the token itself. A row of control variates
    compares it with one that names the same tokens in half of the contexts, and is undecided in the others. On a
    sample, with `ignore`, the average over the draws is taken for that over all tokens.
    """
    centred = kind is not BoundKind.TELESCOPED
    undecided = (trial.context % _HALVED >= _HALVED // 2) if kind is BoundKind.CONTROL_VARIATES else True
    cheap = np.where(undecided, 0.5, trial.prediction)  # its chance of a 1 [n]
    predictions = {"cheap": cheap, "chosen": trial.prediction}
    sizes = {"cheap": 4 + trial.contexts // 2 if kind is BoundKind.CONTROL_VARIATES else 4}
    sizes["chosen"] = trial.message_bits
    one = np.where(trial.error > 0, 1.0 - trial.prediction, trial.prediction) > 0.5  # whether the token is a 1 [n]
    entropy = 8.0 * ((trial.error > 0) if peek else (trial.context % 2 == 0))
    sample = _sample(trial) if sampled else None
    rows = np.arange(one.size) if sample is None else (sample.blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
    models = [
        ChainModel(
            name,
            round(bits * sizes[name]),
            WIDE_VOCABULARY,
            _Stream(_losses(ones, one), entropy, rows),
            entropies=centred and name == "chosen",
        )
        for name, ones in predictions.items()
    ]
    spec = BoundsSpec(
        bounds=(kind,),
        alphas=ALPHAS,
        link_alphas=ALPHAS,
        link_betas=(0.5, 1.0),
        kappas=(0.0, 1.0),
        lambdas=LAMBDAS,
    )
    share = SHARE if sampled else None
    ledger = split_delta(DELTA, [(BPD, kind)], message_bits=0, alphas=1, lambdas=1, sampling_share=share)
    found = bound_chains(ledger.rows, models, spec, one.size, sample)[kind]
    last = found.links[-1]
    truth = 0.0
    for token, weight in ((True, trial.chance), (False, 1.0 - trial.chance)):
        streams = [_losses(predictions[name], np.full(one.size, token)) for name in last.messages]
        if kind.mixes:
            lost = np.sum(link_losses(streams, last.alphas, WIDE_VOCABULARY), axis=0)
        else:
            lost = smooth(streams[-1], last.alphas[-1], WIDE_VOCABULARY)
        truth += float(np.mean(weight * lost))
    ignored = found.bound.sampling if ignore else 0.0
    return truth - found.bound.empirical - span * (found.bound.gap - ignored)


def _losses(ones: Floats, one: npt.NDArray[np.bool_]) -> Floats:
    """Raw losses [n] of a model that gives a 1 the chance `ones` [n], where the token is a 1 or not [n]; bits."""
    with np.errstate(divide="ignore"):
        return -np.log2(np.where(one, ones, 1.0 - ones))


def _sample(trial: Trial) -> Sample:
    blocks, draws = np.unique(draw_blocks(trial, DRAWS), return_counts=True)
    return Sample(blocks, draws, np.full(blocks.size, BLOCK, dtype=np.int64), draw_order(draws, 1))
