"""Forecasts against what then happened: the figures that training logs, gates and back-tests report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clv import metrics

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Report = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Forecast:
    """One forecast of the same rows as all others, with an interval where it has one."""

    value: Floats
    low: Floats | None = None
    high: Floats | None = None

    def of(self, rows: NDArray[np.bool_]) -> Forecast:
        """The same forecast of some of its rows."""
        low, high = (None if bound is None else bound[rows] for bound in (self.low, self.high))
        return Forecast(self.value[rows], low, high)


def value_report(realised: Floats, forecasts: Mapping[str, Forecast], seed: int) -> Report:
    """Figures per forecast of customers' value; null where the data does not allow one.

    The Gini interval is a 95 % bootstrap over customers. The oracle's shares are those of the realised order.
    """
    return {name: _value_figures(realised, forecast, seed) for name, forecast in forecasts.items()}


def _value_figures(realised: Floats, forecast: Forecast, seed: int) -> dict[str, float | None]:
    predicted = forecast.value
    low, high = metrics.bootstrap_interval(metrics.normalised_gini, realised, predicted, seed=seed)
    covered = covered_top = math.nan
    if forecast.low is not None and forecast.high is not None and np.isfinite(forecast.low).all():
        everyone = np.ones(len(realised), dtype=bool)
        top = predicted >= np.quantile(predicted, 0.8)
        covered = metrics.interval_coverage(realised, forecast.low, forecast.high, everyone)
        covered_top = metrics.interval_coverage(realised, forecast.low, forecast.high, top)
    return _finite(
        {
            "normalised_gini": metrics.normalised_gini(realised, predicted),
            "normalised_gini_low": low,
            "normalised_gini_high": high,
            "spearman": metrics.spearman(realised, predicted),
            "captured_share_top_1": metrics.captured_share(realised, predicted, 0.01),
            "captured_share_top_20": metrics.captured_share(realised, predicted, 0.20),
            "oracle_share_top_1": metrics.captured_share(realised, realised, 0.01),
            "oracle_share_top_20": metrics.captured_share(realised, realised, 0.20),
            "mae": metrics.mae(realised, predicted),
            "bias_ratio": metrics.bias_ratio(realised, predicted),
            "weighted_decile_error": metrics.weighted_decile_error(realised, predicted),
            "interval_coverage_ratio": covered,
            "interval_coverage_top_20": covered_top,
        }
    )


def payment_report(
    is_late: Floats,
    probabilities: Mapping[str, Floats],
    days_late: Floats,
    expected_days: Mapping[str, Floats],
) -> Report:
    """Figures per forecast of invoices; `days_late` may hold NaN where it is not known yet."""
    known = np.isfinite(days_late)
    report: Report = {}
    for name, probability in probabilities.items():
        days = expected_days.get(name)
        report[name] = _finite(
            {
                "invoices": float(len(is_late)),
                "auc": metrics.auc(is_late, probability),
                "brier": metrics.brier(is_late, probability),
                "log_loss": metrics.log_loss(is_late, probability),
                "calibration_slope": metrics.calibration_slope(is_late, probability),
                "mean_predicted": float(np.mean(probability)),
                "mean_realised": float(np.mean(is_late)),
                "mae_days": metrics.mae(days_late[known], days[known])
                if days is not None and known.any()
                else math.nan,
            }
        )
    return report


def probability_figures(outcome: Floats, probability: Floats) -> dict[str, float | None]:
    """How good one forecast of a probability is, where rows and outcomes are counted beside it."""
    return _finite(
        {
            "auc": metrics.auc(outcome, probability),
            "brier": metrics.brier(outcome, probability),
            "calibration_slope": metrics.calibration_slope(outcome, probability),
            "mean_predicted": float(np.mean(probability)),
            "mean_realised": float(np.mean(outcome)),
        }
    )


def calibration_in_the_large(outcome: Floats, probability: Floats, group: pd.Series, by: str) -> pd.DataFrame:
    """One row per value of `group` (the first column, named `by`): mean predicted against mean realised.

    `error` is predicted less realised, `standard_error` that of the mean realised if the forecast is right.
    """
    import pandas as pd

    frame = pd.DataFrame(
        {
            by: group.to_numpy(),
            "predicted": probability,
            "realised": outcome,
            "variance": probability * (1 - probability),
        }
    )
    found = frame.groupby(by, as_index=False, sort=True).agg(
        rows=("realised", "size"),
        mean_predicted=("predicted", "mean"),
        mean_realised=("realised", "mean"),
        variance=("variance", "sum"),
    )
    found["error"] = found["mean_predicted"] - found["mean_realised"]
    found["standard_error"] = np.sqrt(found.pop("variance")) / found["rows"]
    return found


def deciles(probability: Floats) -> pd.Series:
    """Decile of each row by predicted rank, 1 the lowest; ties by position."""
    import pandas as pd

    rank = pd.Series(probability).rank(method="first").to_numpy()
    return pd.Series(np.ceil(rank / len(rank) * 10).astype(np.int64))


def prospect_report(converted: Floats, probabilities: Mapping[str, Floats]) -> Report:
    """Figures per forecast of prospects' conversion; `normalised_gini` is of conversions by predicted rank."""
    rate = float(np.mean(converted))
    return {
        name: _finite(
            {
                "prospects": float(len(converted)),
                "auc": metrics.auc(converted, probability),
                "brier": metrics.brier(converted, probability),
                "lift_top_10": metrics.captured_share(converted, probability, 0.10) / 0.10,
                "normalised_gini": metrics.normalised_gini(converted, probability),
                "mean_predicted": float(np.mean(probability)),
                "mean_realised": rate,
            }
        )
        for name, probability in probabilities.items()
    }


def tier_report(
    realised: Floats, forecasts: Mapping[str, Forecast], customers_by_tier: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Per forecast, what each tier would have held had the forecast alone cut the pyramid.

    `customers_by_tier` are the sizes, highest first, together as many as there are rows. `captured_share_by_tier`:
    share of realised value; equal forecasts at a border share it. Null where the realised total is not positive.
    """
    cuts = np.cumsum([0, *customers_by_tier.values()])
    report = {}
    for name, forecast in forecasts.items():
        _, held = metrics.lorenz(realised, forecast.value, points=len(realised) + 1)
        shares = dict(zip(customers_by_tier, np.diff(held[cuts]).tolist(), strict=True))
        report[name] = {
            "captured_share_by_tier": _finite(shares),
            "customers_by_tier": dict(customers_by_tier),
        }
    return report


def truth_figures(true: Floats, predicted: Floats) -> dict[str, float | None]:
    """A forecast against true expectations: `spearman`, both means, `bias_ratio`, and `slope`.

    `slope` is that of the straight line of truth on forecast: 1 where a forecast twice as high means twice as much,
    below 1 where forecasts spread too far. Null without rows.
    """
    mean_predicted, mean_true = (
        math.fsum(x.tolist()) / len(x) if len(x) else math.nan for x in (predicted, true)
    )
    spread = predicted - mean_predicted
    squares = float(spread @ spread)
    return _finite(
        {
            "spearman": metrics.spearman(true, predicted),
            "mean_predicted": mean_predicted,
            "mean_true": mean_true,
            "bias_ratio": metrics.bias_ratio(true, predicted),
            "slope": float(spread @ true) / squares
            if squares > 1e-18 * float(predicted @ predicted)
            else math.nan,
        }
    )


def flat(report: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """`report` as one level of `NAME/figure`, the form in which runs log it."""
    return {
        f"{name}/{figure}": value for name, figures in report.items() for figure, value in figures.items()
    }


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in figures.items()}
