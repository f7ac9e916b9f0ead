"""Core tables -> one row per customer, as of a date.

The query reads the schema `past` only, so nothing dated on or after `as_of` can reach it. What the model may
use is declared in `FEATURES`, with the concept each expresses to people and its direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from clv.config import Config
from clv.errors import ConfigError
from clv.period import add_months, see
from clv.tables import PUBLISHED
from clv.warehouse import quote

if TYPE_CHECKING:
    import pandas as pd

    from clv.warehouse import Engine


@dataclass(frozen=True)
class Feature:
    """One model input: the concept it expresses to people, its direction and unit.

    `monotone`: +1 where a higher value may only raise the model's output, -1 only lower it, 0 free.
    """

    name: str
    concept: str
    monotone: int
    unit: str


WINDOWS_DAYS = (30, 90, 180, 365)
HALF_LIVES_DAYS = (30, 90, 270)

# Raw customer age (T_days) is left out on purpose: at scoring everyone is older than in training and trees
# cannot extrapolate.
FEATURES: tuple[Feature, ...] = (
    Feature("days_since_last_purchase", "still_active", -1, "days"),
    Feature("overdue_ratio", "still_active", -1, "ratio"),
    Feature("orders_total", "order_rhythm", 1, "count"),
    *(Feature(f"orders_{days}", "order_rhythm", 1, "count") for days in WINDOWS_DAYS),
    Feature("orders_previous_90", "order_rhythm", 1, "count"),
    *(Feature(f"orders_decayed_{days}", "order_rhythm", 1, "number") for days in HALF_LIVES_DAYS),
    Feature("gap_mean_days", "order_rhythm", 0, "days"),
    Feature("gap_sd_days", "order_rhythm", 0, "days"),
    Feature("gap_last_days", "order_rhythm", 0, "days"),
    *(Feature(f"value_{days}", "recent_value", 1, "money") for days in WINDOWS_DAYS),
    Feature("value_previous_90", "recent_value", 1, "money"),
    *(Feature(f"value_decayed_{days}", "recent_value", 1, "money") for days in HALF_LIVES_DAYS),
    Feature("value_same_season", "season", 1, "money"),
    Feature("order_value_mean", "order_value", 1, "money"),
    Feature("order_value_max", "order_value", 1, "money"),
    Feature("order_value_last", "order_value", 1, "money"),
    Feature("order_value_first", "order_value", 0, "money"),
    Feature("order_value_sd", "order_value", 0, "money"),
    Feature("units_total", "units", 1, "number"),
    Feature("units_180", "units", 1, "number"),
    Feature("units_decayed_90", "units", 1, "number"),
    Feature("units_per_order", "units", 0, "number"),
    Feature("value_per_unit", "units", 0, "money"),
    Feature("returned_ratio_365", "returns", -1, "ratio"),
    Feature("products_365", "breadth", 0, "count"),
    Feature("categories_365", "breadth", 0, "count"),
    Feature("margin_ratio_365", "margin", 0, "ratio"),
    Feature("services_365", "service", 0, "count"),
)


# Dated links say which group a customer belonged to; without any, the undated column of customers has to do.
_ACCOUNT_GROUP_SQL = """CASE WHEN (SELECT count(*) FROM past.account_links) > 0
    THEN l.account_group_id ELSE c.account_group_id END"""
# Columns that stand beside attributes on the way to the grades, and are neither FEATURES nor published.
_OTHER_COLUMNS = (
    *("frequency", "recency_days", "T_days", "order_count", "mean_order_value", "revenue_365"),
    *(
        "has_recent_order",
        "is_active",
        "revenue",
        "cost_to_serve",
        "cost_to_serve_12m",
        "expected_cost_to_serve",
    ),
    *("counted_invoices", "open_balance", "overdue_balance_ratio", "realised_value", "realised_contribution"),
    *("realised_orders", "snapshot_date", "days_since_first_contact", "converted", "value", "judgement"),
    *("judgement_said", "judged_by", "judged_date", "model_score", "combined_score", "trained_as_of"),
    *("value_given_conversion", "gate", "tie_break", "override_tier", "previous_rule", "earlier_tier"),
    *("bad_debt", "is_blocked"),
)


def customer_features(db: Engine, as_of: date, config: Config, horizon_days: int) -> pd.DataFrame:
    """One row per customer with an order, return or cancellation before `as_of`, ordered by `customer_id`.

    Beside FEATURES: the buy-till-you-die inputs `frequency`, `recency_days`, `T_days`, `order_count` and
    `mean_order_value`, `revenue_365`, `order_amount` of the configured window, `has_recent_order` (within
    `tiers.active_months`), declared attributes, `segment`, `name`, `sales_rep`, `account_group_id`. A purchase
    occasion is a day whose net amount is positive, a return never; `value` is contribution before cost to
    serve, or net revenue (contribution.price_lines decides), returns netted; `mean_order_value` is all of it, what
    came back on other days too, per occasion. A customer without an occasion has `order_count` 0, no `frequency`,
    `recency_days` or mean, and `T_days` since the first fact. Units are pieces sold, null where no quantity is on
    record. Windows of n days are [as_of - n, as_of). Money is float64 in the reporting currency, from exact sums.
    Leaves `past` showing `as_of`.
    """
    see(db, as_of)
    return db.frame(features_sql(as_of, config, horizon_days))


def features_sql(as_of: date, config: Config, horizon_days: int) -> str:
    """The query behind `customer_features`, in DuckDB's dialect; sqlglot turns it to others."""
    _refuse_taken_names(config)
    amount_start = add_months(as_of, -config.order_amount.months)
    active_start = add_months(as_of, -config.tiers.active_months)
    amount_column = "net" if config.order_amount.measure == "amount" else "quantity"
    # The same weeks a year ago say something only when the horizon is a part of the year.
    season_end = as_of + timedelta(days=horizon_days - 365)
    season = (
        f"sum(value) FILTER (WHERE age_days <= 365 AND day < DATE '{season_end}')"
        if horizon_days < 300
        else "CAST(NULL AS DOUBLE)"
    )
    aggregates = [
        "min(day) FILTER (WHERE is_purchase) AS first_day",
        "max(day) FILTER (WHERE is_purchase) AS last_day",
        "min(day) AS first_fact_day",
        "count(*) FILTER (WHERE is_purchase) AS orders_total",
        *(
            f"count(*) FILTER (WHERE is_purchase AND age_days <= {days}) AS orders_{days}"
            for days in WINDOWS_DAYS
        ),
        "count(*) FILTER (WHERE is_purchase AND age_days BETWEEN 91 AND 180) AS orders_previous_90",
        *(
            f"sum({_decayed('1', days)}) FILTER (WHERE is_purchase) AS orders_decayed_{days}"
            for days in HALF_LIVES_DAYS
        ),
        *(f"sum(value) FILTER (WHERE age_days <= {days}) AS value_{days}" for days in WINDOWS_DAYS),
        "sum(value) FILTER (WHERE age_days BETWEEN 91 AND 180) AS value_previous_90",
        *(f"sum({_decayed('value', days)}) AS value_decayed_{days}" for days in HALF_LIVES_DAYS),
        f"{season} AS value_same_season",
        "sum(net) FILTER (WHERE age_days <= 365) AS revenue_365",
        "sum(returned) FILTER (WHERE age_days <= 365) AS returned_365",
        "sum(sold) FILTER (WHERE age_days <= 365) AS sold_365",
        "sum(units) AS units_total",
        "sum(units) FILTER (WHERE age_days <= 180) AS units_180",
        f"sum({_decayed('units', 90)}) AS units_decayed_90",
        "sum(value) FILTER (WHERE units IS NOT NULL) AS value_of_units",
        "sum(value) AS value_total",
        "sum(value) FILTER (WHERE is_purchase) AS purchase_value",
        "sum(value - value_of_first) FILTER (WHERE is_purchase) AS spread_sum",
        f"sum({_squared('value - value_of_first')}) FILTER (WHERE is_purchase) AS spread_squared",
        "max(value) FILTER (WHERE is_purchase) AS order_value_max",
        "max(value_of_first) FILTER (WHERE is_purchase) AS order_value_first",
        "max(value) FILTER (WHERE is_last_purchase) AS order_value_last",
        "sum(gap_days) AS gap_sum",
        "sum(gap_days * gap_days) AS gap_squared",
        "max(gap_days) FILTER (WHERE is_last_purchase) AS gap_last_days",
        f"sum({amount_column}) FILTER (WHERE day >= DATE '{amount_start}') AS order_amount",
        f"count(*) FILTER (WHERE is_purchase AND day >= DATE '{active_start}') > 0 AS has_recent_order",
    ]
    attributes = "".join(f', c."{name}"' for name in config.attributes)
    segment = segment_sql(config.segment)
    since_last = f"date_diff('day', last_day, DATE '{as_of}')"
    # What may be null is DOUBLE, so that its type in pandas does not depend on the rows.
    return f"""
        WITH days AS (
            SELECT customer_id, order_date AS day, sum(net_amount) AS net,
                sum(value) AS value, sum(coalesce(quantity, 0)) AS quantity,
                sum(quantity) FILTER (WHERE net_amount > 0) AS units,
                sum(CASE WHEN net_amount < 0 THEN -net_amount ELSE 0 END) AS returned,
                sum(CASE WHEN net_amount > 0 THEN net_amount ELSE 0 END) AS sold
            FROM past.order_lines GROUP BY customer_id, order_date
        ), placed AS (
            SELECT *, net > 0 AS is_purchase, date_diff('day', day, DATE '{as_of}') AS age_days,
                first_value(value) OVER occasions AS value_of_first,
                net > 0 AND lead(day) OVER occasions IS NULL AS is_last_purchase,
                CASE WHEN net > 0 THEN date_diff('day', lag(day) OVER occasions, day) END AS gap_days
            FROM days
            WINDOW occasions AS (PARTITION BY customer_id, net > 0 ORDER BY day)
        ), history AS (
            SELECT customer_id, {", ".join(aggregates)} FROM placed GROUP BY customer_id
        ), breadth AS (
            SELECT customer_id, count(DISTINCT product_id) AS products_365, count(DISTINCT category) AS categories_365
            FROM past.order_lines LEFT JOIN past.products USING (product_id)
            WHERE net_amount > 0 AND order_date >= DATE '{as_of - timedelta(days=365)}' GROUP BY customer_id
        ), link AS (
            SELECT customer_id, account_group_id,
                row_number() OVER (PARTITION BY customer_id ORDER BY valid_from DESC, account_group_id) AS position
            FROM past.account_links WHERE valid_to IS NULL OR valid_to >= DATE '{as_of}'
        ), service AS (
            SELECT customer_id, count(*) AS services_365 FROM past.service_events
            WHERE event_date >= DATE '{as_of - timedelta(days=365)}' GROUP BY customer_id
        )
        SELECT h.customer_id, c.name, c.sales_rep, {_ACCOUNT_GROUP_SQL} AS account_group_id,
            {segment} AS segment{attributes},
            {_double("CASE WHEN orders_total > 0 THEN orders_total - 1 END")} AS frequency,
            {_double("date_diff('day', first_day, last_day)")} AS recency_days,
            date_diff('day', coalesce(first_day, first_fact_day), DATE '{as_of}') AS T_days,
            orders_total AS order_count,
            {_double("value_total")} / nullif(orders_total, 0) AS mean_order_value,
            {_double(since_last)} AS days_since_last_purchase,
            CASE WHEN gap_sum > 0 THEN {since_last} * (orders_total - 1) / {_double("gap_sum")} END AS overdue_ratio,
            orders_total, {", ".join(f"orders_{days}" for days in WINDOWS_DAYS)}, orders_previous_90,
            {", ".join(_zero(f"orders_decayed_{days}") for days in HALF_LIVES_DAYS)},
            {_double("gap_sum")} / nullif(orders_total - 1, 0) AS gap_mean_days,
            {_sd("gap_sum", "gap_squared", "(orders_total - 1)")} AS gap_sd_days,
            {_double("gap_last_days")} AS gap_last_days,
            {", ".join(_zero(f"value_{days}") for days in WINDOWS_DAYS)}, {_zero("value_previous_90")},
            {", ".join(_zero(f"value_decayed_{days}") for days in HALF_LIVES_DAYS)},
            {_zero("value_same_season") if horizon_days < 300 else "value_same_season"},
            {_double("purchase_value")} / nullif(orders_total, 0) AS order_value_mean,
            {_double("order_value_max")} AS order_value_max, {_double("order_value_last")} AS order_value_last,
            {_double("order_value_first")} AS order_value_first,
            {_sd("spread_sum", "spread_squared", "orders_total")} AS order_value_sd,
            {_double("returned_365")} / nullif({_double("sold_365")}, 0) AS returned_ratio_365,
            {_double("units_total")} AS units_total,
            CASE WHEN units_total IS NOT NULL THEN {_double("coalesce(units_180, 0)")} END AS units_180,
            {_double("units_decayed_90")} AS units_decayed_90,
            {_double("units_total")} / nullif(orders_total, 0) AS units_per_order,
            CASE WHEN units_total > 0 THEN {_double("value_of_units")} / {_double("units_total")} END AS value_per_unit,
            coalesce(products_365, 0) AS products_365, coalesce(categories_365, 0) AS categories_365,
            coalesce(services_365, 0) AS services_365,
            CASE WHEN revenue_365 > 0 THEN {_double("value_365")} / {_double("revenue_365")} END AS margin_ratio_365,
            {_zero("revenue_365")}, {_zero("order_amount")}, has_recent_order
        FROM history AS h
        LEFT JOIN past.customers AS c USING (customer_id)
        LEFT JOIN breadth USING (customer_id)
        LEFT JOIN service USING (customer_id)
        LEFT JOIN (SELECT customer_id, account_group_id FROM link WHERE position = 1) AS l USING (customer_id)
        ORDER BY h.customer_id
    """


def taken_names() -> frozenset[str]:
    """Names of columns that attributes are joined to, which they must not have themselves."""
    return frozenset(_OTHER_COLUMNS) | {feature.name for feature in FEATURES} | set(PUBLISHED["grades"].names)


def _refuse_taken_names(config: Config) -> None:
    taken = sorted(set(config.attributes) & taken_names())
    if taken:
        raise ConfigError(
            f"attributes: {', '.join(taken)} is the name of a measured figure; choose another name for the attribute "
            "and map it in sources.customers.columns."
        )


def segment_sql(segment: Sequence[str], alias: str = "c") -> str:
    """SQL of the peer group of a customer: the values of the attributes `segment`, or `all` without any."""
    parts = (f"coalesce(CAST({alias}.{quote(name)} AS VARCHAR), 'unknown')" for name in segment)
    return " || ' · ' || ".join(parts) or "'all'"


def segment_of(frame: pd.DataFrame, segment: Sequence[str]) -> pd.Series:
    """The peer group of each row that carries the attributes as columns; the same text as `segment_sql`."""
    import pandas as pd

    if not segment:
        return pd.Series("all", index=frame.index, dtype="str")
    parts = [frame[name].astype("str").where(frame[name].notna(), "unknown") for name in segment]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + " · " + part
    return joined


def _double(sql: str) -> str:
    return f"CAST({sql} AS DOUBLE)"


def _zero(name: str) -> str:
    return f"{_double(f'coalesce({name}, 0)')} AS {name}"


def _decayed(amount: str, half_life_days: int) -> str:
    """Fixed point before the sum: sums of doubles differ between two runs on two threads."""
    return f"CAST({amount} * power(2e0, -age_days / {half_life_days}e0) AS DECIMAL(38,6))"


def _squared(amount: str) -> str:
    return f"CAST({_double(amount)} * {_double(amount)} AS DECIMAL(38,8))"


def _sd(total: str, squares: str, count: str) -> str:
    """Standard deviation (of these observations, divided by their count), null below two of them.

    Money comes as differences from the customer's first order: sums of squares of large equal amounts would leave
    noise where there is no deviation.
    """
    variance = f"{count} * {_double(squares)} - {_double(total)} * {_double(total)}"
    return f"CASE WHEN {count} > 1 THEN sqrt(greatest(0e0, {variance})) / {count} END"
