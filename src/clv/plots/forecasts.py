"""Forecasts against what happened: ranking, level, calibration, the course of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from clv import metrics
from clv.evaluation import Report
from clv.plots.letters import drawable
from clv.plots.style import BLUE, INK, MUTED, REALISED, canvas, colours, legend, panels

Floats = npt.NDArray[np.float64]

BAND = 0.15  # opacity of an interval around a line


def calibration(
    predicted: npt.ArrayLike,
    realised: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    title: str = "Predicted probabilities against what happened",
    bins: int = 10,
) -> Figure:
    """Reliability of probabilities: one point per predicted decile, on the diagonal where they are right.

    `realised` is 0 or 1, `weights` (amounts, say) count in the means. The bars are 95 % intervals (Wilson 1927)
    for the effective number of observations, (sum w)^2 / sum w^2 (Kish 1965).
    """
    forecast, outcome, weight = _ranked(predicted, realised, weights)
    figure, axes = canvas(
        title, "predicted probability (mean of decile)", "realised share (mean of decile)", (6.5, 6.2)
    )
    points = []
    for rows in np.array_split(np.arange(len(forecast)), min(bins, len(forecast))):
        share = float(np.average(outcome[rows], weights=weight[rows]))
        effective = weight[rows].sum() ** 2 / np.square(weight[rows]).sum()
        points.append(
            (np.average(forecast[rows], weights=weight[rows]), share, *_wilson(share, float(effective)))
        )
    x, y, low, high = np.array(sorted(points)).T
    top = min(1.0, 1.08 * float(max(x.max(), high.max())))
    axes.plot([0, top], [0, top], color=MUTED, lw=1, ls=(0, (4, 3)), label="perfect")
    axes.errorbar(
        x,
        y,
        yerr=np.abs([y - low, high - y]),
        color=BLUE,
        ecolor="#a9c5e4",
        elinewidth=2,
        marker="o",
        ms=6,
        lw=1.2,
        label="deciles, 95 % interval",
    )
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=None))
    mean_predicted, mean_realised = (np.average(values, weights=weight) for values in (forecast, outcome))
    axes.text(
        0.97,
        0.04,
        f"mean predicted {mean_predicted:.1%}\nmean realised {mean_realised:.1%}",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        color=INK,
        fontsize=9,
    )
    legend(axes, loc="upper left")
    return figure


def gains(
    curves: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    title: str = "Value captured by the customers ranked first",
    ranked: str = "customers",
    held: str = "realised value",
) -> Figure:
    """Cumulative share of realised value by share of customers, for each forecast and for the oracle.

    `curves` maps a forecast's name to (realised, predicted) of the same customers; the oracle ranks by what
    the first of them realised. The legend gives what the first 20 % hold.
    """
    figure, axes = canvas(title, f"{ranked}, best predicted first (share)", f"{held} (cumulative share)")
    oracle = np.asarray(next(iter(curves.values()))[0], dtype=float)
    colour = colours(list(curves))
    drawn: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("oracle", oracle, oracle, {"color": INK, "lw": 1.2, "ls": (0, (4, 3))})
    ]
    drawn += [(name, *curves[name], {"color": colour[name], "lw": 2.0}) for name in curves]
    for name, realised, predicted, style in drawn:
        _, outcome, _ = _ranked(predicted, realised)
        captured = np.concatenate([[0.0], np.cumsum(outcome)])
        captured = captured / captured[-1] if captured[-1] > 0 else np.zeros_like(captured)
        share = np.linspace(0, 1, len(captured))
        label = f"{name}  {np.interp(0.2, share, captured):.0%}"
        # A picture needs no more than a thousand points of a million customers.
        kept = np.unique(np.linspace(0, len(share) - 1, min(len(share), 1001)).round().astype(int))
        axes.plot(share[kept], captured[kept], label=label, **style)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=":", label="random  20%")
    axes.axvline(0.2, color=MUTED, lw=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    legend(axes, loc="lower right", title="held by the first 20 %")
    return figure


def lorenz(
    realised: npt.ArrayLike,
    predicted: npt.ArrayLike,
    *,
    title: str = "Inequality as forecast and as realised",
) -> Figure:
    """Cumulative share of value by share of customers, the least valuable first (Lorenz, 1905).

    Of the forecasts by themselves, of what was realised in the order of the forecasts, and in its own. The first two
    coincide where forecasts are calibrated at every level (Denuit, Sznajder & Trufin, 2019, Insurance: Mathematics and
    Economics 89); where the forecasts' curve lies above, they spread too little.
    """
    figure, axes = canvas(title, "customers, least valuable first (share)", "value (cumulative share)")
    outcome, forecast = (np.asarray(values, dtype=float) for values in (realised, predicted))
    for label, values, by, look in (
        ("forecast", forecast, forecast, {"color": BLUE, "lw": 2.0}),
        ("realised, in the order of the forecast", outcome, forecast, {"color": INK, "lw": 2.0}),
        ("realised, in its own order", outcome, outcome, {"color": INK, "lw": 1.2, "ls": (0, (4, 3))}),
    ):
        share, held = metrics.lorenz(values, by, points=min(len(values), 1000) + 1)
        axes.plot(1 - share[::-1], 1 - held[::-1], label=label, **look)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=":", label="everybody the same")
    axes.set_xlim(0, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    legend(axes, loc="upper left")
    return figure


def decile_bars(
    deciles: pd.DataFrame,
    *,
    title: str = "Predicted against realised value by predicted decile",
    unit: str = "value per customer",
) -> Figure:
    """Mean predicted beside mean realised value of each predicted decile, the highest on the right.

    `deciles` is evaluation.decile_table; the ends of realised value are drawn, and realised ÷ predicted is written.
    """
    figure, axes = canvas(title, "predicted decile (10 = highest)", f"{unit} (mean of decile)")
    position = np.arange(len(deciles))
    axes.bar(position - 0.2, deciles["predicted"], width=0.38, color=BLUE, label="predicted")
    axes.bar(
        position + 0.2,
        deciles["realised"],
        width=0.38,
        color=REALISED,
        yerr=_reach(deciles),
        ecolor=INK,
        label="realised, 95 % interval",
    )
    axes.set_xticks(position, [str(decile) for decile in deciles["decile"]])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.axhline(0, color=INK, lw=0.8)
    axes.grid(False, axis="x")
    tops = deciles[["predicted", "realised", "realised_high"]].max(axis=1).clip(lower=0)
    for x, top, text in zip(position, tops, _ratios(deciles), strict=True):
        axes.annotate(
            text, (x, top), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=8, color=INK
        )
    axes.margins(y=0.08)
    legend(axes, loc="upper left", title="above: realised ÷ predicted", alignment="left")
    return figure


def tier_bars(
    tiers: pd.DataFrame, *, title: str = "Predicted against realised value by tier", unit: str = "value"
) -> Figure:
    """Predicted beside realised total of each tier, the highest on top, as evaluation.tier_table has them."""
    figure, axes = canvas(title, f"{unit} (total of tier)", "", (7.5, 1.7 + 0.75 * len(tiers)))
    position = np.arange(len(tiers))
    axes.barh(position - 0.2, tiers["predicted"], height=0.38, color=BLUE, label="predicted")
    axes.barh(
        position + 0.2,
        tiers["realised"],
        height=0.38,
        color=REALISED,
        xerr=_reach(tiers),
        ecolor=INK,
        label="realised, 95 % interval",
    )
    shown, fonts = drawable([str(tier) for tier in tiers["tier"]])
    names = [f"{tier}\n{customers:,.0f}" for tier, customers in zip(shown, tiers["customers"], strict=True)]
    axes.set_yticks(position, names, fontfamily=fonts)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.axvline(0, color=INK, lw=0.8)
    axes.grid(False, axis="y")
    ends = tiers[["predicted", "realised", "realised_high"]].max(axis=1).clip(lower=0)
    for y, end, text in zip(position, ends, _ratios(tiers), strict=True):
        axes.annotate(
            text, (end, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9, color=INK
        )
    axes.margins(x=0.12)
    legend(axes, loc="best", title="beside: realised ÷ predicted", alignment="left")
    return figure


def course(frame: pd.DataFrame, *, title: str = "Week by week", unit: str = "value") -> Figure:
    """Running totals of a horizon, forecast and fact: value above, orders below. `frame` is learn.course."""
    figure, axes = panels(title, "", [f"{unit} (running total)", "orders (running total)"], (7.5, 6.8))
    start = frame["date"].iloc[0] - pd.to_timedelta(frame["day"].iloc[0], unit="D")
    when = [start, *frame["date"]]
    colour = colours(["model", "btyd"])
    lines = (
        (axes[0], "realised", "realised_value", "realised_value", {"color": INK, "lw": 2.4}),
        (axes[0], "model", "model_value", "realised_value", {"color": colour["model"], "lw": 2.0}),
        (axes[0], "btyd", "btyd_value", "realised_value", {"color": colour["btyd"], "ls": (0, (4, 2))}),
        (axes[1], "realised", "realised_orders", "realised_orders", {"color": INK, "lw": 2.4}),
        (axes[1], "btyd", "expected_orders", "realised_orders", {"color": colour["btyd"], "ls": (0, (4, 2))}),
    )
    for on, name, column, fact, look in lines:
        total, came = frame[column].iloc[-1], frame[fact].iloc[-1]
        if not np.isfinite(total):
            continue
        off = (
            f"  ({total / came - 1:+.1%})".replace("-", "\N{MINUS SIGN}")
            if column != fact and came > 0
            else ""
        )
        on.plot(when, [0.0, *frame[column]], label=f"{name}  {total:,.0f}{off}", **look)
    for each in axes:
        each.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        each.set_ylim(bottom=min(0.0, each.get_ylim()[0]))
        legend(each, loc="upper left")
    locator = AutoDateLocator(maxticks=8)
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure


def origins(
    dates: Sequence[date], reports: Sequence[Report], *, title: str = "The same back-test on several dates"
) -> Figure:
    """Ranking and level of each forecast by the date it was made on; the model's with their 95 % interval.

    `reports` are value_report of each date. The level of `last_period` is that of a year, whatever the horizon, and
    not drawn.
    """
    figure, axes = panels(title, "", ["normalised Gini", "predicted ÷ realised, less 1"], (7.5, 6.8))
    names = list(dict.fromkeys(name for report in reports for name in report))
    colour = colours(names)
    for on, figure_name in zip(axes, ("normalised_gini", "bias_ratio"), strict=True):
        for name in names[::-1]:  # the model on top of the others
            if figure_name == "bias_ratio" and name == "last_period":
                continue
            line, low, high = (
                np.array([_number(report, name, figure_name + end) for report in reports])
                for end in ("", "_low", "_high")
            )
            width = 2.4 if name == "model" else 1.4
            on.plot(dates, line, color=colour[name], lw=width, marker="o", ms=4, label=name)
            if name == "model":
                on.fill_between(dates, low, high, color=colour[name], alpha=BAND, lw=0)
    axes[1].axhline(0, color=INK, lw=0.8)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    axes[1].set_xticks(dates, [str(day) for day in dates], rotation=45, ha="right")
    handles, labels = axes[0].get_legend_handles_labels()
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "ncols": len(names)}
    legend(axes[0], handles=handles[::-1], labels=labels[::-1], **above)
    return figure


def _number(report: Report, name: str, figure: str) -> float:
    value = report.get(name, {}).get(figure)
    return np.nan if value is None else value


def _reach(table: pd.DataFrame) -> Floats:
    """How far the interval reaches below and above what was realised."""
    held = table["realised"].to_numpy(float)
    ends = table[["realised_low", "realised_high"]].to_numpy(float).T
    reach: Floats = np.nan_to_num(np.abs(ends - held))
    return reach


def _ratios(table: pd.DataFrame) -> list[str]:
    """Realised ÷ predicted of each row, nothing where they are of no size that could be compared."""
    pairs = zip(table["predicted"], table["realised"], strict=True)
    return [
        f"{realised / predicted:.2f}" if min(predicted, realised) > 0 else "" for predicted, realised in pairs
    ]


def _ranked(
    predicted: npt.ArrayLike, realised: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[Floats, Floats, Floats]:
    """Predicted (highest first), realised and weights of the rows with a weight above 0.

    Rows of equal prediction share their mean outcome and weight.
    """
    forecast, outcome = np.asarray(predicted, dtype=float), np.asarray(realised, dtype=float)
    weight = np.ones_like(forecast) if weights is None else np.asarray(weights, dtype=float)
    counted = weight > 0
    forecast, outcome, weight = forecast[counted], outcome[counted], weight[counted]
    levels, group, rows = np.unique(-forecast, return_inverse=True, return_counts=True)
    total = np.bincount(group, weights=weight)
    value = np.bincount(group, weights=weight * outcome) / total
    return np.repeat(-levels, rows), np.repeat(value, rows), np.repeat(total / rows, rows)


def _wilson(share: float, observations: float, z: float = 1.96) -> tuple[float, float]:
    """Both ends of Wilson's (1927) interval for a share."""
    middle = (share + z**2 / (2 * observations)) / (1 + z**2 / observations)
    spread = share * (1 - share) / observations + z**2 / (4 * observations**2)
    half = z * float(np.sqrt(spread)) / (1 + z**2 / observations)
    return max(0.0, middle - half), min(1.0, middle + half)
