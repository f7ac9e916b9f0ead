"""The frame that models and grades read: who is active, what late money costs, and what cannot move it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pandas as pd
import pytest

from clv.config import Config
from clv.contribution import price_lines
from clv.customers import customer_frame
from clv.features import FEATURES
from clv.period import add_months
from clv.tables import CORE
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 3, 1)


def configured(**sections: Any) -> Config:
    return Config.model_validate(
        {
            "company": "x",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"path": "l.csv"}},
            "contribution": {"default_margin_ratio": 0.4, "service_rates": {"visit": 20}, "dispute_cost": 50},
            **sections,
        }
    )


CONFIG = configured()


@pytest.fixture
def db() -> Iterator[Engine]:
    with workspace(threads=1, memory_limit="1GB") as engine:
        create(engine)
        yield engine


def create(db: Engine) -> None:
    for table in CORE.values():
        db.run(f"CREATE OR REPLACE TABLE main.{table.name} ({table.ddl()})")


def insert(db: Engine, table: str, **row: Any) -> None:
    names = ", ".join(row)
    db.run(f"INSERT INTO main.{table} ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values()))


def order(db: Engine, customer_id: str, day: date | str, net_amount: float = 100, **more: Any) -> None:
    row = {"order_id": str(day), "customer_id": customer_id, "order_date": str(day), "net_amount": net_amount}
    insert(db, "order_lines", **row, **more)


def invoice(
    db: Engine, invoice_id: str, customer_id: str, day: str, due: str, amount: float, **more: Any
) -> None:
    row = {"invoice_id": invoice_id, "customer_id": customer_id, "invoice_date": day, "due_date": due}
    insert(db, "invoices", **row, amount=amount, **more)


def frame_of(db: Engine, config: Config = CONFIG) -> pd.DataFrame:
    basis = price_lines(db, config).basis
    return customer_frame(db, AS_OF, config, basis=basis, horizon_days=365).set_index("customer_id")


def test_active_is_an_order_within_24_months_or_an_open_balance(db: Engine) -> None:
    edge = add_months(AS_OF, -24)
    order(db, "at the edge", edge)
    order(db, "lapsed", edge - timedelta(days=1))
    order(db, "owes", edge - timedelta(days=1))
    invoice(db, "1", "owes", "2022-01-01", "2022-02-01", 80)
    order(db, "has paid", edge - timedelta(days=1))
    invoice(db, "2", "has paid", "2022-01-01", "2022-02-01", 80)
    insert(db, "payments", invoice_id="2", payment_date="2023-01-01", amount=80)
    order(db, "has a credit", edge - timedelta(days=1))
    invoice(db, "3", "has a credit", "2025-01-01", "2025-02-01", -80)
    order(db, "returns only", "2025-02-01", -5)
    active = frame_of(db)["is_active"]
    assert active.dtype == bool
    assert sorted(active.index[active]) == ["at the edge", "owes"]
    shorter = configured(tiers={"active_months": 6})
    assert frame_of(db, shorter)["is_active"].sum() == 1


def test_the_ladder_stands_beside_the_features(db: Engine) -> None:
    order(db, "A", "2025-02-01", 1000)
    order(db, "B", "2023-06-01", 1000)
    insert(db, "service_events", customer_id="A", event_date="2025-01-01", activity="visit", quantity=3)
    insert(db, "service_events", customer_id="prospect", event_date="2025-01-01", activity="visit")
    frame = frame_of(db)
    assert frame.index.to_list() == ["A", "B"]
    assert frame["revenue"].to_list() == [1000, 0]
    assert frame["cost_to_serve_12m"].to_list() == [60, 0]
    assert frame["contribution_margin"].to_list() == [340, 0]
    assert {feature.name for feature in FEATURES} <= set(frame.columns)


def test_a_customer_who_costs_more_than_is_earned_stays_negative(db: Engine) -> None:
    order(db, "A", "2025-02-01", 100)
    insert(db, "service_events", customer_id="A", event_date="2025-01-01", activity="visit", quantity=10)
    assert frame_of(db).loc["A", "contribution_margin"] == 40 - 200


# 36,500 open for 100 days beyond terms, at 8 % a year: 36,500 x 100 x 0.08 / 365 = 800
def late_payer(db: Engine) -> None:
    order(db, "A", "2024-10-01", 36_500)
    invoice(db, "1", "A", "2024-10-22", str(AS_OF - timedelta(days=100)), 36_500)
    order(db, "cash", "2025-02-01", 100)


@pytest.mark.parametrize(
    ("late_money", "payment_weight", "charged"),
    [
        ("auto", 0.3, False),
        ("auto", 0.0, True),
        ("contribution", 0.3, True),
        ("never", 0.0, False),
    ],
)
def test_late_money_is_never_counted_twice(
    db: Engine, late_money: str, payment_weight: float, charged: bool
) -> None:
    late_payer(db)
    config = configured(
        contribution={"default_margin_ratio": 0.4, "loss_given_default_ratio": 0, "late_money": late_money},
        composite={"weights": {"payment": payment_weight, "contribution": 1 - payment_weight}},
    )
    row = frame_of(db, config).loc["A"]
    assert row.late_money_cost == pytest.approx(800, rel=0.02)
    assert row.contribution_margin == pytest.approx(14_600 - (row.late_money_cost if charged else 0))


def test_who_has_no_invoice_has_no_payment_record(db: Engine) -> None:
    late_payer(db)
    row = frame_of(db, configured(composite={"weights": {"contribution": 1.0}})).loc["cash"]
    assert row[["late_money_cost", "open_balance", "on_time_share_ratio", "main_delay_reason"]].isna().all()
    assert row.contribution_margin == 40
    assert row.is_active


def test_on_the_basis_of_revenue_contribution_is_not_known(db: Engine) -> None:
    late_payer(db)
    frame = frame_of(db, configured(contribution={"service_rates": {"visit": 20}}))
    assert frame["contribution_margin"].isna().all()
    assert frame["revenue"].to_list() == [36_500, 100]


def company(db: Engine, draw: random.Random, customers: int, facts: int, first: date, last: date) -> None:
    """Facts of every kind, dated or posted between `first` and `last`."""
    days = (last - first).days

    def some_day() -> str:
        return str(first + timedelta(days=draw.randrange(days)))

    for number in range(facts):
        customer, key = f"C{draw.randrange(customers)}", f"{first}-{number}"
        order(db, customer, some_day(), draw.randrange(-3000, 9000) / 100, line_id=key)
        insert(
            db, "service_events", event_id=key, customer_id=customer, event_date=some_day(), activity="visit"
        )
        issued = first + timedelta(days=draw.randrange(days))
        invoice(
            db,
            key,
            customer,
            str(issued),
            str(issued + timedelta(days=30)),
            draw.randrange(1000, 99_000) / 100,
            dispute_opened_date=some_day() if draw.random() < 0.2 else None,
        )
        insert(db, "payments", payment_id=key, invoice_id=key, payment_date=some_day(), amount=99)


def test_nothing_dated_or_posted_on_or_after_as_of_moves_the_frame(db: Engine) -> None:
    company(db, random.Random(1), 8, 60, date(2023, 1, 1), AS_OF)
    before = frame_of(db)
    draw = random.Random(2)
    company(db, draw, 12, 30, AS_OF, date(2026, 1, 1))
    for number in range(40):  # dated before, posted or come true later
        customer, day = f"C{draw.randrange(12)}", str(AS_OF - timedelta(days=draw.randrange(1, 600)))
        later = str(AS_OF + timedelta(days=draw.randrange(200)))
        order(db, customer, day, 5000, posted_date=later)
        insert(
            db, "service_events", customer_id=customer, event_date=day, activity="visit", posted_date=later
        )
        invoice(db, f"later {number}", customer, day, later, 7000, posted_date=later)
        insert(db, "payments", invoice_id=f"2023-01-01-{number}", payment_date=later, amount=10)
        insert(
            db, "payments", invoice_id=f"2023-01-01-{number}", payment_date=day, amount=10, posted_date=later
        )
        insert(db, "credit_events", customer_id=customer, event_date=later, kind="insolvency")
    db.run(f"UPDATE main.invoices SET dispute_opened_date = DATE '{AS_OF}' WHERE dispute_opened_date IS NULL")
    db.run(
        f"INSERT INTO main.customers BY NAME SELECT 'C' || i AS customer_id, DATE '{AS_OF}' AS first_contact_date, "
        f"'later' AS name, DATE '{AS_OF}' AS valid_from FROM range(12) AS numbers(i)"
    )
    pd.testing.assert_frame_equal(before, frame_of(db), check_exact=True)


def test_the_order_of_rows_and_the_number_of_threads_do_not_matter() -> None:
    frames = []
    for threads in (1, 4):
        with workspace(threads=threads, memory_limit="1GB") as db:
            create(db)
            company(db, random.Random(3), 9, 60, date(2023, 1, 1), AS_OF)
            if threads > 1:
                for name in ("order_lines", "invoices", "payments", "service_events"):
                    db.run(
                        f"CREATE OR REPLACE TABLE main.{name} AS SELECT * FROM main.{name} ORDER BY hash(rowid)"
                    )
            frames.append(frame_of(db))
    pd.testing.assert_frame_equal(*frames, check_exact=True)
