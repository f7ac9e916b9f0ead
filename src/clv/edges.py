"""Where the edges of the tiers lie: the score that keeps a tier, and the score that reaches it from below.

Both are read from a graded month, as it is published: whatever can be seen of a month is enough to know its edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.policies import Cut

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def positions(tier: pd.Series, names: Sequence[str]) -> Ints:
    """Place of each tier, 0 = highest; -1 for none of `names`."""
    return np.asarray(pd.Index(names).get_indexer(tier.astype("object")), dtype=np.int64)


def reaching(
    frame: pd.DataFrame, cut: Cut, band_ratio: float, *, has_left: bool = False
) -> Mapping[str, float]:
    """Tier -> figure of the cut's measure from which a customer of a lower tier reaches it, as the month stands.

    For everyone else as they are, each in its tier: who comes from below at rank r takes the seat of the member whose
    adjusted rank is the largest, (l + 1)/(1 + b) at rank l, since the member falls by one rank; who came in this month
    has the band twice, (l + 1)/(1 + b)². To be before it, r/(1 - b) may be no larger: r/(1 - b)² for a customer that
    `has_left` the tier this month. At equality the tie-break decides. Where the cut has limits it is the limit for
    who was below. NaN where nobody can come in: no member to take the seat of, or no rank high enough. Reads
    `composite_score`, `composite_rank`, `tier`, `tier_rule` and `previous_tier`; members set by hand give no seat up.
    """
    if cut.sizes is None:
        return {name: high for name, (_, _, high) in zip(cut.names, cut.limits, strict=False)}
    band = Fraction(str(band_ratio)).limit_denominator(1000)
    narrowing = (1 - band) ** (2 if has_left else 1)
    rank = frame["composite_rank"].to_numpy(np.float64, na_value=np.nan)
    score = np.sort(-frame["composite_score"].to_numpy(np.float64, na_value=np.nan)[np.isfinite(rank)])
    by_rank = (frame["tier_rule"] != "override").to_numpy(bool) & np.isfinite(rank)
    before, crosses = positions(frame["previous_tier"], cut.names), _is_by_rank(frame)
    found = {}
    for level, name in enumerate(cut.names[:-1]):
        members = by_rank & (frame["tier"] == name).to_numpy(bool)
        entered = members & crosses & (before > level)
        adjusted = [
            (int(rank[some].max()) + 1) / (1 + band) ** times
            for some, times in ((members & ~entered, 1), (entered, 2))
            if some.any()
        ]
        wanted = math.floor(max(adjusted, default=Fraction(0)) * narrowing)
        found[name] = -float(score[wanted - 1]) if 0 < wanted <= len(score) else math.nan
    return found


def left(frame: pd.DataFrame, names: Sequence[str], level: Ints) -> NDArray[np.bool_]:
    """Who was in the tier at `level` (of each row), or above, last month, and by rank is no more."""
    before, now = positions(frame["previous_tier"], names), positions(frame["tier"], names)
    return np.asarray(_is_by_rank(frame) & (before >= 0) & (before <= level) & (now > level), dtype=np.bool_)


def _is_by_rank(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Whose move of this month counts as a crossing: none that people or a new policy made."""
    return np.asarray(~frame["tier_rule"].isin(["override", "policy_reset"]).to_numpy(bool), dtype=np.bool_)


def keeping(frame: pd.DataFrame, names: Sequence[str]) -> Mapping[str, float]:
    """Tier -> the score down to which those keep it who were in it, or above, the month before.

    The lowest `tier_edge_score` of such members, of all members where there is none; NaN for a tier without any. Who
    came in the month before has the band twice and is none of them (`earlier_tier`, the tier before that).
    """
    tier, before = positions(frame["tier"], names), positions(frame["previous_tier"], names)
    earlier = positions(frame["earlier_tier"], names) if "earlier_tier" in frame else before
    edge = frame["tier_edge_score"].to_numpy(np.float64, na_value=np.nan)
    found = {}
    for level, name in enumerate(names):
        members = (tier == level) & np.isfinite(edge)
        established = members & (before >= 0) & (before <= level) & (earlier <= level)
        chosen = edge[established if established.any() else members]
        found[name] = float(chosen.min()) if len(chosen) else math.nan
    return found
