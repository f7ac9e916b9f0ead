"""What a grade may depend on: the facts known before `as_of`, and nothing else.

Not on what happens later, not on the order of rows or the number of threads, not on who else is graded.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pytest

from clv import champions, composite, contribution, criteria, ingest, tracking
from clv.config import Config, load
from clv.simulate import simulate
from clv.warehouse import workspace_of

pytestmark = pytest.mark.slow  # three trainings

ROOT = Path(__file__).resolve().parents[1]
AS_OF = date(2026, 1, 1)
DATED = {
    "order_lines": "greatest(order_date, coalesce(posted_date, order_date))",
    "invoices": "invoice_date",
    "payments": "payment_date",
    "service_events": "event_date",
    "credit_events": "event_date",
    "account_links": "valid_from",
    "judgements": "judged_date",
    "overrides": "decided_date",
    "exchange_rates": "rate_date",
}
# Small models: what is claimed does not depend on their size.
SETTINGS = (
    "lifetime_value.rounds=30",
    "lifetime_value.snapshots=2",
    "payment.training_months=12",
    "prospect.training_months=12",
    "prospect.minimum_prospects=40",
    "prospect.minimum_conversions=5",
    "payment.minimum_invoices=200",
    "payment.minimum_late_invoices=10",
    "engine.threads=1",
)


@dataclass(frozen=True)
class Company:
    """One company in a place of its own, trained and graded."""

    folder: Path
    more: tuple[str, ...] = ()

    @property
    def config(self) -> Config:
        places = (
            f"warehouse.path={self.folder}/demo.duckdb",
            f"mlflow.tracking_uri=sqlite:///{self.folder}/mlflow.db",
            f"mlflow.artifact_dir={self.folder}/artifacts",
        )
        return load(ROOT / "configs" / "demo.yaml", (*SETTINGS, *places, *self.more))

    def change(self, *statements: str) -> None:
        with duckdb.connect(str(self.folder / "demo.duckdb")) as connection:
            for sql in statements:
                connection.execute(sql)

    def published(self) -> dict[str, list[tuple[Any, ...]]]:
        """All published rows by table, without the run that wrote them."""
        names = (
            "grades",
            "criteria",
            "reasons",
            "value_outlook",
            "invoice_outlook",
            "tier_summary",
            "month_facts",
        )
        with duckdb.connect(str(self.folder / "demo.duckdb"), read_only=True) as connection:
            return {
                name: connection.execute(f"SELECT * EXCLUDE (run_id) FROM clv.{name} ORDER BY ALL").fetchall()
                for name in (*names, "rejected_rows")
            }


Graded = Callable[..., Company]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("company")
    simulate(folder / "demo.duckdb", customers=300, prospects=80, seed=3, threads=1)
    return folder


@pytest.fixture(scope="module")
def graded(pipelines: SimpleNamespace, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Graded:
    def grade(*changes: str, more: tuple[str, ...] = ()) -> Company:
        place = tmp_path_factory.mktemp("graded")
        shutil.copy(folder / "demo.duckdb", place)
        company = Company(place, more)
        company.change(*changes)
        pipelines.train(company.config, AS_OF)
        pipelines.score(company.config, AS_OF)
        return company

    return grade


@pytest.fixture(scope="module")
def usual(graded: Graded) -> Company:
    return graded()


def assert_same(found: Company, expected: Company) -> None:
    rows, kept = found.published(), expected.published()
    for name, table in kept.items():
        differing = [pair for pair in zip(rows[name], table, strict=True) if pair[0] != pair[1]]
        assert not differing, (name, len(differing), differing[0])


def _later_changes() -> list[str]:
    """Facts dated from `as_of` on: some deleted, some changed, some added; and later dates on earlier rows."""
    statements = []
    for table, known in DATED.items():
        later = f"{known} >= DATE '{AS_OF}'"
        statements.append(f"DELETE FROM company.{table} WHERE {later} AND hash({known}) % 3 = 0")
    first, again = f"DATE '{AS_OF}'", "SELECT * REPLACE"
    return [
        *statements,
        f"UPDATE company.order_lines SET net_amount = -9 * net_amount WHERE order_date >= {first}",
        f"UPDATE company.order_lines SET quantity = 99 WHERE posted_date >= {first}",
        f"UPDATE company.payments SET amount = 1, delay_reason = 'later' WHERE payment_date >= {first}",
        f"UPDATE company.invoices SET amount = 1 WHERE invoice_date >= {first}",
        f"UPDATE company.invoices SET dispute_fault = 'buyer', dispute_opened_date = DATE '{AS_OF}' "
        f"WHERE dispute_opened_date IS NULL AND hash(invoice_id) % 50 = 0",
        f"UPDATE company.exchange_rates SET rate = rate * 3 WHERE rate_date >= {first}",
        "UPDATE company.customers SET sales_status = 'won'",
        f"DELETE FROM company.customers WHERE first_contact_date >= {first} AND customer_id NOT IN "
        "(SELECT customer_id FROM company.order_lines)",
        f"INSERT INTO company.order_lines {again} (line_id || '-x' AS line_id, {first} AS order_date, "
        "9999 AS net_amount, NULL AS posted_date) FROM company.order_lines WHERE hash(line_id) % 40 = 0",
        f"INSERT INTO company.payments {again} (payment_id || '-x' AS payment_id, {first} AS payment_date) "
        "FROM company.payments WHERE hash(payment_id) % 40 = 0",
        f"INSERT INTO company.credit_events SELECT 'x', customer_id, {first}, 'insolvency' "
        "FROM company.customers LIMIT 1",
        f"INSERT INTO company.overrides SELECT customer_id, 'important', 'x', {first}, DATE '2030-01-01', 'x' "
        "FROM company.customers",
        f"INSERT INTO company.judgements SELECT customer_id, 'prospect', 1, 'x', {first}, NULL, 'x' "
        "FROM company.customers",
    ]


def test_nothing_on_or_after_as_of_moves_a_model_or_a_grade(graded: Graded, usual: Company) -> None:
    assert_same(graded(*_later_changes()), usual)


def test_neither_the_order_of_rows_nor_the_number_of_threads_moves_anything(
    graded: Graded, usual: Company
) -> None:
    tables = (*DATED, "customers", "products")
    shuffled = (
        f"CREATE OR REPLACE TABLE company.{t} AS SELECT * FROM company.{t} ORDER BY hash({t})" for t in tables
    )
    assert_same(graded(*shuffled, more=("engine.threads=4",)), usual)


def test_a_fact_before_as_of_does_move_grades(
    graded: Graded, usual: Company, pipelines: SimpleNamespace
) -> None:
    """So that the tests above cannot pass by looking at nothing."""
    place = usual.folder.with_name("moved")
    shutil.copytree(usual.folder, place)
    moved = Company(place)
    moved.change(
        "UPDATE company.order_lines SET net_amount = 2 * net_amount WHERE order_date = DATE '2025-12-03'"
    )
    assert pipelines.score(moved.config, AS_OF).status == "published"
    assert moved.published()["grades"] != usual.published()["grades"]


def test_a_customer_scores_the_same_alone_as_among_all(usual: Company, tmp_path: Path) -> None:
    config = usual.config
    store = tracking.open_store("demo", config.mlflow.tracking_uri, config.mlflow.artifact_dir)
    champion = champions.load(store, champions.find(store, AS_OF))
    with workspace_of(config) as db:
        ingest.load(db, config, AS_OF)
        together = criteria.measure(db, AS_OF, config, contribution.price_lines(db, config), champion.models)
    active = together.customers.loc[together.customers["is_active"], "customer_id"]
    chosen = [*active.iloc[[0, len(active) // 2, -1]], together.prospects["customer_id"].iloc[0]]
    buyer = together.customers["customer_id"].iloc[0]
    for customer in chosen:
        alone = _measured_alone(usual, customer, buyer, tmp_path, champion.models)
        for frame, values, kind in (
            ("customers", "values", "history"),
            ("prospects", "prospect_values", "prospect"),
        ):
            here = getattr(alone, frame)["customer_id"] == customer
            there = getattr(together, frame)["customer_id"] == customer
            assert here.sum() == there.sum() == int((customer == chosen[-1]) == (kind == "prospect"))
            found = champion.grading.score(getattr(alone, values)[here.to_numpy()])
            expected = champion.grading.score(getattr(together, values)[there.to_numpy()])
            np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy(), err_msg=customer)
            if kind == "history" and len(found):
                composed = [
                    composite.compose(
                        scores,
                        config.composite.weights,
                        together.switched_on,
                        champion.grading.baselines,
                        0.6,
                    )["composite_score"].to_numpy()
                    for scores in (found, expected)
                ]
                np.testing.assert_array_equal(*composed)


def _measured_alone(
    usual: Company, customer: str, buyer: str, tmp_path: Path, models: criteria.Models
) -> criteria.Measured:
    """What is measured where the company knows only this customer (and one who bought, without whom it is none)."""
    place = tmp_path / customer
    place.mkdir()
    shutil.copy(usual.folder / "demo.duckdb", place)
    alone = Company(place)
    theirs = f"('{customer}', '{buyer}')"
    alone.change(
        f"DELETE FROM company.payments WHERE invoice_id NOT IN "
        f"(SELECT invoice_id FROM company.invoices WHERE customer_id IN {theirs})",
        *(
            f"DELETE FROM company.{table} WHERE customer_id NOT IN {theirs}"
            for table in (*DATED, "customers")
            if table not in ("payments", "exchange_rates")
        ),
    )
    with workspace_of(alone.config) as db:
        ingest.load(db, alone.config, AS_OF)
        return criteria.measure(db, AS_OF, alone.config, contribution.price_lines(db, alone.config), models)
