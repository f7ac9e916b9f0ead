"""Rules of lateness on hand-made invoices, small enough to check by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest

from clv import invoice_rows, period, receivables
from clv.config import PaymentSettings
from clv.tables import CORE
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 7, 1)
PAYMENT = PaymentSettings()


@pytest.fixture
def db() -> Iterator[Engine]:
    with workspace(threads=1, memory_limit="1GB") as engine:
        for table in CORE.values():
            engine.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
        yield engine


def insert(db: Engine, table: str, *rows: dict[str, Any]) -> None:
    for row in rows:
        names, values = ", ".join(row), list(row.values())
        db.run(f"INSERT INTO main.{table} ({names}) VALUES ({', '.join('?' * len(values))})", values)


def invoice(db: Engine, invoice_id: str, issued: str, due: str | None, amount: float, **more: Any) -> None:
    row = {"customer_id": "C1", **more}
    insert(
        db,
        "invoices",
        {"invoice_id": invoice_id, "invoice_date": issued, "due_date": due, "amount": amount, **row},
    )


def pay(db: Engine, invoice_id: str, on: str, amount: float, **more: Any) -> None:
    insert(db, "payments", {"invoice_id": invoice_id, "payment_date": on, "amount": amount, **more})


def state(db: Engine, as_of: date = AS_OF, payment: PaymentSettings = PAYMENT) -> pd.DataFrame:
    period.see(db, as_of)
    name = receivables.invoice_state(db, as_of, payment)
    return db.frame(f"SELECT * FROM {name} ORDER BY invoice_id").set_index("invoice_id")


# Every invoice: issued 2025-03-01, due 2025-03-31, 1000.00. Expected: settled on, days beyond terms, weighted days,
# share late, still open.
CASES: dict[str, tuple[list[tuple[str, float]], tuple[str | None, int, float, float, float]]] = {
    "on the due day": ([("2025-03-31", 1000)], ("2025-03-31", 0, 0.0, 0.0, 0.0)),
    "early payment is negative": ([("2025-03-11", 1000)], ("2025-03-11", -20, -20.0, 0.0, 0.0)),
    "late": ([("2025-05-10", 1000)], ("2025-05-10", 40, 40.0, 1.0, 0.0)),
    "open, days so far": ([], (None, 92, 92.0, 1.0, 1000.0)),
    "prepayment is settled at issue": ([("2025-02-10", 1000)], ("2025-03-01", -30, -30.0, 0.0, 0.0)),
    "half on time, half 60 late": (
        [("2025-03-31", 500), ("2025-05-30", 500)],
        ("2025-05-30", 60, 30.0, 0.5, 0.0),
    ),
    "half paid, rest open": ([("2025-03-31", 500)], (None, 92, 46.0, 0.5, 500.0)),
    "within 1 % is settled": ([("2025-04-05", 990)], ("2025-04-05", 5, 5.0, 1.0, 0.0)),
    "beyond 1 % is open": ([("2025-03-31", 989)], (None, 92, 92 * 11 / 1000, 0.011, 11.0)),
    "overpaid": ([("2025-04-05", 1100)], ("2025-04-05", 5, 5.0, 1.0, 0.0)),
    "bounced and paid again": (
        [("2025-03-31", 1000), ("2025-04-04", -1000), ("2025-04-20", 1000)],
        ("2025-04-20", 20, -4.0 + 20.0, 1.0, 0.0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_lateness_of_one_invoice(db: Engine, case: str) -> None:
    payments, (settled, days, weighted, late, still_open) = CASES[case]
    invoice(db, "I1", "2025-03-01", "2025-03-31", 1000)
    for on, amount in payments:
        pay(db, "I1", on, amount)
    row = state(db).loc["I1"]
    assert row.is_open == (settled is None)
    assert (pd.isna(row.settled_date) and settled is None) or row.settled_date == pd.Timestamp(settled)
    assert row.days_beyond_terms == days
    assert row.weighted_days_beyond_terms == pytest.approx(weighted)
    assert row.late_ratio == pytest.approx(late)
    assert row.amount_open == pytest.approx(still_open)


def test_five_units_settle_a_small_invoice_but_no_tolerance_settles_one_nobody_paid(db: Engine) -> None:
    invoice(db, "I1", "2025-03-01", "2025-03-31", 100)
    pay(db, "I1", "2025-03-20", 95)
    invoice(db, "I2", "2025-03-01", "2025-03-31", 4)
    invoice(db, "I3", "2025-03-01", "2025-03-31", 0)
    assert state(db)["is_open"].to_dict() == {"I1": False, "I2": True}


def test_credit_notes_net_within_the_invoice(db: Engine) -> None:
    invoice(db, "I1", "2025-03-01", "2025-03-31", 1000)
    invoice(db, "K1", "2025-05-20", None, -400, credited_invoice_id="I1")
    pay(db, "I1", "2025-03-31", 600)
    row = state(db).loc["I1"]
    assert (row.amount, row.amount_open, row.days_beyond_terms, row.is_open) == (600, 0, 0, False)
    before = state(db, date(2025, 5, 20)).loc["I1"]
    assert (before.amount, before.amount_open, before.is_open) == (1000, 400, True)


def test_fully_credited_invoice_is_neither_late_nor_on_time(db: Engine) -> None:
    invoice(db, "I1", "2025-03-01", "2025-03-31", 1000)
    invoice(db, "K1", "2025-06-20", None, -1000, credited_invoice_id="I1")
    row = state(db).loc["I1"]
    assert row.is_fully_credited
    assert not row.is_open
    assert pd.isna(row.settled_date)
    assert receivables.customer_history(db, AS_OF, PAYMENT).empty
    assert receivables.payment_record(db, AS_OF, PAYMENT).empty
    rows = invoice_rows.observations(db, date(2025, 4, 1), PAYMENT)
    assert rows["invoice_id"].to_list() == ["I1"]
    assert invoice_rows.labels(db, rows, AS_OF, PAYMENT).empty


def test_credit_note_without_an_invoice_lowers_the_balance_only(db: Engine) -> None:
    invoice(db, "I1", "2025-05-01", "2025-05-31", 1000)
    invoice(db, "K1", "2025-06-01", None, -300)
    row = state(db).loc["I1"]
    assert (row.amount_open, row.days_beyond_terms) == (1000, 31)
    record = receivables.payment_record(db, AS_OF, PAYMENT).iloc[0]
    assert record.open_balance == 700
    assert record.overdue_balance_ratio == 1.0


# Issued 2025-03-01, due 2025-03-31, paid 2025-05-10 (40 days after); disputed from, until, fault -> days beyond terms
@pytest.mark.parametrize(
    ("opened", "closed", "fault", "expected"),
    [
        ("2025-04-05", "2025-04-25", "seller", 20),
        ("2025-04-05", "2025-04-25", "buyer", 40),
        ("2025-04-05", None, None, 40),
        ("2025-03-21", "2025-04-10", "seller", 30),
        ("2025-03-05", "2025-03-20", "seller", 40),
        ("2025-04-30", "2025-06-15", "seller", 30),
        ("2025-06-01", "2025-06-15", "seller", 40),
    ],
)
def test_days_of_a_dispute_by_the_sellers_fault_do_not_count(
    db: Engine, opened: str, closed: str | None, fault: str | None, expected: int
) -> None:
    dispute = {"dispute_opened_date": opened, "dispute_closed_date": closed, "dispute_fault": fault}
    invoice(db, "I1", "2025-03-01", "2025-03-31", 1000, **dispute)
    pay(db, "I1", "2025-05-10", 1000)
    assert state(db).loc["I1", "days_beyond_terms"] == expected


def test_dispute_has_the_status_of_the_date(db: Engine) -> None:
    dispute = {
        "dispute_opened_date": "2025-04-05",
        "dispute_closed_date": "2025-06-10",
        "dispute_fault": "seller",
    }
    invoice(db, "I1", "2025-03-01", "2025-03-31", 1000, **dispute)
    days = {
        as_of: (row["is_disputed"], row["days_beyond_terms"])
        for as_of in (date(2025, 4, 5), date(2025, 6, 10), date(2025, 6, 11))
        for row in state(db, as_of).to_dict("records")
    }
    assert days == {
        date(2025, 4, 5): (False, 5),
        date(2025, 6, 10): (True, 71),
        date(2025, 6, 11): (False, 72 - 66),
    }


def test_grace_days_and_missing_due_dates_are_settings(db: Engine) -> None:
    invoice(db, "I1", "2025-03-01", None, 1000)
    pay(db, "I1", "2025-04-05", 1000)
    assert state(db).loc["I1", "days_beyond_terms"] == 5
    settings = PaymentSettings(default_terms_days=20, grace_days=3)
    row = state(db, payment=settings).loc["I1"]
    assert (row.terms_days, row.days_beyond_terms) == (20, 12)


def test_open_invoice_is_information_in_history_and_record(db: Engine) -> None:
    """Three invoices of 1000: paid on time, paid 40 days late, open 61 days beyond terms."""
    invoice(db, "I1", "2025-01-01", "2025-01-31", 1000)
    pay(db, "I1", "2025-01-31", 1000)
    invoice(db, "I2", "2025-02-01", "2025-03-01", 1000)
    pay(db, "I2", "2025-04-10", 1000, delay_reason="cash_shortage")
    invoice(db, "I3", "2025-04-01", "2025-05-01", 1000)
    invoice(db, "I4", "2025-06-15", "2025-07-15", 500)
    period.see(db, AS_OF)
    history = receivables.customer_history(db, AS_OF, PAYMENT).iloc[0]
    expected = {
        "known_invoices": 3,
        "late_invoices": 2,
        "long_known_invoices": 3,
        "long_late_invoices": 2,
        "due_invoices": 3,
        "beyond_terms_invoices": 2,
        "paid_invoices": 2,
        "paid_late_invoices": 1,
        "mean_days_beyond_terms": (0 + 40 + 61) / 3,
        "recent_days_beyond_terms": 61.0,
        "trend_days_beyond_terms": 61 - 101 / 3,
        "worst_days_beyond_terms": 61,
        "last_days_beyond_terms": 61,
        "last_three_days_beyond_terms": 101 / 3,
        "last_three_late_ratio": 2 / 3,
        "late_amount_ratio": 2 / 3,
        "billed": 3500,
        "typical_amount": 1000,
        "typical_terms_days": 30,
        "open_amount": 1500,
        "overdue_balance_ratio": 2 / 3,
        "overdue_to_billed_ratio": 1000 / 3500,
        "overdue_invoices": 1,
        "longest_overdue_days": 61,
        "days_since_last_payment": 82,
        "dispute_ratio": 0.0,
    }
    assert {name: history[name] for name in expected} == pytest.approx(expected)
    record = receivables.payment_record(db, AS_OF, PAYMENT).iloc[0]
    assert record.on_time_share_ratio == pytest.approx(1 / 3)
    assert record.mean_days_beyond_terms == pytest.approx(101 / 3)
    assert record.main_delay_reason == "cash_shortage"
    assert record.counted_invoices == 3
    assert record.open_balance == 1500
    assert record.overdue_balance_ratio == pytest.approx(2 / 3)
    assert record.balance_days == 1000 * (40 + 61)


def test_balance_days_are_exact_and_of_the_last_year_only(db: Engine) -> None:
    """An invoice open since 2023 is late on each of the last 365 days, a payment early is late on none."""
    invoice(db, "I1", "2023-01-01", "2023-01-31", Decimal("0.1001"))
    invoice(db, "I2", "2025-01-01", "2025-01-31", 100)
    pay(db, "I2", "2025-01-10", 100)
    invoice(db, "I3", "2024-05-01", "2024-06-21", 200)
    pay(db, "I3", "2024-07-11", 200)  # 20 days beyond terms, the last 10 of them within the year
    period.see(db, AS_OF)
    receivables.payment_record(db, AS_OF, PAYMENT)
    total = db.rows(f"SELECT sum(balance_days) FROM {receivables.invoice_state(db, AS_OF, PAYMENT)}")[0][0]
    assert total == Decimal("0.1001") * 365 + 200 * 10


def test_main_delay_reason_counts_late_payments_of_the_record_only(db: Engine) -> None:
    for i, (due, paid, reason) in enumerate(
        [
            ("2025-03-01", "2025-03-20", "approval_pending"),
            ("2025-03-01", "2025-02-20", "bank_error"),
            ("2025-04-01", "2025-03-20", "bank_error"),
            ("2025-04-01", "2025-05-20", "cash_shortage"),
            ("2023-04-01", "2023-05-20", "dispute"),
            ("2023-04-01", "2023-05-20", "dispute"),
        ]
    ):
        invoice(db, f"I{i}", "2023-01-01", due, 100 * (i + 1))
        pay(db, f"I{i}", paid, 100 * (i + 1), delay_reason=reason)
    period.see(db, AS_OF)
    record = receivables.payment_record(db, AS_OF, PAYMENT).iloc[0]
    assert record.main_delay_reason == "cash_shortage"  # once each; the larger amount
    assert record.counted_invoices == 4


def test_label_is_known_by_the_due_date_and_never_by_the_payment(db: Engine) -> None:
    """Snapshot 2025-04-01, training date 2025-07-01: lateness is known of what was due before 2025-06-01."""
    invoice(db, "open", "2025-03-01", "2025-03-20", 1000)
    invoice(db, "paid late", "2025-04-02", "2025-05-02", 1000)
    pay(db, "paid late", "2025-06-02", 1000)
    invoice(db, "paid on the last day", "2025-04-02", "2025-05-02", 1000)
    pay(db, "paid on the last day", "2025-06-01", 1000)
    invoice(db, "young, paid", "2025-04-10", "2025-06-01", 1000)
    pay(db, "young, paid", "2025-04-20", 1000)
    invoice(db, "young, unpaid", "2025-04-10", "2025-06-01", 1000)
    invoice(db, "next window", "2025-05-01", "2025-05-02", 1000)
    rows = invoice_rows.observations(db, date(2025, 4, 1), PAYMENT)
    labelled = invoice_rows.labels(db, rows, AS_OF, PAYMENT).set_index("invoice_id")
    assert labelled["is_late"].dropna().to_dict() == {"open": 1, "paid late": 1, "paid on the last day": 0}
    assert labelled.index.to_list() == [
        "open",
        "paid late",
        "paid on the last day",
        "young, paid",
        "young, unpaid",
    ]
    assert labelled.loc["paid late", "label_date"] == pd.Timestamp("2025-06-02")
    assert labelled.loc["open", ["is_open", "age_days", "overdue_days"]].to_list() == [True, 31, 12]
    assert labelled.loc["young, paid", ["is_open", "age_days", "overdue_days"]].to_list() == [False, 0, -52]


def test_days_late_run_until_settled_and_wait_until_the_cap_has_passed_for_everyone(db: Engine) -> None:
    """1000 due 2024-10-31: 400 paid on time, the rest never; paid or not, nobody's days count before 180 passed."""
    invoice(db, "I1", "2024-10-01", "2024-10-31", 1000)
    pay(db, "I1", "2024-10-31", 400)
    invoice(db, "I2", "2024-10-01", "2024-10-31", 1000)
    pay(db, "I2", "2024-10-11", 1000)
    rows = invoice_rows.observations(db, date(2024, 9, 20), PAYMENT)
    late = invoice_rows.labels(db, rows, AS_OF, PAYMENT).set_index("invoice_id")
    assert late["days_late"].to_dict() == {"I1": 180, "I2": 0}
    assert late["days_beyond_terms"].to_dict() == {"I1": 243, "I2": -20}
    assert late["is_settled"].to_dict() == {"I1": False, "I2": True}
    assert (late["known_days"] == 243).all()
    young = invoice_rows.labels(db, rows, date(2025, 4, 1), PAYMENT)
    assert young["days_late"].isna().all()
    assert young["is_late"].to_list() == [1, 0]


def test_customer_view_weighs_a_typical_invoice_and_the_open_ones(db: Engine) -> None:
    for i, (amount, terms) in enumerate([(100, 30), (300, 30), (600, 60)]):
        issued = date(2025, 1, 1) + timedelta(days=i)
        invoice(db, f"I{i}", str(issued), str(issued + timedelta(days=terms)), amount)
        pay(db, f"I{i}", "2025-02-01", amount)
    invoice(db, "I3", "2025-06-01", "2025-07-01", 2650)
    invoice(db, "old", "2020-06-01", "2020-07-01", 50, customer_id="C2")
    invoice(db, "gone", "2020-06-01", "2020-07-01", 50, customer_id="C3")
    pay(db, "gone", "2020-06-10", 50)
    period.see(db, AS_OF)
    rows = invoice_rows.customer_view(db, AS_OF, PAYMENT)
    assert rows["customer_id"].to_list() == ["C1", "C1", "C2"]
    assert rows["is_typical"].to_list() == [True, False, False]
    assert rows["invoice_id"].isna().to_list() == [True, False, False]
    assert rows["amount"].to_list() == pytest.approx([3650 * 90 / 365, 2650, 50])
    assert rows["weight"].to_list() == pytest.approx([900 / 3550, 2650 / 3550, 1])
    typical = rows.iloc[0]
    assert (typical.invoice_amount, typical.terms_days, typical.age_days, typical.overdue_days) == (
        300,
        30,
        0,
        -30,
    )
    assert (typical.due_day_of_month, typical.due_weekday, typical.is_due_at_year_end) == (15, 3, False)


def test_terms_changes_and_season_are_on_the_row(db: Engine) -> None:
    for i in range(3):
        invoice(db, f"I{i}", f"2024-0{i + 7}-01", f"2024-0{i + 7}-31" if i != 2 else "2024-10-01", 100)
    invoice(db, "new", "2024-12-02", "2024-12-20", 300)
    rows = invoice_rows.observations(db, date(2024, 12, 1), PAYMENT).set_index("invoice_id")
    columns = [
        "terms_days",
        "terms_change_days",
        "amount_to_typical_ratio",
        "due_day_of_month",
        "due_weekday",
    ]
    assert rows.loc["new", columns].to_list() == [18, -12, 3.0, 20, 5]
    assert rows["is_due_at_year_end"].to_dict() == {"I0": False, "I1": False, "I2": False, "new": True}


def test_segment_is_made_of_the_customers_attributes(db: Engine) -> None:
    db.run("ALTER TABLE main.customers ADD COLUMN industry VARCHAR")
    insert(
        db,
        "customers",
        {"customer_id": "C1", "first_contact_date": "2024-01-01", "industry": "Möbel"},
        {"customer_id": "C2", "first_contact_date": "2024-01-01"},
    )
    invoice(db, "I1", "2025-06-01", "2025-07-01", 10)
    invoice(db, "I2", "2025-06-01", "2025-07-01", 10, customer_id="C2")
    period.see(db, AS_OF)
    assert receivables.customer_history(db, AS_OF, PAYMENT, ["industry"])["segment"].to_list() == [
        "Möbel",
        "unknown",
    ]
    assert invoice_rows.customer_view(db, AS_OF, PAYMENT, ["industry"])["segment"].to_list() == [
        *["Möbel"] * 2,
        *["unknown"] * 2,
    ]


def test_a_customer_first_met_after_the_snapshot_comes_with_the_segment_known_at_first(db: Engine) -> None:
    db.run("ALTER TABLE main.customers ADD COLUMN industry VARCHAR")
    new = {"customer_id": "C1", "first_contact_date": "2025-04-03"}
    insert(
        db, "customers", {**new, "industry": "food"}, {**new, "valid_from": "2025-04-20", "industry": "steel"}
    )
    insert(db, "customers", {"customer_id": "C2", "first_contact_date": "2025-06-03", "industry": "later"})
    invoice(db, "I1", "2025-04-10", "2025-05-10", 10)
    invoice(db, "I2", "2025-04-11", "2025-05-10", 10, customer_id="C2")
    rows = invoice_rows.observations(db, date(2025, 4, 1), PAYMENT, ["industry"])
    assert rows["segment"].to_list() == ["food", "unknown"]
    assert invoice_rows.observations(db, date(2025, 4, 25), PAYMENT, ["industry"])["segment"].to_list() == [
        "steel",
        "unknown",
    ]


def everything(db: Engine) -> list[pd.DataFrame]:
    training = invoice_rows.training_rows(db, AS_OF, PAYMENT)  # leaves past at AS_OF
    return [
        training,
        state(db),
        receivables.customer_history(db, AS_OF, PAYMENT),
        receivables.payment_record(db, AS_OF, PAYMENT),
        invoice_rows.customer_view(db, AS_OF, PAYMENT),
    ]


def small_ledger(db: Engine) -> None:
    day = date(2024, 1, 10)
    for i in range(40):
        issued = day + timedelta(days=13 * i)
        due = issued + timedelta(days=30)
        invoice(db, f"I{i}", str(issued), str(due), 100 + i, customer_id=f"C{i % 3}")
        if i % 5:
            pay(
                db,
                f"I{i}",
                str(due + timedelta(days=17 * (i % 4) - 10)),
                100 + i,
                delay_reason="cash_shortage",
            )


def test_nothing_on_or_after_the_date_moves_anything(db: Engine) -> None:
    small_ledger(db)
    db.run(f"DELETE FROM main.invoices WHERE invoice_date >= DATE '{AS_OF}'")
    db.run(f"DELETE FROM main.payments WHERE payment_date >= DATE '{AS_OF}'")
    before = everything(db)
    db.run("UPDATE main.invoices SET dispute_opened_date = '2025-07-01' WHERE invoice_id = 'I35'")
    for i in (30, 35):
        pay(db, f"I{i}", "2025-07-01", 500, delay_reason="dispute")
        pay(db, f"I{i}", "2025-06-01", 500, posted_date="2025-07-01")
    invoice(db, "new", "2025-07-01", "2025-07-31", 1e6, customer_id="C1")
    invoice(db, "posted later", "2025-06-01", "2025-06-02", 1e6, customer_id="C1", posted_date="2025-07-02")
    invoice(db, "K", "2025-07-01", None, -100, customer_id="C1", credited_invoice_id="I30")
    for old, new in zip(before, everything(db), strict=True):
        pd.testing.assert_frame_equal(old, new)


def test_row_order_does_not_matter(db: Engine) -> None:
    small_ledger(db)
    before = everything(db)
    for table in ("invoices", "payments"):
        db.run(
            f"CREATE OR REPLACE TABLE main.{table} AS SELECT * FROM main.{table} ORDER BY hash(invoice_id)"
        )
    for old, new in zip(before, everything(db), strict=True):
        pd.testing.assert_frame_equal(old, new)


def test_customers_beyond_the_limit_are_drawn_whole(db: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    small_ledger(db)
    before = invoice_rows.training_rows(db, AS_OF, PAYMENT)
    monkeypatch.setattr(invoice_rows, "TRAINING_CUSTOMERS", 2)
    some = invoice_rows.training_rows(db, AS_OF, PAYMENT)
    assert set() < set(some["customer_id"]) < set(before["customer_id"])
    expected = before.loc[before["customer_id"].isin(some["customer_id"])]
    pd.testing.assert_frame_equal(some, expected.reset_index(drop=True))


def test_training_rows_of_an_empty_or_young_ledger_are_empty(db: Engine) -> None:
    assert invoice_rows.training_rows(db, AS_OF, PAYMENT).empty
    invoice(db, "I1", "2025-06-01", "2025-07-01", 10)
    rows = invoice_rows.training_rows(db, AS_OF, PAYMENT)
    assert rows.empty
    assert {"is_late", "days_late", "label_date", "mean_days_beyond_terms"} <= set(rows.columns)


def test_later_payment_never_makes_the_history_look_better(db: Engine) -> None:
    small_ledger(db)
    period.see(db, AS_OF)
    improving = [
        "late_invoices",
        "beyond_terms_invoices",
        "long_late_invoices",
        "long_beyond_terms_invoices",
        "mean_days_beyond_terms",
        "recent_days_beyond_terms",
        "worst_days_beyond_terms",
        "last_days_beyond_terms",
        "last_three_days_beyond_terms",
        "late_amount_ratio",
        "overdue_balance_ratio",
        "overdue_to_billed_ratio",
        "overdue_invoices",
        "longest_overdue_days",
    ]
    before = receivables.customer_history(db, AS_OF, PAYMENT)
    for days in (1, 40, 400):
        db.run(f"""
            CREATE OR REPLACE TABLE main.payments AS
            SELECT * REPLACE (CAST(payment_date + INTERVAL {days} DAY AS DATE) AS payment_date)
            FROM main.payments
        """)
        period.see(db, AS_OF)
        after = receivables.customer_history(db, AS_OF, PAYMENT)
        assert (after[improving].to_numpy(float) >= before[improving].to_numpy(float) - 1e-9).all()
        assert after["known_invoices"].to_list() == before["known_invoices"].to_list()
        before = after
