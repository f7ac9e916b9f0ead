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
from clv.ingest.contract import LARGEST_AMOUNT
from clv.period import DAYS_PER_YEAR, add_months, see, visible_sql
from clv.tables import CORE, MONEY

if TYPE_CHECKING:
    import pandas as pd

    from clv.warehouse import Engine

# Below this share of priced sales the margin is not known: value is then net revenue.
MINIMUM_PRICED_RATIO = 0.8

UNPRICED = "unpriced"  # the rule of lines that no rule could price


@dataclass(frozen=True)
class Pricing:
    """How the lines were priced: what `value` means, and the share of sales that each rule priced."""

    basis: str  # 'contribution' or 'revenue'
    share_by_rule: dict[str, float]
    why: str | None  # why the margin is not known, or which lines took the average


def price_lines(db: Engine, config: Config) -> Pricing:
    """Give main.order_lines product_cost, priced_by, variable_cost and value (all in the reporting currency).

    The product cost of a line comes from the first rule that can price it: its own unit cost, the product's
    unit cost, the product's margin ratio, the category's, the default ratio. Lines that none can price take
    the average ratio of the others, as long as those make `MINIMUM_PRICED_RATIO` of sales (absolute amounts,
    returns included); below, `value` is the net amount, costs are 0 and the basis is `revenue`. Each amount is
    rounded to MONEY once per line, so sums are exact. Lines priced before are priced afresh.
    """
    rules = config.contribution
    # The core columns by name: what an earlier pricing added is left behind.
    core = ", ".join(f"l.{name}" for name in CORE["order_lines"].names)
    db.run(f"""
        CREATE OR REPLACE TABLE main.order_lines AS
        SELECT {core}, {_rule_sql(rules)} AS priced_by, CAST({_product_cost_sql(rules)} AS {MONEY}) AS product_cost
        FROM main.order_lines AS l LEFT JOIN main.products AS p ON p.product_id = l.product_id
    """)
    sales = db.rows("""
        SELECT priced_by, sum(abs(net_amount)), sum(net_amount), sum(product_cost), count(*)
        FROM main.order_lines GROUP BY priced_by ORDER BY priced_by
    """)
    total = sum(row[1] for row in sales)
    shares = {rule: float(amount / total) if total else 0.0 for rule, amount, *_ in sales}
    known = [row for row in sales if row[0] != UNPRICED]
    priced_ratio = float(sum(row[1] for row in known) / total) if total else 0.0
    if priced_ratio < MINIMUM_PRICED_RATIO:
        _value_lines(db, product_cost="0", variable_cost="0")
        found = f"product cost known for {priced_ratio:.0%} of sales, {MINIMUM_PRICED_RATIO:.0%} needed"
        return Pricing("revenue", shares, f"{found}: value is net revenue")
    net = sum(row[2] for row in known)
    cost_ratio = round(float(sum(row[3] for row in known) / net), 6) if net > 0 else 1.0
    average = f"coalesce(product_cost, net_amount * {_double(cost_ratio)})"
    _value_lines(db, product_cost=average, variable_cost=_variable_cost_sql(rules))
    without = sum(row[4] for row in sales if row[0] == UNPRICED)
    taken = f"{without} lines without a product cost took the average, {1 - cost_ratio:.1%} margin"
    return Pricing("contribution", shares, taken if without else None)


def _value_lines(db: Engine, *, product_cost: str, variable_cost: str) -> None:
    core = ", ".join(CORE["order_lines"].names)
    db.run(f"""
        CREATE OR REPLACE TABLE main.order_lines AS
        WITH costed AS (
            SELECT {core}, priced_by, CAST({product_cost} AS {MONEY}) AS product_cost,
                CAST({variable_cost} AS {MONEY}) AS variable_cost
            FROM main.order_lines
        )
        SELECT {core}, priced_by, product_cost, variable_cost,
            CAST(net_amount - product_cost - variable_cost AS {MONEY}) AS value
        FROM costed
    """)


def _rules_in_order(rules: ContributionSettings) -> list[tuple[str, str, str]]:
    """Name, SQL condition and SQL product cost of the rules of lines `l` and products `p`, first come first."""
    # Decimals of 18 digits multiply within 18 digits in DuckDB, and overflow at 10^10 with this scale.
    own, listed = (f"CAST(l.quantity AS DECIMAL(38,4)) * {side}.unit_cost" for side in ("l", "p"))
    category = _category_sql(rules)
    found = [
        # Neither is null, nor is one of them a number of another kind (a bar code taken for a quantity).
        ("line_cost", f"abs({own}) <= {LARGEST_AMOUNT}", own),
        ("product_cost", f"abs({listed}) <= {LARGEST_AMOUNT}", listed),
        (
            "product_ratio",
            "p.contribution_margin_ratio IS NOT NULL",
            "l.net_amount * (1 - p.contribution_margin_ratio)",
        ),
    ]
    if category is not None:
        found.append(("category_ratio", f"{category} IS NOT NULL", f"l.net_amount * (1 - {category})"))
    if rules.default_margin_ratio is not None:
        found.append(("default_ratio", "true", f"l.net_amount * (1 - {_double(rules.default_margin_ratio)})"))
    return found


def _rule_sql(rules: ContributionSettings) -> str:
    whens = " ".join(f"WHEN {condition} THEN '{name}'" for name, condition, _ in _rules_in_order(rules))
    return f"CASE {whens} ELSE '{UNPRICED}' END"


def _product_cost_sql(rules: ContributionSettings) -> str:
    """Null where no rule can price the line."""
    whens = " ".join(f"WHEN {condition} THEN {cost}" for _, condition, cost in _rules_in_order(rules))
    return f"CASE {whens} END"


def _category_sql(rules: ContributionSettings) -> str | None:
    ratios = rules.category_margin_ratio.items()
    whens = " ".join(f"WHEN {_text(name)} THEN {_double(ratio)}" for name, ratio in ratios)
    return f"CASE p.category {whens} END" if whens else None


def _variable_cost_sql(rules: ContributionSettings) -> str:
    """Freight on goods sent, handling per line and per return; the order's own cost stands on its first line.

    The first line is the one known first, so that a line posted later never moves the cost of an earlier month.
    """
    line = CORE["order_lines"]
    ties = ", ".join(name for name in line.names if name not in ("customer_id", "order_id", "order_date"))
    is_first = f"""row_number() OVER (
        PARTITION BY customer_id, order_id, net_amount < 0
        ORDER BY {visible_sql(line)}, order_date, {ties}) = 1"""
    return f"""CASE WHEN net_amount < 0 THEN {rules.return_line_cost}
        ELSE net_amount * {_double(rules.freight_ratio)} + {rules.line_cost}
            + CASE WHEN {is_first} THEN {rules.order_cost} ELSE 0 END END"""


def _double(number: float) -> str:
    """`number` as a DOUBLE literal, which needs an exponent."""
    return repr(number) if "e" in repr(number) else f"{number!r}e0"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def customer_ladder(db: Engine, as_of: date, config: Config) -> pd.DataFrame:
    """Margin ladder of the last 12 calendar months, one row per customer with any fact in them, by `customer_id`.

    Columns, all in the reporting currency: revenue, product_cost, variable_cost, order_value (the first less the
    two), service_cost, dispute_cost, cost_to_serve (their sum), contribution_margin (before late money; negative
    where costs outweigh). Service activities without a rate cost nothing. Where `value` is net revenue the costs
    of goods are 0. Together with `unassigned` the revenues add up to the ledger. Leaves `past` showing `as_of`.
    """
    see(db, as_of)
    rules = config.contribution
    start = add_months(as_of, -12)
    return db.frame(f"""
        WITH sales AS (
            SELECT customer_id, sum(net_amount) AS revenue, sum(product_cost) AS product_cost,
                   sum(variable_cost) AS variable_cost, sum(value) AS order_value
            FROM past.order_lines WHERE order_date >= DATE '{start}' GROUP BY customer_id
        ), service AS (
            SELECT customer_id, sum({service_cost_sql(rules)}) AS service_cost
            FROM past.service_events WHERE event_date >= DATE '{start}' GROUP BY customer_id
        ), disputes AS (
            SELECT customer_id, CAST(count(*) * {rules.dispute_cost} AS {MONEY}) AS dispute_cost
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


def unassigned(db: Engine, as_of: date) -> pd.DataFrame:
    """Order lines of the last 12 calendar months that no customer has: one row per rule that set them aside.

    Columns: rule, lines, net_amount (reporting currency; lines whose amount cannot be read or converted add 0).
    Lines without a readable date count here. Copies set aside as `exact_duplicate` do not: they are no sales.
    """
    return db.frame(f"""
        SELECT rule, count(*) AS lines, coalesce(sum(net_amount), 0) AS net_amount
        FROM main.unassigned_lines WHERE order_date >= DATE '{add_months(as_of, -12)}' OR order_date IS NULL
        GROUP BY rule ORDER BY rule
    """)


def service_cost_sql(rules: ContributionSettings) -> str:
    """SQL of the cost of one row of service_events; activities without a rate cost nothing."""
    rates = " ".join(f"WHEN {_text(name)} THEN {rate}" for name, rate in rules.service_rates.items())
    rate = f"CASE activity {rates} ELSE 0 END" if rates else "0"
    return f"CAST(CAST(coalesce(quantity, 1) AS DECIMAL(38,4)) * {rate} AS DECIMAL(38,4))"


def late_money_cost(record: pd.DataFrame, rules: ContributionSettings) -> pd.Series:
    """Cost of late money of the last 365 days per row of receivables.payment_record, in the reporting currency.

    Money x days beyond terms x capital rate, and the part of the doubtful balance that will not come in.
    """
    capital = record["balance_days"].astype("float64") * rules.capital_rate_annual_ratio / DAYS_PER_YEAR
    return (capital + record["doubtful_balance"].astype("float64") * rules.loss_given_default_ratio).round(4)
