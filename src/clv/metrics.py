"""How good a forecast is: ranking, level, calibration, drift, and how sure one can be of each figure.

Plain functions on arrays with one entry per customer (or invoice), in any order: the answer does not depend on
it. Inputs are finite numbers of equal length. Rows with equal predictions are averaged: the answer is the
expected value over their random orders. What the data cannot answer is nan, without a warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

SMALLEST_PROBABILITY = 1e-15  # log loss and logits of a certain forecast stay finite
SMALLEST_SHARE = 1e-4  # psi of an empty bin stays finite


def lorenz(realised: ArrayLike, predicted: ArrayLike, points: int = 101) -> tuple[Floats, Floats]:
    """Shares of customers, best predicted first, and the shares of realised value they hold: `points` of each.

    L(u) = Σ realised over the first u·n by descending prediction ÷ Σ realised (Lorenz, 1905, turned to begin
    with the largest). The oracle's curve is `lorenz(realised, realised)`. nan values for fewer than two rows
    or a realised total that is not positive.
    """
    realised, predicted = _aligned(realised, predicted)
    customers = np.linspace(0, 1, points)
    curve = Ranking(realised, predicted).concentration()
    if len(realised) < 2 or curve.realised[-1] <= 0:
        return customers, np.full(points, math.nan)
    held = np.interp(customers * len(realised), curve.counted, curve.realised)
    return customers, held / curve.realised[-1]


def normalised_gini(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Gini of realised value by predicted rank ÷ Gini by realised rank: 1 perfect, 0 random, -1 reversed.

    G = Σ realised·(n + 1 - 2·rank) ÷ (n·Σ realised), rank 1 = highest, tied ranks averaged; n and the total
    cancel, so negative values are allowed. nan for fewer than two rows or when all realised values are equal.
    """
    realised, predicted = _aligned(realised, predicted)
    best = Ranking(realised, realised).concentration().area()
    return Ranking(realised, predicted).concentration().area() / best if best > 0 else math.nan


def spearman(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Correlation of the ranks, tied ranks averaged (Spearman, 1904).

    cov(rank realised, rank predicted) ÷ (sd · sd). nan where one of them has a single distinct value.
    """
    realised, predicted = _aligned(realised, predicted)
    a, b = (_ranks(x) - (len(x) + 1) / 2 for x in (realised, predicted))
    spread = math.sqrt(_total(a * a)) * math.sqrt(_total(b * b))
    return _total(a * b) / spread if spread > 0 else math.nan


def captured_share(realised: ArrayLike, predicted: ArrayLike, top_ratio: float) -> float:
    """Share of realised value held by the `top_ratio` of rows with the highest predictions.

    Σ realised over the top k ÷ Σ realised, k = top_ratio·n to the nearest whole row, at least one. The oracle's
    share is `captured_share(realised, realised, top_ratio)`. nan for fewer than two rows or a realised total
    that is not positive.
    """
    realised, predicted = _aligned(realised, predicted)
    return Ranking(realised, predicted).concentration().share(top_ratio)


def mae(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Mean absolute error, Σ|predicted - realised| ÷ n. nan without rows."""
    realised, predicted = _aligned(realised, predicted)
    return _mean(np.abs(predicted - realised))


def bias_ratio(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Error of the level, Σ predicted ÷ Σ realised - 1. nan where the realised total is not positive."""
    realised, predicted = _aligned(realised, predicted)
    total = _total(realised)
    return _total(predicted) / total - 1 if total > 0 else math.nan


def log_bias(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Error of the level, ln(Σ predicted ÷ Σ realised): twice and half the truth are equally far from 0.

    nan unless both totals are positive.
    """
    realised, predicted = _aligned(realised, predicted)
    return _log_ratio(_total(predicted), _total(realised))


def weighted_decile_error(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Σ over tenths of the rows by prediction of |Σ predicted - Σ realised|, ÷ Σ realised.

    Weighted by value, so empty low deciles do not rule it. A row across the border of two tenths, and rows with
    equal predictions, are shared between them in proportion. nan where the realised total is not positive.
    """
    realised, predicted = _aligned(realised, predicted)
    return Ranking(realised, predicted).concentration().decile_error()


def interval_coverage(
    realised: ArrayLike, low: ArrayLike, high: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Share of the rows (those in `mask`, if given) with low ≤ realised ≤ high. nan without such rows."""
    realised, low, high = _aligned(realised, low, high)
    inside = (low <= realised) & (realised <= high)
    chosen = inside if mask is None else inside[np.asarray(mask, dtype=bool)]
    return _mean(chosen)


def auc(outcome: ArrayLike, probability: ArrayLike) -> float:
    """P(a row that happened was given more than one that did not), ties count half (Mann and Whitney, 1947).

    (Σ ranks of the n₁ that happened - n₁(n₁ + 1)/2) ÷ (n₁·n₀). nan where all or none happened.
    """
    outcome, probability = _aligned(outcome, probability)
    happened = outcome > 0.5
    yes = int(happened.sum())
    no = len(happened) - yes
    if yes == 0 or no == 0:
        return math.nan
    return (_total(_ranks(probability)[happened]) - yes * (yes + 1) / 2) / (yes * no)


def brier(outcome: ArrayLike, probability: ArrayLike) -> float:
    """Mean squared error of probabilities, Σ(p - outcome)² ÷ n (Brier, 1950). nan without rows."""
    outcome, probability = _aligned(outcome, probability)
    return _mean((probability - outcome) ** 2)


def log_loss(outcome: ArrayLike, probability: ArrayLike) -> float:
    """Mean of -log(the probability given to what happened), p kept 1e-15 away from 0 and 1. nan without rows."""
    outcome, probability = _aligned(outcome, probability)
    p = np.clip(probability, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return _mean(-np.where(outcome > 0.5, np.log(p), np.log1p(-p)))


def calibration_slope(outcome: ArrayLike, probability: ArrayLike) -> float:
    """Slope b of the logistic regression outcome ~ σ(a + b·logit p) (Cox, 1958): 1 ideal, below 1 overconfident.

    By Newton's method with step halving. nan where the maximum does not exist: all or none happened, a single
    distinct probability, or probabilities that separate the two outcomes without overlap.
    """
    outcome, probability = _aligned(outcome, probability)
    order = np.lexsort((outcome, probability))
    p = np.clip(probability[order], SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    happened = outcome[order] > 0.5
    logit = np.log(p) - np.log1p(-p)
    yes, no = logit[happened], logit[~happened]
    if len(yes) == 0 or len(no) == 0 or yes.min() >= no.max() or no.min() >= yes.max():
        return math.nan
    sd = float(logit.std())
    design = np.stack([np.ones_like(logit), (logit - logit.mean()) / sd])

    def likelihood(beta: Floats) -> float:
        eta = beta[0] + beta[1] * design[1]
        return float(eta[happened].sum() - np.logaddexp(0, eta).sum())

    beta = np.zeros(2)
    reached = likelihood(beta)
    for _ in range(100):
        fitted = 0.5 * (1 + np.tanh((beta[0] + beta[1] * design[1]) / 2))
        gradient = (design * (happened - fitted)).sum(axis=1)
        curvature = (design[:, None, :] * design[None, :, :] * (fitted * (1 - fitted))).sum(axis=2)
        step = np.linalg.solve(curvature, gradient)
        while likelihood(beta + step) < reached and np.abs(step).max() > 1e-12:
            step /= 2
        beta = beta + step
        reached = likelihood(beta)
        if np.abs(step).max() <= 1e-10:
            break
    return float(beta[1]) / sd


def psi_edges(reference: ArrayLike, bins: int = 10) -> Floats:
    """Bin edges for `psi`: quantiles of the reference; a value that fills a whole bin gets one to itself.

    Bins are closed on the right; beyond the outer edges they are open. Missing values are left out here and
    have a bin of their own in `psi`.
    """
    known = _floats(reference)
    known = known[~np.isnan(known)]
    if len(known) == 0:
        return np.empty(0)
    edges = np.quantile(known, np.arange(1, bins) / bins, method="inverted_cdf")
    heavy = [edge for edge in np.unique(edges) if (known == edge).mean() >= 1 / bins]
    return np.unique(np.concatenate([edges, np.nextafter(heavy, -np.inf)]))


def psi(reference: ArrayLike, current: ArrayLike, edges: ArrayLike) -> float:
    """Population stability index, Σ (c - r)·ln(c ÷ r) over the shares r, c of each bin; 0 = unchanged.

    `edges` are fixed on the reference (`psi_edges`); missing values are a bin of their own; shares are kept at
    or above 0.0001. Rule of thumb: above 0.1 look, above 0.25 moved. nan where either sample is empty.
    """
    return psi_of_shares(bin_shares(reference, edges), bin_shares(current, edges))


def bin_shares(sample: ArrayLike, edges: ArrayLike) -> Floats:
    """Share of the sample in each bin between `edges` (`psi_edges`), the missing ones last; nan of an empty sample."""
    known, cuts = _floats(sample), _floats(edges)
    if len(known) == 0:
        return np.full(len(cuts) + 2, math.nan)
    bins = np.where(np.isnan(known), len(cuts) + 1, np.searchsorted(cuts, known, side="left"))
    shares: Floats = np.bincount(bins, minlength=len(cuts) + 2) / len(known)
    return shares


def psi_of_shares(reference: ArrayLike, current: ArrayLike) -> float:
    """`psi` of two samples whose shares per bin are known; nan where one of them is nan."""
    before, now = (np.maximum(_floats(shares), SMALLEST_SHARE) for shares in (reference, current))
    return float(((now - before) * np.log(now / before)).sum())


def bootstrap_interval(
    metric: Callable[..., float], *arrays: ArrayLike, seed: int, draws: int = 200, level: float = 0.95
) -> tuple[float, float]:
    """Interval that holds `metric(*arrays)` with probability `level`: percentile bootstrap (Efron, 1979).

    Rows are drawn together with replacement, from a fixed order, so the interval depends on `seed` but not on
    the order of the rows. Draws whose metric is nan are left out; (nan, nan) if none remain.
    """
    columns = _aligned(*arrays)
    rows = len(columns[0])
    if rows == 0:
        return math.nan, math.nan
    order = np.lexsort(columns[::-1])
    columns = tuple(column[order] for column in columns)
    return percentile_interval(
        [
            metric(*(column[chosen] for column in columns))
            for chosen in _bootstrap_rows(rows, seed=seed, draws=draws)
        ],
        level,
    )


def paired_bootstrap_difference(
    metric: Callable[[Floats, Floats], float],
    realised: ArrayLike,
    predicted_a: ArrayLike,
    predicted_b: ArrayLike,
    *,
    seed: int,
    draws: int = 200,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of metric(realised, a) - metric(realised, b), both on the same draws of rows.

    a is significantly below b where the upper end is below 0. See `bootstrap_interval`.
    """

    def difference(realised: Floats, a: Floats, b: Floats) -> float:
        return metric(realised, a) - metric(realised, b)

    return bootstrap_interval(
        difference, realised, predicted_a, predicted_b, seed=seed, draws=draws, level=level
    )


def bootstrap_weights(rows: int, *, seed: int, draws: int = 200) -> Iterator[Floats]:
    """Draw by draw, how often each row is drawn: the draws of `bootstrap_interval`, for figures of weighted rows.

    To be independent of the order of rows, put them into one that depends on their content alone first.
    """
    for chosen in _bootstrap_rows(rows, seed=seed, draws=draws):
        yield np.bincount(chosen, minlength=rows).astype(np.float64)


def percentile_interval(drawn: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of the figures drawn by a bootstrap, nan left out; (nan, nan) if none remain."""
    known = _floats(drawn)
    known = known[~np.isnan(known)]
    if len(known) == 0:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Concentration:
    """Rows counted, value realised and value predicted, highest prediction first: at 0 and after each tie.

    Straight lines between these points are the expected sums over random orders within the ties.
    """

    counted: Floats
    realised: Floats
    predicted: Floats

    def area(self) -> float:
        """Area between the curve of realised value and the diagonal, in rows x value."""
        held = self.realised
        under = float((np.diff(self.counted) * (held[1:] + held[:-1])).sum()) / 2
        return under - float(self.counted[-1]) * float(held[-1]) / 2

    def share(self, top_ratio: float) -> float:
        """See `captured_share`."""
        rows, total = float(self.counted[-1]), float(self.realised[-1])
        if rows < 2 or total <= 0:
            return math.nan
        top = max(1, math.floor(round(top_ratio * rows, 6) + 0.5))
        return float(np.interp(top, self.counted, self.realised)) / total

    def slices(self, borders: Floats) -> tuple[Floats, Floats]:
        """Value predicted and value realised between successive `borders`, in rows counted from the best."""
        predicted, realised = (
            np.diff(np.interp(borders, self.counted, held)) for held in (self.predicted, self.realised)
        )
        return predicted, realised

    def bias_ratio(self) -> float:
        """See `bias_ratio`."""
        total = float(self.realised[-1])
        return float(self.predicted[-1]) / total - 1 if total > 0 else math.nan

    def log_bias(self) -> float:
        """See `log_bias`."""
        return _log_ratio(float(self.predicted[-1]), float(self.realised[-1]))

    def decile_error(self) -> float:
        """See `weighted_decile_error`."""
        total = float(self.realised[-1])
        if total <= 0:
            return math.nan
        predicted, realised = self.slices(np.linspace(0, self.counted[-1], 11))
        return float(np.abs(predicted - realised).sum()) / total


class Ranking:
    """Rows put in order once, highest prediction first, so that a figure under other weights takes only sums.

    A weight says how often a row counts; without weights each counts once.
    """

    def __init__(self, realised: ArrayLike, predicted: ArrayLike) -> None:
        self.realised, self.predicted = _aligned(realised, predicted)
        self._order = np.lexsort((self.realised, -self.predicted))
        ranked = self.predicted[self._order]
        is_last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
        self._last = np.flatnonzero(is_last)  # row of each tie
        self._tie = np.empty(len(ranked), dtype=np.intp)  # of each row
        self._tie[self._order] = np.cumsum(is_last) - is_last

    def concentration(self, weights: Floats | None = None) -> Concentration:
        """What the rows ranked first hold."""
        weights = np.ones(len(self.realised)) if weights is None else weights
        return Concentration(
            self.sums(weights), self.sums(weights * self.realised), self.sums(weights * self.predicted)
        )

    def sums(self, values: Floats) -> Floats:
        """Running sum of `values`, one per row: 0, then after each tie."""
        return np.append(0.0, np.cumsum(values[self._order])[self._last])

    def ranks(self, counted: Floats) -> Floats:
        """Rank of each row, 1 = highest, ties sharing the mean of theirs; `counted` as in `concentration`."""
        ranks: Floats = ((counted[1:] + counted[:-1] + 1) / 2)[self._tie]
        return ranks


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _aligned(*arrays: ArrayLike) -> tuple[Floats, ...]:
    columns = tuple(_floats(values) for values in arrays)
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"Expected arrays of equal length, found {lengths}. Align them by key first.")
    return columns


def _total(values: Floats) -> float:
    return math.fsum(values.tolist())  # exact, hence the same in any order


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan


def _log_ratio(a: float, b: float) -> float:
    return math.log(a / b) if a > 0 and b > 0 else math.nan


def _ranks(values: Floats) -> Floats:
    """Ranks from 1 = lowest; equal values share the mean of their ranks."""
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    shared: Floats = (np.cumsum(size) - (size - 1) / 2)[place]
    return shared


def _bootstrap_rows(rows: int, *, seed: int, draws: int) -> Iterator[NDArray[np.int64]]:
    """The rows of each draw with replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield rng.integers(0, rows, rows)
