"""Two policies on the same month: who moves, how much money moves with them, and how far they agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from clv.errors import ModelError

if TYPE_CHECKING:
    from clv.composite import Grading
    from clv.config import Config
    from clv.criteria import Measured
    from clv.grades import Graded

MONEY = ("contribution_margin", "clv", "order_amount")


def published_month(read: Callable[..., pd.DataFrame], as_of: date) -> pd.DataFrame:
    """Customers as published: customer_id, tier, tier_rule, composite_score, is_key, and money; by publish.reader.

    Raises ModelError where the month was never published.
    """
    found = read(
        """SELECT g.customer_id, g.tier, g.tier_rule, g.composite_score, coalesce(t.is_key, false) AS is_key,
               g.contribution_margin, g.clv, g.order_amount
           FROM clv.grades AS g LEFT JOIN clv.tier_summary AS t USING (as_of_date, run_id, value_source, tier)
           WHERE g.as_of_date = ? AND g.value_source = 'history' ORDER BY g.customer_id""",
        as_of,
    )
    if found.empty:
        raise ModelError(
            f"Expected {as_of} to be published, found no grades of it. Run: score.py --as-of {as_of}"
        )
    return found


def needs_scales(measured: Measured, grading: Grading, config: Config) -> bool:
    """Whether `grading` was learned without a scale that these settings ask for."""
    return grading.method != config.composite.scale or not set(measured.switched_on) <= set(grading.scales)


def beside(published: pd.DataFrame, graded: Graded) -> pd.DataFrame:
    """One row per customer in both: `tier` and `tier_rule` as published, `tier_then` and `rule_then` as graded now,
    `was_key`, `is_key_then`, and money; by customer_id."""
    then = graded.frame[["customer_id", "tier", "tier_rule"]]
    both = published.merge(then, on="customer_id", suffixes=("", "_new"), validate="1:1")
    both = both.rename(columns={"tier_new": "tier_then", "tier_rule_new": "rule_then", "is_key": "was_key"})
    both["was_key"] = both["was_key"].astype(bool)
    return both.assign(is_key_then=both["tier_then"].isin(graded.key)).sort_values(
        "customer_id", ignore_index=True
    )


def report(both: pd.DataFrame, published: pd.DataFrame, graded: Graded) -> dict[str, Any]:
    """Figures of `beside`.

    `agreement_ratio` (the same tier), `kappa` (Cohen, 1960: agreement beyond chance), both over customers in tiers;
    `key_kept_ratio` of those who were key; `moves`: from, to, customers and their money; `key_money`: money of key
    customers before and then. `missing`: customers of one side only.
    """
    in_tiers = both[(both["tier"] != "inactive") & (both["tier_then"] != "inactive")]
    same = (in_tiers["tier"] == in_tiers["tier_then"]).to_numpy(bool)
    agreement = float(same.mean()) if len(same) else math.nan
    before, then = (in_tiers[name].value_counts(normalize=True) for name in ("tier", "tier_then"))
    chance = float((before * then.reindex(before.index).fillna(0.0)).sum())
    moved = both[both["tier"] != both["tier_then"]]
    money = [name for name in MONEY if both[name].notna().any()]
    moves = moved.groupby(["tier", "tier_then"])[money].sum(min_count=1)
    moves.insert(0, "customers", moved.groupby(["tier", "tier_then"]).size())
    was_key = both["was_key"].to_numpy(bool)
    return {
        "customers": len(both),
        "missing": len(published) + len(graded.frame) - 2 * len(both),
        "agreement_ratio": _finite(agreement),
        "kappa": _finite((agreement - chance) / (1 - chance)) if chance < 1 else None,
        "key_kept_ratio": _finite(both["is_key_then"].to_numpy(bool)[was_key].mean())
        if was_key.any()
        else None,
        "moved": len(moved),
        "moves": [
            {"from": start, "to": end, **{name: _finite(row[name]) for name in moves.columns}}
            for (start, end), row in moves.iterrows()
        ],
        "key_money": {
            name: {
                "published": _finite(both.loc[was_key, name].sum()),
                "then": _finite(both.loc[both["is_key_then"], name].sum()),
            }
            for name in money
        },
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
