"""Facts as they would be if a customer ordered more, paid sooner, or brought more margin: one lever at a time.

Each lever changes the facts of copies in a scenario (`scenario.facts_of`), by the amount of each copy; features and
scores are then measured by the same queries as ever, so that one real order moves value, amount and margin together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING

from clv import period
from clv.receivables import invoice_state
from clv.tables import MONEY
from clv.warehouse import Engine

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config

QUARTER_DAYS = 90
USUAL_DAYS = 365  # in which the usual order is looked for first


def usual_orders(db: Engine, as_of: date) -> pd.DataFrame:
    """The order that is usual for each customer: customer_id, `order_date` of it, `net_amount` of that day.

    The order day of the lower median net amount among those of the last 365 days, else of all; the earlier one of
    equal ones. Reads `past`, which must show `as_of`; who never ordered has no row.
    """
    return db.frame(f"{_usual_sql(as_of)} ORDER BY customer_id")


def _usual_sql(as_of: date) -> str:
    recent = f"day >= DATE '{as_of - timedelta(days=USUAL_DAYS)}'"
    return f"""
        WITH days AS (
            SELECT customer_id, order_date AS day, sum(net_amount) AS net FROM past.order_lines
            GROUP BY customer_id, order_date HAVING sum(net_amount) > 0
        ), compared AS (
            SELECT * FROM days QUALIFY {recent} OR count(*) FILTER ({recent}) OVER (PARTITION BY customer_id) = 0
        ), ranked AS (
            SELECT *, count(*) OVER (PARTITION BY customer_id) AS days,
                row_number() OVER (PARTITION BY customer_id ORDER BY net, day) AS place
            FROM compared
        )
        SELECT customer_id, day AS order_date, net AS net_amount FROM ranked WHERE place = (days + 1) // 2"""


def _more_orders(db: Engine, as_of: date, config: Config) -> None:
    """The usual order again, `amount` times in the last 90 days, evenly over the days without any order line."""
    period.see(db, as_of)
    first = as_of - timedelta(days=QUARTER_DAYS)
    db.run(f"""
        INSERT INTO main.order_lines BY NAME
        WITH asked AS (
            SELECT copy_id AS customer_id, amount FROM main.copies WHERE lever = 'more_orders' AND amount > 0
        ), days AS (
            SELECT CAST(unnest(generate_series(
                DATE '{first}', DATE '{as_of - timedelta(days=1)}', INTERVAL 1 DAY)) AS DATE) AS day
        ), free AS (
            SELECT customer_id, amount, day, row_number() OVER own AS place,
                count(*) OVER (PARTITION BY customer_id) AS days
            FROM asked CROSS JOIN days
            WHERE NOT EXISTS (
                FROM past.order_lines AS l WHERE l.customer_id = asked.customer_id AND l.order_date = days.day)
            WINDOW own AS (PARTITION BY customer_id ORDER BY day)
        ), placed AS (
            SELECT customer_id, day, number
            FROM (SELECT *, unnest(range(1, CAST(amount AS BIGINT) + 1)) AS number FROM free)
            WHERE place = CAST(ceil((number - 0.5) * days / amount) AS BIGINT)
        )
        SELECT l.* REPLACE (p.day AS order_date, CAST(NULL AS DATE) AS posted_date,
            l.order_id || '+' || p.number AS order_id, l.line_id || '+' || p.number AS line_id)
        FROM placed AS p JOIN ({_usual_sql(as_of)}) AS u USING (customer_id)
        JOIN past.order_lines AS l ON l.customer_id = u.customer_id AND l.order_date = u.order_date
    """)


def _faster_payment(db: Engine, as_of: date, config: Config) -> None:
    """Every payment `amount` days sooner, at issue at the earliest; what is overdue is so by as many days less."""
    period.see(db, as_of)
    state = invoice_state(db, as_of, config.payment)
    asked = "SELECT copy_id, CAST(amount AS INTEGER) AS days FROM main.copies WHERE lever = 'faster_payment'"
    db.run(f"""
        CREATE OR REPLACE TEMP TABLE sooner AS
        SELECT i.invoice_id, i.invoice_date, a.days,
            CASE WHEN s.is_open AND s.overdue_days > 0 AND s.age_days > 1
                THEN CAST(least(a.days, s.overdue_days, s.age_days - 1) AS INTEGER) ELSE 0 END AS younger_days
        FROM past.invoices AS i JOIN ({asked}) AS a ON a.copy_id = i.customer_id
        LEFT JOIN {state} AS s ON s.invoice_id = i.invoice_id
    """)
    db.run("""
        UPDATE main.payments SET payment_date = least(payment_date, greatest(payment_date - days, invoice_date))
        FROM sooner WHERE sooner.invoice_id = payments.invoice_id
    """)
    db.run("""
        UPDATE main.invoices SET invoice_date = invoices.invoice_date + younger_days, due_date = due_date + younger_days
        FROM sooner WHERE sooner.invoice_id = invoices.invoice_id AND younger_days > 0
    """)
    db.run("DROP TABLE sooner")


def _better_margin(db: Engine, as_of: date, config: Config) -> None:
    """`amount` hundredths of the net amount more of every order line of the last 12 months."""
    db.run(f"""
        UPDATE main.order_lines
        SET value = value + CAST(net_amount * amount / 100 AS {MONEY}),
            product_cost = product_cost - CAST(net_amount * amount / 100 AS {MONEY})
        FROM main.copies
        WHERE lever = 'better_margin' AND copy_id = order_lines.customer_id
            AND order_date >= DATE '{period.add_months(as_of, -12)}'
    """)


LEVERS: Mapping[str, Callable[[Engine, date, Config], None]] = {
    "more_orders": _more_orders,
    "faster_payment": _faster_payment,
    "better_margin": _better_margin,
}
