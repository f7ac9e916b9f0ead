"""Every metric against a plain loop, and against what must hold whatever the data."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clv import metrics

TABLE = settings(derandomize=True, deadline=None, max_examples=60, database=None)
VALUES = st.integers(-5, 20).map(float)
ROWS = st.lists(st.tuples(VALUES, st.integers(0, 6).map(float)), min_size=1, max_size=6)


def _columns(rows: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([a for a, _ in rows]), np.array([b for _, b in rows])


def _orders(predicted: np.ndarray) -> list[list[int]]:
    """Every order of the rows by descending prediction."""
    rows = range(len(predicted))
    return [list(o) for o in permutations(rows) if all(np.diff(predicted[list(o)]) <= 0)]


def _same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, abs=1e-12)


def _loop_gini(realised: np.ndarray, predicted: np.ndarray) -> float:
    def area(by: np.ndarray) -> float:
        areas = []
        for order in _orders(by):
            running = total = 0.0
            for row in order:
                total += running + realised[row] / 2
                running += realised[row]
            areas.append(total - len(order) * running / 2)
        return sum(areas) / len(areas)

    best = area(realised)
    return area(predicted) / best if best > 1e-9 else math.nan


def _loop_captured(realised: np.ndarray, predicted: np.ndarray, top: int) -> float:
    if len(realised) < 2 or realised.sum() <= 0:
        return math.nan
    orders = _orders(predicted)
    return sum(realised[order[:top]].sum() for order in orders) / len(orders) / realised.sum()


@TABLE
@given(ROWS)
def test_gini_is_the_mean_over_all_orders_of_ties(rows: list[tuple[float, float]]) -> None:
    realised, predicted = _columns(rows)
    assert _same(metrics.normalised_gini(realised, predicted), _loop_gini(realised, predicted))


@TABLE
@given(ROWS, st.sampled_from([0.01, 0.2, 0.5, 0.75, 1.0]))
def test_captured_share_is_the_mean_over_all_orders_of_ties(
    rows: list[tuple[float, float]], top_ratio: float
) -> None:
    realised, predicted = _columns(rows)
    top = max(1, math.floor(top_ratio * len(rows) + 0.5))
    expected = _loop_captured(realised, predicted, top)
    assert _same(metrics.captured_share(realised, predicted, top_ratio), expected)


@TABLE
@given(ROWS)
def test_lorenz_curve_passes_through_every_captured_share(rows: list[tuple[float, float]]) -> None:
    realised, predicted = _columns(rows)
    customers, held = metrics.lorenz(realised, predicted, points=len(rows) + 1)
    assert customers.tolist() == pytest.approx([i / len(rows) for i in range(len(rows) + 1)])
    for top in range(1, len(rows) + 1):
        assert _same(float(held[top]), _loop_captured(realised, predicted, top))


@TABLE
@given(ROWS)
def test_spearman_is_the_correlation_of_mean_ranks(rows: list[tuple[float, float]]) -> None:
    realised, predicted = _columns(rows)
    ranks = [
        [sum(y < x for y in column) + (sum(y == x for y in column) + 1) / 2 for x in column]
        for column in (realised, predicted)
    ]
    a, b = (np.array(r) - np.mean(r) for r in ranks)
    spread = math.sqrt((a * a).sum() * (b * b).sum())
    expected = (a * b).sum() / spread if spread > 0 else math.nan
    assert _same(metrics.spearman(realised, predicted), expected)


@TABLE
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=30))
def test_probability_metrics_equal_plain_loops(rows: list[tuple[bool, int]]) -> None:
    outcome = np.array([float(y) for y, _ in rows])
    p = np.array([tenth / 10 for _, tenth in rows])
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, y in zip(p, outcome, strict=True)
        for b, z in zip(p, outcome, strict=True)
        if y == 1 and z == 0
    ]
    assert _same(metrics.auc(outcome, p), sum(pairs) / len(pairs) if pairs else math.nan)
    squares = [(a - y) ** 2 for a, y in zip(p, outcome, strict=True)]
    assert _same(metrics.brier(outcome, p), sum(squares) / len(squares))
    given_to = [a if y else 1 - a for a, y in zip(p, outcome, strict=True)]
    losses = [-math.log(min(max(g, 1e-15), 1 - 1e-15)) for g in given_to]
    assert metrics.log_loss(outcome, p) == pytest.approx(sum(losses) / len(losses), rel=1e-3)


def test_errors_of_level_equal_plain_loops() -> None:
    rng = np.random.default_rng(3)
    realised, predicted = rng.gamma(0.5, 10, 200), rng.permutation(200) * 1.0
    errors = [abs(p - a) for p, a in zip(predicted, realised, strict=True)]
    assert metrics.mae(realised, predicted) == pytest.approx(sum(errors) / 200)
    assert metrics.bias_ratio(realised, predicted) == pytest.approx(sum(predicted) / sum(realised) - 1)
    ranked = sorted(range(200), key=lambda i: -predicted[i])
    tenths = [ranked[20 * d : 20 * d + 20] for d in range(10)]
    wrong = sum(abs(sum(predicted[i] for i in t) - sum(realised[i] for i in t)) for t in tenths)
    assert metrics.weighted_decile_error(realised, predicted) == pytest.approx(wrong / sum(realised))


@TABLE
@given(st.lists(st.tuples(VALUES, st.integers(0, 6).map(float), st.integers(0, 3)), min_size=1, max_size=12))
def test_figures_of_weighted_rows_are_those_of_rows_repeated_as_often(
    rows: list[tuple[float, float, int]],
) -> None:
    realised, predicted = _columns([(a, p) for a, p, _ in rows])
    times = np.array([count for *_, count in rows])
    weights = times.astype(float)
    repeated, foretold = np.repeat(realised, times), np.repeat(predicted, times)
    oracle, ranking = metrics.Ranking(realised, realised), metrics.Ranking(realised, predicted)
    best, curve = oracle.concentration(weights), ranking.concentration(weights)
    gini = curve.area() / best.area() if best.area() > 0 else math.nan
    assert _same(gini, metrics.normalised_gini(repeated, foretold))
    for ratio in (0.01, 0.2, 1.0):
        assert _same(curve.share(ratio), metrics.captured_share(repeated, foretold, ratio))
    assert _same(curve.decile_error(), metrics.weighted_decile_error(repeated, foretold))
    assert _same(curve.bias_ratio(), metrics.bias_ratio(repeated, foretold))
    assert _same(curve.log_bias(), metrics.log_bias(repeated, foretold))
    ranked = np.repeat(ranking.ranks(curve.counted), times)
    expected = [sum(q > p for q in foretold) + (sum(q == p for q in foretold) + 1) / 2 for p in foretold]
    assert ranked.tolist() == expected


@TABLE
@given(ROWS)
def test_slices_share_the_rows_of_a_tie_between_them(rows: list[tuple[float, float]]) -> None:
    realised, predicted = _columns(rows)
    orders = _orders(predicted)
    half = len(rows) // 2
    borders = np.array([0.0, half, len(rows)])
    foretold, held = metrics.Ranking(realised, predicted).concentration().slices(borders)
    first = [(predicted[order[:half]].sum(), realised[order[:half]].sum()) for order in orders]
    assert foretold[0] == pytest.approx(np.mean([p for p, _ in first]))
    assert held[0] == pytest.approx(np.mean([a for _, a in first]), abs=1e-9)
    assert (foretold.sum(), held.sum()) == pytest.approx((predicted.sum(), realised.sum()), abs=1e-9)


def test_log_bias_calls_twice_and_half_equally_wrong() -> None:
    realised = np.array([1.0, 3.0, 0.0])
    assert metrics.log_bias(realised, realised * 2) == pytest.approx(math.log(2))
    assert metrics.log_bias(realised, realised / 2) == pytest.approx(-math.log(2))
    assert metrics.log_bias(realised, realised) == 0
    for nothing in ([], [0.0, 0.0], [-2.0, 1.0]):
        assert math.isnan(metrics.log_bias(nothing, np.ones(len(nothing))))
        assert math.isnan(metrics.log_bias(np.ones(len(nothing)), nothing))


def test_decile_error_of_one_prediction_for_all_is_the_error_of_the_total() -> None:
    assert metrics.weighted_decile_error([1.0, 2.0, 3.0], [4.0, 4.0, 4.0]) == pytest.approx(1.0)


def test_interval_coverage_counts_both_ends_and_only_the_mask() -> None:
    realised, low, high = [0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 3.0, 0.0], [0.0, 1.0, 4.0, 2.0]
    assert metrics.interval_coverage(realised, low, high) == 0.5
    assert metrics.interval_coverage(realised, low, high, [False, True, True, True]) == pytest.approx(1 / 3)
    assert math.isnan(metrics.interval_coverage(realised, low, high, [False] * 4))


def test_calibration_slope_recovers_a_known_distortion() -> None:
    rng = np.random.default_rng(1)
    true_logit = rng.normal(-1, 1, 200_000)
    outcome = rng.random(200_000) < 1 / (1 + np.exp(-true_logit))
    for slope in (0.5, 1.0, 2.0):
        forecast = 1 / (1 + np.exp(-(true_logit / slope + 0.3)))
        assert metrics.calibration_slope(outcome, forecast) == pytest.approx(slope, rel=0.02)


def test_calibration_slope_solves_the_likelihood_equations() -> None:
    outcome = np.array([0, 0, 1, 0, 1, 1, 0, 1.0])
    p = np.array([0.01, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.999])
    slope = metrics.calibration_slope(outcome, p)
    x = np.log(p / (1 - p))
    low, high = -50.0, 50.0
    for _ in range(200):  # the intercept that makes the fitted total right, by halving
        middle = (low + high) / 2
        excess = (1 / (1 + np.exp(-(middle + slope * x)))).sum() - outcome.sum()
        low, high = (low, middle) if excess > 0 else (middle, high)
    fitted = 1 / (1 + np.exp(-(low + slope * x)))
    assert float(((outcome - fitted) * x).sum()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("outcome", "probability"),
    [([1, 1], [0.2, 0.9]), ([0, 1], [0.5, 0.5]), ([0, 0, 1, 1], [0.1, 0.2, 0.2, 0.9]), ([], [])],
    ids=["all happened", "one probability", "separated but for a tie", "no rows"],
)
def test_calibration_slope_without_a_maximum_is_nan(outcome: list[float], probability: list[float]) -> None:
    assert math.isnan(metrics.calibration_slope(outcome, probability))


def test_psi_equals_the_sum_over_bins() -> None:
    reference = np.arange(100.0)
    edges = metrics.psi_edges(reference, bins=4)
    assert edges.tolist() == [24.0, 49.0, 74.0]
    current = np.repeat([10.0, 30.0, 60.0, 90.0], [40, 30, 20, 10])
    expected = sum((c - 0.25) * math.log(c / 0.25) for c in (0.4, 0.3, 0.2, 0.1))
    assert metrics.psi(reference, current, edges) == pytest.approx(expected)
    assert metrics.psi(reference, reference, edges) == 0.0


@pytest.mark.parametrize(
    ("reference", "current"),
    [
        (np.r_[np.zeros(5), np.ones(95)], np.r_[np.zeros(50), np.ones(50)]),
        (np.r_[np.zeros(95), np.ones(5)], np.r_[np.zeros(50), np.ones(50)]),
        (np.full(100, 7.0), np.full(100, 6.0)),
        (np.arange(100.0), np.r_[np.full(60, np.nan), np.arange(40.0)]),
    ],
    ids=["mostly ones", "mostly zeros", "constant", "missing"],
)
def test_psi_sees_a_shift_in_lumpy_features(reference: np.ndarray, current: np.ndarray) -> None:
    edges = metrics.psi_edges(reference)
    assert metrics.psi(reference, current, edges) > 0.25
    assert metrics.psi(reference, reference, edges) == 0.0


def test_order_of_rows_does_not_change_a_digit() -> None:
    rng = np.random.default_rng(0)
    realised = rng.gamma(0.3, 100, 5000)
    predicted = np.round(realised * rng.lognormal(0, 1, 5000), 0)
    outcome, p = (realised > 20) * 1.0, np.round(rng.random(5000), 2)
    edges = metrics.psi_edges(realised)
    shuffled = rng.permutation(5000)
    for metric in (metrics.normalised_gini, metrics.spearman, metrics.mae, metrics.bias_ratio,
                   metrics.weighted_decile_error):  # fmt: skip
        assert metric(realised, predicted) == metric(realised[shuffled], predicted[shuffled])
    for metric in (metrics.auc, metrics.brier, metrics.log_loss, metrics.calibration_slope):
        assert metric(outcome, p) == metric(outcome[shuffled], p[shuffled])
    for ratio in (0.01, 0.2):
        before = metrics.captured_share(realised, predicted, ratio)
        assert before == metrics.captured_share(realised[shuffled], predicted[shuffled], ratio)
    assert metrics.psi(realised, predicted, edges) == metrics.psi(
        realised[shuffled], predicted[shuffled], edges
    )
    interval = metrics.bootstrap_interval(metrics.mae, realised, predicted, seed=1, draws=20)
    assert interval == metrics.bootstrap_interval(
        metrics.mae, realised[shuffled], predicted[shuffled], seed=1, draws=20
    )


def test_perfect_reversed_and_constant_forecasts() -> None:
    realised = np.array([0.0, 0.0, 1.0, 5.0, 100.0])
    assert metrics.normalised_gini(realised, realised) == 1.0
    assert metrics.normalised_gini(realised, -realised) == pytest.approx(-1.0)
    assert metrics.normalised_gini(realised, np.ones(5)) == 0.0
    assert metrics.captured_share(realised, np.ones(5), 0.2) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "metric", [metrics.normalised_gini, metrics.spearman, lambda a, b: metrics.captured_share(a, b, 0.2)]
)
def test_what_cannot_be_ranked_is_nan(metric: metrics.Callable[..., float]) -> None:
    for realised, predicted in (([0.0, 0.0], [1.0, 2.0]), ([3.0], [1.0]), ([], [])):
        assert math.isnan(metric(realised, predicted))


def test_metrics_without_rows_or_value_are_nan() -> None:
    for metric in (metrics.mae, metrics.bias_ratio, metrics.weighted_decile_error, metrics.brier,
                   metrics.log_loss, metrics.auc):  # fmt: skip
        assert math.isnan(metric([], []))
    assert math.isnan(metrics.bias_ratio([0.0, 0.0], [1.0, 2.0]))
    assert math.isnan(metrics.weighted_decile_error([0.0, 0.0], [1.0, 2.0]))
    assert math.isnan(metrics.psi([], [], metrics.psi_edges([])))
    assert np.isnan(metrics.lorenz([0.0, 0.0], [1.0, 2.0])[1]).all()
    assert all(math.isnan(end) for end in metrics.bootstrap_interval(metrics.mae, [], [], seed=1))


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equal length, found \[2, 3\]"):
        metrics.mae([1, 2], [1, 2, 3])


def test_weights_count_the_rows_of_the_same_draws() -> None:
    values = np.sort(np.random.default_rng(4).normal(size=50))
    means = [
        float((weights * values).sum()) / 50 for weights in metrics.bootstrap_weights(50, seed=3, draws=40)
    ]

    def mean(drawn: np.ndarray) -> float:
        return float(drawn.mean())

    expected = metrics.bootstrap_interval(mean, values, seed=3, draws=40)
    assert metrics.percentile_interval(means) == pytest.approx(expected)


def test_draws_without_an_answer_are_left_out_of_an_interval() -> None:
    assert metrics.percentile_interval([math.nan, 1.0, 2.0, 3.0, math.nan], level=1.0) == (1.0, 3.0)
    assert all(math.isnan(end) for end in metrics.percentile_interval([math.nan]))


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)

    def mean(x: np.ndarray) -> float:
        return float(x.mean())

    covered = 0
    for trial in range(200):
        low, high = metrics.bootstrap_interval(mean, rng.normal(0, 1, 80), seed=trial, draws=200, level=0.9)
        covered += low <= 0 <= high
    assert 0.84 <= covered / 200 <= 0.96


def test_paired_difference_is_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(2)
    realised = rng.gamma(0.5, 100, 800)
    good = realised * rng.lognormal(0, 1.0, 800)
    worse = good * rng.lognormal(0, 1.0, 800)
    gini = metrics.normalised_gini
    low, high = metrics.paired_bootstrap_difference(gini, realised, worse, good, seed=1)
    assert low < high < 0
    apart = [metrics.bootstrap_interval(gini, realised, p, seed=1) for p in (worse, good)]
    assert high - low < (apart[0][1] - apart[0][0]) + (apart[1][1] - apart[1][0])
    assert metrics.paired_bootstrap_difference(gini, realised, good, good, seed=1) == (0.0, 0.0)
