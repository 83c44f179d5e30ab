"""Codebooks: k-means of each matrix, then straight-through training of weights and codebooks (Lotfi et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from tokenbounds.compression.grids import VECTOR_RATIO, finite, round_by_spread
from tokenbounds.compression.posttraining.kept_codes import KeptCodes
from tokenbounds.compression.straight_through import check_training, train
from tokenbounds.compression.subject import Record, Sources
from tokenbounds.compression.trainable import (
    TrainableGrid,
    TrainableTensor,
    freeze_grids,
    interpolate,
    straight_through,
)
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config.quantizers import CodebookQuantizer
from tokenbounds.errors import MessageError
from tokenbounds.messages.formats.codebook import CodebookFormat
from tokenbounds.messages.formats.grid import GridTensors

_ITERATIONS = 64


def quantize_codebook(spec: CodebookQuantizer, subject: Transformer, sources: Sources) -> tuple[CodebookFormat, Record]:
    """Learn one codebook per matrix, put vectors on grids, and train both if the row says so."""
    tensors, training = subject.tensors, spec.straight_through
    corpus = check_training(subject.shapes, sources.corpus) if training.steps else None
    codebooks = {
        name: learn_codebook(finite(name, tensor), spec.levels) for name, tensor in tensors.items() if tensor.ndim >= 2
    }
    vectors = round_by_spread({name: tensor for name, tensor in tensors.items() if tensor.ndim < 2}, VECTOR_RATIO)
    quantized = assign(tensors, codebooks, vectors)
    if corpus is None:
        return quantized, {"straight_through": None}
    matrices = {name: TrainableCodebook(tensors[name], book) for name, book in quantized.codebooks.items()}
    grids = {name: TrainableGrid(name, tensors[name], step) for name, step in vectors.exponents.items()}
    trained: dict[str, TrainableTensor] = {name: matrices.get(name) or grids[name] for name in tensors}
    history = train(subject, trained, training, corpus)
    books = {name: round_codebook(matrix.codebook.detach().cpu().numpy()) for name, matrix in matrices.items()}
    weights = {name: tensor.values() for name, tensor in trained.items()}
    return assign(weights, books, freeze_grids(grids)), {"straight_through": history}


def learn_codebook(values: np.ndarray, size: int) -> np.ndarray:
    """Locally optimal codebook of a sample by Lloyd's algorithm, started at quantiles; no randomness.

    Parameters
    ----------
    values : float array [n], n ≥ 1
    size : int

    Returns
    -------
    float16 array [at most size]
        Strictly increasing.

    References
    ----------
    S. P. Lloyd, "Least squares quantization in PCM", 1982.
    """
    # Clusters of sorted values are intervals: edges [k + 1] say which, and their sums are differences of running sums.
    ordered = np.sort(values.astype(np.float64).reshape(-1))  # [n]
    sums = np.concatenate([[0.0], np.cumsum(ordered)])  # [n + 1]
    centres = np.unique(np.quantile(ordered, (np.arange(size) + 0.5) / size))
    for _ in range(_ITERATIONS):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2, side="right")
        edges = np.concatenate([[0], edges, [ordered.size]])
        counts = np.diff(edges)
        means = np.diff(sums[edges])[counts > 0] / counts[counts > 0]
        if means.size == centres.size and np.allclose(means, centres, rtol=1e-7, atol=0):
            break
        centres = np.unique(means)
    return round_codebook(centres)


def round_codebook(centres: np.ndarray) -> np.ndarray:
    """Strictly increasing float16 values of a codebook; zeros have a positive sign."""
    rounded = np.unique(centres.astype(np.float16)) + np.float16(0.0)
    if not np.all(np.isfinite(rounded)):
        raise MessageError("a codebook value is not finite, or beyond what 16 bits hold (65504).")
    return rounded


def nearest_index(values: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Index of the nearest codebook value, ties to the lower; int32, in the shape of `values`."""
    centres = codebook.astype(np.float64)
    edges = (centres[1:] + centres[:-1]) / 2
    return np.searchsorted(edges, values.astype(np.float64), side="left").astype(np.int32)


def assign(
    tensors: Mapping[str, np.ndarray], codebooks: Mapping[str, np.ndarray], vectors: GridTensors
) -> CodebookFormat:
    """Round matrices to given codebooks, one in memory at a time, and drop the values that none is rounded to."""
    indices, used_books = KeptCodes(), {}
    for name, codebook in codebooks.items():
        nearest = nearest_index(tensors[name], codebook)
        used = np.bincount(nearest.reshape(-1), minlength=len(codebook)) > 0
        indices[name] = (np.cumsum(used) - 1).astype(np.int32)[nearest]
        used_books[name] = codebook[used]
    shapes = {name: indices.shape(name) if name in codebooks else vectors.codes[name].shape for name in tensors}
    return CodebookFormat(shapes, indices, used_books, vectors)


class TrainableCodebook(TrainableTensor):
    """A matrix with a learned codebook, whose values train like weights.

    The gradient of a value is the sum over the weights that use it.
    """

    lengths: torch.Tensor

    def __init__(self, weight: np.ndarray, codebook: np.ndarray) -> None:
        super().__init__(weight)
        self.codebook = nn.Parameter(torch.from_numpy(codebook.astype(np.float32)))
        self.register_buffer("lengths", torch.zeros(len(codebook)))
        self.refit()

    def _indices(self) -> torch.Tensor:
        edges = (self.codebook[1:] + self.codebook[:-1]) / 2
        return torch.bucketize(self.weight.detach(), edges.detach())

    def quantized(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class."""
        # The gradient of the output reaches the codebook through the lookup, and the weight as if it were not rounded.
        rounded = straight_through(self.codebook, self.codebook.half().float())
        value = rounded[self._indices()] + (self.weight - self.weight.detach())
        return value, interpolate(self.lengths, self._position().flatten()).sum()

    def _position(self) -> torch.Tensor:
        """Where each weight is among the codebook's values: index of the lower one plus the share of the way up."""
        book = self.codebook.detach()
        if len(book) < 2:
            return torch.zeros_like(self.weight)
        lower = (torch.bucketize(self.weight.detach(), book, right=True) - 1).clamp(0, len(book) - 2)
        width = (book[lower + 1] - book[lower]).clamp_min(1e-12)
        return lower + ((self.weight - book[lower]) / width)

    @torch.no_grad()
    def refit(self) -> None:
        """Code lengths of the indices, in bits."""
        # Half a count more for each, so that no index is impossible.
        counts = torch.bincount(self._indices().flatten(), minlength=len(self.codebook)).float() + 0.5
        self.lengths.copy_(-torch.log2(counts / counts.sum()))

    @torch.no_grad()
    def settle(self) -> None:
        """Keep the codebook sorted."""
        self.codebook.copy_(torch.sort(self.codebook).values)
