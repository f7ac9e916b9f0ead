"""Value over other horizons than the model's: shares of its forecast that never fall as the horizon grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.models.value_interval import Interval
from clv.period import day_factor

if TYPE_CHECKING:
    from clv.models.value_parts import BuyTillYouDie

Floats = NDArray[np.float64]

SEASONAL_DAYS = 300  # over so long a horizon the newest snapshot lies in the season that lies ahead


@dataclass(frozen=True)
class Outlook:
    """One further horizon.

    `pace_ratio`: what customers brought in it, over what the purchase model's pace alone would give it of the model's
    horizon (the season of the first months, say). `interval`: of forecasts of this horizon; null beyond the model's
    own horizon, which nothing has validated, and whose interval the model's own stands in for.
    """

    months: int
    horizon_days: int
    pace_ratio: float
    interval: Interval | None


def learn_outlooks(
    horizons: Mapping[int, int],
    horizon_days: int,
    purchases: BuyTillYouDie | None,
    training: pd.DataFrame,
    predicted: Floats,
    discount_rate_annual_ratio: float,
) -> tuple[Outlook, ...]:
    """Outlooks of the `horizons` (months -> days), shortest first.

    `predicted` are forecasts of the rows of `training` over the model's `horizon_days`, out of fold; `training` has
    `realised_value_<months>` for every horizon shorter than that.
    """
    newest = (training["snapshot_date"] == training["snapshot_date"].max()).to_numpy(bool)
    judged = newest if horizon_days >= SEASONAL_DAYS else np.ones(len(training), dtype=bool)
    learned: list[Outlook] = []
    for months, days in sorted(horizons.items()):
        if days >= horizon_days:
            learned.append(Outlook(months, days, 1.0, None))
            continue
        realised = training[f"realised_value_{months}"].to_numpy(np.float64)
        paced = predicted * _pace(purchases, training, days, horizon_days, discount_rate_annual_ratio)
        ratio = float(realised[judged].sum()) / float(paced[judged].sum())
        learned.append(Outlook(months, days, max(ratio, 0.0), None))
        share = shares(learned, horizon_days, purchases, training, discount_rate_annual_ratio)[:, -1]
        learned[-1] = Outlook(months, days, max(ratio, 0.0), Interval.fit(predicted * share, realised))
    return tuple(learned)


def shares(
    outlooks: tuple[Outlook, ...] | list[Outlook],
    horizon_days: int,
    purchases: BuyTillYouDie | None,
    frame: pd.DataFrame,
    discount_rate_annual_ratio: float,
) -> Floats:
    """Value over each of the `outlooks` (columns) as a share of the value over the model's horizon, per row.

    Never falling from a shorter horizon to a longer one; at most 1 within the model's horizon, at least 1 beyond it.
    """
    columns = np.ones((len(frame), len(outlooks)))
    reached = np.zeros(len(frame))
    for i, outlook in enumerate(outlooks):
        pace = _pace(purchases, frame, outlook.horizon_days, horizon_days, discount_rate_annual_ratio)
        if outlook.horizon_days < horizon_days:
            share = np.minimum(outlook.pace_ratio * pace, 1.0)
        else:
            share = np.maximum(pace, 1.0)
        reached = np.maximum(reached, share)
        columns[:, i] = reached
    return columns


def _pace(
    purchases: BuyTillYouDie | None, frame: pd.DataFrame, days: int, horizon_days: int, rate: float
) -> Floats:
    """Discounted purchases within `days` over those within the horizon, while the customer may leave as it goes.

    Without a purchase model purchases are spread evenly and nobody leaves.
    """
    if purchases is None:
        worth = np.cumsum(day_factor(rate) ** (np.arange(max(days, horizon_days)) + 0.5))
        return np.full(len(frame), worth[days - 1] / worth[horizon_days - 1])
    return purchases.pace(frame, days) / purchases.pace(frame, horizon_days)
