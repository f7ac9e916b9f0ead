"""An invented B2B company whose true parameters are known.

It sells six categories of products and services, in euros and dollars, on terms of 14 to 60 days. Customers are
won over the whole history, order in a seasonal Poisson process until an exponential dropout, spend a heavy-tailed
log-normal amount, return and cancel, pay early, late, in parts or never. Some cost more than they bring.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa

from clv.errors import ConfigError
from clv.simulate import catalogue, population
from clv.simulate.block import World, simulate_block
from clv.simulate.company_rows import company_rows, shared_rows
from clv.simulate.timeline import Timeline
from clv.simulate.truth_rows import truth_rows
from clv.warehouse import Engine, attached, workspace

BLOCK_ACCOUNTS = 50_000  # fixed, so that the rows do not depend on the machine
MEMORY_LIMIT = "2GB"  # of DuckDB; a block of accounts takes about 0.7 GB beside it

SCHEMAS = {
    "company.customers": "customer_id VARCHAR, name VARCHAR, first_contact_date DATE, account_group_id VARCHAR,"
    " sales_rep VARCHAR, is_natural_person BOOLEAN, industry VARCHAR, region VARCHAR, country VARCHAR,"
    " employee_count INTEGER, lead_source VARCHAR, web_visits_before_contact INTEGER, requested_quote BOOLEAN,"
    " sales_status VARCHAR",
    "company.products": "product_id VARCHAR, name VARCHAR, category VARCHAR, unit_cost DECIMAL(18,4),"
    " contribution_margin_ratio DOUBLE",
    "company.order_lines": "line_id VARCHAR, order_id VARCHAR, customer_id VARCHAR, order_date DATE,"
    " product_id VARCHAR, quantity INTEGER, net_amount DECIMAL(18,4), unit_cost DECIMAL(18,4), currency VARCHAR,"
    " posted_date DATE",
    "company.invoices": "invoice_id VARCHAR, customer_id VARCHAR, order_id VARCHAR, invoice_date DATE,"
    " due_date DATE, amount DECIMAL(18,4), currency VARCHAR, dispute_opened_date DATE, dispute_closed_date DATE,"
    " dispute_fault VARCHAR, credited_invoice_id VARCHAR",
    "company.payments": "payment_id VARCHAR, invoice_id VARCHAR, payment_date DATE, amount DECIMAL(18,4),"
    " delay_reason VARCHAR",
    "company.service_events": "event_id VARCHAR, customer_id VARCHAR, event_date DATE, activity VARCHAR,"
    " quantity INTEGER",
    "company.credit_events": "event_id VARCHAR, customer_id VARCHAR, event_date DATE, kind VARCHAR",
    "company.account_links": "customer_id VARCHAR, account_group_id VARCHAR, valid_from DATE, valid_to DATE",
    "company.judgements": "customer_id VARCHAR, criterion VARCHAR, score DOUBLE, judged_by VARCHAR,"
    " judged_date DATE, valid_until DATE, note VARCHAR",
    "company.overrides": "customer_id VARCHAR, tier VARCHAR, decided_by VARCHAR, decided_date DATE,"
    " valid_until DATE, reason VARCHAR",
    "company.exchange_rates": "currency VARCHAR, rate_date DATE, rate DOUBLE",
    "truth.customers": "customer_id VARCHAR, first_order_date DATE, dropout_date DATE, order_rate_per_year DOUBLE,"
    " dropout_rate_per_year DOUBLE, mean_order_value_eur DOUBLE, contribution_margin_ratio DOUBLE,"
    " discount_ratio DOUBLE, return_ratio DOUBLE, late_tendency DOUBLE",
    "truth.customer_months": "as_of_date DATE, customer_id VARCHAR, is_alive BOOLEAN, alive_probability DOUBLE,"
    " expected_orders_12m DOUBLE, expected_net_revenue_12m DOUBLE, expected_contribution_12m DOUBLE,"
    " expected_contribution_12m_given_alive DOUBLE, late_payment_probability DOUBLE",
    "truth.invoices": "invoice_id VARCHAR, late_payment_probability DOUBLE",
    "truth.prospects": "as_of_date DATE, customer_id VARCHAR, conversion_probability_90d DOUBLE,"
    " expected_contribution_12m_given_conversion DOUBLE, expected_net_revenue_12m DOUBLE,"
    " expected_contribution_12m DOUBLE",
}

# The first three customers that order before and after the decision; months count from the first graded one.
OVERRIDES = """
INSERT INTO {company}.overrides
WITH regular AS (
    SELECT customer_id, row_number() OVER (ORDER BY customer_id) AS place
    FROM {company}.order_lines
    GROUP BY customer_id
    HAVING min(order_date) < $1 - INTERVAL 6 MONTH AND max(order_date) >= $1 - INTERVAL 1 MONTH
)
SELECT customer_id, tier, decided_by, decided_date, valid_until, reason
FROM regular
JOIN (VALUES
    (1, 'important', 'Head of sales', $1 - 20, $1 + 200, 'Frame contract signed, orders start in spring'),
    (2, 'ordinary', 'Credit control', $1 - 12, $1 + 45, 'Legal dispute: 暂停发货'),
    (3, 'main', 'Head of sales', $1 + 35, $1 + 130, 'Reference customer ⭐')
) decisions(place, tier, decided_by, decided_date, valid_until, reason) USING (place)
"""


def simulate(
    out: Path,
    *,
    customers: int = 2000,
    prospects: int | None = None,
    seed: int = 7,
    first_graded_month: date = date(2026, 1, 1),
    history_months: int = 48,
    future_months: int = 6,
    threads: int = 2,
) -> dict[str, int]:
    """Write the invented company to the DuckDB file `out`; the count of rows by table comes back.

    Exactly `customers` have an order before `first_graded_month`, exactly `prospects` (default: a fifth as many)
    were contacted before it and have none by then; further ones arrive afterwards. Facts lie in the
    `history_months` before it and the `future_months` from it on. Schema `company` holds what a company would
    have: the core tables (amounts and a line's unit cost in the row's currency, a product's in EUR), attributes
    known at first contact, and `sales_status`, which sales filled in later and which gives the conversion away.
    Schema `truth` holds what only the simulator knows and no pipeline may read:

    - `customers`: the true parameters;
    - `customer_months`: at 12 months before the first graded month and at each graded month, for everybody with
      an order before: expectations over the next 12 calendar months, discounted at 10 % a year, contribution
      before cost to serve, given the order history and true parameters, and `_given_alive`, given also whether
      the customer has dropped out; P(> 30 days late) of an invoice of the next three months;
    - `invoices`: P(> 30 days beyond terms) at issue, days of the seller's disputes taken off; cancelled ones are
      left out;
    - `prospects`: at each graded month, P(first order within 90 days), the expected discounted contribution of
      the 12 months from a first order on, and the product of the two, in net revenue also.

    Where the file exists, its schemas `company` and `truth` are replaced in one transaction, and a schema `clv`
    is dropped with them: grades of another invented company would be wrong. Rows depend on the arguments alone,
    not on `threads` or the clock. Raises ConfigError for impossible counts or months, BusyError where another
    process holds the file.
    """
    prospects = customers // 5 if prospects is None else prospects
    if (
        customers < 1
        or prospects < 0
        or history_months < 15
        or future_months < 0
        or first_graded_month.day != 1
    ):
        raise ConfigError(
            f"Expected at least 1 customer, 0 prospects, 15 months of history, 0 months after, and the first day of "
            f"a month; found {customers}, {prospects}, {history_months}, {future_months}, {first_graded_month}. "
            "Change the argument that is out of range."
        )
    timeline = Timeline(first_graded_month, history_months, future_months)
    world = World(
        seed=seed,
        timeline=timeline,
        catalogue=catalogue.products(seed),
        eur_per_usd=catalogue.exchange_rates(seed, timeline),
        intercept=population.conversion_intercept(seed, timeline, customers, prospects),
    )
    spill = out.with_name(f"{out.name}.spill")
    with (
        workspace(threads=threads, memory_limit=MEMORY_LIMIT, temp_directory=spill) as db,
        attached(db, out, "demo", read_only=False),
    ):
        with db.transaction():
            for schema in ("clv", "company", "truth"):
                db.run(f"DROP SCHEMA IF EXISTS demo.{schema} CASCADE")
            for schema in ("company", "truth"):
                db.run(f"CREATE SCHEMA demo.{schema}")
            for name, columns in SCHEMAS.items():
                db.run(f"CREATE TABLE demo.{name} ({columns})")
            for name, rows in _all_rows(world, customers, prospects):
                db.append(f"demo.{name}", rows)
            db.run(OVERRIDES.format(company="demo.company"), [first_graded_month])
        return {name: _count(db, f"demo.{name}") for name in SCHEMAS}


def _all_rows(world: World, customers: int, prospects: int) -> Iterator[tuple[str, pa.Table]]:
    """(table, rows) of everything, one block of accounts in memory at a time."""
    for name, rows in shared_rows(world):
        yield f"company.{name}", rows
    timeline = world.timeline
    leads = customers - round(customers * population.ESTABLISHED_RATIO) + prospects
    later = round(leads * timeline.future_months / timeline.history_months)
    blocks = -(-(customers + prospects + later) // BLOCK_ACCOUNTS)
    first = 0
    for block in range(blocks):
        counts = [n * (block + 1) // blocks - n * block // blocks for n in (customers, prospects, later)]
        accounts = simulate_block(world, block, first, *counts)
        for name, rows in company_rows(world, accounts):
            yield f"company.{name}", rows
        for name, rows in truth_rows(world, accounts):
            yield f"truth.{name}", rows
        first += sum(counts)


def _count(db: Engine, table: str) -> int:
    return int(db.rows(f"SELECT count(*) FROM {table}")[0][0])
