"""What each customer then did within the horizon: the labels of the lifetime-value model."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from clv.config import Config
from clv.contribution import service_cost_sql
from clv.period import Horizon, discount_sql, see_window

if TYPE_CHECKING:
    import pandas as pd

    from clv.warehouse import Engine


def realised_value(db: Engine, start: date, horizon: Horizon, config: Config, *, basis: str) -> pd.DataFrame:
    """One row per customer with an order line or a service within the horizon begun at `start`.

    Columns, discounted to `start`: `realised_value` (of order lines; negative where returns outweigh),
    `realised_contribution` (less service and disputes, where the basis is `contribution`); and `realised_orders`
    (purchase days). Customers without any fact are absent: theirs is 0. Leaves `next` showing the window.
    """
    see_window(db, start, horizon.after(start))
    rate = config.lifetime_value.discount_rate_annual_ratio
    charged = 1 if basis == "contribution" else 0

    def discounted(amount: str, day: str) -> str:
        return f"CAST(round({amount} * {discount_sql(day, start, rate)}, 6) AS DECIMAL(38,6))"

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
    """Value of the last horizon before `as_of`, moved as it moved a year ago; None without a year and a horizon.

    last horizon's value x (value of the then known customers in the same season last year / value of the
    horizon before that). Catches the season and the share of customers who lapse. Reads `past` as of `as_of`.
    """
    year_ago = as_of - timedelta(days=365)
    days = horizon.length_days(as_of)
    before, year_before = as_of - timedelta(days=days), year_ago - timedelta(days=days)
    [(first, last, then, next_then)] = db.rows(f"""
        WITH known AS (SELECT DISTINCT customer_id FROM past.order_lines WHERE order_date < DATE '{year_ago}')
        SELECT min(order_date),
            sum(value) FILTER (WHERE order_date >= DATE '{before}'),
            sum(value) FILTER (WHERE order_date >= DATE '{year_before}' AND order_date < DATE '{year_ago}'),
            sum(value) FILTER (WHERE order_date >= DATE '{year_ago}'
                AND order_date < DATE '{year_ago + timedelta(days=days)}'
                AND customer_id IN (SELECT customer_id FROM known))
        FROM past.order_lines
    """)
    if first is None or first > year_before or not last or not then or not next_then:
        return None
    return float(last) * float(next_then) / float(then)
