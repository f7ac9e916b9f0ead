"""Labels worked by hand, and the forecast of the level."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pandas as pd
import pytest

from clv.config import Config
from clv.contribution import price_lines
from clv.outcomes import level_forecast, realised_by_day, realised_value
from clv.period import Horizon, see
from clv.tables import CORE
from clv.warehouse import Engine, workspace

START = date(2024, 1, 1)
YEAR = Horizon(months=12)
CONFIG = Config.model_validate(
    {
        "company": "x",
        "reporting_currency": "EUR",
        "sources": {"order_lines": {"path": "l.csv"}},
        "lifetime_value": {"discount_rate_annual_ratio": 0.10},
        "contribution": {"default_margin_ratio": 0.4, "service_rates": {"visit": 120}, "dispute_cost": 50},
    }
)


@pytest.fixture
def db() -> Iterator[Engine]:
    with workspace(threads=1, memory_limit="1GB") as engine:
        for table in CORE.values():
            engine.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
        yield engine


def insert(db: Engine, table: str, **row: Any) -> None:
    names = ", ".join(row)
    db.run(f"INSERT INTO main.{table} ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values()))


def line(db: Engine, customer_id: str, day: str, net_amount: float, **more: Any) -> None:
    insert(
        db,
        "order_lines",
        **{"order_id": day, "customer_id": customer_id, "order_date": day, "net_amount": net_amount, **more},
    )


def realised(db: Engine, basis: str = "contribution") -> pd.DataFrame:
    price_lines(db, CONFIG)
    return realised_value(db, START, YEAR, CONFIG, basis=basis).set_index("customer_id")


def test_a_value_365_days_ahead_is_divided_by_one_and_the_rate(db: Engine) -> None:
    line(db, "A", "2024-12-31", 1100)  # margin 440
    assert realised(db).loc["A", "realised_value"] == pytest.approx(400, abs=1e-6)


def test_each_day_is_discounted_by_its_own_distance(db: Engine) -> None:
    line(db, "A", "2024-01-01", 100)
    line(db, "A", "2024-07-01", 100)
    assert realised(db).loc["A", "realised_value"] == pytest.approx(40 + 40 * 1.1 ** (-182 / 365), abs=1e-6)


def test_the_horizon_begins_at_its_start_and_ends_before_its_end(db: Engine) -> None:
    for customer, day in (("A", "2023-12-31"), ("B", "2024-01-01"), ("C", "2024-12-31"), ("D", "2025-01-01")):
        line(db, customer, day, 100)
    assert realised(db).index.to_list() == ["B", "C"]


def test_returns_in_the_window_are_netted_and_are_no_order(db: Engine) -> None:
    line(db, "A", "2023-12-01", 1000)
    line(db, "A", "2024-01-01", -100)  # of what was bought before
    line(db, "B", "2024-01-01", 100)
    line(db, "B", "2024-01-01", -100, order_id="back")
    line(db, "C", "2024-01-01", 100)
    line(db, "C", "2024-01-01", -30, order_id="back")
    found = realised(db)
    assert found["realised_value"].to_list() == [-40, 0, 28]
    assert found["realised_orders"].to_list() == [0, 0, 1]


def test_services_and_disputes_are_costs_discounted_like_value(db: Engine) -> None:
    line(db, "A", "2024-01-01", 1000)
    insert(db, "service_events", customer_id="A", event_date="2024-12-31", activity="visit", quantity=2)
    insert(db, "service_events", customer_id="A", event_date="2024-05-01", activity="a word of thanks")
    insert(db, "service_events", customer_id="A", event_date="2025-01-01", activity="visit")
    dispute = {"customer_id": "A", "amount": 10, "invoice_date": "2023-11-01"}  # disputed later than issued
    insert(db, "invoices", invoice_id="1", dispute_opened_date="2024-12-31", **dispute)
    insert(db, "invoices", invoice_id="2", dispute_opened_date="2023-12-31", **dispute)
    insert(db, "invoices", invoice_id="3", dispute_opened_date="2025-01-01", **dispute)
    found = realised(db).loc["A"]
    assert found.realised_value == 400
    assert found.realised_contribution == pytest.approx(400 - 240 / 1.1 - 50 / 1.1, abs=1e-5)
    assert realised(db, basis="revenue").loc["A", "realised_contribution"] == 400


def test_who_only_costs_has_a_negative_contribution(db: Engine) -> None:
    line(db, "A", "2023-06-01", 1000)
    insert(db, "service_events", customer_id="A", event_date="2024-01-01", activity="visit")
    assert realised(db).loc["A"].to_dict() == {
        "realised_value": 0,
        "realised_contribution": -120,
        "realised_orders": 0,
    }


@pytest.mark.parametrize("late_money", ["auto", "contribution", "never"])
def test_late_money_is_no_part_of_the_value_to_forecast(db: Engine, late_money: str) -> None:
    """It is charged where `contribution.late_money` says, once; never in the lifetime value as well."""
    line(db, "A", "2024-01-01", 1000)
    insert(
        db,
        "invoices",
        invoice_id="i",
        customer_id="A",
        invoice_date="2024-01-01",
        due_date="2024-01-31",
        amount=1000,
    )
    charging = CONFIG.contribution.model_copy(update={"late_money": late_money})
    config = CONFIG.model_copy(update={"contribution": charging})
    price_lines(db, config)
    found = realised_value(db, START, YEAR, config, basis="contribution").set_index("customer_id").loc["A"]
    assert (found.realised_value, found.realised_contribution) == (400, 400)


def test_a_fact_posted_late_happened_all_the_same(db: Engine) -> None:
    line(db, "A", "2024-01-01", 100, posted_date="2025-02-01")
    assert realised(db).loc["A", "realised_value"] == 40


def test_days_add_up_to_the_labels_of_the_customers_asked_for(db: Engine) -> None:
    line(db, "A", "2024-01-01", 100)
    line(db, "A", "2024-03-01", 100)
    line(db, "A", "2024-03-01", -150, order_id="back")
    line(db, "B", "2024-03-01", 300)
    line(db, "C", "2024-03-02", 500)  # not asked for
    line(db, "B", "2025-01-01", 900)  # after the horizon
    insert(db, "service_events", customer_id="B", event_date="2024-05-01", activity="visit")
    labels = realised(db).loc[["A", "B"]]
    asked = pd.Series(["A", "B", "nobody"])
    days = realised_by_day(db, asked, START, YEAR, CONFIG, basis="contribution").set_index("day")
    assert days.index.to_list() == [0, 60, 121]
    assert days["realised_orders"].to_list() == [1, 1, 0]
    assert days.loc[121, "realised_contribution"] == pytest.approx(-120 * 1.1 ** (-121 / 365), abs=1e-5)
    for name in ("realised_contribution", "realised_orders"):
        assert days[name].sum() == pytest.approx(labels[name].sum(), abs=1e-5)


def test_labels_do_not_depend_on_row_order_or_threads() -> None:
    found = []
    for threads, seed in ((1, 1), (4, 2)):
        with workspace(threads=threads, memory_limit="1GB") as db:
            for table in CORE.values():
                db.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
            db.run(f"""
                INSERT INTO main.order_lines BY NAME
                SELECT 'o' || i AS order_id, 'c' || i % 700 AS customer_id,
                    (i * 7919 % 100000) / 300 - 20 AS net_amount,
                    DATE '2024-01-01' + CAST(i * 31 % 366 AS INTEGER) AS order_date
                FROM range(300000) AS numbers(i) ORDER BY hash(i + {seed})
            """)
            found.append(realised(db))
    pd.testing.assert_frame_equal(found[0], found[1], check_exact=True)


AS_OF = date(2025, 1, 1)  # the year before begins 2024-01-02, the one before that 2023-01-02


def two_years(db: Engine) -> None:
    line(db, "old", "2023-01-02", 300)
    line(db, "lost", "2024-01-01", 200)
    line(db, "old", "2024-01-02", 250)
    line(db, "new", "2024-12-31", 150)
    line(db, "later", "2025-01-01", 9999)


def test_the_level_moves_as_the_known_customers_moved_a_year_ago(db: Engine) -> None:
    two_years(db)
    price_lines(db, CONFIG)
    see(db, date(2030, 1, 1))  # whatever was looked at before
    # last year 250 + 150 at 40 %, of which the customers known a year ago 250; the year before 300 + 200
    assert level_forecast(db, AS_OF, YEAR) == pytest.approx(400 * 0.4 * 250 / 500)


def test_the_level_of_a_half_year_looks_at_the_same_season(db: Engine) -> None:
    for day, amount in (("2023-07-03", 100), ("2024-03-01", 80), ("2024-09-01", 60), ("2024-01-01", 100)):
        line(db, "A", day, amount)
    price_lines(db, CONFIG)
    # 183 days: [2024-07-02, 2025-01-01) 60, [2023-07-03, 2024-01-02) 200, [2024-01-02, 2024-07-03) 80
    assert level_forecast(db, AS_OF, Horizon(days=183)) == pytest.approx(0.4 * 60 * 80 / 200)


def test_no_level_without_a_year_and_a_horizon_of_history(db: Engine) -> None:
    two_years(db)
    price_lines(db, CONFIG)
    assert level_forecast(db, date(2024, 12, 31), YEAR) is None
    db.run("DELETE FROM main.order_lines WHERE order_date < DATE '2023-06-01'")
    assert level_forecast(db, AS_OF, YEAR) is None
    db.run("DELETE FROM main.order_lines")
    assert level_forecast(db, AS_OF, YEAR) is None


@pytest.mark.parametrize("day", ["2024-12-30", "2023-12-30", "2024-06-01"])
def test_no_level_from_a_year_of_returns(db: Engine, day: str) -> None:
    two_years(db)
    line(db, "old", day, -9000)
    price_lines(db, CONFIG)
    assert level_forecast(db, AS_OF, YEAR) is None


@pytest.mark.parametrize("months", [6, 12, 18, 24, 36])
def test_the_level_of_a_steady_customer_is_its_value_over_any_horizon(db: Engine, months: int) -> None:
    db.run("""
        INSERT INTO main.order_lines BY NAME
        SELECT 'A' AS customer_id, CAST(day AS VARCHAR) AS order_id, CAST(day AS DATE) AS order_date, 10 AS net_amount
        FROM generate_series(DATE '2014-01-01', DATE '2024-12-31', INTERVAL 1 DAY) AS days(day)""")
    price_lines(db, CONFIG)
    horizon = Horizon(months=months)
    assert level_forecast(db, AS_OF, horizon) == pytest.approx(0.4 * 10 * horizon.length_days(AS_OF))
