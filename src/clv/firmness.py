"""How firm a tier is: P(same tier next month | facts move as they usually do, and weights are not quite certain).

How much a score usually moves in a month is learned at training, by score decile, from monthly snapshots. For a
customer with scores s and weights w, drawn 64 times around those given,

    P = mean over the draws of Φ((hi − w·s)/σ_w) − Φ((lo − w·s)/σ_w),    σ_w² = Σ (w_c σ_c)²,

where hi and lo are the edges between which the customer keeps its tier, in the composite of that draw. Most scores do
not move at all in a month and some move far, and gates come and go: P tells who is at risk, but not how often. So what
is promised is what became of such P: a `Calibration`, learned at training from the same snapshots graded in a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import ndtr

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 64
WEIGHT_SD = 0.20  # of the logarithm of a weight
BINS = 10
SMALLEST_SD = 0.01  # points: who has not moved for months may move all the same
# The middle 95 %: most scores hardly move in a month, so that the middle half says nothing of those that do. On CDNOW
# and the invented company it promises as many stays as there are; narrower ranges promise too many.
TAIL = 0.025
NORMAL_TAIL = 1.959963984540054
KNOTS, PAIRS_PER_KNOT = 20, 50  # of a calibration: at most, at least
FEWEST_PAIRS = 200  # from which one is learned


@dataclass(frozen=True)
class Changes:
    """How a criterion's score usually moves in a month: a robust sd (points) per decile of the score.

    `edges` are the inner borders of the deciles; `sd` has one entry more.
    """

    edges: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def fit(cls, before: Floats, after: Floats) -> Changes:
        """Of pairs of scores a month apart; rows in which one is missing are left out.

        The robust sd is half the way from the 2.5 % to the 97.5 % point of the changes, over 1.96 (the same of a
        normal distribution): the extremes beyond have no say.
        """
        both = np.isfinite(before) & np.isfinite(after)
        start, step = before[both], after[both] - before[both]
        if len(start) == 0:
            return cls((), (SMALLEST_SD,))
        edges = np.unique(np.quantile(start, np.arange(1, BINS) / BINS))
        where = np.searchsorted(edges, start, side="right")
        everyone = _robust_sd(step)
        sd = [
            _robust_sd(step[where == i]) if (where == i).sum() >= BINS else everyone
            for i in range(len(edges) + 1)
        ]
        return cls(tuple(edges.tolist()), tuple(sd))

    def of(self, score: Floats) -> Floats:
        """The sd of each score."""
        return np.array(self.sd)[np.searchsorted(np.array(self.edges), score, side="right")]


def read_changes(entry: Mapping[str, Any]) -> Changes:
    """The Changes that `dataclasses.asdict` wrote. Raises ValueError or TypeError where it is none."""
    changes = Changes(tuple(map(float, entry["edges"])), tuple(map(float, entry["sd"])))
    if len(changes.sd) != len(changes.edges) + 1 or not all(
        math.isfinite(x) and x >= 0 for x in (*changes.edges, *changes.sd)
    ):
        raise ValueError("expected borders of deciles and one sd more, all finite")
    return changes


@dataclass(frozen=True)
class Calibration:
    """P of the formula -> share that stayed, a rising curve between knots; without knots P itself."""

    formula: tuple[float, ...] = ()
    stayed: tuple[float, ...] = ()

    @classmethod
    def fit(cls, formula: Floats, stayed: Floats) -> Calibration:
        """Of P and who stayed (0 or 1), a pair per customer and month; pairs without P are left out.

        Isotonic regression (Barlow et al., 1972) of the stays on P, in up to 20 groups of equal size, of 50 at
        least. A group starts with one who stayed and one who did not, so that nothing is promised for certain.
        """
        known = np.isfinite(formula)
        p, stays = formula[known], stayed[known]
        if len(p) < FEWEST_PAIRS:
            return cls()
        knots = min(KNOTS, len(p) // PAIRS_PER_KNOT)
        # Equal P are never parted: groups are of the values, by how many have them.
        _, where, counts = np.unique(p, return_inverse=True, return_counts=True)
        group = ((np.cumsum(counts) - counts / 2) * knots / len(p)).astype(np.int64)[where]
        size = np.bincount(group, minlength=knots).astype(np.float64)
        kept = size > 0
        mean_p = np.bincount(group, p, knots)[kept] / size[kept]
        share = (np.bincount(group, stays, knots)[kept] + 1) / (size[kept] + 2)
        rising = isotonic_regression(share, weights=size[kept]).x
        return cls(tuple(mean_p.tolist()), tuple(rising.tolist()))

    def of(self, formula: Floats) -> Floats:
        """What to promise for each P."""
        return np.interp(formula, self.formula, self.stayed) if self.formula else formula


def read_calibration(entry: Mapping[str, Any]) -> Calibration:
    """The Calibration that `dataclasses.asdict` wrote. Raises ValueError or TypeError where it is none."""
    found = Calibration(tuple(map(float, entry["formula"])), tuple(map(float, entry["stayed"])))
    rises = all(np.all(np.diff(side) >= 0) for side in (found.formula, found.stayed))
    if len(found.formula) != len(found.stayed) or not rises:
        raise ValueError("expected a rising curve of firmness")
    if not all(0 <= x <= 1 for x in (*found.formula, *found.stayed)):
        raise ValueError("expected a curve of firmness between 0 and 1")
    return found


@dataclass(frozen=True)
class Edges:
    """Between which edges customers keep their tier next month, tier by tier from the highest.

    Either as ranks (`keep`: the last rank that keeps the tier, `rise`: the last that would reach the tier above, both
    counted from 1; 0 = nobody), or as scores (`keep_score`, `rise_score`). The lowest tier is kept whatever happens.
    """

    keep: tuple[float, ...] = ()
    rise: tuple[float, ...] = ()
    keep_score: tuple[float, ...] = ()
    rise_score: tuple[float, ...] = ()

    def scores(self, ranking: Floats) -> tuple[Floats, Floats]:
        """Lower and upper edge of each tier as scores, given everybody's scores (NaN = none: ranked last)."""
        if self.keep_score:
            return np.array(self.keep_score), np.array(self.rise_score)
        wanted = sorted({round(rank) for rank in (*self.keep, *self.rise)} - {0})
        descending = -np.where(np.isnan(ranking), -np.inf, ranking)
        places = [rank - 1 for rank in wanted if 0 < rank <= len(descending)]
        parted = np.partition(descending, places) if places else descending
        at = {rank: -float(parted[rank - 1]) for rank in wanted if rank <= len(descending)}
        low = [at.get(round(rank), -math.inf) for rank in self.keep]
        high = [math.inf if round(rank) == 0 else at.get(round(rank), -math.inf) for rank in self.rise]
        return np.array(low), np.array(high)


def rank_edges(sizes: Sequence[int], band_ratio: float) -> Edges:
    """Edges of tiers of exact sizes under the band: the last rank held, widened or narrowed by the band."""
    last = np.cumsum(sizes)
    keep = [*(last[:-1] * (1 + band_ratio)).tolist(), math.inf]
    keep = [min(rank, float(last[-1] + 1)) for rank in keep]
    rise = [0.0, *(last[:-1] * (1 - band_ratio)).tolist()]
    return Edges(keep=tuple(keep), rise=tuple(rise))


def firmness(
    scores: pd.DataFrame,
    weights: Mapping[str, float],
    changes: Mapping[str, Changes],
    tier: Ints,
    edges: Edges,
    *,
    cannot_rise: NDArray[np.bool_],
    seed: int,
) -> Floats:
    """`firmness_ratio` of each row of `scores` (criteria, 0-100, NaN = not measured), between 0 and 1.

    `weights`: as configured; `tier`: position of each customer's tier, 0 = highest; `cannot_rise`: whom a gate keeps
    out of the tier above. NaN where nothing with weight was measured, or no change of it was ever seen.
    """
    names = [name for name in sorted(scores.columns) if weights.get(name, 0.0) > 0 and name in changes]
    if not names or len(scores) == 0:
        return np.full(len(scores), math.nan)
    score = scores[names].to_numpy(np.float64)
    measured = np.isfinite(score)
    known = np.where(measured, score, 0.0)
    variance = np.column_stack([changes[name].of(known[:, i]) ** 2 for i, name in enumerate(names)])
    variance = np.where(measured, variance, 0.0)
    drawn = _weight_draws(np.array([weights[name] for name in names]), seed)
    stays = np.zeros(len(score))
    for weight in drawn:
        total = measured @ weight
        with np.errstate(invalid="ignore", divide="ignore"):
            composite = known @ weight / total
            sd = np.maximum(np.sqrt(variance @ weight**2) / total, SMALLEST_SD)
        low, high = edges.scores(composite)
        upper = np.where(cannot_rise, math.inf, high[tier])
        stays += ndtr((upper - composite) / sd) - ndtr((low[tier] - composite) / sd)
    result = np.clip(stays / len(drawn), 0.0, 1.0)
    return np.where(measured.any(axis=1), result, math.nan)


def _weight_draws(weights: Floats, seed: int) -> Floats:
    """Draws of the weights, a row each: log-normal around those given. One criterion has nothing to draw."""
    if len(weights) == 1:
        return weights[None, :]
    normal = np.random.default_rng(seed).standard_normal((DRAWS, len(weights)))
    return np.asarray(weights * np.exp(WEIGHT_SD * normal), dtype=np.float64)


def _robust_sd(step: Floats) -> float:
    low, high = np.quantile(step, [TAIL, 1 - TAIL])
    return max(float(high - low) / 2 / NORMAL_TAIL, SMALLEST_SD)
