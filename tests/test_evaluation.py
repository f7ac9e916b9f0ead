"""The figures of forecasts, worked by hand and by slow twins."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clv import metrics
from clv.evaluation import (
    Forecast,
    decile_table,
    flat,
    over_origins,
    payment_report,
    prospect_report,
    tier_report,
    tier_table,
    truth_figures,
    value_report,
)

TABLE = settings(derandomize=True, deadline=None, max_examples=12, database=None)
PLAIN_VALUE_FIGURES = (
    "normalised_gini", "spearman", "captured_share_top_1", "captured_share_top_20", "oracle_share_top_1",
    "oracle_share_top_20", "mae", "bias_ratio", "weighted_decile_error", "interval_coverage_ratio",
    "interval_coverage_top_20", "total_predicted", "total_realised", "log_bias", "gain_over_last_period",
    "gain_over_btyd", "gain_over_bgnbd",
)  # fmt: skip
VALUE_FIGURES = {f"{figure}{end}" for figure in PLAIN_VALUE_FIGURES for end in ("", "_low", "_high")}
PAYMENT_FIGURES = {
    "invoices", "auc", "brier", "log_loss", "calibration_slope", "mean_predicted", "mean_realised", "mae_days",
}  # fmt: skip
PROSPECT_FIGURES = {
    "prospects", "auc", "brier", "lift_top_10", "normalised_gini", "mean_predicted", "mean_realised",
}  # fmt: skip
REALISED = np.array([50.0, 30.0, 15.0, 5.0, 0.0])


def test_value_figures_of_a_perfect_ranking_at_twice_the_level() -> None:
    report = value_report(REALISED, {"model": Forecast(REALISED * 2)}, seed=1)
    figures = report["model"]
    assert set(figures) == VALUE_FIGURES
    assert (figures["normalised_gini"], figures["spearman"]) == (pytest.approx(1), pytest.approx(1))
    assert (figures["mae"], figures["bias_ratio"]) == (pytest.approx(20), pytest.approx(1))
    assert figures["captured_share_top_20"] == figures["oracle_share_top_20"] == pytest.approx(0.5)
    assert figures["interval_coverage_ratio"] is None  # it has no interval
    assert figures["interval_coverage_top_20"] is None


def test_interval_coverage_is_judged_on_everybody_and_on_the_top_fifth() -> None:
    forecast = Forecast(REALISED, REALISED - 1, np.array([49.0, 31.0, 16.0, 6.0, 1.0]))
    figures = value_report(REALISED, {"model": forecast}, seed=1)["model"]
    assert figures["interval_coverage_ratio"] == pytest.approx(0.8)
    assert figures["interval_coverage_top_20"] == 0


def test_what_the_data_cannot_answer_is_null() -> None:
    figures = value_report(np.zeros(5), {"model": Forecast(REALISED)}, seed=1)["model"]
    unknown = {"normalised_gini", "captured_share_top_20", "bias_ratio", "weighted_decile_error"}
    assert all(figures[name] is None for name in unknown)
    assert figures["mae"] == 20
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize(
    "realised",
    [np.zeros(5), np.full(5, 3.0), np.array([-5.0, 1.0, -2.0, 0.0, 3.0]), np.array([7.0]), np.empty(0)],
    ids=["nothing realised", "all equal", "a negative total", "one customer", "nobody"],
)
@pytest.mark.parametrize("factor", [0.0, 1.0, -1.0])
def test_no_data_ends_in_an_error_or_a_number_that_is_none(realised: np.ndarray, factor: float) -> None:
    predicted = REALISED[: len(realised)] * factor
    interval = Forecast(predicted, predicted - 1, predicted + 1)
    forecasts = {"model": interval, "last_period": Forecast(realised)}
    report = value_report(realised, forecasts, seed=1)
    assert all(set(figures) == VALUE_FIGURES for figures in report.values())
    deciles = decile_table(realised, predicted, seed=1)
    tiers = tier_table(realised, predicted, {"key": min(1, len(realised)), "rest": len(realised[1:])}, seed=1)
    assert len(deciles) == len(realised)
    assert np.isfinite(deciles.to_numpy(np.float64)).all()
    assert deciles["realised"].sum() == pytest.approx(realised.sum())
    assert tiers["realised"].sum() == pytest.approx(realised.sum())
    json.dumps([report, over_origins([report, report], seed=1)], allow_nan=False)


def _customers(rows: int, seed: int) -> tuple[np.ndarray, dict[str, Forecast]]:
    """Realised values, many of them nothing and some negative, and forecasts with ties."""
    rng = np.random.default_rng(seed)
    realised = np.round(
        rng.gamma(0.3, 100, rows) * (rng.random(rows) < 0.5) - 5 * (rng.random(rows) < 0.1), 2
    )
    predicted = np.round(rng.gamma(0.5, 40, rows) + realised / 4, 0)
    model = Forecast(predicted, predicted * 0.5, predicted * 2 + 1)
    last_period = Forecast(np.round(realised * rng.lognormal(0, 1, rows), -1))
    return realised, {"model": model, "last_period": last_period, "btyd": Forecast(np.ones(rows))}


def _by_loops(realised: np.ndarray, forecast: Forecast) -> dict[str, float]:
    """The figures of one draw of customers by the plain functions, one after the other."""
    predicted = forecast.value
    covered = top = math.nan
    if forecast.low is not None:
        above = predicted >= np.quantile(predicted, 0.8)
        covered = metrics.interval_coverage(realised, forecast.low, forecast.high)
        top = metrics.interval_coverage(realised, forecast.low, forecast.high, above)
    return {
        "normalised_gini": metrics.normalised_gini(realised, predicted),
        "spearman": metrics.spearman(realised, predicted),
        "captured_share_top_1": metrics.captured_share(realised, predicted, 0.01),
        "captured_share_top_20": metrics.captured_share(realised, predicted, 0.20),
        "oracle_share_top_1": metrics.captured_share(realised, realised, 0.01),
        "oracle_share_top_20": metrics.captured_share(realised, realised, 0.20),
        "mae": metrics.mae(realised, predicted),
        "bias_ratio": metrics.bias_ratio(realised, predicted),
        "weighted_decile_error": metrics.weighted_decile_error(realised, predicted),
        "interval_coverage_ratio": covered,
        "interval_coverage_top_20": top,
        "total_predicted": predicted.sum(),
        "total_realised": realised.sum(),
        "log_bias": metrics.log_bias(realised, predicted),
    }


@pytest.mark.parametrize("rows", [2, 7, 16, 300])
def test_figures_and_their_intervals_equal_plain_functions_on_drawn_customers(rows: int) -> None:
    """The twin draws customers, copies their rows and calls one metric after the other."""
    realised, forecasts = _customers(rows, seed=rows)
    report = value_report(realised, forecasts, seed=5)
    columns = [realised, *(each.value for each in forecasts.values())]
    order = np.lexsort(columns[::-1])
    rng = np.random.default_rng(5)
    draws = [order[rng.integers(0, rows, rows)] for _ in range(200)]
    ginis = {}
    for name, forecast in forecasts.items():
        once = _by_loops(realised, forecast)
        drawn = [_by_loops(realised[chosen], forecast.of(chosen)) for chosen in draws]
        ginis[name] = np.array([draw["normalised_gini"] for draw in drawn])
        for figure, value in once.items():
            low, high = metrics.percentile_interval([draw[figure] for draw in drawn])
            for end, expected in (("", value), ("_low", low), ("_high", high)):
                found = report[name][figure + end]
                assert math.isnan(expected) if found is None else found == pytest.approx(expected, abs=1e-9)
    gain = ginis["model"] - ginis["last_period"]
    low, high = metrics.percentile_interval(gain)
    model = report["model"]
    assert (model["gain_over_last_period_low"], model["gain_over_last_period_high"]) == pytest.approx(
        (low, high)
    )
    assert model["gain_over_bgnbd"] is None  # nobody made it
    assert report["btyd"]["gain_over_btyd"] is None
    assert report["btyd"]["gain_over_last_period"] == pytest.approx(-report["last_period"]["gain_over_btyd"])


def test_the_gain_over_last_period_is_the_one_the_gate_looks_at() -> None:
    realised, forecasts = _customers(400, seed=1)
    expected = metrics.paired_bootstrap_difference(
        metrics.normalised_gini, realised, forecasts["model"].value, forecasts["last_period"].value, seed=7
    )
    model = value_report(realised, forecasts, seed=7)["model"]
    assert (model["gain_over_last_period_low"], model["gain_over_last_period_high"]) == pytest.approx(
        expected
    )


@TABLE
@given(st.integers(1, 60), st.integers(0, 1000))
def test_order_of_customers_and_the_currency_change_no_figure(rows: int, seed: int) -> None:
    realised, forecasts = _customers(rows, seed)
    report = value_report(realised, forecasts, seed=3)
    shuffled = np.random.default_rng(seed).permutation(rows)
    mixed = {name: each.of(shuffled) for name, each in forecasts.items()}
    assert value_report(realised[shuffled], mixed, seed=3) == report
    predicted = forecasts["model"].value
    for table in (decile_table, lambda a, p, seed: tier_table(a, p, {"key": 1, "rest": rows - 1}, seed)):
        pd.testing.assert_frame_equal(
            table(realised, predicted, 3), table(realised[shuffled], predicted[shuffled], 3), check_exact=True
        )
    # Powers of two scale without rounding.
    dear = {
        name: Forecast(*(end if end is None else end * 4 for end in (each.value, each.low, each.high)))
        for name, each in forecasts.items()
    }
    for name, figures in value_report(realised * 4, dear, seed=3).items():
        for figure, value in figures.items():
            before = report[name][figure]
            scale = 4 if figure.startswith(("mae", "total_")) else 1
            assert value == (before if before is None or scale == 1 else before * scale), figure


def test_deciles_and_tiers_are_totals_of_equal_parts_with_intervals() -> None:
    realised, predicted = np.arange(40.0), np.arange(40.0) * 2 + 1
    deciles = decile_table(realised, predicted, seed=1)
    assert deciles["decile"].tolist() == list(range(1, 11))
    assert deciles["customers"].tolist() == [4.0] * 10
    assert deciles["realised"].tolist() == pytest.approx([4 * i + 1.5 for i in range(10)])
    assert deciles["predicted"].tolist() == pytest.approx([8 * i + 4 for i in range(10)])
    assert (deciles["realised_low"] < deciles["realised"]).all()
    assert (deciles["realised"] < deciles["realised_high"]).all()
    tiers = tier_table(realised, predicted, {"key": 4, "rest": 36}, seed=1)
    assert tiers["tier"].tolist() == ["key", "rest"]
    assert tiers["realised"].tolist() == pytest.approx([36 + 37 + 38 + 39, 35 * 18])
    assert tiers["predicted"].sum() == pytest.approx(predicted.sum())


def test_intervals_of_slices_equal_a_loop_over_drawn_customers() -> None:
    rng = np.random.default_rng(0)
    realised, predicted = rng.gamma(0.5, 10, 30), rng.permutation(30) * 1.0
    order = np.lexsort((predicted, realised))
    generator = np.random.default_rng(9)
    tops = []
    for _ in range(200):
        chosen = order[generator.integers(0, 30, 30)]
        curve = metrics.lorenz(realised[chosen], predicted[chosen], points=31)[1] * realised[chosen].sum()
        tops.append(curve[5])
    table = tier_table(realised, predicted, {"key": 5, "rest": 25}, seed=9)
    assert (table["realised_low"][0], table["realised_high"][0]) == pytest.approx(
        metrics.percentile_interval(tops)
    )


def test_over_origins_figures_are_means_and_wins_are_counted() -> None:
    def date_of(model: float, last_period: float | None, log_bias: float) -> dict[str, Any]:
        row = dict.fromkeys(PLAIN_VALUE_FIGURES)
        gain = None if last_period is None else model - last_period
        report = {
            "model": row | {"normalised_gini": model, "gain_over_last_period": gain, "log_bias": log_bias}
        }
        if last_period is not None:
            report["last_period"] = row | {"normalised_gini": last_period, "log_bias": None}
        return report

    dates = [date_of(0.7, 0.6, 0.1), date_of(0.5, 0.6, -0.3), date_of(0.6, 0.6, 0.2), date_of(0.4, None, 0.0)]
    summary = over_origins(dates, seed=1)
    model, last = summary["model"], summary["last_period"]
    assert (model["origins"], last["origins"]) == (4, 3)
    assert (model["origins_won"], last["origins_won"]) == (3, 2)  # a draw is won by both
    assert model["normalised_gini"] == pytest.approx(0.55)
    assert model["gain_over_last_period"] == pytest.approx(0.0)
    assert model["gain_over_last_period_low"] == pytest.approx(-0.1)
    assert model["gain_over_last_period_high"] == pytest.approx(0.1)
    assert model["mean_abs_log_bias"] == pytest.approx(0.15)
    assert model["log_bias"] == pytest.approx(0.0)
    assert model["gain_over_btyd"] is model["spearman"] is last["mean_abs_log_bias"] is None
    assert over_origins(dates[::-1], seed=1) == summary
    two = over_origins(dates[:2], seed=1)["model"]
    assert (two["gain_over_last_period"], two["gain_over_last_period_low"]) == (pytest.approx(0), None)
    assert over_origins([], seed=1) == {}


def test_a_forecast_of_some_rows_keeps_its_interval() -> None:
    kept = Forecast(REALISED, REALISED - 1, REALISED + 1).of(REALISED > 10)
    assert kept.value.tolist() == [50, 30, 15]
    assert kept.low is not None
    assert kept.low.tolist() == [49, 29, 14]
    assert Forecast(REALISED).of(REALISED > 10).low is None


def test_tiers_hold_what_a_forecast_alone_would_have_cut() -> None:
    forecasts = {"model": Forecast(REALISED), "reversed": Forecast(-REALISED)}
    report = tier_report(REALISED, forecasts, {"key": 1, "other": 2, "rest": 2})
    assert report["model"]["captured_share_by_tier"] == pytest.approx(
        {"key": 0.5, "other": 0.45, "rest": 0.05}
    )
    assert report["reversed"]["captured_share_by_tier"] == pytest.approx(
        {"key": 0.0, "other": 0.2, "rest": 0.8}
    )
    assert report["model"]["customers_by_tier"] == {"key": 1, "other": 2, "rest": 2}


def test_equal_forecasts_share_the_tiers() -> None:
    report = tier_report(REALISED, {"same": Forecast(np.ones(5))}, {"key": 1, "rest": 4})
    assert report["same"]["captured_share_by_tier"] == pytest.approx({"key": 0.2, "rest": 0.8})


def test_tiers_of_nothing_realised_are_null() -> None:
    report = tier_report(np.zeros(5), {"model": Forecast(REALISED)}, {"key": 1, "rest": 4})
    assert report["model"]["captured_share_by_tier"] == {"key": None, "rest": None}


def test_payment_figures_judge_days_only_where_they_are_known() -> None:
    late = np.array([1.0, 0.0, 0.0, 1.0])
    days = np.array([40.0, math.nan, 0.0, math.nan])
    report = payment_report(
        late, {"model": late * 0.5 + 0.2, "rate": np.full(4, 0.5)}, days, {"model": days * 0 + 10}
    )
    assert set(report["model"]) == PAYMENT_FIGURES
    assert report["model"]["auc"] == 1
    assert report["model"]["mae_days"] == pytest.approx(20)
    assert report["rate"]["mae_days"] is None
    assert report["rate"]["calibration_slope"] is None


def test_prospect_figures() -> None:
    converted = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    report = prospect_report(converted, {"model": np.linspace(1, 0.1, 10)})
    assert set(report["model"]) == PROSPECT_FIGURES
    assert report["model"]["lift_top_10"] == pytest.approx(10)
    assert report["model"]["mean_realised"] == pytest.approx(0.1)


def test_truth_figures_of_a_forecast_spread_twice_too_far() -> None:
    true = np.array([1.0, 2.0, 3.0])
    figures = truth_figures(true, np.array([0.0, 2.0, 4.0]))
    assert figures == pytest.approx(
        {"spearman": 1.0, "mean_predicted": 2.0, "mean_true": 2.0, "bias_ratio": 0.0, "slope": 0.5}
    )


def test_truth_figures_of_a_constant_and_of_nobody_are_null() -> None:
    constant = truth_figures(np.array([1.0, 2.0, 3.0]), np.full(3, 0.1))
    assert constant["slope"] is constant["spearman"] is None
    assert set(truth_figures(np.empty(0), np.empty(0)).values()) == {None}


def test_flat_names_figures_by_forecast() -> None:
    assert flat({"model": {"auc": 0.7}, "rate": {"auc": None}}) == {"model/auc": 0.7, "rate/auc": None}
