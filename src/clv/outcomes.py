"""What each customer then did within the horizon: the labels of the lifetime-value model."""

from __future__ import annotations

from datetime import date, timedelta
from math import ceil
from typing import TYPE_CHECKING

from clv.config import Config
from clv.contribution import service_cost_sql
from clv.period import DAYS_PER_YEAR, Horizon, discount_sql, see, see_window

if TYPE_CHECKING:
    import pandas as pd

    from clv.warehouse import Engine

LEAP_YEAR_DAYS = 366  # twelve months may have as many


def realised_value(db: Engine, start: date, horizon: Horizon, config: Config, *, basis: str) -> pd.DataFrame:
    """One row per customer with an order line, a service or a new dispute within the horizon begun at `start`.

    Columns, discounted day by day to `start` at the annual effective rate: `realised_value` (of order lines;
    negative where returns outweigh), `realised_contribution` (less service and disputes, where the basis is
    `contribution`); and `realised_orders` (days whose net is positive). A fact counts by its own date, whenever
    it was posted. Customers without any fact are absent: theirs is 0. Leaves `next` showing the window.
    """
    see_window(db, start, horizon.after(start))
    rate = config.lifetime_value.discount_rate_annual_ratio
    charged = 1 if basis == "contribution" else 0

    def discounted(amount: str, day: str) -> str:
        return f"CAST({amount} * {discount_sql(day, start, rate)} AS DECIMAL(38,6))"

    return db.frame(f"""
        WITH days AS (
            SELECT customer_id, order_date, sum(net_amount) AS net, sum(value) AS value
            FROM next.order_lines GROUP BY customer_id, order_date
        ), bought AS (
            SELECT customer_id, sum({discounted("value", "order_date")}) AS value,
                count(*) FILTER (WHERE net > 0) AS orders
            FROM days GROUP BY customer_id
        ), costs AS (
            SELECT customer_id, {charged} * {discounted(service_cost_sql(config.contribution), "event_date")} AS cost
            FROM next.service_events
            UNION ALL
            SELECT customer_id, {charged} * {discounted(f"{config.contribution.dispute_cost}", "dispute_opened_date")}
            FROM main.invoices
            WHERE dispute_opened_date >= DATE '{start}' AND dispute_opened_date < DATE '{horizon.after(start)}'
        ), served AS (SELECT customer_id, sum(cost) AS cost FROM costs GROUP BY customer_id)
        SELECT customer_id, CAST(coalesce(value, 0) AS DOUBLE) AS realised_value,
            CAST(coalesce(value, 0) - coalesce(cost, 0) AS DOUBLE) AS realised_contribution,
            coalesce(orders, 0) AS realised_orders
        FROM bought FULL JOIN served USING (customer_id) ORDER BY customer_id
    """)


def level_forecast(db: Engine, as_of: date, horizon: Horizon) -> float | None:
    """Value of the last horizon before `as_of`, moved as it moved a year ago.

    last horizon's value x (value of the then known customers in the same season last year / value of the
    horizon before that). Catches the season and the share of customers who lapse. Over more than a year it is
    as many years ago as the horizon has begun, so that what then followed is known. None where facts do not reach
    back that far and a horizon, or one of the three values is not positive. Leaves `past` showing `as_of`.
    """
    see(db, as_of)
    days = timedelta(days=horizon.length_days(as_of))
    years = ceil(days.days / LEAP_YEAR_DAYS)
    year_ago = as_of - timedelta(days=DAYS_PER_YEAR * years)
    [(first_day, *values)] = db.rows(f"""
        WITH customers AS (
            SELECT customer_id, min(order_date) AS first_day,
                sum(value) FILTER (WHERE order_date >= DATE '{as_of - days}') AS last_value,
                sum(value) FILTER (WHERE order_date >= DATE '{year_ago - days}'
                    AND order_date < DATE '{year_ago}') AS value_before,
                sum(value) FILTER (WHERE order_date >= DATE '{year_ago}'
                    AND order_date < DATE '{year_ago + days}') AS value_after
            FROM past.order_lines GROUP BY customer_id
        )
        SELECT min(first_day), sum(last_value), sum(value_before),
            sum(value_after) FILTER (WHERE first_day < DATE '{year_ago}')
        FROM customers
    """)
    if (
        first_day is None
        or first_day > year_ago - days
        or any(value is None or value <= 0 for value in values)
    ):
        return None
    last, before, after = map(float, values)
    return last * after / before
