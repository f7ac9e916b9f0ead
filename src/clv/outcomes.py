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
    return db.frame(f"""
        WITH facts AS ({_facts_sql(start, horizon, config, basis)})
        SELECT customer_id, CAST(sum(value) AS DOUBLE) AS realised_value,
            CAST(sum(value) - sum(cost) AS DOUBLE) AS realised_contribution,
            count(*) FILTER (WHERE is_order) AS realised_orders
        FROM facts GROUP BY customer_id ORDER BY customer_id
    """)


def realised_by_day(
    db: Engine, customer_ids: pd.Series, start: date, horizon: Horizon, config: Config, *, basis: str
) -> pd.DataFrame:
    """One row per day of the horizon on which one of the customers did something, all of them together.

    Columns: `day` (days since `start`, 0 on it), `realised_contribution` and `realised_orders` as in realised_value,
    whose sums over the customers these add up to. Leaves `next` showing the window.
    """
    see_window(db, start, horizon.after(start))
    db.load("next.asked", customer_ids.rename("customer_id").to_frame())
    return db.frame(f"""
        WITH facts AS ({_facts_sql(start, horizon, config, basis)})
        SELECT date_diff('day', DATE '{start}', day) AS day,
            CAST(sum(value) - sum(cost) AS DOUBLE) AS realised_contribution,
            count(*) FILTER (WHERE is_order) AS realised_orders
        FROM facts JOIN next.asked USING (customer_id) GROUP BY day ORDER BY day
    """)


def _facts_sql(start: date, horizon: Horizon, config: Config, basis: str) -> str:
    """A row per customer and day of `next` with order lines, and per service and new dispute; money discounted.

    Columns `customer_id`, `day`, `value`, `cost` (0 on the basis `revenue`), `is_order`.
    """
    rate = config.lifetime_value.discount_rate_annual_ratio
    charged = 1 if basis == "contribution" else 0

    def discounted(amount: str, day: str) -> str:
        return f"CAST({amount} * {discount_sql(day, start, rate)} AS DECIMAL(38,6))"

    def cost(amount: str, day: str, rows: str) -> str:
        return (
            f"SELECT customer_id, {day} AS day, CAST(0 AS DECIMAL(38,6)) AS value, "
            f"{charged} * {discounted(amount, day)} AS cost, false AS is_order FROM {rows}"
        )

    disputes = (
        f"main.invoices WHERE dispute_opened_date >= DATE '{start}' "
        f"AND dispute_opened_date < DATE '{horizon.after(start)}'"
    )
    return f"""
        SELECT customer_id, order_date AS day, {discounted("sum(value)", "order_date")} AS value,
            CAST(0 AS DECIMAL(38,6)) AS cost, sum(net_amount) > 0 AS is_order
        FROM next.order_lines GROUP BY customer_id, order_date
        UNION ALL
        {cost(service_cost_sql(config.contribution), "event_date", "next.service_events")}
        UNION ALL
        {cost(f"{config.contribution.dispute_cost}", "dispute_opened_date", disputes)}
    """


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
