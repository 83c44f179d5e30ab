"""What is encoded, and what else encoding may read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.container import Message
from tokenbounds.models.markov.grams import MarkovCard

if TYPE_CHECKING:
    from tokenbounds.corpus.reader import Corpus

Record = dict[str, Any]
"""Part of the encoder's report: JSON values by key."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to encode.

    Attributes
    ----------
    directory
        Its folder.
    header
        What its message's header says about it.
    base
        The hash of the model that its message names, if it names one.
    """

    directory: Path
    header: dict[str, Any]
    base: str | None = None


@dataclass(frozen=True, kw_only=True)
class Chain(Subject):
    """A Markov chain as counted: grams uint64 [n] in ascending order, and how often each occurs, int64 [n]."""

    card: MarkovCard
    grams: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Sources:
    """What an encoding may read besides the model; a method that needs what is None says so.

    Attributes
    ----------
    coder
        What will code the message, so sizes are those under this coder.
    corpus
        Tokens to train on.
    calibration
        File of the model's calibration.
    coarse
        The message that is refined.
    work
        A folder where an encoding that is interrupted leaves what it has done, for the next one like it.
    """

    coder: Coder = "adaptive"
    corpus: Corpus | None = None
    calibration: Path | None = None
    coarse: Message | None = None
    work: Path | None = None
