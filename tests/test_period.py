"""Time: what is visible as of a date, and where horizons and training snapshots lie."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clv.errors import ModelError
from clv.period import (
    Horizon,
    add_months,
    day_factor,
    discount_days_sql,
    discount_sql,
    see,
    see_window,
    training_snapshots,
)
from clv.tables import CORE
from clv.warehouse import Engine

DAYS = st.dates(date(1990, 1, 1), date(2060, 12, 31))


@pytest.fixture
def db(engine: Engine) -> Engine:
    for name, table in CORE.items():
        engine.run(f"CREATE TABLE main.{name} ({table.ddl()})")
    return engine


def add(db: Engine, table: str, **values: str | None) -> None:
    columns = ", ".join(values)
    places = ", ".join(f"${i}" for i in range(1, len(values) + 1))
    db.run(f"INSERT INTO main.{table} ({columns}) VALUES ({places})", list(values.values()))


def line(db: Engine, order: str, day: str, customer: str = "a", posted: str | None = None) -> None:
    add(
        db,
        "order_lines",
        order_id=order,
        customer_id=customer,
        order_date=day,
        net_amount="1",
        posted_date=posted,
    )


def seen(db: Engine, sql: str) -> list[object]:
    return [row[0] if len(row) == 1 else row for row in db.rows(f"{sql} ORDER BY ALL")]


def test_a_month_later_is_the_last_day_of_a_shorter_month() -> None:
    assert add_months(date(2024, 1, 31), 1) == date(2024, 2, 29)
    assert add_months(date(2024, 3, 31), -13) == date(2023, 2, 28)
    assert add_months(date(2023, 12, 15), 1) == date(2024, 1, 15)


@given(DAYS, st.integers(0, 36), st.integers(0, 400))
def test_the_latest_start_of_a_horizon_that_has_ended(end: date, months: int, days: int) -> None:
    horizon = Horizon(months, days)
    start = horizon.before(end)
    assert horizon.after(start) <= end
    assert end - horizon.after(start) <= timedelta(days=3)  # the missing days of a short month


def test_a_horizon_counts_calendar_days() -> None:
    assert Horizon(months=12).length_days(date(2024, 1, 1)) == 366
    assert Horizon(months=12).length_days(date(2025, 1, 1)) == 365
    assert Horizon(days=180).length_days(date(2025, 1, 1)) == 180


def test_a_value_a_year_ahead_is_discounted_by_the_annual_effective_rate(engine: Engine) -> None:
    factor = discount_sql("DATE '2026-01-01'", date(2025, 1, 1), 0.10)
    today = discount_sql("DATE '2025-01-01'", date(2025, 1, 1), 0.10)
    assert engine.rows(f"SELECT {factor}, {today}")[0] == pytest.approx((1 / 1.1, 1.0))


@pytest.mark.parametrize("rate", [0.0, 0.08, 0.10, 2.5])
def test_sql_and_python_discount_by_the_same_factor(engine: Engine, rate: float) -> None:
    assert day_factor(rate) ** 365 == pytest.approx(1 / (1 + rate), rel=1e-13)
    days = [0, 1, 90, 365, 1_000]
    [factors] = engine.rows("SELECT " + ", ".join(discount_days_sql(str(day), rate) for day in days))
    assert list(factors) == pytest.approx([day_factor(rate) ** day for day in days], rel=1e-14)


@given(DAYS, st.integers(1, 6), st.integers(1, 40), st.integers(0, 900))
def test_every_training_snapshot_is_mature_and_has_its_history(
    as_of: date, count: int, step: int, age: int
) -> None:
    horizon, first = Horizon(months=6), as_of - timedelta(days=age)
    settings = {"count": count, "step_days": step, "min_history_days": 60}
    if horizon.before(as_of) - first < timedelta(days=60):
        with pytest.raises(ModelError, match="days are missing"):
            training_snapshots(as_of, horizon, first, **settings)
        return
    dates = training_snapshots(as_of, horizon, first, **settings)
    assert 1 <= len(dates) <= count
    assert dates == sorted(dates, reverse=True)
    for day in dates:
        assert horizon.after(day) <= as_of
        assert day - first >= timedelta(days=60)


def test_only_facts_dated_and_posted_before_as_of_are_visible(db: Engine) -> None:
    line(db, "before", "2024-12-31")
    line(db, "on", "2025-01-01")
    line(db, "posted late", "2024-12-30", posted="2025-01-01")
    line(db, "posted in time", "2024-12-30", posted="2024-12-31")
    line(db, "posted early", "2025-01-02", posted="2024-12-31")
    see(db, date(2025, 1, 1))
    assert seen(db, "SELECT order_id FROM past.order_lines") == ["before", "posted in time"]


def test_the_same_query_shows_an_earlier_month_again(db: Engine) -> None:
    line(db, "1", "2024-12-31")
    line(db, "2", "2025-01-31")
    for as_of, orders in ((date(2025, 2, 1), 2), (date(2025, 1, 1), 1), (date(2025, 2, 1), 2)):
        see(db, as_of)
        assert seen(db, "SELECT count(*) FROM past.order_lines") == [orders]


def test_the_window_holds_what_happened_in_it_whenever_it_was_posted(db: Engine) -> None:
    line(db, "last before", "2024-12-31")
    line(db, "first", "2025-01-01")
    line(db, "last", "2025-01-31", posted="2025-03-01")
    line(db, "next", "2025-02-01")
    see_window(db, date(2025, 1, 1), date(2025, 2, 1))
    assert seen(db, "SELECT order_id FROM next.order_lines") == ["first", "last"]


def test_how_a_dispute_ended_is_unknown_before_its_end(db: Engine) -> None:
    invoice = {"customer_id": "a", "invoice_date": "2024-12-01", "amount": "1", "dispute_fault": "seller"}
    add(
        db,
        "invoices",
        invoice_id="open",
        dispute_opened_date="2024-12-05",
        dispute_closed_date="2025-01-01",
        **invoice,
    )
    add(
        db,
        "invoices",
        invoice_id="over",
        dispute_opened_date="2024-12-05",
        dispute_closed_date="2024-12-31",
        **invoice,
    )
    add(db, "invoices", invoice_id="unheard", dispute_opened_date="2025-01-05", **invoice)
    see(db, date(2025, 1, 1))
    found = seen(
        db, "SELECT invoice_id, dispute_opened_date, dispute_closed_date, dispute_fault FROM past.invoices"
    )
    assert found == [
        ("open", date(2024, 12, 5), None, None),
        ("over", date(2024, 12, 5), date(2024, 12, 31), "seller"),
        ("unheard", None, None, None),
    ]


def test_a_membership_lasts_until_its_end_is_known(db: Engine) -> None:
    add(
        db,
        "account_links",
        customer_id="a",
        account_group_id="g",
        valid_from="2024-01-01",
        valid_to="2025-02-01",
    )
    see(db, date(2025, 1, 1))
    assert seen(db, "SELECT valid_to FROM past.account_links") == [None]
    see(db, date(2025, 3, 1))
    assert seen(db, "SELECT valid_to FROM past.account_links") == [date(2025, 2, 1)]


def test_a_prospect_appears_with_first_contact_or_first_order(db: Engine) -> None:
    add(db, "customers", customer_id="known", first_contact_date="2024-12-31")
    add(db, "customers", customer_id="later", first_contact_date="2025-01-01")
    add(db, "customers", customer_id="never dated", first_contact_date=None)
    add(db, "customers", customer_id="bought before", first_contact_date="2025-06-01")
    line(db, "1", "2024-11-01", customer="bought before")
    see(db, date(2025, 1, 1))
    assert seen(db, "SELECT customer_id FROM past.customers") == ["bought before", "known"]


def test_a_dated_customer_shows_as_known_then(db: Engine) -> None:
    for since, name in (("2024-01-01", "Old"), ("2024-07-01", "New"), ("2025-07-01", "Next")):
        add(db, "customers", customer_id="a", name=name, first_contact_date="2023-01-01", valid_from=since)
    for as_of, name in ((date(2024, 7, 1), "Old"), (date(2025, 1, 1), "New"), (date(2026, 1, 1), "Next")):
        see(db, as_of)
        assert seen(db, "SELECT name FROM past.customers") == [name]


def test_a_buyer_of_whom_no_row_was_known_shows_with_the_identifier_alone(db: Engine) -> None:
    add(
        db, "customers", customer_id="a", name="New", first_contact_date="2023-01-01", valid_from="2024-07-01"
    )
    line(db, "1", "2024-01-01")
    see(db, date(2024, 2, 1))
    assert seen(db, "SELECT customer_id, name, first_contact_date FROM past.customers") == [("a", None, None)]
