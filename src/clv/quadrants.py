"""Size × loyalty: who is large, and who stays and pays."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.settings.grading import QuadrantSettings

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

KINDS = ("large_loyal", "large_disloyal", "small_loyal", "small_disloyal")  # in the order of their names


def quadrants(frame: pd.DataFrame, settings: QuadrantSettings) -> pd.Series:
    """Name of the quadrant of each row of `frame` (the active customers); null where loyalty is not known at all.

    Large are the `large_share_ratio` of the rows (to the nearest whole one, at least one) with the largest size
    above 0: contribution or value as configured, the order amount where that is not known; equal ones by
    customer_id. Loyal is who stays (`probability_active`) and pays (`late_payment_probability`, without it the
    record's on-time share); of what was not measured nothing is asked.
    """
    stays = _at_least(frame, "probability_active", settings.minimum_probability_active)
    pays = _at_least(frame, "on_time_share_ratio", settings.minimum_on_time_share_ratio)
    late = _figures(frame, "late_payment_probability")
    pays = np.where(
        np.isnan(late), pays, np.where(late <= settings.maximum_late_payment_probability, 1.0, 0.0)
    )
    known = np.isfinite(stays) | np.isfinite(pays)
    loyal = np.nan_to_num(stays, nan=1.0) * np.nan_to_num(pays, nan=1.0) > 0
    kind = np.where(_large(frame, settings), 0, 2) + np.where(loyal, 0, 1)
    named = np.array(settings.names, dtype=object)[kind]
    named[~known] = None
    return pd.Series(named, index=frame.index, dtype="str")


def _large(frame: pd.DataFrame, settings: QuadrantSettings) -> Flags:
    size = _figures(frame, settings.size)
    if np.isnan(size).all():
        size = _figures(frame, "order_amount")
    n = len(frame)
    count = max(1, math.floor(settings.large_share_ratio * n + 0.5)) if settings.large_share_ratio > 0 else 0
    order = pd.DataFrame({"size": -size, "id": frame["customer_id"].to_numpy()}).sort_values(["size", "id"])
    large = np.zeros(n, dtype=bool)
    large[order.index.to_numpy()[:count]] = True
    return large & (np.nan_to_num(size) > 0)


def _at_least(frame: pd.DataFrame, name: str, limit: float) -> Floats:
    """1 where the figure reaches the limit, 0 where not, NaN where it was not measured."""
    figure = _figures(frame, name)
    return np.where(np.isnan(figure), math.nan, np.where(figure >= limit, 1.0, 0.0))


def _figures(frame: pd.DataFrame, name: str) -> Floats:
    if name not in frame:
        return np.full(len(frame), math.nan)
    return np.asarray(frame[name].to_numpy(np.float64, na_value=np.nan), dtype=np.float64)
