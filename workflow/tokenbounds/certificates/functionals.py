"""The averages that rows are made of, on tokens that were scored again, compared with those of the stored losses.

A row does not certify the average of raw losses. It certifies an average of smoothed losses, or of bets on them, in
which tokens count differently: losses can each be within their tolerance, keep the raw average, and still move what is
certified. So each row's own average is compared, at its own alpha and lambda (docs/certificates.md, "Tolerances").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.bounds.centred import error_centres
from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.bounds.references import variate_losses
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.bounds.telescoped import link_losses
from tokenbounds.certificates.evidence import Evidence
from tokenbounds.certificates.rescoring import Rescored
from tokenbounds.certificates.rows.labels import LabelledScores
from tokenbounds.certificates.schema import Certificate, Link, Row, Stated
from tokenbounds.certificates.tolerances import compare_errors
from tokenbounds.errors import CertificateError
from tokenbounds.scores.entropies import ENTROPY_STEP_BITS

Floats = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]  # raw losses, and weights where a head gives them, of one message: [n] each

_CHUNK = 1 << 18
_STEP_BITS = 2.0**-10  # of the difference quotients
_ROUNDING_BITS = 1e-9  # of the sums


@dataclass(frozen=True)
class Functional:
    """An average of bits that a row, or one of its links, is made of.

    Attributes
    ----------
    name
        For messages of errors.
    messages
        Numbers of the messages whose losses it depends on.
    losses
        From the columns of these messages, the losses [n] that are averaged, bits.
    lambda_
        With f the average of ln(1 - lambda x (loss - centre)), it is the average centre plus (1 - exp(f)) / lambda, a
        bet's bound without its price. None for the plain average.
    freedman
        Whether it is plus -f / lambda instead, Freedman's bound without its price.
    kappas
        For each message the factor of its entropies in the centre; none without a centre.
    error_k
        If it is a bet on errors with so many guesses: then the centre is that of errors, and both have
        the stored ranks, which are compared by themselves.
    """

    name: str
    messages: tuple[int, ...]
    losses: Callable[[Sequence[Columns]], Floats]
    lambda_: float | None
    freedman: bool = False
    kappas: tuple[float, ...] = ()
    error_k: int | None = None

    def _centre(self, columns: Sequence[Columns]) -> Floats:
        """Of each token [n], bits, or errors."""
        if self.error_k is not None:
            return error_centres(columns[0]["entropy_bits"], self.error_k, self.kappas)[0]
        centre = np.zeros(len(columns[0]["nll_bits"]))
        for kappa, each in zip(self.kappas, columns, strict=bool(self.kappas)):
            if kappa:
                centre += kappa * each["entropy_bits"]
        return centre

    def average(self, chunks: Iterator[tuple[Floats, list[Columns]]]) -> float:
        """Its value, bits; a chunk has the tokens' weights [n], which sum to one over all, and columns by message."""
        total, known = 0.0, 0.0
        for weights, columns in chunks:
            losses = self.losses(columns)
            if self.lambda_ is not None:
                centre = self._centre(columns)
                known += float(weights @ centre)
                losses = np.log1p(-self.lambda_ * (losses - centre))
            total += float(weights @ losses)
        if self.lambda_ is None:
            return total
        return known - (total if self.freedman else math.expm1(total)) / self.lambda_

    def sensitivities(self, chunks: Iterator[tuple[Floats, list[Columns]]]) -> list[tuple[float, float]]:
        """For each message the root mean squares, over tokens, of the derivatives by raw loss and by entropy."""
        squares, log, first, second = [0.0 for _ in self.messages], 0.0, 0.0, 0.0
        for weights, columns in chunks:
            slope = np.ones(len(weights))
            if self.lambda_ is not None:
                rest = 1.0 - self.lambda_ * (self.losses(columns) - self._centre(columns))  # positive, [n]
                slope, log = 1.0 / rest, log + float(weights @ np.log(rest))
                first, second = first + float(weights @ slope), second + float(weights @ slope**2)
            for place in range(len(self.messages)):
                up, down = (self.losses(_shifted(columns, place, step)) for step in (_STEP_BITS, -_STEP_BITS))
                squares[place] += float(weights @ (slope * (up - down) / (2.0 * _STEP_BITS)) ** 2)
        # The derivative of (1 - exp(f)) / lambda carries exp(f) before the sum.
        factor = 1.0 if self.freedman else math.exp(log)
        # A centre is added and subtracted from the loss: its derivative is 1 - factor x slope.
        centred = math.sqrt(max(0.0, 1.0 - 2.0 * factor * first + factor**2 * second))
        kappas = self.kappas or (0.0,) * len(self.messages)
        return [(factor * math.sqrt(square), kappa * centred) for square, kappa in zip(squares, kappas, strict=True)]


@dataclass(frozen=True)
class Difference:
    """How far a functional of the losses made again is above that of the stored ones, and how far it may be, bits."""

    found: float
    allowed: float


def compare_functionals(
    certificate: Certificate,
    rescored: Sequence[Rescored | None],
    names: Sequence[str],
    labels: Mapping[tuple[str, str], npt.NDArray[np.bool_]],
) -> dict[str, Difference]:
    """Compare the averages of all rows over the tokens that were scored again.

    The tolerance follows from that of the losses. Rounding does not depend on how much a token counts: errors of losses
    that move their plain average by e move another average by about e times the root mean square of its derivatives, or
    less if they are all alike. So each functional may differ by that many times the tolerance of the plain average;
    and, as single losses may differ by t, by t / √n where few tokens are compared. Entropies err as losses do, and each
    may be rounded to the next step.

    Parameters
    ----------
    certificate
        Its rows, and those of its subsets.
    rescored
        The same tokens for each message of the chain, the certified one last; None for one that was not scored again.
    names
        What the rows' links call these messages.
    labels
        For the column and label of each subset, which of the tokens are in it [n].

    Returns
    -------
    dict
        By the functional's name.

    Raises
    ------
    CertificateError
        If one differs by more than its tolerance.
    """
    found = {}
    for stated, prefix, chosen in _parts(certificate, labels):
        for row in stated.rows:
            for functional in name_functionals(row, rescored, names, prefix):
                known = [each for number in functional.messages if (each := rescored[number]) is not None]
                if len(known) == len(functional.messages):
                    found[functional.name] = _compare(functional, known, chosen)
        own = rescored[-1]
        if chosen is not None and own is not None:
            top_k = [row.metric.k for row in stated.rows if row.metric.k is not None]
            compare_errors(own.again["rank"][chosen], own.stored["rank"][chosen], top_k, own.tolerance, own.files)
    return found


def find_labels(
    certificate: Certificate, evidence: Evidence, rows: pa.Table
) -> dict[tuple[str, str], npt.NDArray[np.bool_]]:
    """For each subset, which tokens of some rows of the plan are in it, bool[tokens of these rows]."""
    if not certificate.subsets:
        return {}
    names = certificate.settings.subsets
    scores = LabelledScores.of(evidence.certified.scores, evidence.corpus.folder, names)
    codes: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in names}
    for batch in scores.iter_batches(("block", *names)):
        chosen = np.isin(batch["block"].to_numpy(), rows["block"].to_numpy())
        for name, parts in codes.items():
            parts.append(batch[name].to_numpy()[chosen])
    whole = {name: np.concatenate(parts) for name, parts in codes.items()}
    places = {name: list(scores.columns[name].categories) for name in names}
    return {
        (each.column, each.label): whole[each.column] == places[each.column].index(each.label)
        for each in certificate.subsets
    }


def _parts(
    certificate: Certificate, labels: Mapping[tuple[str, str], npt.NDArray[np.bool_]]
) -> Iterator[tuple[Stated, str, npt.NDArray[np.bool_] | None]]:
    """The rows over all tokens and over subsets, what precedes their names, and which tokens they are over."""
    yield certificate, "", None
    for subset in certificate.subsets:
        chosen = labels.get((subset.column, subset.label))
        if chosen is not None and chosen.any():
            yield subset, subset_prefix(subset.column, subset.label), chosen


def subset_prefix(column: str, label: str) -> str:
    """What precedes the names of a subset's rows."""
    return f"{column} {label}, "


def name_functionals(
    row: Row, rescored: Sequence[Rescored | None], names: Sequence[str], prefix: str = ""
) -> list[Functional]:
    """The functionals of a row: one for each link, or its own; none for top-k errors, whose ranks are compared.

    Raises
    ------
    CertificateError
        If a row has links and two messages of the chain have one name.
    """
    if row.metric.k is not None:
        return [_error_functional(row, row.metric.k, len(rescored) - 1, prefix)] if row.kappa and rescored[-1] else []
    name = f"{prefix}{row.metric}/{row.bound}"
    if not row.links:
        last, own = len(rescored) - 1, rescored[-1]
        if own is None:
            return []
        size, alpha = own.vocabulary_size, row.alpha
        # Rows over documents average over documents; here their average over tokens is compared.
        # Azuma's with a weight for each token states a lambda, but bets nothing.
        lambda_ = row.lambda_ if row.bound.by_token and row.bound.uses_lambda else None
        return [
            Functional(
                name,
                (last,),
                lambda columns: smooth(columns[0]["nll_bits"], columns[0]["alpha"] if alpha is None else alpha, size),
                lambda_,
                row.bound is BoundKind.FREEDMAN,
                (row.kappa,),
            )
        ]
    if len(set(names)) < len(names):
        raise CertificateError("two messages of the chain have the same name, so links are ambiguous. Rename one.")
    return [
        _variate_functional(f"{name} link {number}", row, link, rescored, names)
        if row.bound is BoundKind.CONTROL_VARIATES
        else _link_functional(f"{name} link {number}", row.bound is BoundKind.MIXTURE, link, rescored, names)
        for number, link in enumerate(row.links, 1)
    ]


def _error_functional(row: Row, k: int, last: int, prefix: str) -> Functional:
    """The bet on errors with most wealth, whose bound moves as the row's does; what is compared are entropies."""

    def losses(columns: Sequence[Columns]) -> Floats:
        return (columns[0]["rank"] > k).astype(np.float64)

    return Functional(f"{prefix}{row.metric}/{row.bound}", (last,), losses, row.lambda_, kappas=(row.kappa,), error_k=k)


def _link_functional(
    name: str, whole: bool, link: Link, rescored: Sequence[Rescored | None], names: Sequence[str]
) -> Functional:
    """A link's losses: those of the last of its messages, less `beta` times those of the one before, or all of it."""
    places = tuple(names.index(message) for message in link.messages)
    first = rescored[places[0]]
    size = 0 if first is None else first.vocabulary_size  # it is compared only if all its messages are known
    betas = [1.0] * (len(places) - 1) + [1.0 if whole or len(places) == 1 else link.beta]

    def losses(columns: Sequence[Columns]) -> Floats:
        parts = link_losses([each["nll_bits"] for each in columns], link.alphas, size, betas)
        total: Floats = np.sum(parts, axis=0) if whole else parts[-1]
        return total

    return Functional(name, places, losses, link.lambda_, kappas=(*[0.0] * (len(places) - 1), link.kappa))


def _variate_functional(
    name: str, row: Row, link: Link, rescored: Sequence[Rescored | None], names: Sequence[str]
) -> Functional:
    """A link of control variates: the loss of a reference, or what the references' parts leave of the model's."""
    places = tuple(names.index(message) for message in link.messages)
    known = [rescored[place] for place in places]
    sizes = [0 if each is None else each.vocabulary_size for each in known]  # compared only if all of them are known
    betas = [other.weight for other in row.links[: len(places) - 1]]

    def losses(columns: Sequence[Columns]) -> Floats:
        *others, own = (
            smooth(each["nll_bits"], alpha, size) for each, alpha, size in zip(columns, link.alphas, sizes, strict=True)
        )
        return variate_losses(own, others, betas)

    return Functional(name, places, losses, link.lambda_, kappas=(*[0.0] * (len(places) - 1), link.kappa))


def _compare(functional: Functional, rescored: Sequence[Rescored], chosen: npt.NDArray[np.bool_] | None) -> Difference:
    """Compare one functional; every message has the same tokens in the same order."""
    # Tokens that do not count are left out: a bet of everything on no error, which they may lose, is infinite there.
    places = None if chosen is None else np.flatnonzero(chosen)
    weights = rescored[0].weights if places is None else rescored[0].weights[places]
    weights = weights / weights.sum()

    def chunks(kind: str) -> Iterator[tuple[Floats, list[Columns]]]:
        for start in range(0, len(weights), _CHUNK):
            part: Any = slice(start, start + _CHUNK) if places is None else places[start : start + _CHUNK]
            columns = [{name: each[part] for name, each in getattr(one, kind).items()} for one in rescored]
            if functional.error_k is not None:
                columns[0]["rank"] = rescored[0].stored["rank"][part]
            yield weights[start : start + _CHUNK], columns

    again, stored = functional.average(chunks("again")), functional.average(chunks("stored"))
    few = math.sqrt(float(weights @ weights))  # 1 / √n if all tokens count alike
    allowed = _ROUNDING_BITS
    for (by_loss, by_entropy), one in zip(functional.sensitivities(chunks("again")), rescored, strict=True):
        error = max(one.tolerance.mean_bits, one.tolerance.token_bits * few)
        allowed += by_loss * error + by_entropy * (error + ENTROPY_STEP_BITS * few)
    if not abs(again - stored) <= allowed:  # NaN is refused too
        raise CertificateError(
            f"{rescored[-1].files[0].parent}: on the tokens scored again the average that row {functional.name} rests "
            f"on is {again:.6f} bits, and {stored:.6f} as stored. It may differ by {allowed:.2g}. These are not the "
            "message's scores: score again."
        )
    return Difference(again - stored, allowed)


def _shifted(columns: Sequence[Columns], place: int, step: float) -> list[Columns]:
    """The columns with all raw losses of one message moved by a step, bits."""
    moved = list(columns)
    moved[place] = {**moved[place], "nll_bits": moved[place]["nll_bits"].astype(np.float64) + step}
    return moved
