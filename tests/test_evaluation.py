"""The figures of forecasts, worked by hand; and the shape of what `backtest --report` writes."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from clv.config import Config
from clv.evaluation import (
    Forecast,
    flat,
    payment_report,
    prospect_report,
    tier_report,
    truth_figures,
    value_report,
)
from clv.period import Horizon
from clv.simulate import simulate

ROOT = Path(__file__).parents[1]
VALUE_FIGURES = {
    "normalised_gini", "normalised_gini_low", "normalised_gini_high", "spearman", "captured_share_top_1",
    "captured_share_top_20", "oracle_share_top_1", "oracle_share_top_20", "mae", "bias_ratio",
    "weighted_decile_error", "interval_coverage_ratio", "interval_coverage_top_20",
}  # fmt: skip
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


# --- the whole back-test ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("invented") / "invented.duckdb"
    simulate(path, customers=300, prospects=200, seed=11, history_months=36, threads=1)
    tables = (
        "customers",
        "products",
        "order_lines",
        "invoices",
        "payments",
        "service_events",
        "exchange_rates",
    )
    category = {"type": "category", "known_at": "first_contact"}
    return Config.model_validate(
        {
            "company": "invented",
            "reporting_currency": "EUR",
            "sources": {name: {"table": f"company.{name}"} for name in tables},
            "attributes": {"industry": category, "lead_source": category},
            "segment": ["industry"],
            "payment": {"training_months": 15},
            "engine": {"threads": 1},
            "warehouse": {"path": str(path)},
        }
    )


@pytest.fixture(scope="module")
def backtest() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "pipelines"))
        sys.modules.pop("backtest", None)
        import backtest

        yield backtest.backtest


def test_backtest_reports_every_part(
    invented: Config, backtest: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from clv.console import show_backtest

    report = backtest(invented, date(2026, 1, 1), Horizon(days=150))
    json.dumps(report, allow_nan=False)
    parts = ["lifetime_value", "payment_delay", "prospect_value", "tiers", "groups", "truth"]
    assert list(report) == ["as_of", "horizon_days", "customers", *parts]  # and no `why`
    assert (report["as_of"], report["horizon_days"], report["customers"]) == ("2026-01-01", 150, 300)
    assert set(report["lifetime_value"]) == {"model", "last_period", "btyd", "bgnbd"}
    assert {"model", "segment_rate", "shrunk_ratio", "logistic"} <= set(report["payment_delay"])
    assert {"model", "segment_rate", "logistic"} <= set(report["prospect_value"])
    for part, figures in zip(parts, (VALUE_FIGURES, PAYMENT_FIGURES, PROSPECT_FIGURES), strict=False):
        assert all(set(row) == figures for row in report[part].values())
    assert report["lifetime_value"]["model"]["interval_coverage_ratio"] is not None
    for tiers in report["tiers"].values():
        assert sum(tiers["captured_share_by_tier"].values()) == pytest.approx(1)
        assert sum(tiers["customers_by_tier"].values()) == 300
    assert set(report["groups"]["payment_delay"]) == {"known", "unseen"}
    truth = report["truth"]
    assert truth["lifetime_value"]["model_before_cost"]["spearman"] > 0.7
    assert truth["lifetime_value"]["model"]["bias_ratio"] is None  # the truth is of twelve months
    assert truth["payment_delay"]["true_auc"] > 0.5
    assert truth["late_payment_probability"]["model"]["spearman"] > 0.2
    assert truth["prospect_value"]["conversion"]["model"]["spearman"] > 0.3

    show_backtest(report)
    shown = capsys.readouterr().out
    assert all(
        title in shown for title in ("lifetime value", "payment delay", "against the truth: conversion")
    )
    assert "…" not in shown


def test_backtest_says_why_a_part_is_missing(invented: Config, backtest: Any) -> None:
    without = {name: invented.sources[name] for name in ("order_lines", "exchange_rates")}
    poor = invented.model_copy(update={"sources": without, "attributes": {}, "segment": []})
    report = backtest(poor, date(2026, 3, 1), Horizon(months=6))
    missing = ("lifetime_value", "payment_delay", "prospect_value", "tiers", "groups")
    assert all(report[name] is None for name in missing)
    assert set(report["why"]) == set(missing)
    assert report["why"]["lifetime_value"] == (
        "The horizon ends on 2026-09-01, orders are known until 2026-07-01: use a shorter horizon."
    )
    assert report["truth"]["lifetime_value"]["model"]["spearman"] > 0.5  # the truth needs no future


def test_the_truth_of_another_day_or_company_is_not_invented(invented: Config, tmp_path: Path) -> None:
    from clv import truth
    from clv.errors import ModelError
    from clv.warehouse import workspace

    empty = tmp_path / "real.duckdb"
    duckdb.connect(str(empty)).close()
    with workspace(threads=1, memory_limit="1GB") as db:
        with pytest.raises(
            ModelError, match=r"The truth of 2025-07-01 was not written; it is known for 2025-01-01,"
        ):
            truth.read(db, invented, date(2025, 7, 1))
        for path in (empty, tmp_path / "none.duckdb"):
            real = invented.model_copy(
                update={"warehouse": invented.warehouse.model_copy(update={"path": str(path)})}
            )
            with pytest.raises(ModelError, match="Only an invented company has a known truth"):
                truth.read(db, real, date(2026, 1, 1))


def test_a_fact_with_a_mistyped_year_does_not_pass_for_the_end_of_the_data(
    invented: Config, backtest: Any, tmp_path: Path
) -> None:
    dirty = tmp_path / "dirty.duckdb"
    shutil.copy(invented.warehouse_path, dirty)
    with duckdb.connect(str(dirty)) as company:
        for table, day in (("order_lines", "order_date"), ("invoices", "invoice_date")):
            key = {"order_lines": "line_id", "invoices": "invoice_id"}[table]
            company.execute(
                f"INSERT INTO company.{table} BY NAME SELECT * REPLACE (DATE '2027-06-30' AS {day}, 'typo' AS {key}) "
                f"FROM company.{table} WHERE {day} = (SELECT max({day}) FROM company.{table}) LIMIT 1"
            )
    place = invented.warehouse.model_copy(update={"path": str(dirty)})
    report = backtest(invented.model_copy(update={"warehouse": place}), date(2026, 3, 1), Horizon(months=6))
    assert report["why"]["lifetime_value"] == (
        "The horizon ends on 2026-09-01, orders are known until 2026-07-01: use a shorter horizon."
    )
    clean = backtest(invented, date(2026, 3, 1), Horizon(months=6))
    assert report["payment_delay"] == clean["payment_delay"]


def test_tiers_with_brackets_in_their_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from clv.console import show_backtest

    parts = ("customers", "lifetime_value", "payment_delay", "prospect_value", "groups", "truth")
    shares = {"captured_share_by_tier": {"[red]": 0.4, "[b]rest": 0.6}}
    show_backtest(
        {"as_of": "2026-01-01", "horizon_days": 90, "tiers": {"model": shares}} | dict.fromkeys(parts)
    )
    shown = capsys.readouterr().out
    assert "[red]" in shown
    assert "[b]rest" in shown
