"""Composite -> tier: a pyramid of exact counts that does not flicker from month to month, gates, overrides.

The counts are of the active customers graded (prospects have a pyramid of their own: call it again). From the
highest tier down, each takes exactly its number of the smallest adjusted ranks: rank/(1 + b) for a customer that
was in the tier or above last month, rank/(1 - b) for one that was below, the rank itself for a new one. So a
customer near the edge stays where it is, and still no tier ever drifts in size. Who crossed the edge last month has
the band twice before it goes back: rank/(1 + b)² or rank/(1 - b)².
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.errors import ConfigError, TableError
from clv.policies import Cut, counts, ranking
from clv.settings.grading import GateSettings

__all__ = ["assign", "counts", "gates", "hold_unconfirmed", "in_grace", "tier_change"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Where a customer was last month, seen from one tier; the last two crossed its edge then.
STAYED_OR_ABOVE, NEW, BELOW, ENTERED, LEFT = range(5)
NO_TIER = -1


def gates(frame: pd.DataFrame, settings: GateSettings, band_ratio: float = 0.0) -> pd.Series:
    """Why each customer is kept below the key tiers, or null: the first of the gates that are on and shut.

    Reads `bad_debt` (`insolvency` or `write_off` within gates.bad_debt_months, else null; the gate has its name),
    `is_blocked`, `contribution_margin`, `late_payment_probability` and `overdue_balance_ratio` (share of the open
    balance that is more than 30 days overdue). `negative_contribution` shuts below 0, `late_payment` from its
    limit on, `arrears` above its limit. What was not measured shuts no gate. Whom late payment or arrears kept below
    key last month (`previous_rule`, the `tier_rule` of then) waits until the figure is `band_ratio` below the limit.
    """
    reason = np.full(len(frame), None, dtype=object)
    if settings.bad_debt_months is not None and "bad_debt" in frame:
        reason = frame["bad_debt"].astype("object").where(frame["bad_debt"].notna(), None).to_numpy().copy()
    shut: dict[str, pd.Series] = {}
    if settings.blocked and "is_blocked" in frame:
        shut["blocked"] = frame["is_blocked"].astype("boolean")
    if settings.negative_contribution:
        shut["negative_contribution"] = frame["contribution_margin"] < 0
    if settings.late_payment_probability is not None:
        limit = settings.late_payment_probability * _held(frame, "late_payment", band_ratio)
        shut["late_payment"] = frame["late_payment_probability"] >= limit
    if settings.overdue_balance_ratio is not None:
        limit = settings.overdue_balance_ratio * _held(frame, "arrears", band_ratio)
        shut["arrears"] = frame["overdue_balance_ratio"] > limit
    for name, is_shut in shut.items():
        open_so_far = np.array([value is None for value in reason], dtype=bool)
        reason[is_shut.to_numpy(dtype=bool, na_value=False) & open_so_far] = name
    return pd.Series(reason, index=frame.index, dtype="str")


GRACE = "grace:"  # before a gate's name: the rule of a key customer that is warned


def in_grace(gate: pd.Series, frame: pd.DataFrame, key: Sequence[str]) -> pd.Series:
    """Whose `gate` is late payment or arrears, came while the customer was key, and has a month to go away again.

    Reads `previous_tier` and `previous_rule` of last month; who was in grace then is not again.
    """
    warned = frame["previous_rule"].astype("str").str.startswith(GRACE).fillna(False).astype(bool)
    return gate.isin(["late_payment", "arrears"]) & frame["previous_tier"].isin(list(key)) & ~warned


def _held(frame: pd.DataFrame, gate: str, band_ratio: float) -> Floats:
    """What a gate's limit is multiplied by: less than 1 where it was shut last month."""
    if "previous_rule" not in frame:
        return np.ones(len(frame))
    was_shut = (frame["previous_rule"] == f"gate:{gate}").to_numpy(bool, na_value=False)
    return np.where(was_shut, 1 - band_ratio, 1.0)


def assign(
    frame: pd.DataFrame, cut: Cut, key: Sequence[str], band_ratio: float, *, policy_reset: bool = False
) -> pd.DataFrame:
    """`frame`, one row per active graded customer, with its tier and why; same rows, same order.

    Reads `customer_id`; `composite_score` (NaN = nothing measured: ranked last); `tie_break` (a second number,
    higher first; then customer_id); `gate` (null, or why the customer may not be key); `is_provisional` (may not
    be in the first tier); `previous_tier` (null, or any other name: new or returning, no band);
    `earlier_tier`, where there is one (the tier before that, null where the move since was no matter of rank);
    `override_tier` (null, or the tier that a person decided); and the measure of `cut` where it has limits.

    Adds `composite_rank` (1 = best), `composite_percentile` (share of the graded ranked below), `policy_tier`
    (by the policy alone), `tier`, `tier_rule`, `tier_edge_score`. Tier sizes are those of `cut`, with two
    exceptions: seats that nobody eligible is left to take pass to the next tier below, and where more customers
    are overridden into a tier than it has seats, the tiers below (at the bottom: above) give up as many. Where the
    cut has limits, sizes are whatever the figures give, and who lacks the figure is in the lowest tier.

    `tier_rule` is the first that holds:
    `override`; `gate:<reason>` and `provisional` where the customer would have had the seat without it;
    `policy_reset` (previous tiers ignored); `band` where previous tiers decided (without them the tier would be
    another); `rank` where the policy alone says the same; `eligible_rank` where gates and overrides of others moved
    the cut.

    `tier_edge_score`: the composite score down to which the customer keeps its tier while all other scores,
    previous tiers, gates and overrides stay as they are: the score of the customer that it may not fall behind,
    because then the first of those left out would overtake it (at equality the tie-break decides). Where its
    fall makes others at the edge change places among themselves it could fall a place or two further. 0 where no
    fall would cost the tier; null for the lowest tier, overridden customers, and where the composite does not decide.

    Raises TableError for repeated ids or an override into a tier that does not exist, ConfigError for a key tier
    that does not.
    """
    names = list(cut.names)
    _check(frame, names, key)
    order = ranking(frame)
    ranked = _ranked(frame, order, names, policy_reset)
    seating = partial(_by_count, cut=cut, key=key, band_ratio=band_ratio)
    if cut.sizes is None:
        figure = frame[cut.measure].to_numpy(dtype=np.float64, na_value=np.nan)[order]
        seating = partial(_by_limit, figure=figure, cut=cut, key=key)
    policy = seating(ranked.by_rank_alone()).tier
    plain = seating(ranked.without_history()).tier
    seated = seating(ranked)
    tier, edge = seated.tier, seated.edge_score

    gate = frame["gate"].to_numpy(dtype=object)[order]
    overridden = ranked.override != NO_TIER
    rule = np.where(tier == policy, "rank", "eligible_rank").astype(object)
    rule[tier != plain] = "band"
    if policy_reset:
        rule[:] = "policy_reset"
    rule[seated.is_barred & ~ranked.gated] = "provisional"
    shut = seated.is_barred & ranked.gated
    rule[shut] = "gate:" + gate[shut]
    rule[overridden] = "override"
    edge[overridden | (tier == len(names) - 1) | (cut.measure != "composite_score")] = math.nan

    n = len(frame)
    rank = np.arange(1, n + 1)
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    labels = np.array(names, dtype=object)
    added = pd.DataFrame(
        {
            "composite_rank": rank,
            "composite_percentile": (n - rank) / max(n, 1),
            "policy_tier": pd.Series(labels[policy], dtype="str"),
            "tier": pd.Series(labels[tier], dtype="str"),
            "tier_rule": pd.Series(rule, dtype="str"),
            "tier_edge_score": edge,
        }
    )
    return frame.assign(**added.take(place).set_axis(frame.index))


def hold_unconfirmed(
    assigned: pd.DataFrame, names: Sequence[str], earlier: pd.DataFrame, runs: int
) -> pd.DataFrame:
    """`assigned` with moves taken back that fewer than `runs` months in a row, this one included, have asked for.

    `earlier`: customer_id, month (1 = the month before) and policy_tier, one row per customer and month. A move is
    confirmed where the policy tier of each of the runs - 1 months before lies beyond the tier held, in the same
    direction. Decisions, gates, new and returning customers and a new policy take effect at once. Sizes are then
    whatever comes out; who waits has the rule `unconfirmed`, and no edge.
    """
    if runs <= 1:
        return assigned
    earlier = earlier[earlier["month"] < runs]
    held, now = _codes(assigned["previous_tier"], names), _codes(assigned["tier"], names)
    asked = pd.DataFrame({"code": _codes(earlier["policy_tier"], names)}).groupby(
        earlier["customer_id"].to_numpy()
    )["code"]
    spans = asked.agg(["min", "max", "count"]).reindex(assigned["customer_id"].to_numpy())
    seen = spans["count"].to_numpy(np.float64) >= runs - 1
    up = seen & (spans["max"].to_numpy(np.float64) < held)
    down = seen & (spans["min"].to_numpy(np.float64) > held)
    rule = assigned["tier_rule"]
    at_once = rule.str.startswith("gate:") | rule.isin(["override", "policy_reset", "provisional"])
    moved = (held != NO_TIER) & (now != held) & ~at_once.to_numpy(bool)
    waits = moved & ~np.where(now < held, up, down)
    return assigned.assign(
        tier=assigned["tier"].mask(waits, assigned["previous_tier"]),
        tier_rule=rule.mask(waits, "unconfirmed"),
        tier_edge_score=assigned["tier_edge_score"].mask(waits, math.nan),
    )


def tier_change(tier: pd.Series, previous_tier: pd.Series, order: Sequence[str]) -> pd.Series:
    """`new`, `up`, `same` or `down` for each customer; `order` lists the tiers, highest first.

    A previous tier that is null or not in `order` makes a customer `new`; a tier not in `order` is null.
    """
    now, before = _codes(tier, order), _codes(previous_tier, order)
    change = np.full(len(tier), "same", dtype=object)
    change[now < before] = "up"
    change[now > before] = "down"
    change[before == NO_TIER] = "new"
    change[now == NO_TIER] = None
    return pd.Series(change, index=tier.index, dtype="str")


@dataclass(frozen=True)
class _Ranked:
    """The customers from rank 1 down; tiers as positions in the policy, `NO_TIER` where there is none."""

    score: Floats
    previous: Ints
    earlier: Ints
    override: Ints
    gated: Flags
    provisional: Flags

    def without_history(self) -> _Ranked:
        nothing = np.full_like(self.previous, NO_TIER)
        return replace(self, previous=nothing, earlier=nothing)

    def by_rank_alone(self) -> _Ranked:
        nobody = np.zeros_like(self.gated)
        none = np.full_like(self.override, NO_TIER)
        return replace(self, previous=none, earlier=none, override=none, gated=nobody, provisional=nobody)

    def was(self, level: int) -> Ints:
        """Where each customer was last month, seen from the tier at `level`."""
        is_in, was_in = self.previous <= level, self.earlier <= level
        crossed = (self.earlier != NO_TIER) & (is_in != was_in)
        held = np.where(is_in, STAYED_OR_ABOVE, BELOW)
        held = np.where(crossed, np.where(is_in, ENTERED, LEFT), held)
        return np.where(self.previous == NO_TIER, NEW, held)

    def barred(self, level: int, is_key: bool) -> Flags:
        """Who may not be in the tier at `level`."""
        barred = self.gated if is_key else np.zeros_like(self.gated)
        return barred | self.provisional if level == 0 else barred


@dataclass(frozen=True)
class _Seating:
    """By rank: the tier, whether a gate or `provisional` cost a higher one, and the score that keeps it."""

    tier: Ints
    is_barred: Flags
    edge_score: Floats


def _by_count(ranked: _Ranked, cut: Cut, key: Sequence[str], band_ratio: float) -> _Seating:
    """Fills the tiers from the highest down with exactly their number of the smallest adjusted ranks."""
    n = len(ranked.score)
    rank = np.arange(1, n + 1)
    factors = _band_factors(band_ratio)
    sizes = cut.sizes or ()
    tier = ranked.override.copy()
    is_barred = np.zeros(n, dtype=bool)
    edge_score = np.zeros(n)
    seats = _seats(sizes, np.bincount(tier[tier != NO_TIER], minlength=len(sizes)))
    unfilled = 0
    for level, name in enumerate(cut.names):
        free, barred, was = tier == NO_TIER, ranked.barred(level, name in key), ranked.was(level)
        adjusted = rank * factors[was]
        eligible = np.flatnonzero(free & ~barred)
        wanted = seats[level] + unfilled
        best = eligible[np.argsort(adjusted[eligible], kind="stable")]  # equal ones by rank
        taken, left = best[:wanted], best[wanted:]
        unfilled = wanted - len(taken)
        tier[taken] = level
        if unfilled:
            is_barred |= free & barred
        elif wanted:
            last = taken[-1]
            ahead = (adjusted < adjusted[last]) | ((adjusted == adjusted[last]) & (rank < rank[last]))
            is_barred |= free & barred & ahead
        lowest = _lowest_ranks_kept(taken + 1, was[taken], left + 1, was[left], factors)
        follower = ranked.score[np.minimum(lowest, n - 1)]
        edge_score[taken] = np.where((lowest >= n) | np.isnan(follower), 0.0, follower)
    return _Seating(tier, is_barred, edge_score)


def _by_limit(ranked: _Ranked, figure: Floats, cut: Cut, key: Sequence[str]) -> _Seating:
    """Gives each customer the highest tier whose limit its figure reaches."""
    n = len(ranked.score)
    score = np.nan_to_num(figure, nan=-math.inf)
    tier = ranked.override.copy()
    is_barred = np.zeros(n, dtype=bool)
    edge_score = np.zeros(n)
    for level, limits in enumerate(cut.limits):
        free, barred = tier == NO_TIER, ranked.barred(level, cut.names[level] in key)
        keep, new, rise = limits
        limit = np.array([keep, new, rise, keep, rise])[ranked.was(level)]
        reaches = free & (score >= limit)
        is_barred |= reaches & barred
        taken = reaches & ~barred
        tier[taken] = level
        edge_score[taken] = limit[taken]
    tier[tier == NO_TIER] = len(cut.names) - 1
    return _Seating(tier, is_barred, edge_score)


def _seats(sizes: Sequence[int], overridden: Ints) -> list[int]:
    """Seats left in each tier after the overridden have sat down; what is too many is taken below, then above."""
    seats = [int(size - held) for size, held in zip(sizes, overridden, strict=True)]
    for i in range(len(seats) - 1):
        seats[i + 1] += min(seats[i], 0)
        seats[i] = max(seats[i], 0)
    for i in range(len(seats) - 1, 0, -1):
        seats[i - 1] += min(seats[i], 0)
        seats[i] = max(seats[i], 0)
    return seats


def _band_factors(band_ratio: float) -> Ints:
    """What ranks are multiplied by, as whole numbers: adjusted ranks compare exactly."""
    band = Fraction(str(band_ratio)).limit_denominator(1000)
    up, down = 1 / (1 + band), 1 / (1 - band)
    factors = {STAYED_OR_ABOVE: up, NEW: Fraction(1), BELOW: down, ENTERED: up * up, LEFT: down * down}
    whole = math.lcm(*(factor.denominator for factor in factors.values()))
    return np.array([int(factors[kind] * whole) for kind in range(len(factors))], dtype=np.int64)


def _lowest_ranks_kept(rank: Ints, was: Ints, rank_left: Ints, was_left: Ints, factors: Ints) -> Ints:
    """Lowest rank to which each seated customer could fall before the first one left out has its seat.

    Those it passes on the way move up by one rank. Of those left out, only the best of each kind can be first.
    """
    kept = np.full(len(rank), np.iinfo(np.int64).max)
    for kind in np.unique(was_left):
        first = int(rank_left[was_left == kind].min())
        factor = int(factors[kind])
        for own_kind in np.unique(was):
            own = int(factors[own_kind])
            after_passing = ((first - 1) * factor - 1) // own
            passing = after_passing if after_passing >= first else min(first - 1, first * factor // own)
            already_behind = (first * factor - 1) // own
            limit = np.where(rank < first, passing, already_behind)
            kept = np.where(was == own_kind, np.minimum(kept, limit), kept)
    return kept


def _check(frame: pd.DataFrame, names: Sequence[str], key: Sequence[str]) -> None:
    unknown_key = sorted(set(key) - set(names))
    if unknown_key:
        raise ConfigError(
            f"tiers.key: expected tiers among {', '.join(names)}, found {', '.join(unknown_key)}."
        )
    repeated = frame.loc[frame["customer_id"].duplicated(), "customer_id"]
    if len(repeated):
        raise TableError(
            f"expected one row per customer to grade, found {len(repeated)} repeated ids, "
            f"first {repeated.head(3).tolist()}. Join by customer_id only once."
        )
    override = frame["override_tier"]
    wrong = frame.loc[override.notna() & ~override.isin(list(names)), ["customer_id", "override_tier"]]
    if len(wrong):
        raise TableError(
            f"overrides: expected a tier among {', '.join(names)}, found {len(wrong)} others, "
            f"first {wrong.head(3).to_dict('records')}. Correct or withdraw them."
        )


def _ranked(frame: pd.DataFrame, order: Ints, names: Sequence[str], policy_reset: bool) -> _Ranked:
    previous = _codes(frame["previous_tier"], names)[order]
    nothing = np.full_like(previous, NO_TIER)
    earlier = _codes(frame["earlier_tier"], names)[order] if "earlier_tier" in frame else nothing
    return _Ranked(
        score=frame["composite_score"].to_numpy(dtype=np.float64, na_value=np.nan)[order],
        previous=nothing if policy_reset else previous,
        earlier=nothing if policy_reset else earlier,
        override=_codes(frame["override_tier"], names)[order],
        gated=frame["gate"].notna().to_numpy()[order],
        provisional=frame["is_provisional"].to_numpy(dtype=bool)[order],
    )


def _codes(tier: pd.Series, names: Sequence[str]) -> Ints:
    return np.asarray(pd.Index(names).get_indexer(tier), dtype=np.int64)
