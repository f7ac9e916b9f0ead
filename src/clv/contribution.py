"""Rules -> contribution margin per order line, and the margin ladder per customer.

net sales - product cost - freight - order, line and return handling = value of a line
          - service activities x rate - disputes x cost                = contribution margin
          - capital cost of late money - expected credit loss           = charged here only where
                                                                          `Config.charges_late_money`
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from clv.config import Config, ContributionSettings
from clv.period import DAYS_PER_YEAR, add_months
from clv.tables import MONEY

if TYPE_CHECKING:
    import pandas as pd

    from clv.warehouse import Engine

# Below this share of priced sales the margin is not known: value is then net revenue.
MINIMUM_PRICED_RATIO = 0.8


@dataclass(frozen=True)
class Pricing:
    """How the lines were priced: what `value` means, and the share of sales that each rule priced."""

    basis: str  # 'contribution' or 'revenue'
    share_by_rule: dict[str, float]
    why: str | None  # why the margin is not known, or which lines took the average


def price_lines(db: Engine, config: Config) -> Pricing:
    """Add to main.order_lines: product_cost, priced_by, variable_cost and value (all in the reporting currency).

    The product cost of a line comes from the first rule that can price it: its own unit cost, the product's
    unit cost, the product's margin ratio, the category's, the default ratio. Lines that none can price take
    the average ratio of the others, as long as those make `MINIMUM_PRICED_RATIO` of sales; below, `value` is the
    net amount and the basis `revenue`.
    """
    rules = config.contribution
    db.run(f"""
        CREATE OR REPLACE TABLE main.order_lines AS
        WITH priced AS (
            SELECT l.*, {_rule_sql(rules)} AS priced_by, {_category_sql(rules)} AS category_ratio,
                   p.unit_cost AS listed_cost, p.contribution_margin_ratio AS listed_ratio
            FROM main.order_lines AS l LEFT JOIN main.products AS p USING (product_id)
        )
        SELECT * EXCLUDE (category_ratio, listed_cost, listed_ratio),
            CASE priced_by
                WHEN 'line_cost' THEN quantity * unit_cost
                WHEN 'product_cost' THEN quantity * listed_cost
                WHEN 'product_ratio' THEN net_amount * (1 - listed_ratio)
                WHEN 'category_ratio' THEN net_amount * (1 - category_ratio)
                WHEN 'default_ratio' THEN net_amount * (1 - {rules.default_margin_ratio or 0}e0)
            END::{MONEY} AS product_cost
        FROM priced
    """)
    sales = db.rows("""
        SELECT priced_by, sum(abs(net_amount)), sum(net_amount), coalesce(sum(product_cost), 0), count(*)
        FROM main.order_lines GROUP BY priced_by ORDER BY priced_by
    """)
    total = float(sum(row[1] for row in sales)) or 1.0
    shares = {str(row[0]): float(row[1]) / total for row in sales}
    known = [row for row in sales if row[0] != "unpriced"]
    priced_ratio = sum(shares[str(row[0])] for row in known)
    if priced_ratio < MINIMUM_PRICED_RATIO:
        db.run(f"""
            CREATE OR REPLACE TABLE main.order_lines AS
            SELECT *, 0::{MONEY} AS variable_cost, net_amount::{MONEY} AS value FROM main.order_lines
        """)
        found = f"product cost known for {priced_ratio:.0%} of sales, {MINIMUM_PRICED_RATIO:.0%} needed"
        return Pricing("revenue", shares, f"{found}: value is net revenue")
    net = float(sum(row[2] for row in known))
    cost_ratio = round(float(sum(row[3] for row in known)) / net, 6) if net else 1.0
    db.run(f"""
        CREATE OR REPLACE TABLE main.order_lines AS
        WITH costed AS (
            SELECT * REPLACE (coalesce(product_cost, net_amount * {cost_ratio!r}e0)::{MONEY} AS product_cost),
                {_variable_cost_sql(rules)} AS variable_cost
            FROM main.order_lines
        )
        SELECT *, (net_amount - product_cost - variable_cost)::{MONEY} AS value FROM costed
    """)
    unpriced = next((row for row in sales if row[0] == "unpriced"), None)
    why = (
        f"{unpriced[4]} lines without a product cost took the average, {1 - cost_ratio:.1%} margin"
        if unpriced
        else None
    )
    return Pricing("contribution", shares, why)


def _category_sql(rules: ContributionSettings) -> str:
    if not rules.category_margin_ratio:
        return "NULL::DOUBLE"
    whens = " ".join(
        f"WHEN {_text(name)} THEN {ratio}e0" for name, ratio in rules.category_margin_ratio.items()
    )
    return f"CASE p.category {whens} END"


def _rule_sql(rules: ContributionSettings) -> str:
    last = "'default_ratio'" if rules.default_margin_ratio is not None else "'unpriced'"
    return f"""CASE
        WHEN l.unit_cost IS NOT NULL AND l.quantity IS NOT NULL THEN 'line_cost'
        WHEN p.unit_cost IS NOT NULL AND l.quantity IS NOT NULL THEN 'product_cost'
        WHEN p.contribution_margin_ratio IS NOT NULL THEN 'product_ratio'
        WHEN {_category_sql(rules)} IS NOT NULL THEN 'category_ratio'
        ELSE {last} END"""


def _variable_cost_sql(rules: ContributionSettings) -> str:
    """Freight on goods sent, handling per line and per return; the order's own cost stands on its first line."""
    first_of_order = """row_number() OVER (
        PARTITION BY customer_id, order_id, net_amount > 0
        ORDER BY order_date, line_id, product_id, net_amount, quantity) = 1"""
    return f"""(CASE WHEN net_amount > 0
        THEN net_amount * {rules.freight_ratio}e0 + {rules.line_cost}
             + CASE WHEN {first_of_order} THEN {rules.order_cost} ELSE 0 END
        ELSE {rules.return_line_cost} END)::{MONEY}"""


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def customer_ladder(db: Engine, as_of: date, config: Config) -> pd.DataFrame:
    """Margin ladder of the last 12 calendar months, one row per customer with any fact in them.

    Reads `past`. Columns, all in the reporting currency: revenue, product_cost, variable_cost, order_value (the
    first less the two), service_cost, dispute_cost, cost_to_serve (their sum), contribution_margin (before late
    money). Service activities without a rate cost nothing. Where `value` is net revenue the costs of goods are 0.
    """
    rules = config.contribution
    start = add_months(as_of, -12)
    return db.frame(f"""
        WITH sales AS (
            SELECT customer_id, sum(net_amount) AS revenue, sum(coalesce(product_cost, 0)) AS product_cost,
                   sum(variable_cost) AS variable_cost, sum(value) AS order_value
            FROM past.order_lines WHERE order_date >= DATE '{start}' GROUP BY customer_id
        ), service AS (
            SELECT customer_id, sum({service_cost_sql(rules)}) AS service_cost
            FROM past.service_events WHERE event_date >= DATE '{start}' GROUP BY customer_id
        ), disputes AS (
            SELECT customer_id, (count(*) * {rules.dispute_cost})::{MONEY} AS dispute_cost
            FROM past.invoices WHERE dispute_opened_date >= DATE '{start}' GROUP BY customer_id
        ), everyone AS (
            SELECT customer_id FROM sales UNION SELECT customer_id FROM service
            UNION SELECT customer_id FROM disputes
        ), ladder AS (
            SELECT customer_id,
                coalesce(revenue, 0) AS revenue, coalesce(product_cost, 0) AS product_cost,
                coalesce(variable_cost, 0) AS variable_cost, coalesce(order_value, 0) AS order_value,
                coalesce(service_cost, 0) AS service_cost, coalesce(dispute_cost, 0) AS dispute_cost
            FROM everyone LEFT JOIN sales USING (customer_id) LEFT JOIN service USING (customer_id)
            LEFT JOIN disputes USING (customer_id)
        )
        SELECT *, service_cost + dispute_cost AS cost_to_serve,
               order_value - service_cost - dispute_cost AS contribution_margin
        FROM ladder ORDER BY customer_id
    """)


def service_cost_sql(rules: ContributionSettings) -> str:
    """SQL of the cost of one row of service_events; activities without a rate cost nothing."""
    rates = " ".join(f"WHEN {_text(name)} THEN {rate}" for name, rate in rules.service_rates.items())
    return f"(coalesce(quantity, 1) * {f'CASE activity {rates} ELSE 0 END' if rates else '0'})::{MONEY}"


def late_money_cost(record: pd.DataFrame, rules: ContributionSettings) -> pd.Series:
    """Cost of late money of the last 365 days per row of receivables.payment_record, in the reporting currency.

    Money x days beyond terms x capital rate, and the part of the doubtful balance that will not come in.
    """
    capital = record["balance_days"].astype("float64") * rules.capital_rate_annual_ratio / DAYS_PER_YEAR
    return (capital + record["doubtful_balance"].astype("float64") * rules.loss_given_default_ratio).round(4)
