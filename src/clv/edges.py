"""Where the edges of the tiers lie: the score that keeps a tier, and the score that reaches it from below.

Both are read from a graded month, as it is published: whatever can be seen of a month is enough to know its edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
    """Tier -> figure of the cut's measure from which somebody far below reaches it, as the month stands.

    See `reaching_each`, of which this is the value of a customer behind all members that has not left the tier.
    """
    if cut.sizes is None:
        return {name: high for name, (_, _, high) in zip(cut.names, cut.limits, strict=False)}
    scores, seats = _ranked_scores(frame), _last_seats(frame, cut, band_ratio)
    far, stayed_below = np.array([np.inf]), np.array([False])
    return {
        name: float(_figure(scores, seats[level], far, stayed_below, band_ratio)[0])
        for level, name in enumerate(cut.names[:-1])
    }


def reaching_each(frame: pd.DataFrame, cut: Cut, band_ratio: float, target: Ints) -> Floats:
    """Figure of the cut's measure from which each customer reaches the tier at `target`, as the month stands.

    For everyone else as they are, graded again a month on. Who comes from below at rank r needs r/(1 - b) to be no
    larger than the largest adjusted rank that would have a seat without it: l/(1 + b) of a member, l/(1 - b) of who
    comes in anyway, where l falls by one if the customer is behind it now. The band counts twice of who crossed the
    edge this month (`tiers`), the customer itself included. At equality the better rank wins. Where the cut has limits
    it is the limit for who was below. NaN where nobody can come in: no seat to take, or no rank high enough. Reads
    `composite_score`, `composite_rank`, `tier`, `tier_rule` and `previous_tier`; members set by hand give no seat up.
    """
    figure = np.full(len(frame), np.nan)
    if cut.sizes is None:
        for level, (_, _, high) in enumerate(cut.limits):
            figure[target == level] = high
        return figure
    scores, seats = _ranked_scores(frame), _last_seats(frame, cut, band_ratio)
    rank = frame["composite_rank"].to_numpy(np.float64, na_value=np.inf)
    before, tier = positions(frame["previous_tier"], cut.names), positions(frame["tier"], cut.names)
    has_left = _is_by_rank(frame) & (before >= 0) & (before <= target) & (tier > target)
    for level in range(len(cut.names) - 1):
        mine = target == level
        figure[mine] = _figure(scores, seats[level], rank[mine], has_left[mine], band_ratio)
    return figure


def _ranked_scores(frame: pd.DataFrame) -> Floats:
    rank = frame["composite_rank"].to_numpy(np.float64, na_value=np.nan)
    score = frame["composite_score"].to_numpy(np.float64, na_value=np.nan)[np.isfinite(rank)]
    return np.asarray(-np.sort(-score), dtype=np.float64)


def _last_seats(frame: pd.DataFrame, cut: Cut, band_ratio: float) -> list[list[tuple[int, float]]]:
    """Of each tier, among those seated a month on: the last rank of each kind, and what adjusts it."""
    rank = frame["composite_rank"].to_numpy(np.float64, na_value=np.nan)
    by_rank = (frame["tier_rule"] != "override").to_numpy(bool) & np.isfinite(rank)
    barred = frame["tier_rule"].astype("str").str.startswith(("gate:", "provisional")).to_numpy(bool)
    tier, before = positions(frame["tier"], cut.names), positions(frame["previous_tier"], cut.names)
    seats = []
    for level in range(len(cut.names)):
        is_in, was_in = tier == level, (before >= 0) & (before <= level)
        times = np.where(_is_by_rank(frame) & (before >= 0) & (is_in != was_in), 2, 1)
        factor = np.where(is_in, 1 / (1 + band_ratio), 1 / (1 - band_ratio)) ** times
        may = np.flatnonzero(by_rank & (is_in | ((tier > level) & ~barred)))
        seated = may[np.argsort((rank * factor)[may], kind="stable")[: int((by_rank & is_in).sum())]]
        kinds = np.unique(factor[seated])
        seats.append([(int(rank[seated[factor[seated] == kind]].max()), float(kind)) for kind in kinds])
    return seats


def _figure(
    scores: Floats,
    seats: Sequence[tuple[int, float]],
    rank: Floats,
    has_left: NDArray[np.bool_],
    band_ratio: float,
) -> Floats:
    """The score at the rank from which customers at `rank` would have a seat; NaN where there is no such rank."""
    adjusted = np.zeros(len(rank))
    for last, factor in seats:
        adjusted = np.maximum(adjusted, (last + (rank > last)) * factor)
    wanted = np.floor(np.round(adjusted * (1 - band_ratio) ** np.where(has_left, 2, 1), 9)).astype(np.int64)
    is_there = (wanted > 0) & (wanted <= len(scores))
    if not is_there.any():
        return np.full(len(rank), np.nan)
    return np.where(is_there, scores[np.where(is_there, wanted - 1, 0)], np.nan)


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
