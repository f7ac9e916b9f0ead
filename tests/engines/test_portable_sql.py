"""The heavy queries are written once, in DuckDB's dialect, and can be turned to other engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import duckdb
import pandas as pd
import pytest
import sqlglot
from sqlglot import ErrorLevel, exp

from clv.config import Config
from clv.contribution import customer_ladder, price_lines, unassigned
from clv.features import customer_features
from clv.outcomes import level_forecast, realised_by_day, realised_value
from clv.period import Horizon
from clv.tables import CORE
from clv.warehouse import Engine

AS_OF = date(2025, 3, 1)
CONFIG = Config.model_validate(
    {
        "company": "x",
        "reporting_currency": "EUR",
        "sources": {"customers": {"path": "c.csv"}, "order_lines": {"path": "l.csv"}},
        "attributes": {"industry": {"type": "category", "known_at": "first_contact"}},
        "segment": ["industry"],
        "contribution": {
            "default_margin_ratio": 0.3,
            "category_margin_ratio": {"it's": 0.5, "other": 1e-05},
            "order_cost": 12,
            "line_cost": 1.5,
            "freight_ratio": 0.03,
            "return_line_cost": 8,
            "service_rates": {"visit": 120, "support_call": 15},
            "dispute_cost": 50,
        },
    }
)
REVENUE = CONFIG.model_copy(
    update={"contribution": CONFIG.contribution.model_copy(update={"default_margin_ratio": None})}
)


class Recorder(Engine):
    """An engine that remembers every statement it ran."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        super().__init__(connection)
        self.statements: list[str] = []

    def run(self, sql: str, parameters: list[Any] | None = None) -> None:
        self.statements.append(sql)
        super().run(sql, parameters)

    def frame(self, sql: str, parameters: list[Any] | None = None) -> pd.DataFrame:
        self.statements.append(sql)
        return super().frame(sql, parameters)

    def rows(self, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        self.statements.append(sql)
        return super().rows(sql, parameters)


@contextmanager
def recorder() -> Iterator[Recorder]:
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        db = Recorder(connection)
        for table in CORE.values():
            db.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
        db.run("ALTER TABLE main.customers ADD COLUMN industry VARCHAR")
        db.run("CREATE TABLE main.unassigned_lines (rule VARCHAR, order_date DATE, net_amount DECIMAL(18,4))")
        db.run(
            "INSERT INTO main.order_lines BY NAME SELECT 'o' AS order_id, 'A' AS customer_id, 10 AS net_amount, "
            "DATE '2024-01-05' AS order_date"
        )
        db.statements.clear()
        yield db


def recorded() -> dict[str, str]:
    """The statements of the rooms of facts, each named by who runs it; the views of `period` left out."""
    with recorder() as db:
        price_lines(db, CONFIG)
        customer_ladder(db, AS_OF, CONFIG)
        unassigned(db, AS_OF)
        for horizon_days in (180, 365):
            customer_features(db, AS_OF, CONFIG, horizon_days)
        for basis in ("contribution", "revenue"):
            realised_value(db, AS_OF, Horizon(months=12), CONFIG, basis=basis)
        realised_by_day(db, pd.Series(["A"]), AS_OF, Horizon(months=12), CONFIG, basis="contribution")
        level_forecast(db, AS_OF, Horizon(months=12))
        assert price_lines(db, REVENUE).basis == "revenue"
        views = ("CREATE SCHEMA", "CREATE OR REPLACE VIEW")
        own = [sql for sql in db.statements if not sql.strip().startswith(views)]
    return {f"{number} {' '.join(sql.split())[:60]}": sql for number, sql in enumerate(own)}


STATEMENTS = recorded()


def test_every_room_is_recorded() -> None:
    assert len(STATEMENTS) == 14


@pytest.mark.parametrize("dialect", ["spark", "postgres"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_query_turns_to_other_dialects(name: str, dialect: str) -> None:
    [turned] = sqlglot.transpile(
        STATEMENTS[name], read="duckdb", write=dialect, unsupported_level=ErrorLevel.RAISE
    )
    sqlglot.parse_one(turned, read=dialect)


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_query_holds_nothing_that_sqlglot_passes_on_untranslated(name: str) -> None:
    tree = sqlglot.parse_one(STATEMENTS[name], read="duckdb")
    stars = [star for star in tree.find_all(exp.Star) if star.args.get("except_") or star.args.get("replace")]
    assert not stars, "EXCLUDE and REPLACE are DuckDB's"
    assert not [node.name for node in tree.find_all(exp.Anonymous)], "a function that only one engine knows"
    assert not list(tree.find_all(exp.Qualify))
    assert not [union for union in tree.find_all(exp.SetOperation) if union.args.get("by_name")]
    assert not [group for group in tree.find_all(exp.Group) if group.args.get("all")]
    assert not [node for node in tree.find_all(exp.Filter) if node.find(exp.Subquery, exp.Select)]
    # PostgreSQL rounds decimals only, and a cast to fixed point rounds everywhere.
    assert not list(tree.find_all(exp.Round))
