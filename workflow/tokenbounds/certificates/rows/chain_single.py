"""The candidate of a chain that uses none of it: the certified message alone, with the best of all its cells.

A chain that turns out to be useless then costs what its candidates cost, and no more (docs/bounds.md, "Which chain").
"""

from __future__ import annotations

import math

from tokenbounds.bounds.betting import betting_value, lambda_fractions
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.smoothing import Weighting, loss_ceiling
from tokenbounds.certificates.averages.passes import ScoreStream, average_cells, run_first_pass
from tokenbounds.certificates.rows.chain_candidates import ChainProblem, Choice, Floats


def bound_single(problem: ChainProblem, scores: ScoreStream) -> tuple[Bound, Choice, Bound]:
    """The betting bound of the certified message alone, the best of the chain's grids (docs/bounds.md, "Which chain").

    Parameters
    ----------
    problem
        Grids and budget of the chain, whose candidates are paid for.
    scores
        Losses of the certified message on every token.

    Returns
    -------
    tuple
        The row's bound, the candidate, and the bound of its only link.
    """
    path, ratio = (len(problem.message_bits) - 1,), problem.ratios((0,))[0]
    size, price = problem.vocabulary_sizes[-1], math.log(problem.lambdas)
    spent = problem.complexities(path, ratio)[0] + price
    fractions = lambda_fractions(problem.lambdas)
    grids: dict[Weighting, Floats] = {alpha: fractions / loss_ceiling(alpha, size) for alpha in problem.alphas}
    kappas = problem.centres(path, 0)
    first_pass = run_first_pass(scores, None, size, (), entropies=kappas != (0.0,))
    found: list[tuple[float, Bound, Choice]] = []
    for cells in average_cells(first_pass, grids, kappas):
        assert isinstance(cells.weighting, float), "a chain smooths all tokens alike"
        alpha = cells.weighting
        for index, (lambda_, log) in enumerate(zip(cells.lambdas.tolist(), cells.logs, strict=True)):
            value = cells.centre.mean + betting_value(log.mean, lambda_, spent, problem.tokens)
            high = loss_ceiling(alpha, size)
            link = Bound(value, cells.loss.mean, spent, problem.tokens, high, price, lambda_)
            found.append((value, link, Choice(path, (alpha,), (0.0,), (cells.kappa,), ratio, (index,), value)))
    _, link, choice = min(found, key=lambda each: each[0])
    whole = Bound(link.value, link.empirical, spent, problem.tokens, link.range)
    return whole, choice, link
