"""The rules of payment, one by one, from files to facts (docs/method.md, "Payment", numbers them); and bad input.

Rules 7 to 11 are a model's: tests/models/test_payment_delay.py.
"""

from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clv import ingest, invoice_rows, period, receivables
from clv.config import Config
from clv.errors import TableError
from clv.warehouse import Engine

AS_OF = date(2025, 7, 1)
INVOICES = (
    "invoice_id",
    "customer_id",
    "invoice_date",
    "due_date",
    "amount",
    "currency",
    "credited_invoice_id",
)
DISPUTE = ("dispute_opened_date", "dispute_closed_date", "dispute_fault")
PAYMENTS = ("invoice_id", "payment_date", "amount", "delay_reason", "payment_id")


class Ledger:
    """Invoices and payments as files, read as of AS_OF."""

    def __init__(self, db: Engine, folder: Path) -> None:
        self.db, self.folder = db, folder
        self.invoices: list[dict[str, Any]] = []
        self.payments: list[dict[str, Any]] = []
        self.rates: list[dict[str, Any]] = []

    def invoice(self, invoice_id: str, issued: str, due: str | None, amount: Any, **more: Any) -> Ledger:
        row = {"invoice_id": invoice_id, "invoice_date": issued, "due_date": due, "amount": amount}
        self.invoices.append({"customer_id": "C1", **row, **more})
        return self

    def pay(self, invoice_id: str, on: str, amount: Any, **more: Any) -> Ledger:
        self.payments.append({"invoice_id": invoice_id, "payment_date": on, "amount": amount, **more})
        return self

    def rate(self, currency: str, on: str, rate: float) -> Ledger:
        self.rates.append({"currency": currency, "rate_date": on, "rate": rate})
        return self

    def read(self, **payment: Any) -> Config:
        orders = [{"order_id": "o", "customer_id": "C1", "order_date": "2024-01-01", "net_amount": 1}]
        sources = {
            "order_lines": self._written("order_lines", tuple(orders[0]), orders),
            "invoices": self._written("invoices", (*INVOICES, *DISPUTE), self.invoices),
            "payments": self._written("payments", PAYMENTS, self.payments),
        }
        if self.rates:
            sources["exchange_rates"] = self._written("rates", tuple(self.rates[0]), self.rates)
        content = {"company": "c", "reporting_currency": "EUR", "sources": sources, "payment": payment}
        config = Config.model_validate(content)
        ingest.load(self.db, config, AS_OF)
        period.see(self.db, AS_OF)
        return config

    def _written(self, name: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> dict[str, str]:
        path = self.folder / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        return {"path": str(path)}

    def state(self, **payment: Any) -> pd.DataFrame:
        config = self.read(**payment)
        name = receivables.invoice_state(self.db, AS_OF, config.payment)
        return self.db.frame(f"SELECT * FROM {name} ORDER BY invoice_id").set_index("invoice_id")

    def record(self, **payment: Any) -> pd.Series:
        return receivables.payment_record(self.db, AS_OF, self.read(**payment).payment).iloc[0]

    def history(self, **payment: Any) -> pd.Series:
        return receivables.customer_history(self.db, AS_OF, self.read(**payment).payment).iloc[0]

    def rejected(self) -> list[tuple[Any, ...]]:
        return self.db.rows("SELECT table_name, rule FROM main.rejected_rows ORDER BY ALL")


@pytest.fixture
def ledger(engine: Engine, tmp_path: Path) -> Ledger:
    return Ledger(engine, tmp_path)


# --- the rules ----------------------------------------------------------------------------------------------------


def test_rule_0_the_record_of_the_last_year_stands_on_its_own(ledger: Ledger) -> None:
    """Due within the year: 1000 on time, 3000 paid 20 days late for want of cash. Due before it: never mind."""
    ledger.invoice("old", "2024-04-01", "2024-05-01", 9000).pay(
        "old", "2025-01-01", 9000, delay_reason="dispute"
    )
    ledger.invoice("a", "2024-09-01", "2024-10-01", 1000).pay("a", "2024-10-01", 1000)
    ledger.invoice("b", "2024-09-01", "2024-10-01", 3000)
    ledger.pay("b", "2024-10-21", 3000, delay_reason="cash_shortage")
    record = ledger.record()
    assert record.on_time_share_ratio == 0.25
    assert record.mean_days_beyond_terms == 15
    assert record.main_delay_reason == "cash_shortage"
    assert record.counted_invoices == 2


def test_rule_1_an_open_invoice_is_information(ledger: Ledger) -> None:
    """Of three invoices one is paid, on time: 0 % late among the paid, 2 of 3 in truth."""
    ledger.invoice("a", "2025-03-01", "2025-04-01", 100).pay("a", "2025-03-25", 100)
    ledger.invoice("b", "2025-03-01", "2025-04-01", 100).invoice("c", "2025-03-01", "2025-05-01", 100)
    history = ledger.history()
    assert (history.paid_late_invoices, history.paid_invoices) == (0, 1)
    assert (history.late_invoices, history.known_invoices) == (2, 3)
    assert history.mean_days_beyond_terms == pytest.approx((-7 + 91 + 61) / 3)


def test_rule_2_a_label_is_known_by_the_due_date_paid_or_not(ledger: Ledger) -> None:
    ledger.invoice("paid", "2025-05-01", "2025-05-31", 100).pay("paid", "2025-07-01", 100)
    ledger.invoice("unpaid", "2025-05-01", "2025-05-31", 100)
    ledger.invoice("young, paid", "2025-05-01", "2025-06-01", 100).pay("young, paid", "2025-05-20", 100)
    ledger.invoice("young, unpaid", "2025-05-01", "2025-06-01", 100)
    config = ledger.read()
    rows = invoice_rows.observations(ledger.db, date(2025, 4, 20), config.payment)
    labels = invoice_rows.labels(ledger.db, rows, AS_OF, config.payment).set_index("invoice_id")["is_late"]
    assert labels.dropna().to_dict() == {"paid": 1, "unpaid": 1}
    assert labels.index.to_list() == ["paid", "unpaid", "young, paid", "young, unpaid"]


def test_rule_3_of_an_open_item_age_and_overdue_days_are_known(ledger: Ledger) -> None:
    ledger.invoice("open", "2025-05-01", "2025-05-31", 100)
    config = ledger.read(grace_days=3)
    view = invoice_rows.customer_view(ledger.db, AS_OF, config.payment)
    assert view.loc[~view["is_typical"], ["age_days", "overdue_days"]].to_numpy().tolist() == [[61, 28]]
    assert view.loc[view["is_typical"], ["age_days", "overdue_days"]].to_numpy().tolist() == [[0, -33]]


def test_rule_4_early_payment_is_measured_from_the_issue_and_is_negative(ledger: Ledger) -> None:
    ledger.invoice("a", "2025-03-01", "2025-03-31", 100).pay("a", "2025-03-06", 100)
    assert ledger.state().loc["a", "days_beyond_terms"] == -25
    assert ledger.record().on_time_share_ratio == 1


def test_rule_5_prepayment_tolerance_partial_payments_and_credit_notes(ledger: Ledger) -> None:
    for name in ("prepaid", "within 1 %", "in parts", "credited in part", "credited in full"):
        ledger.invoice(name, "2025-03-01", "2025-03-31", 1000)
    ledger.pay("prepaid", "2025-02-01", 1000)
    ledger.pay("within 1 %", "2025-03-31", 990)
    ledger.pay("in parts", "2025-03-31", 250).pay("in parts", "2025-04-20", 750)
    ledger.invoice("k1", "2025-04-15", None, -400, credited_invoice_id="credited in part")
    ledger.pay("credited in part", "2025-03-31", 600)
    ledger.invoice("k2", "2025-04-15", None, -1000, credited_invoice_id="credited in full")
    state = ledger.state()
    assert state["days_beyond_terms"].drop("credited in full").to_dict() == {
        "credited in part": 0,
        "in parts": 20,
        "prepaid": -30,
        "within 1 %": 0,
    }
    assert state.loc["in parts", "weighted_days_beyond_terms"] == 15
    assert state.loc["in parts", "late_ratio"] == 0.75
    assert state["is_fully_credited"].to_dict() == {name: name == "credited in full" for name in state.index}
    assert ledger.history().due_invoices == 4
    assert ledger.record().counted_invoices == 4


def test_rule_6_days_of_the_sellers_own_fault_stop_the_clock(ledger: Ledger) -> None:
    """20 days of dispute within 50 days late; one still open has stopped nothing, whose fault it is being unknown."""
    for name, closed, fault in (
        ("ours", "2025-04-30", "seller"),
        ("theirs", "2025-04-30", "buyer"),
        ("nobody knows", None, None),
    ):
        dispute = {"dispute_opened_date": "2025-04-10", "dispute_closed_date": closed, "dispute_fault": fault}
        ledger.invoice(name, "2025-03-01", "2025-03-31", 100, **dispute).pay(name, "2025-05-20", 100)
    assert ledger.state()["days_beyond_terms"].to_dict() == {"ours": 30, "theirs": 50, "nobody knows": 50}


def test_rule_12_grace_days_are_a_setting(ledger: Ledger) -> None:
    ledger.invoice("a", "2025-03-01", "2025-03-31", 100).pay("a", "2025-04-02", 100)
    assert ledger.state().loc["a", "days_beyond_terms"] == 2
    assert ledger.state(grace_days=2).loc["a", "days_beyond_terms"] == 0
    assert (ledger.record().on_time_share_ratio, ledger.record(grace_days=2).on_time_share_ratio) == (0, 1)


def test_rule_12_terms_changes_and_the_calendar_of_the_due_date_are_on_the_row(ledger: Ledger) -> None:
    for i in range(3):
        ledger.invoice(f"I{i}", f"2025-0{i + 1}-01", f"2025-0{i + 1}-15", 100)
    ledger.invoice("new", "2025-06-10", "2025-06-30", 100)
    config = ledger.read()
    row = (
        invoice_rows.observations(ledger.db, date(2025, 6, 10), config.payment)
        .set_index("invoice_id")
        .loc["new"]
    )
    columns = ["terms_days", "terms_change_days", "due_day_of_month", "due_weekday", "is_due_at_year_end"]
    assert row[columns].to_list() == [20, 6, 30, 1, False]


@pytest.mark.parametrize(("fridays", "expected"), [(6, 3.0), (4, None), (3, None)])
def test_rule_12_who_pays_on_one_weekday_has_payment_runs(
    ledger: Ledger, fridays: int, expected: float | None
) -> None:
    """Paid on so many Fridays of the year, and once on a Monday; the next invoice falls due on a Tuesday."""
    friday = date(2025, 1, 10)
    for i in range(fridays):
        for k in range(2):  # a run pays many invoices on one day
            ledger.invoice(f"I{i}{k}", "2025-01-01", "2025-01-31", 100)
            ledger.pay(f"I{i}{k}", str(friday + timedelta(weeks=i)), 100)
    ledger.invoice("monday", "2025-01-01", "2025-01-31", 100).pay("monday", "2025-03-17", 100)
    ledger.invoice("next", "2025-06-01", "2025-07-01", 100)
    config = ledger.read()
    view = invoice_rows.customer_view(ledger.db, AS_OF, config.payment).set_index("invoice_id")
    found = view.loc["next", "days_to_payment_run"]
    assert found == expected if expected is not None else pd.isna(found)


def test_reasons_for_delay_are_counted(ledger: Ledger) -> None:
    """Twice cash, once a dispute of a larger amount; an early payment's reason explains no delay."""
    for i, (reason, amount, paid) in enumerate(
        [
            ("cash_shortage", 100, "2025-04-10"),
            ("cash_shortage", 100, "2025-04-12"),
            ("dispute", 900, "2025-04-15"),
            ("bank_error", 100, "2025-03-20"),
            (None, 100, "2025-04-20"),
        ]
    ):
        ledger.invoice(f"I{i}", "2025-03-01", "2025-03-31", amount)
        ledger.pay(f"I{i}", paid, amount, delay_reason=reason)
    assert ledger.record().main_delay_reason == "cash_shortage"


# --- money --------------------------------------------------------------------------------------------------------


def test_currency_is_converted_at_the_invoice_date_for_every_payment_of_it(ledger: Ledger) -> None:
    """100 USD at 0.90; the rate falls to 0.50 before the second half is paid, and still the invoice closes."""
    ledger.rate("USD", "2025-03-01", 0.9).rate("USD", "2025-04-01", 0.5)
    ledger.invoice("a", "2025-03-01", "2025-03-31", 100, currency="USD")
    ledger.pay("a", "2025-03-20", 50).pay("a", "2025-04-10", 50)
    row = ledger.state().loc["a"]
    assert (row.amount, row.amount_paid, row.amount_open, row.is_open) == (90, 90, 0, False)
    assert row.days_beyond_terms == 10
    assert row.weighted_days_beyond_terms == pytest.approx((-11 + 10) / 2)


# --- bad input ----------------------------------------------------------------------------------------------------


def test_a_payment_made_twice_settles_once_and_costs_nothing_twice(ledger: Ledger) -> None:
    ledger.invoice("a", "2025-03-01", "2025-03-31", 1000)
    ledger.pay("a", "2025-04-20", 1000, payment_id="p1").pay("a", "2025-05-20", 1000, payment_id="p2")
    row, record = ledger.state().loc["a"], ledger.record()
    assert (row.days_beyond_terms, row.weighted_days_beyond_terms, row.late_ratio) == (20, 20, 1)
    assert record.balance_days == 20 * 1000
    assert record.mean_days_beyond_terms == 20


def test_what_is_paid_too_much_settles_nothing_more(ledger: Ledger) -> None:
    ledger.invoice("a", "2025-03-01", "2025-03-31", 1000).pay("a", "2025-03-31", 600).pay(
        "a", "2025-04-10", 900
    )
    row = ledger.state().loc["a"]
    assert (row.amount_paid, row.amount_open, row.is_open) == (1000, 0, False)
    assert row.weighted_days_beyond_terms == 4
    assert row.late_ratio == 0.4


def test_an_invoice_paid_by_fifty_instalments_is_settled_by_the_last_that_matters(ledger: Ledger) -> None:
    """20 a day from the due date on: within tolerance (10 of 1000) from the 50th, 49 days after the first."""
    ledger.invoice("a", "2025-03-01", "2025-03-31", 1000)
    for day in range(50):
        ledger.pay("a", str(date(2025, 3, 31) + timedelta(days=day)), 20)
    row = ledger.state().loc["a"]
    assert row.days_beyond_terms == 49
    assert row.weighted_days_beyond_terms == pytest.approx(24.5)
    assert row.late_ratio == 0.98


def test_due_before_issue_is_taken_as_due_at_issue(ledger: Ledger) -> None:
    ledger.invoice("a", "2025-03-10", "2025-03-01", 100).pay("a", "2025-03-12", 100)
    row = ledger.state().loc["a"]
    assert (row.terms_days, row.days_beyond_terms) == (0, 2)


def test_a_missing_due_date_follows_the_terms_rule(ledger: Ledger) -> None:
    ledger.invoice("a", "2025-03-01", None, 100).pay("a", "2025-03-26", 100)
    assert ledger.state(default_terms_days=14).loc["a", "days_beyond_terms"] == 11


def test_a_payment_without_an_invoice_is_set_aside(ledger: Ledger) -> None:
    ledger.invoice("a", "2025-03-01", "2025-03-31", 100).pay("a", "2025-03-20", 100).pay(
        "nowhere", "2025-03-20", 9
    )
    assert ledger.state().index.to_list() == ["a"]
    assert ledger.rejected() == [("payments", "unknown_invoice")]


def test_negative_amounts_are_credit_notes_and_payments_that_bounced(ledger: Ledger) -> None:
    ledger.invoice("a", "2025-03-01", "2025-03-31", 1000).invoice("k", "2025-04-01", None, -250)
    ledger.pay("a", "2025-03-31", 1000).pay("a", "2025-04-02", -1000)
    state, record = ledger.state(), ledger.record()
    assert state.index.to_list() == ["a"]
    assert (state.loc["a", "is_open"], state.loc["a", "amount_open"]) == (True, 1000)
    assert record.open_balance == 750


def test_mixed_currencies_without_rates_stop_the_run_with_the_currency(ledger: Ledger) -> None:
    ledger.rate("USD", "2025-01-01", 0.9)
    ledger.invoice("a", "2025-03-01", "2025-03-31", 100, currency="EUR")
    ledger.invoice("b", "2025-03-01", "2025-03-31", 100, currency="CHF")
    with pytest.raises(TableError, match="CHF"):
        ledger.read()


def test_a_customer_with_one_invoice_has_a_history_of_one(ledger: Ledger) -> None:
    ledger.invoice("a", "2025-06-20", "2025-07-20", 100)
    history = ledger.history()
    assert (history.due_invoices, history.known_invoices, history.open_amount) == (0, 0, 100)
    assert pd.isna(history.mean_days_beyond_terms)
    config = ledger.read()
    view = invoice_rows.customer_view(ledger.db, AS_OF, config.payment)
    assert view["is_typical"].to_list() == [True, False]
    assert view["weight"].sum() == pytest.approx(1)
