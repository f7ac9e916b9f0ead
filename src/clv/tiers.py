"""Composite -> tier: a pyramid of exact counts that does not flicker from month to month, gates, overrides.

The counts are of the active customers graded (prospects have a pyramid of their own: call it again). From the
highest tier down, each takes exactly its number of the smallest adjusted ranks: rank/(1 + b) for a customer that
was in the tier or above last month, rank/(1 - b) for one that was below, the rank itself for a new one. So a
customer near the edge stays where it is, and still no tier ever drifts in size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.config import GateSettings
from clv.errors import ConfigError, TableError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

FIRST_TIER_HAS_ONE_BELOW = 100
THRESHOLDS_BELOW = 20
# The composite on which a share of all customers would lie above z: scores are 50 + 50·z/6 (see composite.Scale).
POINTS_PER_Z = 50 / 6

STAYED_OR_ABOVE, NEW, BELOW = range(3)  # where a customer was last month, seen from one tier
NO_TIER = -1


def counts(n: int, shares_ratio: Mapping[str, float]) -> dict[str, int]:
    """How many of `n` customers each tier holds, highest first: largest remainder on the shares, together `n`.

    Equal remainders go to the higher tier. Under 100 customers the first tier has at least one, taken from the
    next tier that has any. (Under 20 `assign` uses thresholds, not these counts.)
    """
    shares = [Fraction(str(share)) for share in shares_ratio.values()]
    whole = sum(shares)
    exact = [share * n / whole for share in shares]
    held = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (held[i] - exact[i], i))
    for i in by_remainder[: n - sum(held)]:
        held[i] += 1
    if 0 < n < FIRST_TIER_HAS_ONE_BELOW and held[0] == 0 and shares[0] > 0:
        donor = next(i for i, size in enumerate(held) if size > 0)
        held[0], held[donor] = 1, held[donor] - 1
    return dict(zip(shares_ratio, held, strict=True))


def gates(frame: pd.DataFrame, settings: GateSettings) -> pd.Series:
    """Why each customer is kept below the key tiers, or null: the first of the gates that are on and shut.

    Reads `contribution_margin`, `late_payment_probability` and `overdue_balance_ratio` (share of the open
    balance that is more than 30 days overdue). `negative_contribution` shuts below 0, `late_payment` from its
    limit on, `arrears` above its limit. What was not measured shuts no gate.
    """
    shut: dict[str, pd.Series] = {}
    if settings.negative_contribution:
        shut["negative_contribution"] = frame["contribution_margin"] < 0
    if settings.late_payment_probability is not None:
        shut["late_payment"] = frame["late_payment_probability"] >= settings.late_payment_probability
    if settings.overdue_balance_ratio is not None:
        shut["arrears"] = frame["overdue_balance_ratio"] > settings.overdue_balance_ratio
    reason = np.full(len(frame), None, dtype=object)
    for name in reversed(shut):
        reason[shut[name].to_numpy(dtype=bool, na_value=False)] = name
    return pd.Series(reason, index=frame.index, dtype="str")


def assign(
    frame: pd.DataFrame,
    shares_ratio: Mapping[str, float],
    key: Sequence[str],
    band_ratio: float,
    *,
    policy_reset: bool = False,
) -> pd.DataFrame:
    """`frame`, one row per active graded customer, with its tier and why; same rows, same order.

    Reads `customer_id`; `composite_score` (NaN = nothing measured: ranked last); `tie_break` (a second number,
    higher first; then customer_id); `gate` (null, or why the customer may not be key); `is_provisional` (may not
    be in the first tier); `previous_tier` (null, or any other name: new or returning, no band);
    `override_tier` (null, or the tier that a person decided).

    Adds `composite_rank` (1 = best), `composite_percentile` (share of the graded ranked below), `policy_tier`
    (by rank alone), `tier`, `tier_rule`, `tier_edge_score`. Tier sizes are those of `counts`, with two
    exceptions: seats that nobody eligible is left to take pass to the next tier below, and where more customers
    are overridden into a tier than it has seats, the tiers below (at the bottom: above) give up as many.

    `tier_rule` is the first that holds:
    `override`; `gate:<reason>` and `provisional` where the customer would have had the seat without it;
    `policy_reset` (previous tiers ignored); `band` where previous tiers decided (without them the tier would be
    another); `rank` where rank alone says the same; `eligible_rank` where gates and overrides of others moved
    the cut.

    `tier_edge_score`: the composite score down to which the customer keeps its tier while all other scores,
    previous tiers, gates and overrides stay as they are: the score of the customer that it may not fall behind,
    because then the first of those left out would overtake it (at equality the tie-break decides). Where its
    fall makes others at the edge change places among themselves it could fall a place or two further. 0 where no
    fall would cost the tier; null for the lowest tier and overridden customers.

    Under 20 customers a ranking says little, so tiers have fixed thresholds: the scores above which the tier's
    share, with the tiers above it, of a normal population with mean 50 and 50/6 points per standard deviation
    would lie (1/19/30/50: 69.4, 57.0, 50.0; strict, as a composite of several criteria varies less than one). The
    band widens or narrows that share by 1 ± b in the same way. Sizes are then whatever the scores give, and
    `policy_tier` is the threshold's without the band.

    Raises TableError for repeated ids or an override into a tier that does not exist, ConfigError for a key tier
    that does not.
    """
    names = list(shares_ratio)
    _check(frame, names, key)
    order = _ranking(frame)
    ranked = _ranked(frame, order, names, policy_reset)
    seat = _by_threshold if len(frame) < THRESHOLDS_BELOW else _by_count
    seating = partial(seat, shares_ratio=shares_ratio, key=key, band_ratio=band_ratio)
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
    edge[overridden | (tier == len(names) - 1)] = math.nan

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
    override: Ints
    gated: Flags
    provisional: Flags

    def without_history(self) -> _Ranked:
        return replace(self, previous=np.full_like(self.previous, NO_TIER))

    def by_rank_alone(self) -> _Ranked:
        nobody = np.zeros_like(self.gated)
        none = np.full_like(self.override, NO_TIER)
        return replace(self, previous=none, override=none, gated=nobody, provisional=nobody)

    def was(self, level: int) -> Ints:
        """Where each customer was last month, seen from the tier at `level`."""
        held = np.where(self.previous <= level, STAYED_OR_ABOVE, BELOW)
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


def _by_count(
    ranked: _Ranked, shares_ratio: Mapping[str, float], key: Sequence[str], band_ratio: float
) -> _Seating:
    """Fills the tiers from the highest down with exactly their number of the smallest adjusted ranks."""
    n = len(ranked.score)
    rank = np.arange(1, n + 1)
    factors = _band_factors(band_ratio)
    sizes = counts(n, shares_ratio)
    tier = ranked.override.copy()
    is_barred = np.zeros(n, dtype=bool)
    edge_score = np.zeros(n)
    seats = _seats(list(sizes.values()), np.bincount(tier[tier != NO_TIER], minlength=len(sizes)))
    unfilled = 0
    for level, name in enumerate(sizes):
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


def _by_threshold(
    ranked: _Ranked, shares_ratio: Mapping[str, float], key: Sequence[str], band_ratio: float
) -> _Seating:
    """Gives each customer the highest tier whose fixed threshold its score reaches."""
    n = len(ranked.score)
    score = np.nan_to_num(ranked.score, nan=-math.inf)
    tier = ranked.override.copy()
    is_barred = np.zeros(n, dtype=bool)
    edge_score = np.zeros(n)
    upper = 0.0
    for level, (name, share) in enumerate(shares_ratio.items()):
        upper += share
        free, barred = tier == NO_TIER, ranked.barred(level, name in key)
        if level == len(shares_ratio) - 1:
            tier[free] = level
            break
        limits = [_threshold(upper * width) for width in (1 + band_ratio, 1.0, 1 - band_ratio)]
        limit = np.array(limits)[ranked.was(level)]
        reaches = free & (score >= limit)
        is_barred |= reaches & barred
        taken = reaches & ~barred
        tier[taken] = level
        edge_score[taken] = limit[taken]
    return _Seating(tier, is_barred, edge_score)


def _threshold(share: float) -> float:
    """Score above which `share` of a normal population of scores lies."""
    if share <= 0 or share >= 1:
        return math.inf if share <= 0 else 0.0
    return min(max(50 + POINTS_PER_Z * NormalDist().inv_cdf(1 - share), 0.0), 100.0)


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
    """Whole numbers proportional to 1/(1 + b), 1, 1/(1 - b): adjusted ranks compare exactly."""
    band = Fraction(str(band_ratio)).limit_denominator(1000)
    p, q = band.numerator, band.denominator
    return np.array([q * (q - p), q * q - p * p, q * (q + p)], dtype=np.int64)


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


def _ranking(frame: pd.DataFrame) -> Ints:
    """Rows from best to last: composite, then tie_break, both descending with NaN last, then customer_id."""
    score = -frame["composite_score"].to_numpy(dtype=np.float64, na_value=np.nan)
    second = -frame["tie_break"].to_numpy(dtype=np.float64, na_value=np.nan)
    order = np.lexsort((second, score))
    # Sorting a million strings costs more than all the rest: ids are compared only where they decide.
    tied = np.ones(max(len(order) - 1, 0), dtype=bool)
    for values in (score[order], second[order]):
        tied &= (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    if not tied.any():
        return order
    run = np.cumsum(np.append(True, ~tied))
    member = np.append(False, tied) | np.append(tied, False)
    rows = order[member]
    again = pd.DataFrame({"run": run[member], "id": frame["customer_id"].to_numpy()[rows], "row": rows})
    order[member] = again.sort_values(["run", "id"])["row"].to_numpy()
    return order


def _ranked(frame: pd.DataFrame, order: Ints, names: Sequence[str], policy_reset: bool) -> _Ranked:
    previous = _codes(frame["previous_tier"], names)[order]
    return _Ranked(
        score=frame["composite_score"].to_numpy(dtype=np.float64, na_value=np.nan)[order],
        previous=np.full_like(previous, NO_TIER) if policy_reset else previous,
        override=_codes(frame["override_tier"], names)[order],
        gated=frame["gate"].notna().to_numpy()[order],
        provisional=frame["is_provisional"].to_numpy(dtype=bool)[order],
    )


def _codes(tier: pd.Series, names: Sequence[str]) -> Ints:
    return np.asarray(pd.Index(names).get_indexer(tier), dtype=np.int64)
