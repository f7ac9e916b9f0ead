"""Forecasts against what then happened: the figures that training logs, gates and back-tests report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import metrics

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Report = dict[str, dict[str, float | None]]

BASELINES = ("last_period", "btyd", "bgnbd")  # what every forecast of value is set against
TOP_RATIO = 0.2  # the share of customers, highest predicted first, whose intervals are judged apart
ORIGIN_DRAWS = 1000  # origins are few, drawing among them costs nothing
FEWEST_ORIGINS = 3  # of fewer dates an interval would only repeat them


@dataclass(frozen=True)
class Forecast:
    """One forecast of the same rows as all others, with an interval where it has one."""

    value: Floats
    low: Floats | None = None
    high: Floats | None = None

    def of(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Forecast:
        """The same forecast of some of its rows: those of a mask, or those numbered, in that order."""
        low, high = (None if bound is None else bound[rows] for bound in (self.low, self.high))
        return Forecast(self.value[rows], low, high)


def value_report(realised: Floats, forecasts: Mapping[str, Forecast], seed: int) -> Report:
    """Figures per forecast of customers' value, each with `_low` and `_high`; null where the data does not allow one.

    `oracle_share_…`: of the realised order. `gain_over_NAME`: normalised Gini less that of the baseline NAME.
    The ends are those of a 95 % bootstrap over customers. All figures of all forecasts are of the same draws, so a
    gain is compared on equal customers; they depend on `seed`, not on the order of the rows.
    """
    rows = _by_content(realised, *_columns(forecasts))
    judged = _ValueFigures(realised[rows], {name: each.of(rows) for name, each in forecasts.items()})
    once = judged.under(np.ones(len(rows)))
    drawn = [judged.under(weights) for weights in _draws(len(rows), seed)]
    report: Report = {}
    for name, figures in once.items():
        report[name] = {}
        for figure, value in figures.items():
            low, high = metrics.percentile_interval([draw[name][figure] for draw in drawn])
            report[name] |= _finite({figure: value, f"{figure}_low": low, f"{figure}_high": high})
    return report


class _ValueFigures:
    """Forecasts ranked once, so that their figures under other weights of the customers take only sums."""

    def __init__(self, realised: Floats, forecasts: Mapping[str, Forecast]) -> None:
        self._oracle = metrics.Ranking(realised, realised)
        self._ranked = {name: metrics.Ranking(realised, each.value) for name, each in forecasts.items()}
        self._error = {name: np.abs(each.value - realised) for name, each in forecasts.items()}
        self._covered = {
            name: ((each.low <= realised) & (realised <= each.high)).astype(np.float64)
            for name, each in forecasts.items()
            if each.low is not None and each.high is not None and np.isfinite(each.low).all()
        }

    def under(self, weights: Floats) -> dict[str, dict[str, float]]:
        """NAME -> figure -> value, nan where it does not exist, of the customers counted as `weights` say."""
        best = self._oracle.concentration(weights)
        ranks = self._oracle.ranks(best.counted)
        found = {name: self._of(name, weights, best, ranks) for name in self._ranked}
        ginis = {name: figures["normalised_gini"] for name, figures in found.items()}
        for name, figures in found.items():
            for baseline in BASELINES:
                comparable = baseline in ginis and baseline != name
                gain = ginis[name] - ginis[baseline] if comparable else math.nan
                figures[f"gain_over_{baseline}"] = gain
        return found

    def _of(
        self, name: str, weights: Floats, best: metrics.Concentration, oracle_ranks: Floats
    ) -> dict[str, float]:
        ranking = self._ranked[name]
        curve = ranking.concentration(weights)
        rows, area = float(curve.counted[-1]), best.area()
        covered, covered_top = self._coverage(name, weights, curve.counted)
        return {
            "normalised_gini": curve.area() / area if area > 0 else math.nan,
            "spearman": _correlation(weights, oracle_ranks, ranking.ranks(curve.counted)),
            "captured_share_top_1": curve.share(0.01),
            "captured_share_top_20": curve.share(0.20),
            "oracle_share_top_1": best.share(0.01),
            "oracle_share_top_20": best.share(0.20),
            "mae": float((weights * self._error[name]).sum()) / rows if rows else math.nan,
            "bias_ratio": curve.bias_ratio(),
            "weighted_decile_error": curve.decile_error(),
            "interval_coverage_ratio": covered,
            "interval_coverage_top_20": covered_top,
            "total_predicted": float(curve.predicted[-1]),
            "total_realised": float(curve.realised[-1]),
            "log_bias": curve.log_bias(),
        }

    def _coverage(self, name: str, weights: Floats, counted: Floats) -> tuple[float, float]:
        """Share of the customers within their interval: of all, and of those predicted at or above the 80 % point."""
        rows = float(counted[-1])
        if name not in self._covered or rows == 0:
            return math.nan, math.nan
        inside = self._ranked[name].sums(weights * self._covered[name])
        top = rows - math.ceil((1 - TOP_RATIO) * (rows - 1))
        end = int(np.searchsorted(counted, top))  # with all who are predicted as much as the last of them
        return float(inside[-1]) / rows, float(inside[end] / counted[end])


def decile_table(realised: Floats, predicted: Floats, seed: int) -> pd.DataFrame:
    """A row per tenth of the customers by prediction (fewer below 10 customers), means per customer.

    Columns: `decile` (the last is predicted highest), `customers` (a customer on a border is shared, so are equal
    predictions), `predicted`, `realised`, `realised_low`, `realised_high` (95 % bootstrap over customers).
    """
    rows = len(realised)
    tenths = min(10, rows)
    table = _sliced(realised, predicted, np.linspace(0, rows, tenths + 1), seed)[::-1]
    table = table.div(table["customers"], axis=0).assign(customers=table["customers"])
    table.insert(0, "decile", np.arange(1, tenths + 1))
    return table.reset_index(drop=True)


def tier_table(
    realised: Floats, predicted: Floats, customers_by_tier: Mapping[str, int], seed: int
) -> pd.DataFrame:
    """A row per tier, highest first, had the forecast alone cut the pyramid: totals of its customers.

    Columns: `tier`, `customers`, `predicted`, `realised`, `realised_low`, `realised_high` (95 % bootstrap over
    customers). `customers_by_tier` are the sizes, together as many as there are rows; equal forecasts share a border.
    """
    table = _sliced(realised, predicted, np.cumsum([0.0, *customers_by_tier.values()]), seed)
    table.insert(0, "tier", list(customers_by_tier))
    return table


def _sliced(realised: Floats, predicted: Floats, borders: Floats, seed: int) -> pd.DataFrame:
    """Totals between `borders` in rows, counted from the highest prediction."""
    rows = _by_content(realised, predicted)
    ranking = metrics.Ranking(realised[rows], predicted[rows])
    promised, held = ranking.concentration().slices(borders)
    drawn = [ranking.concentration(weights).slices(borders)[1] for weights in _draws(len(rows), seed)]
    totals = np.array(drawn).reshape((len(drawn), len(held))).T
    ends = np.array([metrics.percentile_interval(each) for each in totals]).reshape(-1, 2)
    return pd.DataFrame(
        {
            "customers": np.diff(borders),
            "predicted": promised,
            "realised": held,
            "realised_low": ends[:, 0],
            "realised_high": ends[:, 1],
        }
    )


def over_origins(reports: Sequence[Report], seed: int) -> Report:
    """Per forecast, its figures over several dates, each with a `value_report`.

    `origins`: dates it was made on; `origins_won`: where no other had a higher normalised Gini; the mean of every
    figure over the dates that have one; `mean_abs_log_bias`; `gain_over_NAME_low` and `_high`: 95 % bootstrap of the
    mean gain over dates, null below FEWEST_ORIGINS. Horizons that overlap share outcomes: then dates are no
    independent draws, and these intervals are too narrow.
    """
    names = list(dict.fromkeys(name for report in reports for name in report))
    return {name: _over_origins(name, reports, seed) for name in names}


def _over_origins(name: str, reports: Sequence[Report], seed: int) -> dict[str, float | None]:
    dates = [report for report in reports if name in report]
    plain = [figure for figure in dates[0][name] if not figure.endswith(("_low", "_high"))]
    known = {
        figure: np.array([report[name][figure] for report in dates if report[name][figure] is not None])
        for figure in plain
    }
    counts = {"origins": len(dates), "origins_won": sum(_wins(name, each) for each in dates)}
    summary: dict[str, float] = {}
    for figure, values in known.items():
        summary[figure] = _mean(values)
        if figure.startswith("gain_over_"):
            low, high = math.nan, math.nan
            if len(values) >= FEWEST_ORIGINS:
                low, high = metrics.bootstrap_interval(_mean, values, seed=seed, draws=ORIGIN_DRAWS)
            summary |= {f"{figure}_low": low, f"{figure}_high": high}
    summary["mean_abs_log_bias"] = _mean(np.abs(known["log_bias"]))
    return counts | _finite(summary)


def _wins(name: str, report: Report) -> bool:
    ginis = {each: figures["normalised_gini"] for each, figures in report.items()}
    own = ginis[name]
    return own is not None and all(own >= other for other in ginis.values() if other is not None)


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


def _columns(forecasts: Mapping[str, Forecast]) -> list[Floats]:
    values = [each.value for each in forecasts.values()]
    return values + [end for each in forecasts.values() for end in (each.low, each.high) if end is not None]


def _by_content(*columns: Floats) -> NDArray[np.intp]:
    """Rows in an order that depends on what they hold alone: by the first column, then the second, …"""
    return np.lexsort(columns[::-1])


def _draws(rows: int, seed: int) -> Iterable[Floats]:
    return metrics.bootstrap_weights(rows, seed=seed) if rows else ()


def _correlation(weights: Floats, a: Floats, b: Floats) -> float:
    """Of two columns of ranks, whose mean is that of 1 to the number of rows."""
    middle = (weights.sum() + 1) / 2
    a, b = a - middle, b - middle
    spread = math.sqrt((weights * a * a).sum()) * math.sqrt((weights * b * b).sum())
    return float((weights * a * b).sum()) / spread if spread > 0 else math.nan


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in figures.items()}
