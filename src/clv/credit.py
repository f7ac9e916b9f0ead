"""Credit events as of a date: who is blocked, and who did not pay for good."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from clv.period import add_months

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config
    from clv.warehouse import Engine


def credit_standing(db: Engine, as_of: date, config: Config) -> pd.DataFrame:
    """One row per customer with a credit event before `as_of`, ordered by customer_id.

    Columns: `bad_debt`, `insolvency` or else `write_off` where there was one within the last gates.bad_debt_months
    (null without, or with the gate off); `is_blocked`, whether the last of its `blocked` and `released` is a block
    (of several on one day `released` counts). Reads `past`, which must show `as_of`.
    """
    months = config.gates.bad_debt_months
    recent = "false" if months is None else f"event_date >= DATE '{add_months(as_of, -months)}'"
    return db.frame(f"""
        SELECT customer_id,
            CASE WHEN bool_or(kind = 'insolvency' AND {recent}) THEN 'insolvency'
                 WHEN bool_or(kind = 'write_off' AND {recent}) THEN 'write_off' END AS bad_debt,
            coalesce(max(event_date) FILTER (kind = 'blocked')
                > coalesce(max(event_date) FILTER (kind = 'released'), DATE '0001-01-01'), false) AS is_blocked
        FROM past.credit_events GROUP BY customer_id ORDER BY customer_id
    """)
