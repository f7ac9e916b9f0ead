"""Everything that rules can say about a customer as of a date, in one row: the frame that models and grades read."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from clv.contribution import customer_ladder, late_money_cost
from clv.credit import credit_standing
from clv.features import customer_features
from clv.receivables import payment_record

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config
    from clv.warehouse import Engine

LADDER = ("revenue", "cost_to_serve", "contribution_margin")
RECORD = (
    "on_time_share_ratio",
    "mean_days_beyond_terms",
    "main_delay_reason",
    "counted_invoices",
    "open_balance",
    "overdue_balance_ratio",
    "late_money_cost",
)


def customer_frame(db: Engine, as_of: date, config: Config, *, basis: str, horizon_days: int) -> pd.DataFrame:
    """One row per customer with history before `as_of`, ordered by `customer_id`.

    Columns: those of customer_features; the ladder of the last 12 months (`revenue`, `cost_to_serve_12m`,
    `contribution_margin`: null on the basis `revenue`, after late money where the configuration charges it here);
    the payment record of the last year with `open_balance`, `overdue_balance_ratio` and `late_money_cost` (null
    without invoices); `bad_debt` and `is_blocked` (credit.credit_standing); `is_active`: an order within
    `tiers.active_months` or an open balance. Leaves `past` showing `as_of`.
    """
    frame = customer_features(db, as_of, config, horizon_days)
    ladder = customer_ladder(db, as_of, config)[["customer_id", *LADDER]]
    record = payment_record(db, as_of, config.payment)
    record["late_money_cost"] = late_money_cost(record, config.contribution)
    frame = frame.merge(ladder, on="customer_id", how="left", validate="1:1")
    frame = frame.merge(record[["customer_id", *RECORD]], on="customer_id", how="left", validate="1:1")
    frame = frame.merge(credit_standing(db, as_of, config), on="customer_id", how="left", validate="1:1")
    frame["is_blocked"] = frame["is_blocked"].astype("boolean").fillna(False).astype(bool)
    for name in LADDER:
        frame[name] = frame[name].astype("float64").fillna(0.0)
    if config.charges_late_money:
        frame["contribution_margin"] -= frame["late_money_cost"].fillna(0.0)
    if basis == "revenue":
        frame["contribution_margin"] = float("nan")
    owing = frame["open_balance"].astype("float64").fillna(0.0) > 0
    frame["is_active"] = frame["has_recent_order"].astype(bool) | owing
    return frame.rename(columns={"cost_to_serve": "cost_to_serve_12m"})
