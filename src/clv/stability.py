"""How steady tiers are, and what they are worth: figures of consecutive months, and of what customers then did.

A `History` is a frame of one row per customer and month: `month` (counted from 0), `customer_id`, `tier` (position,
0 = highest) and `tier_rule`. Customers who were not in tiers in a month have no row.
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


RANKING = "ranking"  # what made a move that no gate, person or new policy made
NOT_RANKING = ("override", "policy_reset", "provisional")


@dataclass(frozen=True)
class Steadiness:
    """`moves_ratio`: share of customers in tiers in two months in a row who changed tier, a month; `reversals_ratio`:
    share of the moves that the next month undid (A-B-A); `ranking_reversals_ratio`: the same of the moves that the
    ranking made and then undid itself, without gates and decisions. None where nothing could move."""

    moves_ratio: float | None
    reversals_ratio: float | None
    ranking_reversals_ratio: float | None
    moves: int


def steadiness(history: pd.DataFrame) -> Steadiness:
    """Of a History."""
    rows = _months_in_a_row(history)
    moved = moves(history)
    by_ranking = moved[moved["rule"] == RANKING]
    return Steadiness(
        _mean(rows["before"] != rows["tier"]),
        _mean(moved.loc[moved["could_return"], "returned"]),
        _mean(by_ranking.loc[by_ranking["could_return"], "returned_by_ranking"]),
        len(moved),
    )


def moves(history: pd.DataFrame) -> pd.DataFrame:
    """One row per move of a History: `month`, `before`, `tier`, `rule`, `could_return`, `returned`.

    `rule` is what made it: `gate:<reason>` where one shut, `after gate:<reason>` where it opened, `override`, `after
    override`, …, else `ranking`. A move could be undone only where the month after it is known; it `returned` where
    that month went back to the tier before, `returned_by_ranking` where the ranking made it go back.
    """
    rows = _months_in_a_row(history)
    moved = rows[(rows["before"] != rows["tier"]).to_numpy(bool)].copy()
    next_month = moved[["customer_id", "month", "tier", "rule"]].assign(month=moved["month"] - 1)
    follows = rows[["customer_id", "month"]].assign(month=rows["month"] - 1, could_return=True)
    moved = moved.merge(follows, on=["customer_id", "month"], how="left").merge(
        next_month, on=["customer_id", "month"], how="left", suffixes=("", "_next")
    )
    returned = (moved["tier_next"] == moved["before"]).to_numpy(bool)
    return moved.assign(
        could_return=moved["could_return"].notna(),
        returned=returned,
        returned_by_ranking=returned & (moved["rule_next"] == RANKING).to_numpy(bool),
    )


def moves_by(moved: pd.DataFrame, label: pd.Series) -> dict[str, dict[str, float | None]]:
    """`moves`, `share_ratio` of all, and `reversals_ratio` of each kind of move; most frequent first."""
    report = {}
    for name, rows in moved.groupby(label.to_numpy(str), sort=True):
        report[str(name)] = {
            "moves": float(len(rows)),
            "share_ratio": len(rows) / len(moved),
            "reversals_ratio": _mean(rows.loc[rows["could_return"], "returned"]),
        }
    return dict(sorted(report.items(), key=lambda item: -(item[1]["moves"] or 0)))


def _months_in_a_row(history: pd.DataFrame) -> pd.DataFrame:
    """Rows of a History whose month before is there too, with its tier (`before`), and what a move is put down to."""
    last = history.assign(month=history["month"] + 1)
    rows = history.merge(last, on=["customer_id", "month"], suffixes=("", "_before"))
    now, then = rows["tier_rule"].astype("str"), rows["tier_rule_before"].astype("str")
    rule = np.where(_not_ranking(then), "after " + then, RANKING)
    return pd.DataFrame(
        {
            "customer_id": rows["customer_id"],
            "month": rows["month"],
            "before": rows["tier_before"],
            "tier": rows["tier"],
            "rule": np.where(_not_ranking(now), now, rule),
        }
    )


def _not_ranking(rule: pd.Series) -> NDArray[np.bool_]:
    return np.asarray(rule.str.startswith("gate:") | rule.isin(NOT_RANKING), dtype=np.bool_)


def _mean(flags: pd.Series) -> float | None:
    return float(flags.mean()) if len(flags) else None


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
