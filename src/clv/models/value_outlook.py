"""Value over other horizons than the model's: shares of its forecast that never fall as the horizon grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    asked = sorted(horizons.items())
    days_ahead = [days for _, days in asked]
    paces = _paces(purchases, training, days_ahead, horizon_days, discount_rate_annual_ratio)
    learned: list[Outlook] = []
    for i, (months, days) in enumerate(asked):
        if days >= horizon_days:
            learned.append(Outlook(months, days, 1.0, None))
            continue
        realised = training[f"realised_value_{months}"].to_numpy(np.float64)
        paced = predicted * paces[:, i]
        ratio = max(float(realised[judged].sum()) / float(paced[judged].sum()), 0.0)
        outlook = Outlook(months, days, ratio, None)
        share = _shares([*learned, outlook], paces, horizon_days)[:, i]
        learned.append(replace(outlook, interval=Interval.fit(predicted * share, realised)))
    return tuple(learned)


def shares(
    outlooks: Sequence[Outlook],
    horizon_days: int,
    purchases: BuyTillYouDie | None,
    frame: pd.DataFrame,
    discount_rate_annual_ratio: float,
) -> Floats:
    """Value over each of the `outlooks` (columns) as a share of the value over the model's horizon, per row.

    Never falling from a shorter horizon to a longer one; at most 1 within the model's horizon, at least 1 beyond it.
    """
    days = [outlook.horizon_days for outlook in outlooks]
    paces = _paces(purchases, frame, days, horizon_days, discount_rate_annual_ratio)
    return _shares(outlooks, paces, horizon_days)


def _shares(outlooks: Sequence[Outlook], paces: Floats, horizon_days: int) -> Floats:
    """`shares` of the first outlooks that `paces` has columns for."""
    columns = np.ones((len(paces), len(outlooks)))
    reached = np.zeros(len(paces))
    for i, outlook in enumerate(outlooks):
        if outlook.horizon_days < horizon_days:
            share = np.minimum(outlook.pace_ratio * paces[:, i], 1.0)
        else:
            share = np.maximum(paces[:, i], 1.0)
        reached = np.maximum(reached, share)
        columns[:, i] = reached
    return columns


def _paces(
    purchases: BuyTillYouDie | None, frame: pd.DataFrame, days: Sequence[int], horizon_days: int, rate: float
) -> Floats:
    """Discounted purchases within each of `days` (columns) over those within the horizon, of a customer still active.

    Without a purchase model purchases are spread evenly and nobody leaves.
    """
    paces = np.empty((len(frame), len(days)))
    if purchases is None:
        worth = np.cumsum(day_factor(rate) ** (np.arange(max([*days, horizon_days])) + 0.5))
        for i, ahead in enumerate(days):
            paces[:, i] = worth[ahead - 1] / worth[horizon_days - 1]
        return paces
    within = purchases.pace(frame, horizon_days)
    for i, ahead in enumerate(days):
        paces[:, i] = purchases.pace(frame, ahead) / within
    return paces
