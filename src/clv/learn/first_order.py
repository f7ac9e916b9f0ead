"""Customers just after their first order: the last word on them as prospects, the first as customers, what came."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clv import prospects
from clv.period import see

if TYPE_CHECKING:
    from clv.config import Config
    from clv.learn.prospect_past import PastModel
    from clv.warehouse import Engine

SNAPSHOTS = 3  # in the conversion window before the date: a month apart with 90 days


def pairs(
    db: Engine, known_at: date, config: Config, past: PastModel, of_customers: pd.DataFrame
) -> pd.DataFrame:
    """One row per customer whose first order fell into the conversion window from `past.trained_as_of` on.

    `past` is a prospect model trained at the window's beginning; `of_customers` are forecasts made at its end, from
    what was known then: customer_id, order_count, clv, realised_after. Columns: those, and of the last snapshot
    before the first order conversion_probability, value_given_conversion and prospect_value; and
    realised_from_first_order (prospects.conversion_values as known at `known_at`). Left out are those never seen as a
    prospect, and those whose value_months have not ended. Leaves `past` showing `known_at`.
    """
    start = past.trained_as_of
    step_days = config.prospect.conversion_days // SNAPSHOTS
    said = []
    for place in range(SNAPSHOTS):
        day = start + timedelta(days=place * step_days)
        see(db, day)
        rows = prospects.prospect_rows(db, day)
        if len(rows):
            said.append(past.model.predict(rows))
    see(db, known_at)
    came = prospects.conversion_values(
        db, known_at, config.prospect.value_months, config.lifetime_value.discount_rate_annual_ratio
    )
    came = came[["customer_id", "value"]].rename(columns={"value": "realised_from_first_order"})
    if not said:
        return pd.DataFrame(columns=COLUMNS)
    last = pd.concat(said, ignore_index=True).drop_duplicates("customer_id", keep="last")
    found = of_customers.merge(last, on="customer_id").merge(came, on="customer_id")
    return found.sort_values("customer_id", ignore_index=True)[COLUMNS]


def value_forecasts(
    db: Engine, day: date, customer_ids: np.ndarray, clv: np.ndarray, realised: np.ndarray
) -> pd.DataFrame:
    """`of_customers` of `pairs`, of forecasts made at `day`. Leaves `past` showing `day`."""
    see(db, day)
    orders = db.frame("""
        SELECT customer_id, count(*) AS order_count FROM (
            SELECT customer_id FROM past.order_lines GROUP BY customer_id, order_date HAVING sum(net_amount) > 0
        ) GROUP BY customer_id
    """)
    made = pd.DataFrame({"customer_id": customer_ids, "clv": clv, "realised_after": realised})
    return made.merge(orders, on="customer_id", validate="1:1")


COLUMNS = [
    *("customer_id", "conversion_probability", "value_given_conversion", "prospect_value"),
    *("realised_from_first_order", "order_count", "clv", "realised_after"),
]
