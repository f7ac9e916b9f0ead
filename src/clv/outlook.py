"""What is expected of each customer and each open invoice: the tables value_outlook and invoice_outlook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clv.criteria import Measured, Models
from clv.models.payment_delay import PaymentDelay

if TYPE_CHECKING:
    from clv.config import Config


def value_outlook(measured: Measured, models: Models, config: Config) -> pd.DataFrame:
    """Rows of value_outlook: every customer with a `clv`, over its horizon and the further ones of the model."""
    frame = measured.customers.loc[measured.customers["clv"].notna()]
    own = frame[["customer_id", "clv", "clv_low", "clv_high"]].assign(
        horizon_months=config.lifetime_value.horizon_months, is_extrapolation=False
    )
    if models.lifetime_value.mode == "last_period" or frame.empty:
        return own
    return pd.concat([own, models.lifetime_value.outlook(frame)], ignore_index=True)


def invoice_outlook(measured: Measured, models: Models, config: Config) -> pd.DataFrame:
    """Rows of invoice_outlook: every open invoice.

    `expected_payment_date` is the day by which payment is at least as likely as not; null where that is further
    away than `payment.cap_days` beyond terms. It and the probability are null where the record grades payment.
    """
    rows = measured.payment_rows
    rows = rows[rows["is_open"].to_numpy(bool)].reset_index(drop=True)
    probability = days = np.full(len(rows), np.nan)
    if isinstance(models.payment_delay, PaymentDelay):
        predicted = models.payment_delay.predict(rows, config.engine.threads)
        probability = predicted["late_payment_probability"].to_numpy(np.float64)
        days = predicted["days_to_payment"].to_numpy(np.float64)
    return pd.DataFrame(
        {
            "invoice_id": rows["invoice_id"],
            "customer_id": rows["customer_id"],
            "amount_open": rows["amount"].astype("float64"),
            "days_open": rows["age_days"].astype("int64"),
            "late_payment_probability": probability,
            "expected_payment_date": rows["snapshot_date"] + pd.to_timedelta(days, unit="D"),
        }
    )
