"""How losses are spread, before a model has been scored: measured on a pilot, or guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from tokenbounds.certificates.averages.histogram import BINS_PER_BIT, INFINITE_BIN, LossHistogram
from tokenbounds.certificates.external import ExternalScores
from tokenbounds.corpus.manifest import MANIFEST_NAME, read_manifest
from tokenbounds.errors import CertificateError, ScoreError
from tokenbounds.messages.container import read_message
from tokenbounds.messages.side_information import SideInformation, find_coarse, find_places

Floats = npt.NDArray[np.float64]

_QUANTILES = 4096
_DIGITS = 18  # more bits or tokens than any file has


@dataclass(frozen=True)
class Pilot:
    """Raw losses that those to come are expected to resemble.

    Attributes
    ----------
    losses
        Raw losses, bits [n].
    weights
        How often each occurs [n].
    block_ratio
        Standard deviation of block averages as a share of that of token losses; None if blocks are unknown.
    """

    losses: Floats
    weights: Floats
    block_ratio: float | None = None

    def ratio(self, block_tokens: int) -> float:
        """`block_ratio`, or what it would be if the tokens of a block were independent (which is optimistic)."""
        return 1.0 / math.sqrt(block_tokens) if self.block_ratio is None else self.block_ratio


def guess_pilot(mean_bits: float, deviation_bits: float) -> Pilot:
    """A gamma distribution with the given mean and standard deviation, by its quantiles.

    Token losses are never negative, have many small values and a long tail, and so does this distribution.

    Raises
    ------
    ScoreError
        If a number is not positive.
    """
    if not (mean_bits > 0 and deviation_bits > 0):
        raise ScoreError(f"a mean of {mean_bits} and a deviation of {deviation_bits} bits; both must be positive.")
    shape = (mean_bits / deviation_bits) ** 2
    probabilities = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    losses = stats.gamma.ppf(probabilities, shape, scale=mean_bits / shape)
    return Pilot(np.asarray(losses, dtype=np.float64), np.full(_QUANTILES, 1.0 / _QUANTILES))


def read_pilot(path: Path) -> Pilot:
    """Read score Parquet (column `nll_bits`; `block` too if it is to show how block averages spread).

    Raises
    ------
    ScoreError
        If the file cannot be read, lacks the column, or holds no loss.
    """
    scores = ExternalScores((path,))
    histogram = LossHistogram(2)
    if not scores.rows:
        raise ScoreError(f"{path} holds no scores. Name a pilot with at least a few blocks.")
    for batch in scores.iter_batches():
        histogram.update(batch["nll_bits"].to_numpy())
    used = np.flatnonzero(histogram.counts[:INFINITE_BIN])
    return Pilot(used / BINS_PER_BIT, histogram.counts[used], _block_ratio(path))


def _block_ratio(path: Path) -> float | None:
    frame = pl.scan_parquet(path)
    if "block" not in frame.collect_schema().names():
        return None
    blocks = frame.group_by("block").agg(pl.col("nll_bits").cast(pl.Float64).mean(), pl.len()).collect()
    deviation = frame.select(pl.col("nll_bits").cast(pl.Float64).std(ddof=0)).collect().item()
    if blocks.height < 2 or not deviation:
        return None
    means, lengths = blocks["nll_bits"].to_numpy(), blocks["len"].to_numpy()
    center = np.average(means, weights=lengths)
    return float(np.sqrt(np.average((means - center) ** 2, weights=lengths)) / deviation)


def find_pilot(text: str) -> Pilot:
    """A pilot from "MEAN,DEVIATION" (bits) or the path of score Parquet.

    Raises
    ------
    ScoreError
        If it is neither.
    """
    mean, comma, deviation = text.partition(",")
    try:
        return guess_pilot(float(mean), float(deviation)) if comma else read_pilot(Path(text))
    except ValueError as error:
        raise ScoreError(f"'{text}' is neither a mean and a deviation nor score Parquet ({error}).") from error


def find_bits(text: str) -> int:
    """Bits, from their number or the path of a message; those of a message next to it that it refines are added.

    Raises
    ------
    MessageError
        If it is not a message, or the message that it refines is missing.
    CertificateError
        If there are more bits than any file has.
    """
    if (number := _read_number(text)) is not None:
        return number
    path = Path(text)
    message = read_message(path)
    coarse = SideInformation.of(message).coarse
    return message.size_bits + (0 if coarse is None else 8 * find_coarse(coarse, find_places(path)).stat().st_size)


def find_tokens(text: str) -> int:
    """Tokens, from their number or the folder of a tokenized corpus.

    Raises
    ------
    CorpusError
        If it is not such a folder.
    CertificateError
        If there are no tokens, or more than any corpus has.
    """
    number = _read_number(text)
    tokens = read_manifest(Path(text) / MANIFEST_NAME).tokens if number is None else number
    if tokens < 1:
        raise CertificateError("a corpus of no tokens; a bound needs at least one.")
    return tokens


def _read_number(text: str) -> int | None:
    """The number that a text represents; None if it is something else."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > _DIGITS:
        raise CertificateError(f"a number of {len(text)} digits; give at most {_DIGITS}.")
    return int(text)
