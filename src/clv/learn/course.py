"""What came in the course of a horizon, week by week, beside what had been forecast of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.outcomes import realised_by_day

if TYPE_CHECKING:
    from clv.config import Config
    from clv.learn.value import ValueForecasts
    from clv.warehouse import Engine

Floats = NDArray[np.float64]


def course(db: Engine, made: ValueForecasts, config: Config) -> pd.DataFrame:
    """One row per end of a week of the horizon (the last may be shorter); running totals of the customers together.

    Columns: `day` (days since as_of), `date`; `realised_value` and `realised_orders`, which `db` knows;
    `model_value`, `btyd_value`, `expected_orders`. Value is discounted and after cost to serve, as realised. Expected
    orders and the shape of the forecast values are the buy-till-you-die model's, which knows no season; the model
    itself forecasts a total. Without a buy-till-you-die model its columns are null and the model's total accrues
    evenly.
    """
    length = made.horizon.length_days(made.as_of)
    days = [*range(7, length, 7), length]
    happened = realised_by_day(
        db, made.frame["customer_id"], made.as_of, made.horizon, config, basis=made.basis
    )
    expected = value = np.full(len(days), np.nan)
    shape = np.array(days) / length
    if made.model.purchases is not None:
        expected, value = made.model.purchases.course(made.frame, days)
        shape = value / value[-1] if value[-1] > 0 else shape
    return pd.DataFrame(
        {
            "day": days,
            "date": pd.Timestamp(made.as_of) + pd.to_timedelta(days, unit="D"),
            "realised_value": _running(happened, "realised_contribution", days),
            "model_value": shape * made.forecasts["model"].value.sum(),
            "btyd_value": value,
            "realised_orders": _running(happened, "realised_orders", days),
            "expected_orders": expected,
        }
    )


def _running(by_day: pd.DataFrame, name: str, days: list[int]) -> Floats:
    """Total of the days before each of `days`."""
    totals = np.append(0.0, np.cumsum(by_day[name].to_numpy(np.float64)))
    return np.asarray(totals[np.searchsorted(by_day["day"].to_numpy(), days)])
