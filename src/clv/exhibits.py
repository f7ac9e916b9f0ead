"""What a test of forecasts looks like: the pictures and tables that training and back-tests leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import plots, tiers
from clv.evaluation import decile_table, tier_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clv.config import Config
    from clv.tracking import Run

Floats = NDArray[np.float64]

CURVES = 4  # in one picture of gains, beside the oracle: more cannot be told apart


@dataclass(frozen=True)
class Judged:
    """Forecasts of a period begun on `since` beside what then happened, row by row; `course`: clv.learn.course."""

    since: date | None
    outcome: Floats
    forecasts: Mapping[str, Floats]
    course: pd.DataFrame | None = None


@dataclass(frozen=True)
class Exhibits:
    """What a test looks like: path without ending -> figure, and -> table of the figures drawn."""

    figures: dict[str, Figure] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def log(self, run: Run) -> None:
        """Logs figures as `.png` and tables as `.json`."""
        for path, table in self.tables.items():
            run.log_table(table, f"{path}.json")
        for path, figure in self.figures.items():
            run.log_figure(figure, f"{path}.png")


def of_backtest(report: Mapping[str, Any], judged: Mapping[str, Judged], config: Config) -> Exhibits:
    """Of every model judged (by the name it is registered under); of several dates also the figures over them."""
    shown = Exhibits()
    for name, what in judged.items():
        found = of_test(name, what, config)
        shown.figures.update(found.figures)
        shown.tables.update(found.tables)
    rolled = [each for each in report.get("origins", {}).get("reports", []) if each["lifetime_value"]]
    if len(rolled) > 1:
        shown.figures["lifetime-value/origins"] = plots.origins(
            [date.fromisoformat(each["as_of"]) for each in rolled],
            [each["lifetime_value"] for each in rolled],
            title=f"Value of {report['horizon_days']} days, the same back-test on several dates",
        )
    return shown


def of_test(name: str, judged: Judged, config: Config) -> Exhibits:
    """Pictures and tables of a model's forecasts of a later period against what then happened."""
    outcome, forecasts = judged.outcome, judged.forecasts
    if not outcome.sum() > 0:
        return Exhibits()
    when = f"from {judged.since}"
    curves = {each: (outcome, forecasts[each]) for each in list(forecasts)[:CURVES]}
    if name == "lifetime-value":
        found = _of_value(judged, curves, config, when)
    elif name == "payment-delay":
        title = f"Late payment, forecast and fact {when}"
        found = Exhibits({"calibration": plots.calibration(forecasts["model"], outcome, title=title)})
    else:
        title = f"Conversion, forecast and fact {when}"
        captured = plots.gains(
            curves,
            title=f"Conversions among the prospects ranked first, {when}",
            ranked="prospects",
            held="conversions",
        )
        calibrated = plots.calibration(forecasts["model"], outcome, title=title)
        found = Exhibits({"calibration": calibrated, "gains": captured})
    return Exhibits(
        {f"{name}/{picture}": figure for picture, figure in found.figures.items()},
        {f"{name}/{table}": content for table, content in found.tables.items()},
    )


def _of_value(
    judged: Judged, curves: Mapping[str, tuple[Floats, Floats]], config: Config, when: str
) -> Exhibits:
    realised, predicted, currency = judged.outcome, judged.forecasts["model"], config.reporting_currency
    sizes = tiers.counts(len(realised), config.tiers.shares_ratio)
    tables = {
        "deciles": decile_table(realised, predicted, config.seed),
        "tiers": tier_table(realised, predicted, sizes, config.seed),
    }
    figures = {
        "gains": plots.gains(curves, title=f"Value captured by the customers ranked first, {when}"),
        "lorenz": plots.lorenz(realised, predicted, title=f"Inequality, forecast and fact {when}"),
        "deciles": plots.decile_bars(
            tables["deciles"], title=f"Value by predicted decile, {when}", unit=f"{currency} per customer"
        ),
        "tiers": plots.tier_bars(tables["tiers"], title=f"Value by tier, {when}", unit=currency),
    }
    if judged.course is not None:
        tables["course"] = judged.course.assign(date=judged.course["date"].dt.date.astype(str))
        figures["course"] = plots.course(judged.course, title=f"Week by week, {when}", unit=currency)
    return Exhibits(figures, tables)
