import math
from dataclasses import replace
from fractions import Fraction

import pytest
from tokenbounds.bounds.kinds import BPD, BoundKind, Metric
from tokenbounds.bounds.ledger import split_delta
from tokenbounds.bounds.result import Bound
from tokenbounds.certificates.rows.ledger_lines import ledger_row
from tokenbounds.errors import CertificateError

ROWS = [
    (BPD, BoundKind.AZUMA),
    (BPD, BoundKind.BETTING),
    (Metric.top(1), BoundKind.AZUMA),
    (Metric.top(1), BoundKind.BETTING),
    (Metric.top(10), BoundKind.AZUMA),
]


def test_the_shares_add_up_exactly():
    ledger = split_delta(0.05, ROWS, message_bits=800, alphas=8, lambdas=32, sampling_share=0.2)
    ledger.check()
    assert sum(row.delta for row in ledger.rows) == Fraction(1, 20)
    assert {row.delta_generalization for row in ledger.rows} == {Fraction(1, 125)}
    assert {row.delta_sampling for row in ledger.rows} == {Fraction(1, 500)}


def test_each_row_pays_for_what_it_may_choose():
    ledger = split_delta(0.05, ROWS, message_bits=800, alphas=8, lambdas=32, sampling_share=0.2)
    confidence = math.log(125)
    assert ledger.row(BPD, BoundKind.BETTING).complexity_nats == pytest.approx(803 * math.log(2) + confidence)
    assert ledger.row(Metric.top(1), BoundKind.BETTING).complexity_nats == pytest.approx(800 * math.log(2) + confidence)
    # Each samples one average, that of the cell which the pilot chose; ranges that differ by token are a second one.
    assert [row.sampling_cells for row in ledger.rows] == [1, 1, 1, 1, 1]
    assert ledger.row(BPD, BoundKind.BETTING).delta_per_cell == pytest.approx(1 / 500)
    grids = {"message_bits": 800, "alphas": 8, "lambdas": 32, "sampling_share": 0.2}
    headed = split_delta(0.05, ROWS, **grids, by_token=True, centres=5)
    assert [row.sampling_cells for row in headed.rows] == [2, 1, 1, 1, 1]
    # On a sample bets on errors choose a centre, too; where every token was scored all centres share one wealth.
    assert [row.centre_grid_bits for row in headed.rows] == pytest.approx([0.0, *[math.log2(5), 0.0] * 2])
    whole = split_delta(0.05, ROWS, **{**grids, "sampling_share": None}, centres=5)
    assert [row.centre_grid_bits for row in whole.rows] == pytest.approx([0.0, math.log2(5), 0.0, 0.0, 0.0])


def test_nothing_is_paid_for_sampling_if_everything_was_scored():
    row = split_delta(0.05, ROWS, message_bits=0, alphas=1, lambdas=1).row(BPD, BoundKind.AZUMA)
    assert row.delta_sampling == 0 and row.delta_per_cell == 0.0
    assert row.complexity_nats == pytest.approx(math.log(100))


def test_certificates_over_one_sample_pay_for_one_another():
    ledger = split_delta(0.05, ROWS, message_bits=800, alphas=8, lambdas=32, sampling_share=0.2)
    shared = ledger.shared_by(28)
    shared.check()
    row = shared.row(BPD, BoundKind.BETTING)
    # 0.05 over 5 rows, a fifth of it for one cell of 28 certificates; nothing else changes.
    assert row.delta_sampling / row.sampling_cells == Fraction(1, 500 * 28)
    assert row.complexity_nats == ledger.row(BPD, BoundKind.BETTING).complexity_nats
    paid = {entry.name: entry.amount for entry in ledger_row(row, Bound(1.0, 0.5, 0.0, 1, 1.0)).entries}
    assert (paid["sampling_cells"], paid["certificates_per_sample"]) == (28, 28)
    whole = split_delta(0.05, ROWS, message_bits=800, alphas=8, lambdas=32)
    assert whole.shared_by(28) == whole
    with pytest.raises(CertificateError):
        ledger.shared_by(0)


def test_entries_carry_units_and_add_up():
    row = split_delta(0.05, ROWS, message_bits=800, alphas=8, lambdas=32, sampling_share=0.2).row(
        BPD, BoundKind.BETTING
    )
    paid = ledger_row(row, Bound(1.0, 0.5, row.complexity_nats, 1000, 1.0, price_nats=math.log(32)))
    amounts = {entry.name: entry.amount for entry in paid.entries}
    units = {entry.name: entry.unit for entry in paid.entries}
    assert amounts["complexity"] == pytest.approx(
        (amounts["message"] + amounts["alpha_grid"]) * math.log(2) + amounts["lambda_grid"] + amounts["confidence"]
    )
    assert Fraction(amounts["delta_generalization"]) + Fraction(amounts["delta_sampling"]) == Fraction(amounts["delta"])
    assert units["message"] == "bits" and units["lambda_grid"] == "nats" and units["delta"] == "probability"


def test_a_ledger_that_does_not_add_up_is_caught():
    ledger = split_delta("0.05", ROWS, message_bits=8, alphas=1, lambdas=1)
    greedy = replace(ledger.rows[0], delta=Fraction(1, 50), delta_generalization=Fraction(1, 50))
    with pytest.raises(CertificateError, match="add up to"):
        replace(ledger, rows=(greedy, *ledger.rows[1:])).check()
    with pytest.raises(CertificateError, match="bpd/azuma"):
        replace(ledger, rows=(replace(ledger.rows[0], delta_sampling=Fraction(1)), *ledger.rows[1:])).check()


@pytest.mark.parametrize(
    "change", [{"delta": 0.0}, {"delta": 1.0}, {"sampling_share": 1.0}, {"sampling_share": 0.0}, {"message_bits": -1}]
)
def test_impossible_ledgers_are_refused(change):
    arguments = {"delta": 0.05, "rows": ROWS, "message_bits": 8, "alphas": 2, "lambdas": 2} | change
    with pytest.raises(CertificateError):
        split_delta(arguments.pop("delta"), arguments.pop("rows"), **arguments)
    with pytest.raises(CertificateError):
        split_delta(0.05, [ROWS[0], ROWS[0]], message_bits=8, alphas=1, lambdas=1)
    with pytest.raises(CertificateError):
        split_delta(0.05, ROWS, message_bits=8, alphas=1, lambdas=1).row(BPD, BoundKind.TELESCOPED)
