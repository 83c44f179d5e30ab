"""Document-level and sequence-level bounds: the older route, kept as reference rows (docs/bounds.md, "Documents").

The unit is a document (or a sequence of fixed length), assumed independent and identically distributed; its loss is
its mean token loss. What is bounded is the expected loss of a **new** unit, not the average over this corpus.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.azuma import bound_azuma
from tokenbounds.bounds.betting import bound_betting, check_losses
from tokenbounds.bounds.result import Bound
from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]


def bound_documents(document_losses: npt.ArrayLike, loss_range: float, complexity_nats: float) -> Bound:
    """Bound the expected mean token loss of a new document: mean + range sqrt(L / (2 N)) (docs/bounds.md, "Documents").

    Source: Lotfi et al. 2024 (arXiv 2312.17173), theorem 3.1 with a finite-hypothesis prior; Hoeffding 1963.

    Parameters
    ----------
    document_losses
        Mean token loss of each document [N], any unit. For sequence-level bounds, of each sequence.
    loss_range
        Width of an interval, fixed before the data, that holds every token loss; same unit.
    complexity_nats
        L, nats, as for `azuma.bound_azuma`.

    Raises
    ------
    CertificateError
        If there are no documents or their losses cannot lie in an interval of that width.
    """
    losses = _check_units(document_losses)
    if losses.max() - losses.min() > loss_range * (1 + 1e-9):
        raise CertificateError(f"document losses span more than the range {loss_range} that the bound assumes.")
    return bound_azuma(float(np.mean(losses)), loss_range, complexity_nats, losses.size)


def bound_documents_betting(
    document_losses: npt.ArrayLike, ceiling: float, complexity_nats: float, *, lambdas: int = 32
) -> Bound:
    """The betting form over documents: tighter, because its steps are documents, which vary less than tokens.

    See docs/bounds.md, "Documents".

    Parameters
    ----------
    document_losses
        Mean token loss of each document [N], any unit.
    ceiling
        Upper bound on every token loss, fixed before the data, same unit.
    complexity_nats
        L without the price of the lambdas, nats.
    lambdas
        Size of the grid.
    """
    losses = _check_units(document_losses)
    check_losses(losses, ceiling)
    return bound_betting(losses, ceiling, complexity_nats, lambdas=lambdas)


def _check_units(document_losses: npt.ArrayLike) -> Floats:
    losses = np.asarray(document_losses, dtype=np.float64)
    if losses.ndim != 1 or losses.size == 0 or np.isnan(losses).any():
        raise CertificateError("document losses must be a list of numbers, one per document that has tokens.")
    return losses


class DocumentSums:
    """Mean loss per document, from a stream of rows in any order. Memory grows with the documents, not the tokens.

    See docs/bounds.md, "Documents".

    Parameters
    ----------
    documents
        Number of documents; identifiers are 0 .. documents - 1.
    """

    def __init__(self, documents: int) -> None:
        self._sums = np.zeros(documents)
        self._counts = np.zeros(documents, dtype=np.int64)

    def add(self, document: npt.ArrayLike, losses: npt.ArrayLike) -> None:
        """Add rows: the document of each [n] and its loss [n].

        Raises
        ------
        CertificateError
            If an identifier is out of range.
        """
        identifiers = np.asarray(document, dtype=np.int64)
        if identifiers.size and not 0 <= identifiers.min() <= identifiers.max() < self._sums.size:
            raise CertificateError(f"a scored row belongs to no document in 0..{self._sums.size - 1}.")
        if identifiers.size == 0:
            return
        values = np.asarray(losses, dtype=np.float64)
        # Streams come in corpus order, so only the documents of this batch are touched.
        near = slice(int(identifiers.min()), int(identifiers.max()) + 1)
        place = identifiers - near.start
        self._sums[near] += np.bincount(place, weights=values)
        self._counts[near] += np.bincount(place)

    def means(self) -> Floats:
        """Mean loss of each document that has tokens."""
        used = self._counts > 0
        return self._sums[used] / self._counts[used]
