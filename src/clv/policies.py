"""How many customers each tier holds, or what it takes to be in it: the policies of tiers.

All of them come down to a `Cut`: either sizes, which are met exactly, or limits of one figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.settings.grading import TierSettings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FIRST_TIER_HAS_ONE_BELOW = 100
THRESHOLDS_BELOW = 20
# The composite on which a share of all customers would lie above z: scores are 50 + 50·z/6 (see scales.Scale).
POINTS_PER_Z = 50 / 6


@dataclass(frozen=True)
class Cut:
    """Tiers from the highest down, by `sizes` (customers in each, together all of them) or by `limits`.

    Limits are of the column `measure`: per tier but the last the figure from which a customer is in it, for one who
    was in that tier or above last month, for a new one, and for one who was below.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...] | None = None
    limits: tuple[tuple[float, float, float], ...] = ()
    measure: str = "composite_score"


def counts(n: int, shares_ratio: Mapping[str, float]) -> dict[str, int]:
    """How many of `n` customers each tier holds, highest first: largest remainder on the shares, together `n`.

    Equal remainders go to the higher tier. Under 100 customers the first tier has at least one, taken from the
    next tier that has any. (Under 20 a `pyramid` uses thresholds, not these counts.)
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


def pyramid(n: int, shares_ratio: Mapping[str, float], band_ratio: float) -> Cut:
    """Shares of `n` customers. Under 20 of them a ranking says little, so the tiers have fixed thresholds.

    Those are the scores above which the tier's share, with the tiers above it, of a normal population with mean 50
    and 50/6 points per standard deviation would lie (1/19/30/50: 69.4, 57.0, 50.0; strict, as a composite of several
    criteria varies less than one). The band widens or narrows that share by 1 ± b.
    """
    names = tuple(shares_ratio)
    if n >= THRESHOLDS_BELOW:
        return Cut(names, tuple(counts(n, shares_ratio).values()))
    upper = np.cumsum(list(shares_ratio.values()))[:-1]
    limits = [
        tuple(_threshold(share * width) for width in (1 + band_ratio, 1.0, 1 - band_ratio)) for share in upper
    ]
    return Cut(names, limits=tuple((low, new, high) for low, new, high in limits))


def cut_of(frame: pd.DataFrame, settings: TierSettings) -> Cut:
    """The cut of the active customers in `frame` (columns of tiers.assign, and the measure) by their policy.

    `value_shares`: by composite rank, the first customers who together hold at least the share of the measure
    (negative and unknown figures hold nothing). `counts`: as many as configured while they last. `thresholds`: a tier
    is reached at its threshold, and kept down to a band below it.
    """
    n, band = len(frame), settings.band_ratio
    if settings.policy == "value_shares":
        held = np.nan_to_num(frame[settings.measure].to_numpy(np.float64, na_value=np.nan))
        return Cut(settings.names, _holding(held[ranking(frame)], list(settings.shares_ratio.values())))
    if settings.policy == "counts":
        last = np.minimum(np.cumsum([*settings.counts.values()]), n)
        return Cut(settings.names, tuple(np.diff([0, *last.tolist(), n]).tolist()))
    if settings.policy == "thresholds":
        limits = tuple((x - band * abs(x), x, x) for x in settings.thresholds.values())
        return Cut(settings.names, limits=limits, measure=settings.measure)
    return pyramid(n, settings.shares_ratio, band)


def ranking(frame: pd.DataFrame) -> Ints:
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


def _holding(ranked: Floats, shares: list[float]) -> tuple[int, ...]:
    """How many, best first, hold each share of what all hold; where that is nothing, all are in the last tier."""
    held = np.cumsum(np.maximum(ranked, 0.0))
    n = len(ranked)
    if n == 0 or held[-1] <= 0:
        return (*(0 for _ in shares[:-1]), n)
    # The last customer needed counts; a share reached to the last digit needs nobody more.
    wanted = np.cumsum(shares)[:-1] * held[-1] * (1 - 1e-12)
    last = np.minimum(np.searchsorted(held, wanted, side="left") + 1, n)
    return tuple(np.diff([0, *last.tolist(), n]).tolist())


def _threshold(share: float) -> float:
    """Score above which `share` of a normal population of scores lies."""
    if share <= 0 or share >= 1:
        return math.inf if share <= 0 else 0.0
    return min(max(50 + POINTS_PER_Z * NormalDist().inv_cdf(1 - share), 0.0), 100.0)
