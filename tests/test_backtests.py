"""Back-tests of an invented company, on one date and on several, and what is left of them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

import duckdb
import pytest

from clv import backtests
from clv.config import Config
from clv.evaluation import over_origins
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
def program() -> Iterator[Any]:
    """The program, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "pipelines"))
        sys.modules.pop("backtest", None)
        import backtest

        yield backtest


@pytest.fixture(scope="module")
def backtest(program: Any) -> Any:
    return program.backtest


@pytest.fixture(scope="module")
def report(invented: Config, backtest: Any) -> dict[str, Any]:
    """The back-test of one date."""
    found: dict[str, Any] = backtest(invented, date(2026, 1, 1), Horizon(days=150))
    return found


def test_backtest_reports_every_part(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    from clv.console import show_backtest

    json.dumps(report, allow_nan=False)
    parts = ["lifetime_value", "payment_delay", "prospect_value", "tiers", "groups", "truth"]
    assert list(report) == ["as_of", "horizon_days", "customers", *parts]  # and no `why`
    assert (report["as_of"], report["horizon_days"], report["customers"]) == ("2026-01-01", 150, 300)
    assert set(report["lifetime_value"]) == {"model", "last_period", "btyd", "bgnbd"}
    assert {"model", "segment_rate", "shrunk_ratio", "logistic"} <= set(report["payment_delay"])
    assert {"model", "segment_rate", "logistic"} <= set(report["prospect_value"])
    for part, figures in zip(parts, (VALUE_FIGURES, PAYMENT_FIGURES, PROSPECT_FIGURES), strict=False):
        assert all(figures <= set(row) for row in report[part].values())
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


def test_each_of_several_dates_is_the_single_back_test_of_that_date(
    invented: Config, program: Any, report: dict[str, Any]
) -> None:
    horizon = Horizon(days=150)
    rolled = program.roll(invented, report, horizon, origins=3, step_months=18)
    assert {name: rolled[name] for name in report} == report
    assert set(rolled) - set(report) == {"origins"}
    json.dumps(rolled, allow_nan=False)
    first, middle, last = rolled["origins"]["reports"]
    assert [each["as_of"] for each in (first, middle, last)] == ["2023-01-01", "2024-07-01", "2026-01-01"]
    alone = program.backtest(invented, date(2024, 7, 1), horizon)
    for name in ("customers", "lifetime_value", "tiers"):
        assert middle[name] == alone[name]
        assert last[name] == report[name]
        assert first[name] is None
    assert "why" not in middle
    assert "order_lines: expected rows before 2023-01-01" in first["why"]["lifetime_value"]
    judged = [middle["lifetime_value"], last["lifetime_value"]]
    assert rolled["origins"]["summary"] == over_origins(judged, invented.seed)
    assert rolled["origins"]["summary"]["model"]["origins"] == 2


def test_dates_are_calendar_months_apart_and_end_with_the_one_asked_for() -> None:
    days = backtests.earlier_origins(date(2026, 3, 31), 4, 1)
    assert days == [date(2025, 12, 31), date(2026, 1, 31), date(2026, 2, 28)]
    assert backtests.earlier_origins(date(2026, 3, 31), 2, 6) == [date(2025, 9, 30)]
    assert backtests.earlier_origins(date(2026, 3, 31), 1, 1) == []


def test_dates_of_which_none_could_be_judged_have_no_summary(invented: Config) -> None:
    missing = {"customers": None, "lifetime_value": None, "tiers": None}
    report = {
        "as_of": "2026-06-01",
        "horizon_days": 90,
        **missing,
        "why": {"lifetime_value": "too soon", "groups": "-"},
    }
    earlier = [{"as_of": "2026-05-01", **missing, "why": {"lifetime_value": "too soon as well"}}]
    rolled = backtests.with_origins(report, earlier, invented)["origins"]
    assert rolled["summary"] == {}
    assert [each["why"]["lifetime_value"] for each in rolled["reports"]] == ["too soon as well", "too soon"]


def test_what_happens_after_an_origin_moves_no_forecast_of_it(invented: Config, tmp_path: Path) -> None:
    changed = tmp_path / "changed.duckdb"
    shutil.copy(invented.warehouse_path, changed)
    with duckdb.connect(str(changed)) as company:
        company.execute(
            "UPDATE company.order_lines SET net_amount = 3 * net_amount WHERE order_date >= '2025-06-01'"
        )
    place = invented.warehouse.model_copy(update={"path": str(changed)})
    as_of, horizon = date(2025, 6, 1), Horizon(days=90)
    before, after = (
        backtests.origin(config, as_of, horizon)["lifetime_value"]
        for config in (invented, invented.model_copy(update={"warehouse": place}))
    )
    for name in before:
        assert before[name]["total_predicted"] == after[name]["total_predicted"]
    assert after["model"]["total_realised"] > 2 * before["model"]["total_realised"]


def test_an_origin_whose_horizon_has_not_passed_says_so(invented: Config) -> None:
    report = backtests.origin(invented, date(2026, 6, 1), Horizon(days=90))
    assert report["lifetime_value"] is report["tiers"] is None
    assert report["customers"] > 300
    assert report["why"] == {
        "lifetime_value": "The horizon ends on 2026-08-30, orders are known until 2026-07-01: use a shorter horizon."
    }


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


def test_the_terminal_shows_dates_gains_and_reasons_in_eighty_columns(
    report: dict[str, Any],
    invented: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clv.console import show_backtest

    monkeypatch.setenv("COLUMNS", "80")
    value = {name: report[name] for name in ("customers", "lifetime_value", "tiers")}
    missing = dict.fromkeys(("customers", "lifetime_value", "tiers"))
    earlier = [{"as_of": "2025-10-01", **missing, "why": {"lifetime_value": "no [history]"}}]
    earlier += [{"as_of": day, **value} for day in ("2025-11-01", "2025-12-01")]
    show_backtest(backtests.with_origins(report, earlier, invented))
    shown = capsys.readouterr().out
    assert "means over 3 dates" in shown
    model = report["lifetime_value"]["model"]
    for day in ("2025-11-01", "2025-12-01", "2026-01-01"):
        assert re.search(rf"^{day} +{model['normalised_gini']:.3f} ", shown, re.MULTILINE)
    gain = f"{model['gain_over_btyd']:+.3f}".replace("-", "−")
    assert f"gain of model over btyd: {gain} ({gain} to {gain}, 95 %)" in shown
    assert "2025-10-01: no [history]" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_tiers_of_months_in_a_row_are_reported(invented: Config, capsys: pytest.CaptureFixture[str]) -> None:
    from clv import rolling
    from clv.console import show_rolling

    brief = invented.model_copy(update={"tiers": invented.tiers.model_copy(update={"firmness_months": 2})})
    report = rolling.backtest_tiers(brief, date(2026, 1, 1), Horizon(days=60), months=2, retrain_months=12)
    json.dumps(report, allow_nan=False)
    assert report["months"] == report["months_with_truth"] == 3
    assert report["is_monotone"]  # whoever is in a higher tier brought more
    assert report["counts_exact"]
    steady = report["stability"]
    assert set(steady) == set(rolling.VARIANTS)
    assert steady["configured"]["moves_ratio"] < steady["raw"]["moves_ratio"]
    for kinds in (report["moves_by_rule"], report["moves_by_edge"], report["moves_by_month"]):
        assert sum(kind["share_ratio"] for kind in kinds.values()) == pytest.approx(1)
    assert "ranking" in report["moves_by_rule"]
    crossed = {f"{high} – {low}" for high, low in combinations(invented.tiers.names, 2)}
    assert set(report["moves_by_edge"]) <= crossed
    assert 0.7 < report["firmness"]["mean_promised"] < 1
    show_rolling(report)
    assert "moves by rule" in capsys.readouterr().out
