"""The margin ladder, worked by hand, and its sums against the ledger."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clv.config import Config
from clv.contribution import Pricing, customer_ladder, late_money_cost, price_lines, unassigned
from clv.ingest import load
from clv.period import see
from clv.tables import CORE
from clv.warehouse import Engine, content_hash, workspace

AS_OF = date(2025, 3, 1)
RULES = {
    "category_margin_ratio": {"services": 0.55},
    "order_cost": 12,
    "line_cost": 1.5,
    "freight_ratio": 0.03,
    "return_line_cost": 8,
    "service_rates": {"visit": 120, "support_call": 15},
    "dispute_cost": 50,
}
PRODUCTS = [
    {"product_id": "priced", "unit_cost": 12},
    {"product_id": "rated", "contribution_margin_ratio": 0.4},
    {"product_id": "serviced", "category": "services"},
    {"product_id": "bare", "category": "other"},
    {"product_id": "complete", "unit_cost": 12, "contribution_margin_ratio": 0.4, "category": "services"},
]


def configured(**rules: Any) -> Config:
    return Config.model_validate(
        {
            "company": "x",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"path": "l.csv"}},
            "contribution": {**RULES, **rules},
        }
    )


@pytest.fixture
def db() -> Iterator[Engine]:
    with workspace(threads=1, memory_limit="1GB") as engine:
        for table in CORE.values():
            engine.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
        for product in PRODUCTS:
            insert(engine, "products", **product)
        yield engine


def insert(db: Engine, table: str, **row: Any) -> None:
    names = ", ".join(row)
    db.run(f"INSERT INTO main.{table} ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values()))


def line(db: Engine, line_id: str, net_amount: float, **more: Any) -> None:
    row = {"order_id": "o1", "customer_id": "A", "order_date": "2025-02-01", **more}
    insert(db, "order_lines", line_id=line_id, net_amount=net_amount, **row)


def lines(db: Engine) -> dict[str, tuple[str, float, float, float]]:
    rows = db.rows("SELECT line_id, priced_by, product_cost, variable_cost, value FROM main.order_lines")
    return {key: (rule, *map(float, amounts)) for key, rule, *amounts in rows}


# net amount, what else is known -> the rule, product cost, variable cost (freight, line), value
CASES: dict[str, tuple[float, dict[str, Any], tuple[str, float, float, float]]] = {
    "own unit cost": (100, {"quantity": 4, "unit_cost": 15}, ("line_cost", 60, 4.5, 35.5)),
    "own unit cost leads": (
        100,
        {"quantity": 4, "unit_cost": 15, "product_id": "complete"},
        ("line_cost", 60, 4.5, 35.5),
    ),
    "product's unit cost": (200, {"quantity": 10, "product_id": "priced"}, ("product_cost", 120, 7.5, 72.5)),
    "without a quantity the ratio speaks": (
        50,
        {"unit_cost": 15, "product_id": "complete"},
        ("product_ratio", 30, 3, 17),
    ),
    "product's ratio": (50, {"quantity": 1, "product_id": "rated"}, ("product_ratio", 30, 3, 17)),
    "category's ratio": (80, {"quantity": 1, "product_id": "serviced"}, ("category_ratio", 36, 3.9, 40.1)),
    "default ratio": (40, {"quantity": 1, "product_id": "bare"}, ("default_ratio", 30, 2.7, 7.3)),
    "unknown product": (40, {"quantity": 1, "product_id": "gone"}, ("default_ratio", 30, 2.7, 7.3)),
    "a bar code for a quantity": (
        40,
        {"quantity": 4_006_381_333_931, "unit_cost": 99},
        ("default_ratio", 30, 2.7, 7.3),
    ),
    "sold below cost stays negative": (10, {"quantity": 1, "unit_cost": 25}, ("line_cost", 25, 1.8, -16.8)),
    "a gift is no return": (0, {"quantity": 2, "unit_cost": 5}, ("line_cost", 10, 1.5, -11.5)),
    "a return gives its cost back": (-50, {"quantity": -2, "unit_cost": 15}, ("line_cost", -30, 8, -28)),
    "a credit without goods": (-50, {"quantity": 0, "unit_cost": 15}, ("line_cost", 0, 8, -58)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_rule_that_can_prices_a_line(db: Engine, case: str) -> None:
    net_amount, more, expected = CASES[case]
    line(db, "l1", net_amount, **more)
    line(db, "other", 1000, order_id="o2", quantity=1, unit_cost=1)
    price_lines(db, configured(default_margin_ratio=0.25, order_cost=0))
    assert lines(db)["l1"] == pytest.approx(expected)


def test_a_line_may_cost_billions(db: Engine) -> None:
    line(db, "l1", 9e11, quantity=2_000_000, unit_cost=400_000)
    insert(db, "service_events", customer_id="A", event_date="2025-01-01", activity="visit", quantity=1e12)
    price_lines(db, configured(order_cost=0, line_cost=0, freight_ratio=0))
    assert lines(db)["l1"] == ("line_cost", 8e11, 0, 1e11)
    assert customer_ladder(db, AS_OF, configured()).loc[0, "contribution_margin"] == 1e11 - 120e12


def test_shares_of_sales_by_rule_count_absolute_amounts(db: Engine) -> None:
    line(db, "l1", 60, quantity=1, unit_cost=1)
    line(db, "l2", -20, quantity=-1, unit_cost=1)
    line(db, "l3", 15, product_id="rated")
    line(db, "l4", 5)
    pricing = price_lines(db, configured())
    assert pricing.basis == "contribution"
    assert pricing.share_by_rule == pytest.approx({"line_cost": 0.8, "product_ratio": 0.15, "unpriced": 0.05})


def test_the_cost_of_an_order_stands_once_and_a_return_pays_its_own(db: Engine) -> None:
    line(db, "l2", 100, quantity=1, unit_cost=0)
    line(db, "l1", 100, quantity=1, unit_cost=0)
    line(db, "l3", -100, quantity=-1, unit_cost=0)
    line(db, "l4", 100, quantity=1, unit_cost=0, order_id="o2")
    line(db, "l5", 100, quantity=1, unit_cost=0, customer_id="B")  # an order number used twice
    price_lines(db, configured())
    assert {key: row[2] for key, row in lines(db).items()} == {
        "l1": 16.5,
        "l2": 4.5,
        "l3": 8,
        "l4": 16.5,
        "l5": 16.5,
    }


def test_a_line_posted_later_does_not_take_the_cost_of_its_order(db: Engine) -> None:
    line(db, "l2", 100, quantity=1, unit_cost=0, order_date="2025-02-02")
    line(db, "l1", 100, quantity=1, unit_cost=0, order_date="2025-02-01", posted_date="2025-02-20")
    price_lines(db, configured())
    assert {key: row[2] for key, row in lines(db).items()} == {"l1": 4.5, "l2": 16.5}


def test_lines_that_no_rule_can_price_take_the_average_ratio_of_the_others(db: Engine) -> None:
    line(db, "l1", 75, quantity=1, unit_cost=25)
    line(db, "l2", 15, quantity=1, unit_cost=20)
    line(db, "l3", 10)
    pricing = price_lines(db, configured(order_cost=0, line_cost=0, freight_ratio=0))
    assert lines(db)["l3"] == ("unpriced", 5, 0, 5)
    assert pricing.why == "1 lines without a product cost took the average, 50.0% margin"


@pytest.mark.parametrize(("priced", "basis"), [(80, "contribution"), (79, "revenue")])
def test_below_80_percent_priced_value_is_net_revenue(db: Engine, priced: float, basis: str) -> None:
    line(db, "l1", priced, quantity=1, unit_cost=10)
    line(db, "l2", 100 - priced)
    pricing = price_lines(db, configured())
    assert pricing.basis == basis
    if basis == "revenue":
        assert pricing.why == "product cost known for 79% of sales, 80% needed: value is net revenue"
        assert lines(db) == {"l1": ("line_cost", 0, 0, 79), "l2": ("unpriced", 0, 0, 21)}
        ladder = customer_ladder(db, AS_OF, configured()).iloc[0]
        assert (ladder.revenue, ladder.product_cost, ladder.order_value) == (100, 0, 100)


def test_a_company_without_a_line_is_measured_by_revenue(db: Engine) -> None:
    assert price_lines(db, configured()) == Pricing(
        "revenue", {}, "product cost known for 0% of sales, 80% needed: value is net revenue"
    )


def test_pricing_again_changes_nothing_and_other_rules_start_afresh(db: Engine) -> None:
    line(db, "l1", 100, quantity=1, unit_cost=40)
    line(db, "l2", 10)
    first = price_lines(db, configured())
    content = content_hash(db, "SELECT * FROM main.order_lines")
    assert price_lines(db, configured()) == first
    assert content_hash(db, "SELECT * FROM main.order_lines") == content
    price_lines(db, configured(default_margin_ratio=0.9))
    assert lines(db)["l2"][:2] == ("default_ratio", 1)


def test_very_small_rates_are_numbers_too(db: Engine) -> None:
    line(db, "l1", 100_000, product_id="serviced")
    line(db, "l2", 100_000)
    rules = configured(
        default_margin_ratio=-1e-05,
        category_margin_ratio={"services": 1e-05},
        freight_ratio=1e-05,
        line_cost=1e-05,
    )
    price_lines(db, rules)
    assert [row[1] for row in lines(db).values()] == [99_999, 100_001]
    insert(
        db, "order_lines", line_id="l3", order_id="o", customer_id="A", order_date="2025-02-01", net_amount=10
    )
    db.run("UPDATE main.order_lines SET unit_cost = 0.5, quantity = 1 WHERE line_id <> 'l3'")
    assert price_lines(db, configured()).why is not None


def test_categories_are_data_not_sql(db: Engine) -> None:
    insert(db, "products", product_id="odd", category="it's; DROP TABLE x")
    line(db, "l1", 100, product_id="odd")
    price_lines(db, configured(category_margin_ratio={"it's; DROP TABLE x": 0.5}))
    assert lines(db)["l1"][:2] == ("category_ratio", 50)


def test_the_ladder_of_a_few_customers_by_hand(db: Engine) -> None:
    line(db, "l1", 100, quantity=4, unit_cost=15)  # 100 - 60 - (3 + 1.5 + 12) = 23.5
    line(db, "l2", -50, quantity=-2, unit_cost=15)  # -50 + 30 - 8 = -28
    line(db, "l3", 900, quantity=1, unit_cost=1, order_id="o0", order_date="2024-02-29")  # too early
    line(db, "l4", 1000, customer_id="B", quantity=1, unit_cost=400, order_date="2024-03-01")  # 1000-400-43.5
    for activity, quantity in (("visit", None), ("support_call", 3), ("unknown", 5)):  # 120 + 45 + 0
        insert(
            db,
            "service_events",
            customer_id="A",
            event_date="2025-01-01",
            activity=activity,
            quantity=quantity,
        )
    insert(db, "service_events", customer_id="S", event_date="2025-01-01", activity="visit")
    insert(db, "service_events", customer_id="S", event_date="2025-03-01", activity="visit")  # not yet
    for number, opened in (("i1", "2025-02-10"), ("i2", "2025-03-01"), ("i3", "2024-02-29"), ("i4", None)):
        insert(
            db,
            "invoices",
            invoice_id=number,
            customer_id="B",
            invoice_date="2024-01-05",
            amount=100,
            dispute_opened_date=opened,
        )
    price_lines(db, configured())
    ladder = customer_ladder(db, AS_OF, configured()).set_index("customer_id")
    expected = pd.DataFrame(
        {
            "revenue": {"A": 50.0, "B": 1000.0, "S": 0.0},
            "product_cost": {"A": 30.0, "B": 400.0, "S": 0.0},
            "variable_cost": {"A": 24.5, "B": 43.5, "S": 0.0},
            "order_value": {"A": -4.5, "B": 556.5, "S": 0.0},
            "service_cost": {"A": 165.0, "B": 0.0, "S": 120.0},
            "dispute_cost": {"A": 0.0, "B": 50.0, "S": 0.0},
            "cost_to_serve": {"A": 165.0, "B": 50.0, "S": 120.0},
            "contribution_margin": {"A": -169.5, "B": 506.5, "S": -120.0},
        }
    )
    pd.testing.assert_frame_equal(ladder, expected, check_names=False)


def test_customers_add_up_to_the_ledger_to_the_cent(db: Engine) -> None:
    draw = random.Random(5)
    for number in range(300):
        sign = -1 if draw.random() < 0.2 else 1
        line(
            db,
            f"l{number}",
            sign * draw.randrange(1, 99_999) / 100,
            order_id=f"o{number // 3}",
            customer_id=f"C{number // 3 % 7}",
            order_date=str(AS_OF - timedelta(days=draw.randrange(-30, 500))),
            quantity=sign * draw.randrange(1, 9),
            product_id=draw.choice([product["product_id"] for product in PRODUCTS]),
            unit_cost=draw.choice([None, draw.randrange(1, 9_999) / 1000]),
        )
        insert(
            db,
            "service_events",
            customer_id=f"C{number % 9}",
            event_date=str(AS_OF - timedelta(days=draw.randrange(-30, 500))),
            activity=draw.choice(["visit", "support_call"]),
            quantity=draw.randrange(1, 99) / 10,
        )
    config = configured(default_margin_ratio=0.21)
    price_lines(db, config)
    ladder = customer_ladder(db, AS_OF, config)
    year = f"BETWEEN DATE '2024-03-01' AND DATE '{AS_OF - timedelta(days=1)}'"
    [ledger] = db.rows(f"""
        SELECT sum(net_amount) AS revenue, sum(product_cost) AS product_cost, sum(variable_cost) AS variable_cost,
            sum(value) AS order_value FROM main.order_lines WHERE order_date {year}""")
    [[served]] = db.rows(f"""
        SELECT sum(quantity * CASE activity WHEN 'visit' THEN 120 ELSE 15 END)
        FROM main.service_events WHERE event_date {year}""")
    revenue, product_cost, variable_cost, order_value = ledger
    assert revenue - product_cost - variable_cost == order_value
    wanted = [*ledger, served, order_value - served]
    names = ["revenue", "product_cost", "variable_cost", "order_value", "service_cost", "contribution_margin"]
    found = [sum(Decimal(str(round(amount, 4))) for amount in ladder[name]) for name in names]
    assert found == wanted


def test_the_order_of_rows_and_the_number_of_threads_do_not_matter() -> None:
    found = []
    for threads, seed in ((1, 1), (4, 2)):
        with workspace(threads=threads, memory_limit="1GB") as db:
            for table in CORE.values():
                db.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
            # Lines of one order are equal in many columns, and have no line_id.
            db.run(f"""
                INSERT INTO main.order_lines BY NAME
                SELECT 'o' || i // 6 AS order_id, 'c' || i // 6 % 50 AS customer_id, DATE '2025-01-01' AS order_date,
                    10 + i % 2 AS net_amount, 1 AS quantity, nullif(i % 3, 0) AS unit_cost,
                    CASE WHEN i % 5 = 0 THEN DATE '2025-01-03' END AS posted_date
                FROM range(300000) AS numbers(i) ORDER BY hash(i + {seed})
            """)
            pricing = price_lines(db, configured())
            content = content_hash(db, "SELECT * FROM main.order_lines")
            found.append((pricing, content, customer_ladder(db, AS_OF, configured())))
    assert found[0][:2] == found[1][:2]
    pd.testing.assert_frame_equal(found[0][2], found[1][2], check_exact=True)


def test_late_money_costs_capital_and_the_doubtful_part_of_the_balance() -> None:
    record = pd.DataFrame({"balance_days": [36_500.0, 0.0, 73.0], "doubtful_balance": [0.0, 200.0, 10.0]})
    rules = configured(capital_rate_annual_ratio=0.08, loss_given_default_ratio=0.5).contribution
    assert late_money_cost(record, rules).to_list() == [8.0, 100.0, 5.016]


def test_lines_set_aside_are_unassigned_and_complete_the_ledger(db: Engine, tmp_path: Path) -> None:
    records = [
        ("A", "2025-02-01", "100.10"),
        ("B", "2025-02-02", "-20.05"),
        ("Z", "2025-02-03", "7.77"),  # nobody knows Z
        ("", "2025-02-03", "0.33"),
        ("Z", "2023-02-03", "500"),  # more than a year ago
        ("Z", "2025-03-01", "900"),  # not yet
        ("A", "2025-02-03", "much"),
        ("A", "some day", "3.00"),
    ]
    write(tmp_path / "lines.csv", ("customer_id", "order_date", "net_amount"), records)
    write(tmp_path / "customers.csv", ("customer_id",), [("A",), ("B",)])
    config = Config.model_validate(
        {
            "company": "x",
            "reporting_currency": "EUR",
            "sources": {
                "customers": {"path": str(tmp_path / "customers.csv")},
                "order_lines": {
                    "path": str(tmp_path / "lines.csv"),
                    "columns": {
                        "order_id": "customer_id || order_date",
                        **{name: name for name in ("customer_id", "order_date", "net_amount")},
                    },
                },
            },
            "contribution": {"default_margin_ratio": 0.3},
        }
    )
    load(db, config, AS_OF)
    price_lines(db, config)
    aside = unassigned(db, AS_OF).set_index("rule")
    assert aside["lines"].to_dict() == {
        "missing_value": 1,
        "unknown_customer": 1,
        "unreadable_amount": 1,
        "unreadable_date": 1,
    }
    assert aside["net_amount"].to_dict() == pytest.approx(
        {"missing_value": 0.33, "unknown_customer": 7.77, "unreadable_amount": 0, "unreadable_date": 3}
    )
    revenue = customer_ladder(db, AS_OF, config)["revenue"].sum()
    assert round(revenue + aside["net_amount"].sum(), 2) == round(100.10 - 20.05 + 7.77 + 0.33 + 3, 2)


def write(path: Path, names: tuple[str, ...], records: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *records])


def test_the_ladder_shows_what_was_known_then(db: Engine) -> None:
    line(db, "l1", 100, quantity=1, unit_cost=40)
    line(
        db,
        "l2",
        100,
        quantity=1,
        unit_cost=40,
        order_date="2024-12-01",
        order_id="o2",
        posted_date="2025-03-01",
    )
    price_lines(db, configured())
    see(db, date(2030, 1, 1))  # whatever was looked at before
    assert customer_ladder(db, AS_OF, configured()).loc[0, "revenue"] == 100
    assert customer_ladder(db, date(2025, 3, 2), configured()).loc[0, "revenue"] == 200
