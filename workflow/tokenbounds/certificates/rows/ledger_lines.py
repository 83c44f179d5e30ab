"""What a row without links pays, line by line, as the certificate's ledger states it."""

from __future__ import annotations

from tokenbounds.bounds.ledger import RowBudget, log_fraction
from tokenbounds.bounds.result import Bound
from tokenbounds.certificates.schema import LedgerEntry, LedgerRow


def sharing_entries(budget: RowBudget) -> list[LedgerEntry]:
    """How many certificates the row's sampling statement covers, a factor of its cells; nothing without a sample."""
    if not budget.delta_sampling:
        return []
    return [LedgerEntry(name="certificates_per_sample", amount=budget.certificates, unit="certificates")]


def ledger_row(budget: RowBudget, bound: Bound) -> LedgerRow:
    """The ledger of a row: the budget that it had, and what its bound added for a grid of lambdas.

    The parts of delta add up to it exactly; message, grids and confidence add up to the complexity L.
    """
    entries = [
        LedgerEntry(name="delta", amount=str(budget.delta), unit="probability"),
        LedgerEntry(name="delta_generalization", amount=str(budget.delta_generalization), unit="probability"),
        LedgerEntry(name="delta_sampling", amount=str(budget.delta_sampling), unit="probability"),
        LedgerEntry(name="sampling_cells", amount=budget.sampling_cells, unit="candidates"),
        *sharing_entries(budget),
        LedgerEntry(name="message", amount=budget.message_bits, unit="bits"),
        LedgerEntry(name="alpha_grid", amount=budget.alpha_grid_bits, unit="bits"),
        *(
            [LedgerEntry(name="centre_grid", amount=budget.centre_grid_bits, unit="bits")]
            if budget.centre_grid_bits
            else []
        ),
        LedgerEntry(name="lambda_grid", amount=bound.price_nats, unit="nats"),
        LedgerEntry(name="confidence", amount=-log_fraction(budget.delta_generalization), unit="nats"),
        LedgerEntry(name="complexity", amount=budget.complexity_nats + bound.price_nats, unit="nats"),
    ]
    if budget.bound.unit:
        entries.append(LedgerEntry(name="units", amount=bound.samples, unit=budget.bound.unit))
    return LedgerRow(metric=budget.metric, bound=budget.bound, entries=tuple(entries))
