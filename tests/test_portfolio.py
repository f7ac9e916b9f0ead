"""The ledger as a whole, worked by hand: four invoices over three months."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pandas as pd
import pytest

from clv import period
from clv.config import PaymentSettings
from clv.portfolio import BUCKETS, portfolio
from clv.tables import CORE
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 7, 1)

# 1000 paid in halves, on 06-10 and never; 400 paid when due; 300 due 2025-03-20, open; 200 not due; 50 credited in
# full; 900 paid in May.
INVOICES = [
    ("halves", "2025-04-15", "2025-05-15", 1000, None),
    ("when due", "2025-05-01", "2025-05-31", 400, None),
    ("old", "2025-03-01", "2025-03-20", 300, None),
    ("young", "2025-06-20", "2025-07-20", 200, None),
    ("credited", "2025-04-01", "2025-05-01", 50, None),
    ("note", "2025-06-20", None, -50, "credited"),
    ("gone", "2025-03-01", "2025-03-31", 900, None),
]
PAYMENTS = [
    ("halves", "2025-06-10", 500, "cash_shortage"),
    ("when due", "2025-05-31", 400, None),
    ("gone", "2025-05-10", 900, None),
]


@pytest.fixture
def found() -> Iterator[dict[str, pd.DataFrame]]:
    with workspace(threads=1, memory_limit="1GB") as db:
        made(db)
        yield portfolio(db, AS_OF, PaymentSettings())


def made(db: Engine, invoices: list[Any] = INVOICES, payments: list[Any] = PAYMENTS) -> None:
    for table in CORE.values():
        db.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
    for name, issued, due, amount, credited in invoices:
        db.run(
            "INSERT INTO main.invoices (invoice_id, customer_id, invoice_date, due_date, amount, credited_invoice_id) "
            "VALUES (?, 'C', ?, ?, ?, ?)",
            [name, issued, due, amount, credited],
        )
    for name, paid, amount, reason in payments:
        db.run(
            "INSERT INTO main.payments (invoice_id, payment_date, amount, delay_reason) VALUES (?, ?, ?, ?)",
            [name, paid, amount, reason],
        )
    period.see(db, AS_OF)


def test_ageing_is_what_is_open_by_days_beyond_terms(found: dict[str, pd.DataFrame]) -> None:
    ageing = found["ageing"].set_index("days_beyond_terms")
    assert ageing.index.to_list() == list(BUCKETS)
    assert ageing["amount_open"].to_list() == [200, 0, 500, 0, 300]
    assert ageing["invoices"].to_list() == [1, 0, 1, 0, 1]
    assert ageing["amount_ratio"].to_list() == [0.2, 0, 0.5, 0, 0.3]


def test_roll_rates_say_where_money_was_a_month_later(found: dict[str, pd.DataFrame]) -> None:
    """From May to June `halves` rolls from not due to 17 days, and in June 500 of it are paid and 500 grow older."""
    rates = found["roll_rates"].pivot(index="from_bucket", columns="to_bucket", values="amount")
    assert rates.loc["not due", "1–30"] == 1000
    assert rates.loc["1–30", "31–60"] == 500 + 300 + 900  # halves in June, the others in April
    assert rates.loc["1–30", "paid"] == 500
    assert rates.loc["31–60", "61–90"] == 300
    assert rates.loc["31–60", "paid"] == 900
    assert rates.loc["61–90", "over 90"] == 300
    shares = found["roll_rates"].groupby("from_bucket")["amount_ratio"].sum()
    assert shares.drop("over 90").to_list() == pytest.approx([1] * 4)
    assert found["roll_rates"].query("from_bucket == 'over 90'")["amount_ratio"].isna().all()
    june = found["roll_rates_by_month"].set_index("month").loc["2025-06-01"]
    assert june["1–30 to 31–60"] == 0.5
    assert june["61–90 to over 90"] == 1
    assert pd.isna(june["31–60 to 61–90"])


def test_days_of_sales_outstanding_and_days_beyond_terms_by_month(found: dict[str, pd.DataFrame]) -> None:
    by_month = found["by_month"].set_index("month")
    last = by_month.loc["2025-07-01"]
    assert last.amount_open == 1000
    assert last.dso_days == pytest.approx(1000 / (1000 + 400 + 200) * 90)  # credited in full: billed nothing
    assert last.overdue_ratio == 0.8
    assert pd.isna(last.mean_days_beyond_terms)  # what is open still grows older
    # Due in March: 300 open for 103 days by July, 900 paid after 40.
    assert by_month.loc["2025-04-01", "mean_days_beyond_terms"] == pytest.approx(
        (300 * 103 + 900 * 40) / 1200
    )
    assert len(by_month) == 13
    first = by_month.loc["2024-07-01"]
    assert first.amount_open == 0
    assert first[["dso_days", "mean_days_beyond_terms"]].isna().all()


def test_delay_reasons_are_counted_with_their_money_and_days(found: dict[str, pd.DataFrame]) -> None:
    assert found["delay_reasons"].to_dict("list") == {
        "reason": ["cash_shortage", "not recorded"],
        "payments": [1, 1],
        "amount": [500, 900],
        "mean_days_beyond_terms": [26, 40],
    }


def test_a_ledger_without_invoices_has_no_portfolio() -> None:
    with workspace(threads=1, memory_limit="1GB") as db:
        made(db, [], [])
        assert portfolio(db, AS_OF, PaymentSettings()) == {}
