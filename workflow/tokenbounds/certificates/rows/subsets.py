"""Rows over subsets of tokens that share a label, such as a language (docs/bounds.md, "Subsets of tokens").

Labels may depend on whole documents. Rows over tokens are therefore conditional on the labels: they bound the risk
under a source that knows them. Rows over documents take documents, each with its labels, as independent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from tokenbounds.certificates import schema
from tokenbounds.certificates.averages.entropy_moments import EntropyMoments
from tokenbounds.certificates.averages.moments import LossMoments
from tokenbounds.certificates.averages.passes import Average, FirstPass, ScoreStream
from tokenbounds.certificates.rows.setting import Setting
from tokenbounds.certificates.rows.tokens import state_bounds
from tokenbounds.errors import CertificateError

# Moments of a subset take about 10 MB; more subsets than this are read in several passes.
_SUBSETS_A_PASS = 8


@dataclass(frozen=True)
class Subset:
    """The tokens with one label.

    Attributes
    ----------
    column
        The column of labels in the score files.
    code
        The label's number there.
    label
        Its name.
    tokens
        m_S, how many there are.
    members
        SHA-256 of their row numbers: labels of two columns with the same tokens have the same. Empty if unknown.
    """

    column: str
    code: int
    label: str
    tokens: int
    members: str = field(default="", compare=False)


@dataclass(frozen=True)
class SubsetStream:
    """The scores of a subset's tokens, in corpus order."""

    scores: ScoreStream
    subset: Subset

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the named columns."""
        wanted = list(columns or ("nll_bits",))
        for batch in self.scores.iter_batches((*wanted, self.subset.column)):
            chosen = batch[self.subset.column].to_numpy() == self.subset.code
            yield batch.select(wanted).filter(pa.array(chosen))


def find_subsets(scores: ScoreStream, columns: Mapping[str, Sequence[str]]) -> list[Subset]:
    """The subsets that occur, by column and label.

    Parameters
    ----------
    scores
        Scores of all tokens, with the columns.
    columns
        The names of each column's labels, by code.
    """
    counts: dict[str, dict[int, int]] = {column: {} for column in columns}
    hashes: dict[tuple[str, int], Any] = {}
    first = 0  # number of the batch's first row
    for batch in scores.iter_batches(tuple(columns)):
        for column, found in counts.items():
            codes = batch[column].to_numpy()
            rows = np.argsort(codes, kind="stable")  # the batch's rows, label by label
            present, starts = np.unique(codes[rows], return_index=True)
            for code, members in zip(present.tolist(), np.split(rows + first, starts[1:]), strict=True):
                found[code] = found.get(code, 0) + len(members)
                hashes.setdefault((column, code), hashlib.sha256()).update(members.astype("<i8").tobytes())
        first += batch.num_rows
    return [
        Subset(column, code, names[code], counts[column][code], hashes[column, code].hexdigest())
        for column, names in columns.items()
        for code in sorted(counts[column])
    ]


def group_subsets(subsets: Sequence[Subset]) -> dict[Subset, list[Subset]]:
    """Subsets with the same tokens, in order, by the first of each (docs/bounds.md, "How delta is divided")."""
    groups: dict[object, list[Subset]] = {}
    for subset in subsets:
        groups.setdefault(subset.members or subset, []).append(subset)
    return {group[0]: group for group in groups.values()}


def share_delta(
    setting: Setting, subsets: Sequence[Subset], columns: Mapping[str, Sequence[str]]
) -> tuple[Setting, list[Setting]]:
    """Divide delta by what is known before the labels (docs/bounds.md, "How delta is divided").

    The rows over all tokens get one part, each column gets an equal part, and a column's part is divided evenly over
    the labels that it declares. The parts of labels that do not occur stay unspent. Labels with the same tokens make
    the same statements, which are paid for with the parts of all of them, once.

    Parameters
    ----------
    setting
        Of all tokens; its delta is what is divided.
    subsets
        The labels that occur, from `find_subsets`.
    columns
        The names of each column's labels, whether they occur or not.

    Returns
    -------
    tuple
        Settings of the rows over all tokens, and of those of each of `group_subsets`.
    """
    if not columns:
        return setting, []
    # Subsets are refused unless some bound fits them, so at least one bound remains.
    spec = replace(setting.spec, bounds=tuple(bound for bound in setting.spec.bounds if bound.fits_subsets))
    inner = replace(setting, spec=spec, token_alphas=None)
    whole = Fraction(str(setting.spec.delta)) if setting.delta is None else setting.delta
    part = whole / (1 + len(columns))
    parts = [
        replace(
            inner, tokens=first.tokens, delta=sum((part / len(columns[each.column]) for each in group), Fraction(0))
        )
        for first, group in group_subsets(subsets).items()
    ]
    return replace(setting, delta=part), parts


def state_subsets(
    scores: ScoreStream, subsets: Sequence[Subset], settings: Sequence[Setting], message_bits: int, *, name: str
) -> tuple[schema.Subset, ...]:
    """State every subset's rows (docs/bounds.md, "Subsets of tokens").

    Parameters
    ----------
    scores
        Scores of all tokens, with the columns of labels.
    subsets, settings
        From `find_subsets` and `share_delta`: every subset, and a setting for each group of those with the same tokens.
    message_bits
        C; every row pays for the whole message.
    name
        What the certified message is called.

    Returns
    -------
    tuple of schema.Subset
        What a certificate says about each.

    Raises
    ------
    CertificateError
        If only a sample was scored, or a bound's assumption does not hold.
    """
    groups, records = group_subsets(subsets), dict[Subset, schema.Subset]()
    for first in range(0, len(groups), _SUBSETS_A_PASS):
        part = list(zip(groups, settings, strict=True))[first : first + _SUBSETS_A_PASS]
        passes = pass_over_subsets(scores, part)
        for (subset, setting), first_pass in zip(part, passes, strict=True):
            statement = state_bounds(
                SubsetStream(scores, subset), setting, message_bits, name=name, first_pass=first_pass
            )
            for each in groups[subset]:
                records[each] = schema.Subset(
                    column=each.column,
                    label=each.label,
                    tokens=each.tokens,
                    rows=statement.rows,
                    ledger=statement.ledger,
                    repeats=None if each == subset else (subset.column, subset.label),
                )
    return tuple(records[subset] for subset in subsets)


def pass_over_subsets(scores: ScoreStream, group: Sequence[tuple[Subset, Setting]]) -> list[FirstPass]:
    """Sum the moments of a few subsets in one pass (docs/bounds.md, "Subsets of tokens")."""
    if any(setting.sample is not None for _, setting in group):
        raise CertificateError(
            "rows over subsets need every token scored, and only a sample was. Score everything (sample_tokens: null), "
            "or drop the subsets."
        )
    kinds = [EntropyMoments if setting.kappas != (0.0,) else LossMoments for _, setting in group]
    sums: list[Any] = [
        kind(setting.vocabulary_size, setting.top_k) for kind, (_, setting) in zip(kinds, group, strict=True)
    ]
    own = ("nll_bits", *(("entropy_bits",) if EntropyMoments in kinds else ()))
    columns = tuple(dict.fromkeys(subset.column for subset, _ in group))
    for batch in scores.iter_batches((*own, "rank", *columns)):
        losses, rank = [batch[name].to_numpy() for name in own], batch["rank"].to_numpy()
        for (subset, setting), moments in zip(group, sums, strict=True):
            chosen = np.flatnonzero(batch[subset.column].to_numpy() == subset.code)
            moments.update(*(values[chosen] for values in losses), rank[chosen] if setting.top_k else None)
    return [
        FirstPass(moments, {k: Average(moments.error_rate(k)) for k in setting.top_k})
        for moments, (_, setting) in zip(sums, group, strict=True)
    ]
