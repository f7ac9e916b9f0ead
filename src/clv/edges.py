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


def reaching(frame: pd.DataFrame, cut: Cut, band_ratio: float) -> Mapping[str, float]:
    """Tier -> figure of the cut's measure from which a customer of a lower tier reaches it, as the month stands.

    For everyone else as they are, each in its tier: who comes from below at rank r takes the seat of the tier's last
    member, at rank l, where r/(1 - b) is at most (l + 1)/(1 + b), since the member falls by one rank. So the figure is
    the score at rank ⌊(l + 1)·(1 - b)/(1 + b)⌋; at equality the tie-break decides. Where the cut has limits it is
    the limit for who was below. NaN where nobody can come in: no member to take the seat of, or no rank high enough.
    Reads `composite_score`, `composite_rank`, `tier` and `tier_rule`; members set by hand give no seat up.
    """
    if cut.sizes is None:
        return {name: high for name, (_, _, high) in zip(cut.names, cut.limits, strict=False)}
    band = Fraction(str(band_ratio)).limit_denominator(1000)
    narrowing = (1 - band) / (1 + band)
    rank = frame["composite_rank"].to_numpy(np.float64, na_value=np.nan)
    score = np.sort(-frame["composite_score"].to_numpy(np.float64, na_value=np.nan)[np.isfinite(rank)])
    by_rank = (frame["tier_rule"] != "override").to_numpy(bool) & np.isfinite(rank)
    found = {}
    for name in cut.names[:-1]:
        members = rank[by_rank & (frame["tier"] == name).to_numpy(bool)]
        wanted = math.floor((int(members.max()) + 1) * narrowing) if len(members) else 0
        found[name] = -float(score[wanted - 1]) if 0 < wanted <= len(score) else math.nan
    return found


def keeping(frame: pd.DataFrame, names: Sequence[str]) -> Mapping[str, float]:
    """Tier -> the score down to which those keep it who were in it, or above, the month before.

    The lowest `tier_edge_score` of such members, of all members where there is none; NaN for a tier without any.
    """
    tier, before = positions(frame["tier"], names), positions(frame["previous_tier"], names)
    edge = frame["tier_edge_score"].to_numpy(np.float64, na_value=np.nan)
    found = {}
    for level, name in enumerate(names):
        members = (tier == level) & np.isfinite(edge)
        established = members & (before >= 0) & (before <= level)
        chosen = edge[established if established.any() else members]
        found[name] = float(chosen.min()) if len(chosen) else math.nan
    return found
