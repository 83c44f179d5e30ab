"""Rows of a model with cheaper ones: mixed with them (telescoped, and as a mixture), or compared with them.

Source: docs/bounds.md, "Telescoping" and "Control variates alone". Two passes over the aligned scores of the chain: a
part of the tokens is kept to search by, then the few best candidates are computed exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenbounds.bounds.betting import betting_value, lambda_fractions
from tokenbounds.bounds.centred import Tangent
from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.bounds.ledger import RowBudget, log_fraction
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.sampling import BlockSums, upper_mean
from tokenbounds.certificates.averages.alignment import Array, align_scores
from tokenbounds.certificates.averages.histogram import FixedPointSum
from tokenbounds.certificates.averages.passes import Average, Sample, ScoreStream
from tokenbounds.certificates.rows.chain_candidates import ChainProblem, Choice, Floats
from tokenbounds.certificates.rows.chain_search import ChainSearch, thin_rows
from tokenbounds.certificates.rows.chain_single import bound_single
from tokenbounds.certificates.rows.ledger_lines import sharing_entries
from tokenbounds.certificates.rows.variates import VariateProblem
from tokenbounds.certificates.schema import LedgerEntry, Link
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError
from tokenbounds.scores.entropies import most_entropy

_EXACT = 4  # candidates that are computed exactly: those that look best on the searched part
_ROUNDING = 2.0**-40  # fixed-point sums round each logarithm to the nearest multiple of half of this or less
_NEIGHBOURS = (-1, 0, 1)  # lambdas of the grid that are computed exactly, around the one that looks best
_CHUNK = 1 << 15  # tokens at once; `FixedPointSum` takes no more


@dataclass(frozen=True)
class ChainModel:
    """A model of a chain: its message's name and bits (0 if it never saw the corpus), its V, and its scores.

    `messages` are the bits of every message it is decoded from, by identity, if that is more than its own. `entropies`
    says whether its scores hold those of its predictions.
    """

    name: str
    message_bits: int
    vocabulary_size: int
    scores: ScoreStream
    messages: Mapping[str, int] | None = None
    entropies: bool = False


@dataclass(frozen=True)
class ChainRow:
    """A row's bound, its links as the certificate lists them, and its lines of the ledger."""

    bound: Bound
    links: tuple[Link, ...]
    entries: tuple[LedgerEntry, ...]


def pose_problem(budget: RowBudget, models: Sequence[ChainModel], spec: BoundsSpec, tokens: int) -> ChainProblem:
    """The candidates and the budget of a row, before any score is read."""
    kind = VariateProblem if budget.bound is BoundKind.CONTROL_VARIATES else ChainProblem
    return kind(
        message_bits=tuple(model.message_bits for model in models),
        vocabulary_sizes=tuple(model.vocabulary_size for model in models),
        alphas=tuple(sorted(set(spec.alphas))),
        link_alphas=tuple(sorted(set(spec.link_alphas))),
        link_betas=tuple(sorted(set(spec.link_betas))),
        lambdas=spec.lambdas,
        tokens=tokens,
        delta_generalization=budget.delta_generalization,
        delta_sampling=budget.delta_sampling,
        whole=budget.bound is BoundKind.MIXTURE,
        kappas=tuple(sorted(set(spec.kappas))),
        entropies=tuple(model.entropies for model in models),
        messages=tuple(model.messages or {model.name: model.message_bits} for model in models),
    )


def bound_chains(
    budgets: Sequence[RowBudget],
    models: Sequence[ChainModel],
    spec: BoundsSpec,
    tokens: int,
    sample: Sample | None,
) -> dict[BoundKind, ChainRow]:
    """The rows of a certificate that use its chain, by name of the bound (docs/bounds.md, "Which chain").

    Parameters
    ----------
    budgets
        One per row: what it may spend.
    models
        The chain, cheapest model first, the certified one last; a single one is a trivial chain.
    spec
        Grids.
    tokens
        m, tokens of the corpus.
    sample
        The sampled blocks; None if every token was scored.

    Raises
    ------
    ScoreError
        If the scores do not belong to the same tokens.
    """
    if not budgets:
        return {}
    problems = {budget.bound: pose_problem(budget, models, spec, tokens) for budget in budgets}
    streams = [model.scores for model in models]
    known = next(iter(problems.values())).entropies
    if sample is not None and not sample.pilot_draws:
        raise CertificateError("a chain's row needs a sample of two draws at least, one of them to choose by.")
    # First pass: keep a part of the tokens, or of a sample's pilot, and search every candidate on it.
    pilot = None if sample is None else sample.pilot
    searched, entropies, weights = _thin(streams, known, pilot, tokens)
    draws, block_tokens = 0, 1.0
    if sample is not None and pilot is not None:  # the choice knows nothing of the later draws but their number
        draws, block_tokens = len(sample.order) - sample.pilot_draws, float(pilot.lengths.mean())
    sums: dict[str, list[_ChoiceSums]] = {}
    for name, problem in problems.items():
        search = ChainSearch(problem, searched, weights, entropies, draws, block_tokens)
        sums[name] = [
            _ChoiceSums(problem, choice, sample, row.delta_per_cell)
            for row in budgets
            if row.bound == name
            for choice in search.best(_EXACT if sample is None else 1)
        ]
    # Second pass: the few that look best, exactly; on a sample the one that the pilot chose.
    for block, nll_bits, entropies in align_scores(streams, known):  # [n], and [n] of each model twice
        for start in range(0, block.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            for candidate in itertools.chain.from_iterable(sums.values()):
                candidate.update(
                    block[part], [stream[part] for stream in nll_bits], [stream[part] for stream in entropies]
                )
    rows = {}
    for budget in budgets:
        problem = problems[budget.bound]
        found = [candidate.finish() for candidate in sums[budget.bound]]
        if sample is None:
            whole, choice, link = bound_single(problem, models[-1].scores)
            found.append((whole, choice, (link,)))
        best = min(found, key=lambda each: each[0].value)
        rows[budget.bound] = _describe(budget, problem, models, *best)
    return rows


def _thin(
    streams: Sequence[ScoreStream], known: Sequence[bool], pilot: Sample | None, tokens: int
) -> tuple[list[Array], list[Array], Floats]:
    """The part of the tokens that is searched: raw losses and entropies of each model [n], bits, and weights [n]."""
    total = tokens if pilot is None else int(pilot.lengths.sum())  # rows there will be
    first = 0  # number of the batch's first row
    kept: list[list[Array]] = [[] for _ in range(2 * len(streams))]  # losses of each model, then entropies of each
    weights: list[Floats] = []
    for block, nll_bits, entropies in align_scores(streams, known):
        rows = np.arange(block.size) if pilot is None else np.flatnonzero(pilot.chosen(block))
        chosen = rows[thin_rows(first, rows.size, total)]  # of the batch
        first += rows.size
        weights.append(np.ones(chosen.size) if pilot is None else pilot.weights(block[chosen]))
        for part, values in zip(kept, [*nll_bits, *entropies], strict=True):
            part.append(values[chosen])
    found = [np.concatenate(part) for part in kept]
    return found[: len(streams)], found[len(streams) :], np.concatenate(weights)


class _Total:
    """An average over all tokens: exact, or one value per draw."""

    def __init__(self, sample: Sample | None) -> None:
        self._sample = sample
        self._whole = FixedPointSum()  # if every token was scored
        self._blocks = BlockSums([] if sample is None else sample.blocks)  # if blocks were sampled

    def add(self, block: Array, values: Floats) -> None:
        """Add values [n] of tokens of some blocks [n]."""
        if self._sample is None:
            self._whole.add(values)
        else:
            self._blocks.add(block, values)

    def average(self) -> Average:
        """Of all that was added."""
        if self._sample is None:
            return Average(self._whole.mean)
        return self._sample.average_chosen(self._blocks.means())


class _ChoiceSums:
    """Exact averages of one candidate: of each link, and of ln(1 - lambda × (link - centre)).

    For lambdas around the guess if every token was scored; on a sample for that which its pilot chose.
    """

    def __init__(self, problem: ChainProblem, choice: Choice, sample: Sample | None, delta_per_cell: float) -> None:
        self._problem, self._choice = problem, choice
        self._sampled, self._delta = sample is not None, delta_per_cell
        self._intervals = problem.intervals(choice.path, choice.alphas, choice.betas)  # smallest, largest of each link
        fractions = lambda_fractions(problem.lambdas)
        self._kappas = problem.link_kappas(choice.kappas)
        self._losses = [_Total(sample) for _ in choice.lambdas]  # one per link
        self._centres = [_Total(sample) for _ in choice.lambdas]
        self._logs: list[dict[float, _Total]] = []  # for each link, by lambda
        for index, (_, high) in zip(choice.lambdas, self._intervals, strict=True):
            steps = _NEIGHBOURS if sample is None else (0,)
            near = {min(max(index + step, 0), problem.lambdas - 1) for step in steps}
            self._logs.append({float(fractions[each] / high): _Total(sample) for each in sorted(near)})

    def update(self, block: Array, nll_bits: Sequence[Array], entropies: Sequence[Array]) -> None:
        """Add tokens: their blocks [n], and raw losses [n] and entropies [n] of every model of the chain, bits."""
        choice = self._choice
        links = self._problem.streams(choice.path, choice.alphas, choice.betas, nll_bits)  # each link's losses [n]
        known = self._problem.link_entropies(choice.path, entropies)
        for place, (link, entropy, kappa) in enumerate(zip(links, known, self._kappas, strict=True)):
            self._losses[place].add(block, link)
            centre = kappa * entropy
            self._centres[place].add(block, centre)
            for lambda_, total in self._logs[place].items():
                total.add(block, np.log1p(-lambda_ * (link - centre)))

    def finish(self) -> tuple[Bound, Choice, tuple[Bound, ...]]:
        """The candidate's bound, the candidate, and the bounds of its links."""
        complexities = self._problem.complexities(self._choice.path, self._choice.ratio)
        links = tuple(self._bound_link(place, complexity) for place, complexity in enumerate(complexities))
        if self._sampled:
            links = self._add_sampling(links)
        weights = self._problem.weights(self._choice.betas)

        def add(name: str) -> float:
            return math.fsum(weight * getattr(link, name) for weight, link in zip(weights, links, strict=True))

        bound = Bound(
            value=add("value"),
            empirical=add("empirical"),
            complexity_nats=links[-1].complexity_nats,
            samples=self._problem.tokens,
            range=add("range"),
            sampling=add("sampling"),
        )
        return bound, self._choice, links

    def _bound_link(self, place: int, complexity_nats: float) -> Bound:
        """The betting bound of one link with the best lambda."""
        problem = self._problem
        (_, high), price = self._intervals[place], math.log(problem.lambdas)
        empirical, spent = self._losses[place].average().mean, complexity_nats + price
        centre = self._centres[place].average().mean + (_ROUNDING if self._kappas[place] else 0.0)
        found = []
        for lambda_, total in self._logs[place].items():
            value = centre + betting_value(total.average().mean - _ROUNDING, lambda_, spent, problem.tokens)
            found.append(Bound(value, empirical, spent, problem.tokens, high, price, lambda_))
        return min(found, key=lambda bound: bound.value)

    def _add_sampling(self, links: tuple[Bound, ...]) -> tuple[Bound, ...]:
        """The links' bounds on a sample: their weighted sum is bounded in one piece.

        Source: docs/bounds.md, "Links on a sample".
        The tangents of the links' bounds, each times its weight, add up to one quantity of each token. Each link is
        given an equal part of what bounding its average costs.
        """
        weights = self._problem.weights(self._choice.betas)
        parts: list[Floats] = []
        known, low, high = 0.0, 0.0, 0.0
        for place, (link, weight) in enumerate(zip(links, weights, strict=True)):
            assert link.lambda_ is not None, "a link bets"
            tangent = Tangent.of_betting(
                self._choice.logs[place], link.lambda_, link.complexity_nats, self._problem.tokens
            )
            centre, log = self._centres[place].average(), self._logs[place][link.lambda_].average()
            assert centre.draws is not None and log.draws is not None, "a sample has draws"
            parts.append(weight * (centre.draws - tangent.slope * log.draws))
            model = self._choice.path[self._problem.places(self._choice.path)[place][-1]]
            largest = self._kappas[place] * most_entropy(self._problem.vocabulary_sizes[model])  # centre, bits
            ends = tangent.interval(*self._intervals[place], largest)
            known, low, high = known + weight * tangent.intercept, low + weight * ends[0], high + weight * ends[1]
        whole = known + upper_mean(np.sum(parts, axis=0), low, high, self._delta)
        unsampled = math.fsum(link.value * weight for link, weight in zip(links, weights, strict=True))
        extra = max(0.0, whole - unsampled)
        return tuple(
            replace(link, value=link.value + extra / len(links) / weight, sampling=extra / len(links) / weight)
            for link, weight in zip(links, weights, strict=True)
        )


def _describe(
    budget: RowBudget,
    problem: ChainProblem,
    models: Sequence[ChainModel],
    bound: Bound,
    choice: Choice,
    links: tuple[Bound, ...],
) -> ChainRow:
    """The links of the winning candidate, and what the row paid."""
    shares = problem.shares(choice.path, choice.ratio)
    bits = problem.bits(choice.path)
    entries = [
        LedgerEntry(name="delta", amount=str(budget.delta), unit="probability"),
        LedgerEntry(name="delta_sampling", amount=str(budget.delta_sampling), unit="probability"),
        LedgerEntry(name="sampling_cells", amount=budget.sampling_cells, unit="candidates"),
        *sharing_entries(budget),
        LedgerEntry(name="chain_candidates", amount=problem.candidates, unit="candidates"),
        LedgerEntry(name="chain_choice", amount=math.log2(problem.candidates), unit="bits"),
    ]
    described = []
    weights = problem.weights(choice.betas)
    kappas = problem.link_kappas(choice.kappas)
    for place, (link, share, paid, weight, kappa) in enumerate(zip(links, shares, bits, weights, kappas, strict=True)):
        reached = problem.places(choice.path)[place]
        assert link.lambda_ is not None, "a link bets"
        described.append(
            Link(
                messages=tuple(models[choice.path[each]].name for each in reached),
                alphas=tuple(choice.alphas[each] for each in reached),
                beta=problem.below(choice.betas, place),
                weight=weight,
                lambda_=link.lambda_,
                kappa=kappa,
                value=float(link.value),
                empirical=float(link.empirical),
                complexity=float(link.complexity_nats),
                range=float(link.range),
                delta=float(share),
            )
        )
        entries += [
            LedgerEntry(name="delta", amount=str(share), unit="probability", link=place + 1),
            LedgerEntry(name="message", amount=paid, unit="bits", link=place + 1),
            LedgerEntry(name="lambda_grid", amount=link.price_nats, unit="nats", link=place + 1),
            LedgerEntry(name="confidence", amount=-log_fraction(share), unit="nats", link=place + 1),
            LedgerEntry(name="complexity", amount=link.complexity_nats, unit="nats", link=place + 1),
        ]
    return ChainRow(bound, tuple(described), tuple(entries))
