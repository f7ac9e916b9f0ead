"""The invented company: its counts, its facts, and that its truth is the truth of its facts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from clv.errors import ConfigError
from clv.simulate import SCHEMAS, simulate
from clv.simulate.timeline import DAYS_PER_YEAR, Timeline, generator
from clv.simulate.truth import FORCE_OF_INTEREST, alive_probability, expected_orders
from clv.tables import CORE

FIRST, END, START = date(2026, 1, 1), date(2026, 7, 1), date(2022, 1, 1)
Rows = Callable[[str], list[tuple[Any, ...]]]

# Lines with their margin in EUR by the rules that a company would use.
PRICED_LINES = """
    SELECT l.*, net_amount * coalesce(x.rate, 1) AS net_eur,
        CASE WHEN p.category = 'services' THEN 0.55 * net_amount * coalesce(x.rate, 1)
             WHEN l.unit_cost IS NOT NULL THEN (net_amount - quantity * l.unit_cost) * coalesce(x.rate, 1)
             ELSE net_amount * coalesce(x.rate, 1) - quantity * p.unit_cost END AS margin_eur
    FROM company.order_lines l JOIN company.products p USING (product_id)
    LEFT JOIN company.exchange_rates x ON x.currency = l.currency AND x.rate_date = l.order_date
"""


def _rows(path: Path) -> Rows:
    def query(sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(path), read_only=True, config={"threads": 1}) as connection:
            return connection.execute(sql).fetchall()

    return query


def _content(path: Path) -> dict[str, tuple[int, int]]:
    """Count and order-free hash of every table."""
    rows = _rows(path)
    tables = rows("SELECT table_schema, table_name FROM information_schema.tables ORDER BY ALL")
    return {
        f"{schema}.{table}": rows(f"SELECT count(*), sum(hash(t)::HUGEINT) FROM {schema}.{table} t")[0]
        for schema, table in tables
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    out = tmp_path_factory.mktemp("simulate") / "demo.duckdb"
    return out, simulate(out, customers=600, seed=7, threads=1)


@pytest.fixture(scope="module")
def rows(written: tuple[Path, dict[str, int]]) -> Rows:
    return _rows(written[0])


@pytest.fixture(scope="module")
def many_prospects(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    out = tmp_path_factory.mktemp("simulate") / "demo.duckdb"
    simulate(out, customers=300, prospects=3000, seed=2, threads=1)
    return _rows(out)


def test_same_seed_gives_same_rows_on_any_number_of_threads(tmp_path: Path) -> None:
    for name, threads in (("a", 1), ("b", 1), ("c", 3)):
        simulate(tmp_path / f"{name}.duckdb", customers=60, seed=3, threads=threads)
    first = _content(tmp_path / "a.duckdb")
    assert len(first) == 15
    assert first == _content(tmp_path / "b.duckdb")
    assert first == _content(tmp_path / "c.duckdb")


def test_another_seed_gives_another_company(tmp_path: Path) -> None:
    simulate(tmp_path / "a.duckdb", customers=60, seed=3, threads=1)
    simulate(tmp_path / "b.duckdb", customers=60, seed=4, threads=1)
    first, second = _content(tmp_path / "a.duckdb"), _content(tmp_path / "b.duckdb")
    assert [table for table in first if first[table] == second[table]] == []


def test_purposes_and_blocks_have_streams_of_their_own() -> None:
    draws = {generator(*key).integers(2**62) for key in ((1, "a", 0), (1, "b", 0), (1, "a", 1), (2, "a", 0))}
    assert len(draws) == 4
    assert generator(1, "a", 0).integers(2**62) in draws


@pytest.mark.parametrize(("customers", "prospects"), [(1, 0), (7, 3), (60, None), (40, 200), (200, 10)])
def test_counts_are_exactly_as_asked(tmp_path: Path, customers: int, prospects: int | None) -> None:
    counts = simulate(tmp_path / "x.duckdb", customers=customers, prospects=prospects, seed=11, threads=1)
    rows = _rows(tmp_path / "x.duckdb")
    # Both dates before the month: what a grading of that month sees.
    (buyers,) = rows(f"""SELECT count(DISTINCT customer_id) FROM company.order_lines
        WHERE order_date < DATE '{FIRST}' AND posted_date < DATE '{FIRST}'""")[0]
    (others,) = rows(f"""SELECT count(*) FROM company.customers c WHERE first_contact_date < DATE '{FIRST}'
        AND NOT EXISTS (FROM company.order_lines l
                        WHERE l.customer_id = c.customer_id AND l.order_date < DATE '{FIRST}')""")[0]
    assert (buyers, others) == (customers, customers // 5 if prospects is None else prospects)
    assert counts["company.customers"] >= buyers + others


def test_counts_of_rows_come_back(written: tuple[Path, dict[str, int]]) -> None:
    path, counts = written
    assert counts == {table: count for table, (count, _) in _content(path).items()}


def test_columns_carry_the_core_names() -> None:
    own = {
        "customers": {
            *("industry", "region", "country", "employee_count", "lead_source", "web_visits_before_contact"),
            *("requested_quote", "sales_status"),
        },
        "invoices": {"order_id"},
    }
    for name, ddl in SCHEMAS.items():
        schema, table = name.split(".")
        if schema == "company":
            columns = {column.split()[0] for column in ddl.replace("DECIMAL(18,4)", "DECIMAL").split(",")}
            assert columns - own.get(table, set()) <= set(CORE[table].names)
            assert {column.name for column in CORE[table].columns if column.required} <= columns


def test_blocks_of_accounts_share_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clv.simulate.BLOCK_ACCOUNTS", 40)
    simulate(tmp_path / "x.duckdb", customers=100, seed=5, threads=1)
    rows = _rows(tmp_path / "x.duckdb")
    assert rows("SELECT count(*) FROM company.customers WHERE first_contact_date < DATE '2026-01-01'") == [
        (120,)
    ]
    for table, key in (
        ("customers", "customer_id"),
        ("order_lines", "line_id"),
        ("invoices", "invoice_id"),
        ("payments", "payment_id"),
        ("service_events", "event_id"),
    ):
        assert rows(f"SELECT count(*) - count(DISTINCT {key}) FROM company.{table}") == [(0,)]
    assert rows("""SELECT max(customers) FROM (SELECT count(DISTINCT customer_id) AS customers
        FROM company.order_lines GROUP BY order_id)""") == [(1,)]


@pytest.mark.parametrize(
    ("table", "column", "target"),
    [
        ("order_lines", "customer_id", "customers"),
        ("order_lines", "product_id", "products"),
        ("invoices", "customer_id", "customers"),
        ("payments", "invoice_id", "invoices"),
        ("service_events", "customer_id", "customers"),
        ("credit_events", "customer_id", "customers"),
        ("account_links", "customer_id", "customers"),
        ("judgements", "customer_id", "customers"),
        ("overrides", "customer_id", "customers"),
    ],
)
def test_every_reference_is_known(rows: Rows, table: str, column: str, target: str) -> None:
    assert rows(f"SELECT count(*) FROM company.{table} ANTI JOIN company.{target} USING ({column})") == [(0,)]
    assert rows(f"SELECT count(*) - count({column}) FROM company.{table}") == [(0,)]


def test_credit_notes_name_an_invoice_of_the_same_customer_and_never_exceed_it(rows: Rows) -> None:
    assert rows("SELECT count(*) > 50 FROM company.invoices WHERE amount < 0") == [(True,)]
    assert rows("""SELECT count(*) FROM company.invoices WHERE (amount < 0) <> (credited_invoice_id IS NOT NULL)
        """) == [(0,)]
    assert rows("""SELECT count(*) FROM company.invoices n LEFT JOIN company.invoices i
        ON i.invoice_id = n.credited_invoice_id AND i.customer_id = n.customer_id AND i.currency = n.currency
        WHERE n.amount < 0 AND (i.invoice_id IS NULL OR i.amount <= 0 OR i.invoice_date > n.invoice_date)
        """) == [(0,)]
    assert rows("""SELECT count(*) FROM (SELECT i.amount, sum(n.amount) AS credited FROM company.invoices i
        JOIN company.invoices n ON n.credited_invoice_id = i.invoice_id GROUP BY i.invoice_id, i.amount)
        WHERE amount + credited < 0""") == [(0,)]


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("customers", "first_contact_date"),
        ("order_lines", "order_date"),
        ("order_lines", "posted_date"),
        ("invoices", "invoice_date"),
        ("invoices", "dispute_opened_date"),
        ("invoices", "dispute_closed_date"),
        ("payments", "payment_date"),
        ("service_events", "event_date"),
        ("credit_events", "event_date"),
        ("account_links", "valid_from"),
        ("account_links", "valid_to"),
        ("judgements", "judged_date"),
        ("overrides", "decided_date"),
        ("exchange_rates", "rate_date"),
    ],
)
def test_facts_lie_within_the_simulated_time(rows: Rows, table: str, column: str) -> None:
    (earliest, latest) = rows(f"SELECT min({column}), max({column}) FROM company.{table}")[0]
    assert START <= earliest <= latest < END


def test_invoice_is_the_sum_of_the_positive_lines_of_its_order(rows: Rows) -> None:
    assert (
        rows("""SELECT count(*), count(*) FILTER (i.amount <> o.amount) FROM company.invoices i JOIN (
            SELECT order_id, sum(net_amount) AS amount FROM company.order_lines WHERE net_amount > 0 GROUP BY 1
        ) o USING (order_id) WHERE i.credited_invoice_id IS NULL""")[0][1]
        == 0
    )
    # Only a cancellation on the same day, or the end of time, keeps an order from being invoiced.
    assert rows(f"""SELECT count(*) FROM (
            SELECT order_id, min(order_date) AS ordered, count(*) FILTER (net_amount < 0) AS reversed
            FROM company.order_lines GROUP BY 1) o ANTI JOIN company.invoices USING (order_id)
        WHERE reversed = 0 AND ordered < DATE '{END}' - 4""") == [(0,)]


def test_settled_invoices_are_settled_to_the_cent(rows: Rows) -> None:
    (settled, off) = rows("""
        WITH paid AS (SELECT invoice_id, sum(amount) AS amount, max(payment_date) AS last_date, count(*) AS n
                      FROM company.payments GROUP BY 1),
        credited AS (SELECT credited_invoice_id AS invoice_id, sum(c.amount) AS amount
                     FROM company.invoices c JOIN paid p ON p.invoice_id = c.credited_invoice_id
                     WHERE c.invoice_date <= p.last_date GROUP BY 1)
        SELECT count(*), count(*) FILTER (p.amount <> i.amount + coalesce(c.amount, 0))
        FROM company.invoices i JOIN paid p USING (invoice_id) LEFT JOIN credited c USING (invoice_id)
        WHERE due_date < DATE '2025-01-01'""")[0]
    assert settled > 1000
    assert off / settled < 0.005  # instalments still to come


def test_first_order_stands_and_is_posted_at_once(rows: Rows) -> None:
    assert rows("""
        WITH lines AS (SELECT *, min(order_date) OVER (PARTITION BY customer_id) AS first_date
                       FROM company.order_lines),
        firsts AS (SELECT customer_id, order_id, max(posted_date) FILTER (net_amount > 0) AS posted,
                       min(first_date) AS first_date, sum(net_amount) FILTER (order_date = first_date) AS net
                   FROM lines GROUP BY ALL HAVING min(order_date) = min(first_date))
        SELECT count(*) FROM (SELECT customer_id, min(posted) AS posted, min(first_date) AS first_date,
            sum(net) AS net FROM firsts GROUP BY 1) WHERE posted <> first_date OR net <= 0""") == [(0,)]


def test_company_has_what_makes_grading_hard(rows: Rows) -> None:
    def share(table: str, condition: str) -> float:
        return float(rows(f"SELECT avg(coalesce(({condition}), false)::INT) FROM company.{table}")[0][0])

    assert 0.01 < share("order_lines", "net_amount < 0") < 0.12
    assert 0.02 < share("order_lines", "posted_date > order_date") < 0.05
    assert 0.05 < share("order_lines", "unit_cost IS NULL") < 0.35
    assert 0.03 < share("order_lines", "currency = 'USD'") < 0.35
    assert 0.005 < share("invoices", "dispute_fault = 'seller'") < 0.04
    assert 0.005 < share("invoices", "dispute_fault = 'buyer'") < 0.06
    assert 0.4 < share("payments", "delay_reason IS NULL") < 0.9
    assert 0.05 < share("customers", "account_group_id IS NOT NULL") < 0.12
    assert 0.0 < share("customers", "is_natural_person") < 0.06
    assert 0.02 < share("customers", "employee_count IS NULL") < 0.15
    assert 0.0 < share("account_links", "valid_to IS NOT NULL") < 0.3
    assert rows("SELECT count(*) FROM company.overrides") == [(3,)]
    assert {kind for (kind,) in rows("SELECT DISTINCT kind FROM company.credit_events")} >= {
        "insolvency",
        "write_off",
    }
    assert rows("""SELECT category, count(*) FROM company.products WHERE unit_cost IS NULL GROUP BY 1""") == [
        ("services", 33)
    ]
    ids = {key for (key,) in rows("SELECT customer_id FROM company.customers")}
    assert {"00042", "C000001"} <= ids
    names = " ".join(name for (name,) in rows("SELECT name FROM company.customers"))
    for piece in ("<script>", "DROP TABLE", "=HYPERLINK", "🚀", "مؤسسة", "ООД", "有限公司", "GmbH"):
        assert piece in names
    partial, prepaid, never = rows(f"""
        WITH p AS (SELECT invoice_id, count(*) AS n, min(payment_date) AS first_date
                   FROM company.payments GROUP BY 1)
        SELECT avg((n > 1)::INT), avg((first_date < invoice_date)::INT), avg((n IS NULL)::INT)
        FROM company.invoices i JOIN truth.invoices USING (invoice_id) LEFT JOIN p USING (invoice_id)
        WHERE due_date < DATE '{FIRST}' - 300""")[0]
    assert 0.02 < partial < 0.1
    assert 0.005 < prepaid < 0.06
    assert 0.003 < never < 0.03


def test_a_third_of_the_customers_is_there_from_the_start(rows: Rows) -> None:
    (early, everyone) = rows(f"""SELECT count(*) FILTER (f < DATE '2022-04-01'), count(*) FROM (
        SELECT min(order_date) AS f FROM company.order_lines GROUP BY customer_id) WHERE f < DATE '{FIRST}'""")[
        0
    ]
    assert everyone == 600
    assert 200 <= early <= 230


def test_sales_status_gives_the_conversion_away(rows: Rows) -> None:
    assert rows("""SELECT sales_status IN ('won', 'dormant') AS sold, bool_and(sold = (n > 0)) FROM (
        SELECT sales_status, (SELECT count(*) FROM company.order_lines l
                              WHERE l.customer_id = c.customer_id) AS n
        FROM company.customers c) GROUP BY 1 ORDER BY 1""") == [(False, True), (True, True)]


def test_lateness_is_calibrated_at_every_level(rows: Rows) -> None:
    late = np.array(
        rows("""
        WITH paid AS (SELECT invoice_id, max(payment_date) AS paid_date FROM company.payments GROUP BY 1)
        SELECT late_payment_probability,
            coalesce(paid_date - due_date - CASE WHEN dispute_fault = 'seller'
                THEN dispute_closed_date - dispute_opened_date ELSE 0 END, 999) > 30
        FROM truth.invoices JOIN company.invoices USING (invoice_id) LEFT JOIN paid USING (invoice_id)
        WHERE due_date < DATE '2026-03-01'"""),
        dtype=np.float64,
    )
    assert len(late) > 4000
    assert 0.11 < late[:, 1].mean() < 0.19
    assert late[:, 0].mean() == pytest.approx(late[:, 1].mean(), abs=0.02)
    for fifth in np.array_split(late[np.argsort(late[:, 0])], 5):
        error = 3 * np.sqrt((fifth[:, 0] * (1 - fifth[:, 0])).sum()) / len(fifth)
        assert fifth[:, 0].mean() == pytest.approx(fifth[:, 1].mean(), abs=error + 1e-3)


def test_alive_probability_is_calibrated(rows: Rows) -> None:
    alive = np.array(
        rows(
            "SELECT alive_probability, is_alive::INT FROM truth.customer_months WHERE as_of_date = '2026-01-01'"
        )
    )
    assert len(alive) == 600
    for third in np.array_split(alive[np.argsort(alive[:, 0])], 3):
        error = 3 * np.sqrt((third[:, 0] * (1 - third[:, 0])).sum()) / len(third)
        assert third[:, 0].mean() == pytest.approx(third[:, 1].mean(), abs=error)


def test_realised_year_adds_up_to_the_expectation(rows: Rows) -> None:
    (customers, expected, given_alive, realised, expected_revenue, revenue, expected_count, count) = rows(f"""
        WITH year AS (
            SELECT customer_id, sum(margin_eur * pow(1.1, -(order_date - DATE '2025-01-01') / 365)) AS margin,
                   sum(net_eur * pow(1.1, -(order_date - DATE '2025-01-01') / 365)) AS net,
                   count(DISTINCT order_id) FILTER (quantity > 0) AS orders
            FROM ({PRICED_LINES}) WHERE order_date >= DATE '2025-01-01' AND order_date < DATE '2026-01-01'
            GROUP BY 1)
        SELECT count(*), sum(expected_contribution_12m), sum(expected_contribution_12m_given_alive), sum(margin),
               sum(expected_net_revenue_12m), sum(net), sum(expected_orders_12m), sum(orders)
        FROM truth.customer_months LEFT JOIN year USING (customer_id)
        WHERE as_of_date = DATE '2025-01-01'""")[0]
    assert customers > 400
    assert realised == pytest.approx(given_alive, rel=0.15)
    assert realised == pytest.approx(expected, rel=0.20)
    assert revenue == pytest.approx(expected_revenue, rel=0.20)
    assert count == pytest.approx(expected_count, rel=0.08)


def test_mean_order_is_the_expected_order(rows: Rows) -> None:
    (value, true_value, margin, true_margin) = rows(f"""
        WITH orders AS (SELECT customer_id, order_id, sum(net_eur) AS net, sum(margin_eur) AS margin
                        FROM ({PRICED_LINES}) GROUP BY ALL HAVING sum(quantity) > 0 AND min(order_date) < '2026-05-01')
        SELECT sum(net / mean_order_value_eur), count(*),
               sum(margin / mean_order_value_eur), sum(contribution_margin_ratio)
        FROM orders JOIN truth.customers USING (customer_id)""")[0]
    assert value == pytest.approx(true_value, rel=0.03)
    assert margin == pytest.approx(true_margin, rel=0.04)


def test_some_customers_cost_more_than_they_bring_and_spend_is_heavy_tailed(rows: Rows) -> None:
    (negative, top_share) = rows("""
        WITH t AS (SELECT *, row_number() OVER (ORDER BY expected_net_revenue_12m DESC) AS place, count(*) OVER () AS n
                   FROM truth.customer_months WHERE as_of_date = '2026-01-01')
        SELECT avg((expected_contribution_12m < 0)::INT),
               sum(expected_net_revenue_12m) FILTER (place <= n / 5) / sum(expected_net_revenue_12m) FROM t""")[
        0
    ]
    assert 0.005 < negative < 0.08
    assert 0.65 < top_share < 0.95


def test_conversion_probabilities_are_calibrated_and_have_signal(many_prospects: Rows) -> None:
    for month in (1, 3, 4):
        found = np.array(
            many_prospects(f"""
            SELECT conversion_probability_90d, coalesce(first_order_date < as_of_date + 90, false)::INT,
                   requested_quote::INT
            FROM truth.prospects JOIN truth.customers USING (customer_id) JOIN company.customers USING (customer_id)
            WHERE as_of_date = DATE '2026-{month:02}-01'""")
        )
        assert len(found) >= 3000
        error = 3 * np.sqrt((found[:, 0] * (1 - found[:, 0])).sum())
        assert found[:, 0].sum() == pytest.approx(found[:, 1].sum(), abs=error)
        asked = found[:, 2] == 1
        assert found[asked, 1].mean() > 1.3 * found[~asked, 1].mean()


def test_the_true_contribution_of_a_prospect_is_its_revenue_times_its_margin(rows: Rows) -> None:
    found = np.array(
        rows("""SELECT expected_contribution_12m, expected_net_revenue_12m * contribution_margin_ratio
            FROM truth.prospects JOIN truth.customers USING (customer_id)""")
    )
    assert len(found)
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-9)


def test_prospects_are_those_without_an_order_at_each_graded_month(rows: Rows) -> None:
    for month in range(1, 7):
        as_of = f"DATE '2026-{month:02}-01'"
        assert rows(f"""SELECT count(*), count(t.customer_id), count(c.customer_id) FROM (
                SELECT customer_id FROM truth.prospects WHERE as_of_date = {as_of}) t FULL JOIN (
                SELECT customer_id FROM company.customers c WHERE first_contact_date < {as_of} AND NOT EXISTS (
                    FROM company.order_lines l WHERE l.customer_id = c.customer_id AND order_date < {as_of})
            ) c USING (customer_id)""")[0] == (
            rows(f"""SELECT count(*) FROM truth.prospects
                WHERE as_of_date = {as_of}""")[0]
            * 3
        )
    later = rows(f"""SELECT count(*) FROM company.customers JOIN truth.customers USING (customer_id)
        WHERE first_contact_date >= DATE '{FIRST}' AND first_order_date IS NOT NULL""")[0][0]
    assert later > 0


def test_judgements_precede_the_first_order_and_know_something(many_prospects: Rows) -> None:
    assert many_prospects("""SELECT count(*) FROM company.judgements JOIN truth.customers USING (customer_id)
        WHERE judged_date > first_order_date""") == [(0,)]
    (judged, lowest, highest, knowledge) = many_prospects("""
        SELECT count(*), min(score), max(score),
            corr(score, ln(greatest(expected_contribution_12m_given_conversion, 1)))
        FROM company.judgements JOIN truth.prospects USING (customer_id) WHERE as_of_date = '2026-01-01'""")[
        0
    ]
    assert judged > 500
    assert 0 <= lowest < 20 < 80 < highest <= 100
    assert 0.3 < knowledge < 0.9


def test_judges_differ_in_what_they_know_and_in_how_kind_they_are(many_prospects: Rows) -> None:
    rows = many_prospects("""
        SELECT judged_by, corr(score, ln(greatest(expected_contribution_12m_given_conversion, 1))), avg(score)
        FROM company.judgements JOIN truth.prospects USING (customer_id) WHERE as_of_date = '2026-01-01'
        GROUP BY judged_by""")
    knows = {judge: knowledge for judge, knowledge, _ in rows}
    kind = {judge: mean for judge, _, mean in rows}
    assert knows["C. Dubois"] > 0.7 > knows["B. Costa"] > 0.4 > 0.15 > abs(knows["Э. Фёдорова"])
    assert kind["B. Costa"] > kind["A. Berger"] + 4 > kind["D. Eriksen"] + 6


def test_some_prospects_are_judged_again_and_most_judgements_have_expired(many_prospects: Rows) -> None:
    [(again, by_another, expired, valid)] = many_prospects("""
        WITH numbered AS (
            SELECT *, count(*) OVER (PARTITION BY customer_id) AS times,
                count(DISTINCT judged_by) OVER (PARTITION BY customer_id) AS judges
            FROM company.judgements WHERE judged_date < DATE '2026-01-01')
        SELECT count(*) FILTER (times > 1), count(*) FILTER (judges > 1),
            count(*) FILTER (valid_until < DATE '2026-01-01'), count(*) FILTER (valid_until >= DATE '2026-01-01')
        FROM numbered""")
    assert again > by_another > 50
    assert expired > valid > 50


def test_alive_probability_solves_its_integral() -> None:
    timeline = Timeline(FIRST, 48, 6)
    last, as_of, order_rate, dropout_rate = 700.3, 1096.0, 3.1, 0.4
    grid = np.linspace(last, as_of, 400_001)
    seasonal = timeline.seasonal_years(np.array([as_of]))[0] - timeline.seasonal_years(grid)
    growth = np.exp(dropout_rate * (as_of - grid) / DAYS_PER_YEAR + order_rate * seasonal)
    integral = np.trapezoid(dropout_rate * growth, grid) / DAYS_PER_YEAR
    found = alive_probability(
        timeline, np.array([order_rate]), np.array([dropout_rate]), np.array([last]), as_of
    )
    assert found[0] == pytest.approx(1 / (1 + integral), rel=1e-6)


def test_expected_orders_solve_their_integral() -> None:
    timeline = Timeline(FIRST, 48, 6)
    begin, end = timeline.month_day(-12), timeline.month_day(0)
    days = np.arange(begin, end)
    rate = np.diff(timeline.seasonal_years(np.arange(begin, end + 1).astype(np.float64)))
    years = (days + 0.5 - begin) / DAYS_PER_YEAR
    for discounted, decay in ((False, 0.3), (True, 0.3 + FORCE_OF_INTEREST)):
        found = expected_orders(timeline, np.array([5.0]), np.array([0.3]), -12, discounted=discounted)
        assert found[0] == pytest.approx(5.0 * (rate * np.exp(-decay * years)).sum(), rel=1e-6)


def test_company_of_before_and_its_grades_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "new" / "o'demo.duckdb"
    simulate(out, customers=5, seed=1, threads=1)
    before = _content(out)
    with duckdb.connect(str(out)) as connection:
        connection.execute(
            "CREATE SCHEMA clv; CREATE TABLE clv.grades AS SELECT 1 AS x; CREATE TABLE kept (x INT)"
        )
    simulate(out, customers=20, seed=1, threads=1)
    simulate(out, customers=5, seed=1, threads=1)
    after = _content(out)
    assert after.pop("main.kept") == (0, None)
    assert after == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"customers": 0},
        {"prospects": -1},
        {"history_months": 14},
        {"future_months": -1},
        {"first_graded_month": date(2026, 1, 2)},
    ],
)
def test_impossible_arguments_are_refused_and_nothing_is_written(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="Expected at least 1 customer"):
        simulate(tmp_path / "x.duckdb", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_other_months_are_possible(tmp_path: Path) -> None:
    out = tmp_path / "x.duckdb"
    simulate(
        out, customers=30, first_graded_month=date(2024, 3, 1), history_months=15, future_months=0, threads=1
    )
    rows = _rows(out)
    assert rows("SELECT DISTINCT as_of_date FROM truth.customer_months ORDER BY 1") == [
        (date(2023, 3, 1),),
        (date(2024, 3, 1),),
    ]
    assert rows("SELECT max(order_date) < DATE '2024-03-01' FROM company.order_lines") == [(True,)]


def test_program_writes_the_company_and_says_what(tmp_path: Path) -> None:
    out = tmp_path / "demo.duckdb"
    program = Path(__file__).parents[1] / "pipelines" / "simulate.py"
    command = [
        sys.executable,
        str(program),
        "--customers",
        "12",
        "--seed",
        "5",
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "company.order_lines" in done.stdout
    simulate(tmp_path / "same.duckdb", customers=12, seed=5, threads=1)
    assert _content(out) == _content(tmp_path / "same.duckdb")


def test_program_refuses_a_day_within_a_month(tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "pipelines" / "simulate.py"
    command = [
        sys.executable,
        str(program),
        "--first-graded-month",
        "2026-01-15",
        "--out",
        str(tmp_path / "x.duckdb"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "first day of a month" in " ".join(done.stderr.split())
