"""How steady tiers are, and what they are worth: figures of consecutive months, and of what customers then did.

A `History` is a frame of one row per customer and month: `month` (counted from 0), `customer_id`, `tier` (position,
0 = highest). Customers who were not in tiers in a month have no row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 200
FIRM = 0.8
RFM_CLASSES = 5


@dataclass(frozen=True)
class Steadiness:
    """`moves_ratio`: share of customers in tiers in two months in a row who changed tier, a month; `reversals_ratio`:
    share of the moves of which the next month undid the one before (A-B-A); both None where nothing could move."""

    moves_ratio: float | None
    reversals_ratio: float | None
    moves: int


def steadiness(history: pd.DataFrame) -> Steadiness:
    """Of a History."""
    table = history.pivot(index="customer_id", columns="month", values="tier").to_numpy(np.float64)
    before, after = table[:, :-1], table[:, 1:]
    both = np.isfinite(before) & np.isfinite(after)
    moved = both & (before != after)
    returned = moved[:, :-1] & moved[:, 1:] & (table[:, :-2] == table[:, 2:])
    # A move can be undone only where the month after it is known.
    could = moved[:, :-1] & both[:, 1:]
    return Steadiness(
        float(moved.sum() / both.sum()) if both.any() else None,
        float(returned.sum() / could.sum()) if could.any() else None,
        int(moved.sum()),
    )


def rfm(frame: pd.DataFrame) -> Floats:
    """Recency, frequency and monetary classes of 1 to 5 each, added: the plain score of direct marketing.

    Classes are fifths of the rows of `frame` (columns days_since_last_purchase, order_count, revenue_365); equal
    figures share a class (Hughes, 1994, Strategic Database Marketing).
    """
    total = np.zeros(len(frame))
    for name, sign in (("days_since_last_purchase", -1.0), ("order_count", 1.0), ("revenue_365", 1.0)):
        figure = sign * frame[name].to_numpy(np.float64, na_value=np.nan)
        figure = np.where(np.isnan(figure), -np.inf, figure)
        below = np.searchsorted(np.sort(figure), figure, side="left") / max(len(figure), 1)
        total += np.floor(below * RFM_CLASSES) + 1
    return total


def held(realised: Floats, chosen: NDArray[np.bool_]) -> float:
    """Share of all realised value that the chosen rows hold; nan without a positive total."""
    total = math.fsum(realised.tolist())
    return math.fsum(realised[chosen].tolist()) / total if total > 0 else math.nan


def value_by_tier(
    customers: Sequence[str] | pd.Series, tier: Ints, realised: Floats, names: Sequence[str], seed: int
) -> dict[str, dict[str, float | None]]:
    """Mean realised value per customer of each tier, with its 95 % interval: `customers`, `mean`, `low`, `high`.

    Rows are customers at an origin. The interval is a percentile bootstrap over customers, who are drawn with all
    their origins (Cameron, Gelbach & Miller, 2008): what one customer did counts in several of them.
    """
    codes, ids = pd.factorize(np.asarray(customers, dtype=object), sort=True)
    n, levels = len(ids), len(names)
    sums, counts = np.zeros((n, levels)), np.zeros((n, levels))
    np.add.at(sums, (codes, tier), realised)
    np.add.at(counts, (codes, tier), 1.0)
    rng = np.random.default_rng(seed)
    drawn = np.array([rng.multinomial(n, np.full(n, 1 / n)) for _ in range(DRAWS)]) if n else np.zeros((1, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (drawn @ sums) / (drawn @ counts)
        mean = sums.sum(axis=0) / counts.sum(axis=0)
    report: dict[str, dict[str, float | None]] = {}
    for i, name in enumerate(names):
        known = means[np.isfinite(means[:, i]), i]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
        report[name] = {
            "customers": float(counts[:, i].sum()),
            "mean": _finite(mean[i]),
            "low": _finite(low),
            "high": _finite(high),
        }
    return report


def is_monotone(by_tier: Mapping[str, Mapping[str, float | None]]) -> bool:
    """Whether each tier that has customers brought more per customer than the next one below."""
    means = [row["mean"] for row in by_tier.values() if row["mean"] is not None]
    return all(above > below for above, below in pairwise(means))


def firmness_report(promised: Floats, stayed: Floats) -> dict[str, float | None]:
    """Promised firmness against who stayed: both means, the Brier score, and the same of those called firm (≥ 0.8)."""
    known = np.isfinite(promised)
    p, s = promised[known], stayed[known]
    firm = p >= FIRM
    slope = metrics.calibration_slope(s, np.clip(p, 1e-6, 1 - 1e-6)) if len(p) else math.nan
    return {
        "customers": float(len(p)),
        "mean_promised": _finite(p.mean()) if len(p) else None,
        "mean_stayed": _finite(s.mean()) if len(p) else None,
        "brier": _finite(metrics.brier(s, p)),
        "auc": _finite(metrics.auc(s, p)),
        "calibration_slope": _finite(slope),
        "firm_share": _finite(firm.mean()) if len(p) else None,
        "firm_promised": _finite(p[firm].mean()) if firm.any() else None,
        "firm_stayed": _finite(s[firm].mean()) if firm.any() else None,
        "other_promised": _finite(p[~firm].mean()) if (~firm).any() else None,
        "other_stayed": _finite(s[~firm].mean()) if (~firm).any() else None,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
