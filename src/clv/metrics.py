"""How good a forecast is: ranking, level, calibration, drift, and how sure one can be of each figure.

Plain functions on arrays with one entry per customer (or invoice), in any order: the answer does not depend on
it. Inputs are finite numbers of equal length. Rows with equal predictions are averaged: the answer is the
expected value over their random orders. What the data cannot answer is nan, without a warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
    ends, held = _concentration(realised, predicted)
    if len(realised) < 2 or held[-1] <= 0:
        return customers, np.full(points, math.nan)
    return customers, np.interp(customers * len(realised), ends, held) / held[-1]


def normalised_gini(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Gini of realised value by predicted rank ÷ Gini by realised rank: 1 perfect, 0 random, -1 reversed.

    G = Σ realised·(n + 1 - 2·rank) ÷ (n·Σ realised), rank 1 = highest, tied ranks averaged; n and the total
    cancel, so negative values are allowed. nan for fewer than two rows or when all realised values are equal.
    """
    realised, predicted = _aligned(realised, predicted)
    best = _gini_area(realised, realised)
    return _gini_area(realised, predicted) / best if best > 0 else math.nan


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
    rows = len(realised)
    ends, held = _concentration(realised, predicted)
    if rows < 2 or held[-1] <= 0:
        return math.nan
    top = max(1, math.floor(round(top_ratio * rows, 6) + 0.5))
    return float(np.interp(top, ends, held) / held[-1])


def mae(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Mean absolute error, Σ|predicted - realised| ÷ n. nan without rows."""
    realised, predicted = _aligned(realised, predicted)
    return _mean(np.abs(predicted - realised))


def bias_ratio(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Error of the level, Σ predicted ÷ Σ realised - 1. nan where the realised total is not positive."""
    realised, predicted = _aligned(realised, predicted)
    total = _total(realised)
    return _total(predicted) / total - 1 if total > 0 else math.nan


def weighted_decile_error(realised: ArrayLike, predicted: ArrayLike) -> float:
    """Σ over tenths of the rows by prediction of |Σ predicted - Σ realised|, ÷ Σ realised.

    Weighted by value, so empty low deciles do not rule it. A row across the border of two tenths, and rows with
    equal predictions, are shared between them in proportion. nan where the realised total is not positive.
    """
    realised, predicted = _aligned(realised, predicted)
    ends, held = _concentration(realised, predicted)
    _, promised = _concentration(predicted, predicted)
    if held[-1] <= 0:
        return math.nan
    borders = np.linspace(0, len(realised), 11)
    error = np.diff(np.interp(borders, ends, promised)) - np.diff(np.interp(borders, ends, held))
    return float(np.abs(error).sum() / held[-1])


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
    known, cuts = _floats(reference), _floats(edges)
    shares = []
    for sample in (known, _floats(current)):
        if len(sample) == 0:
            return math.nan
        missing = np.isnan(sample)
        bins = np.where(missing, len(cuts) + 1, np.searchsorted(cuts, sample, side="left"))
        shares.append(np.maximum(np.bincount(bins, minlength=len(cuts) + 2) / len(sample), SMALLEST_SHARE))
    before, now = shares
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
    rng = np.random.default_rng(seed)
    drawn = np.empty(draws)
    for i in range(draws):
        chosen = rng.integers(0, rows, rows)
        drawn[i] = metric(*(column[chosen] for column in columns))
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        return math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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


def _ranks(values: Floats) -> Floats:
    """Ranks from 1 = lowest; equal values share the mean of their ranks."""
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    shared: Floats = (np.cumsum(size) - (size - 1) / 2)[place]
    return shared


def _concentration(values: Floats, predicted: Floats) -> tuple[Floats, Floats]:
    """Rows counted and value summed, highest prediction first, at 0 and after each group of equal predictions.

    Straight lines between these points are the expected sums over random orders within the groups.
    """
    order = np.lexsort((values, -predicted))
    ranked = predicted[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]) + 1
    held = np.cumsum(values[order])[ends - 1]
    return np.append(0.0, ends), np.append(0.0, held)


def _gini_area(realised: Floats, predicted: Floats) -> float:
    """Area between the concentration curve and the diagonal, in rows x value."""
    ends, held = _concentration(realised, predicted)
    under = float((np.diff(ends) * (held[1:] + held[:-1])).sum()) / 2
    return under - len(realised) * float(held[-1]) / 2
