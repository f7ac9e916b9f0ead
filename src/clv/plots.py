"""The figures logged beside a model: how well it is calibrated, what its ranking captures, what drives it.

Each function returns a matplotlib `Figure` made without pyplot, so nothing is global and nothing needs closing.
Rows with equal predictions share the mean of what they realised, so the order of the rows never shows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

if TYPE_CHECKING:
    from clv.settings.grading import QuadrantSettings

Floats = npt.NDArray[np.float64]

INK, MUTED, GRID = "#22303c", "#8a949e", "#e6e9ec"
BLUE, ORANGE = "#2f6db3", "#d9822b"
LINES = (BLUE, ORANGE, "#3d9970", "#8e5ea2", "#b8423f", "#7a7a52")


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
    figure, axes = _canvas(
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
    _legend(axes, loc="upper left")
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
    figure, axes = _canvas(title, f"{ranked}, best predicted first (share)", f"{held} (cumulative share)")
    oracle = np.asarray(next(iter(curves.values()))[0], dtype=float)
    styles = [{"color": color, "lw": 2.0} for color in LINES]
    drawn: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("oracle", oracle, oracle, {"color": INK, "lw": 1.2, "ls": (0, (4, 3))})
    ]
    drawn += [(name, *curves[name], styles[i % len(styles)]) for i, name in enumerate(curves)]
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
    _legend(axes, loc="lower right", title="held by the first 20 %")
    return figure


def decile_bars(
    predicted: npt.ArrayLike,
    realised: npt.ArrayLike,
    *,
    title: str = "Predicted against realised value by predicted decile",
    unit: str = "value per customer",
) -> Figure:
    """Mean predicted beside mean realised value of each predicted decile, the highest on the right."""
    forecast, outcome, _ = _ranked(predicted, realised)
    deciles = np.array_split(np.arange(len(forecast))[::-1], min(10, len(forecast)))
    position = np.arange(len(deciles))
    figure, axes = _canvas(title, "predicted decile (10 = highest)", f"{unit} (mean of decile)")
    for label, values, shift, color in (
        ("predicted", forecast, -0.2, BLUE),
        ("realised", outcome, 0.2, ORANGE),
    ):
        heights = [float(values[rows].mean()) for rows in deciles]
        axes.bar(position + shift, heights, width=0.38, color=color, label=label)
    axes.set_xticks(position, [str(i + 1) for i in position])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.axhline(0, color=INK, lw=0.8)
    axes.grid(False, axis="x")
    _legend(axes, loc="upper left")
    return figure


def shap_summary(
    phi: npt.ArrayLike,
    X: pd.DataFrame,
    max_features: int = 15,
    *,
    title: str = "What moves the prediction, by feature",
    unit: str = "contribution to the raw prediction",
) -> Figure:
    """The beeswarm of contributions `phi` (rows x features of `X`), drawn by the `shap` package.

    One dot is one row, coloured by the feature's value (grey where it is missing or no number); features are
    ordered by mean absolute contribution. Of more than 2,000 rows, 2,000 evenly spaced ones are drawn.
    """
    with warnings.catch_warnings():
        # shap builds its colour maps in a way matplotlib has announced to deprecate.
        warnings.filterwarnings("ignore", "The set_", PendingDeprecationWarning)
        import shap

    rows = np.unique(np.linspace(0, len(X) - 1, min(len(X), 2000)).round().astype(int))
    numbers = X.iloc[rows].apply(pd.to_numeric, errors="coerce").astype("float64")
    explanation = shap.Explanation(
        values=np.asarray(phi, dtype=float)[rows],
        data=numbers.to_numpy(),
        feature_names=[str(name) for name in X.columns],
    )
    shown = min(max_features, X.shape[1])
    figure, axes = _canvas(title, unit, "", size=(8.5, 1.6 + 0.36 * shown))
    state = np.random.get_state()  # noqa: NPY002 - shap jitters its dots with NumPy's global generator
    np.random.seed(0)  # noqa: NPY002
    try:
        shap.plots.beeswarm(
            explanation,
            max_display=shown,
            ax=axes,
            show=False,
            plot_size=None,
            s=10,
            alpha=0.8,
            color_bar_label="feature value",
            group_remaining_features=False,
        )
    finally:
        np.random.set_state(state)  # noqa: NPY002
    axes.set_xlabel(unit, fontsize=10, color=INK)
    axes.tick_params(axis="both", labelsize=9, labelcolor=INK)
    for other in figure.axes[1:]:
        other.tick_params(labelsize=9)
        other.set_ylabel("feature value", fontsize=9, color=INK, labelpad=0)
    return figure


def pyramid(tier_summary: pd.DataFrame, *, title: str = "Customers and profit by tier") -> Figure:
    """Each tier's share of customers beside its share of profit, as mirrored bars, the highest tier on top.

    `tier_summary` has a row per tier, highest first, with `tier`, `customers` (count) and `contribution_margin`
    (money; a tier that loses money has a negative share). Without a positive total no profit is drawn.
    """
    tiers = [str(tier) for tier in tier_summary["tier"]]
    customers = tier_summary["customers"].to_numpy(dtype=float)
    margin = tier_summary["contribution_margin"].to_numpy(dtype=float)
    shares = [
        values / values.sum() if values.sum() > 0 else np.zeros_like(values) for values in (customers, margin)
    ]
    figure = Figure(figsize=(8.5, 1.5 + 0.55 * len(tiers)), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    reach = 1.25 * max(float(share.max()) for share in shares) or 1.0
    starts = [min(0.0, float(share.min()) - 0.12 * reach * (share.min() < 0)) for share in shares]
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[reach - start for start in starts])
    position = np.arange(len(tiers))
    for axes, share, start, color, label in (
        (left, shares[0], starts[0], BLUE, "share of customers"),
        (right, shares[1], starts[1], ORANGE, "share of contribution margin"),
    ):
        _style(axes)
        axes.tick_params(axis="y", length=0)
        axes.barh(position, share, height=0.72, color=color)
        axes.set_xlabel(label, color=INK, fontsize=10)
        axes.set_xlim(start, reach)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.axvline(0, color=INK, lw=0.8)
        for y, value in enumerate(share):
            # The outer side of a bar: away from the middle axis, or beyond the end of a negative one.
            outside = (1 if value >= 0 else -1) * (-1 if axes is left else 1)
            axes.annotate(
                f"{value:.1%}".replace("-", "\N{MINUS SIGN}"),
                (value, y),
                xytext=(5 * outside, 0),
                textcoords="offset points",
                ha="left" if outside > 0 else "right",
                va="center",
                fontsize=9,
                color=INK,
            )
    left.invert_xaxis()
    left.set_yticks(position, tiers, fontsize=10)
    left.invert_yaxis()
    right.tick_params(labelleft=False)
    return figure


def quadrants(grades: pd.DataFrame, settings: QuadrantSettings) -> Figure:
    """Customers by size and chance to be still active, coloured by their quadrant; the disloyal ones in warm colours.

    `grades`: rows of the table `grades` in tiers. Sizes are drawn on a scale that is straight around zero and
    logarithmic beyond, so that losses have a place.
    """
    figure, axes = _canvas(
        "Size × loyalty", "probability that the customer still buys", settings.size.replace("_", " ")
    )
    for name, color in zip(settings.names, (BLUE, "#b8423f", "#8fb3dd", ORANGE), strict=True):
        rows = grades[(grades["quadrant"] == name).to_numpy(bool)]
        label = f"{name.replace('_', ' ')}  {len(rows):,}"
        axes.scatter(
            rows["probability_active"], rows[settings.size], s=9, alpha=0.6, color=color, lw=0, label=label
        )
    size = grades[settings.size].abs()
    axes.set_yscale("symlog", linthresh=float(max(size.median(), 1.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.axvline(settings.minimum_probability_active, color=MUTED, lw=0.8)
    axes.axhline(0, color=INK, lw=0.8)
    _legend(axes, loc="upper left", bbox_to_anchor=(0.0, -0.12), ncols=2)
    return figure


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


def _canvas(
    title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (7.5, 5.0)
) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    _style(axes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    axes.set_xlabel(xlabel, color=INK, fontsize=10)
    axes.set_ylabel(ylabel, color=INK, fontsize=10)
    return figure, axes


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, length=3)
    axes.grid(True, color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def _legend(axes: Any, **where: Any) -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, title_fontsize=9, **where)
