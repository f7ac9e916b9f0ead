"""Pictures of receivables: how old they are, how they age, why they are late, and where forecasts of lateness err.

Each takes a table of `portfolio` or of the payment model's test and returns a matplotlib `Figure`, as in `plots`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from clv.plots.style import BLUE, INK, LINES, MUTED, ORANGE, canvas, legend, style

SHOWN_GROUPS = 12  # in one picture of calibration; the largest
STANDARD_ERRORS = 1.96


def ageing(table: pd.DataFrame, currency: str) -> Figure:
    """Open balance by days beyond terms (`portfolio`'s table `ageing`), the shares and counts beside the bars."""
    figure, axes = canvas("What is owed, by days beyond terms", f"open balance in {currency}", "", (7.5, 3.6))
    amounts = table["amount_open"].to_numpy(dtype=float)
    position = np.arange(len(table))
    axes.barh(position, amounts, height=0.7, color=[BLUE, *[ORANGE] * (len(table) - 1)])
    axes.set_yticks(position, list(table["days_beyond_terms"]))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.28 * amounts.max() if amounts.max() > 0 else 1)
    for y, (amount, ratio, invoices) in enumerate(
        zip(amounts, table["amount_ratio"], table["invoices"], strict=True)
    ):
        share = f"{ratio:.1%}, " if np.isfinite(ratio) else ""
        _beside(axes, amount, y, f"{share}{_counted(invoices, 'invoice')}")
    _money(axes.xaxis)
    axes.grid(False, axis="y")
    return figure


def roll_rates(table: pd.DataFrame) -> Figure:
    """Where the money of each bucket was a month later: a row per bucket, its shares add up to 100 %."""
    names = list(dict.fromkeys(table["to_bucket"]))
    rows = list(dict.fromkeys(table["from_bucket"]))
    shares = table.pivot(index="from_bucket", columns="to_bucket", values="amount_ratio").loc[rows, names]
    figure, axes = canvas(
        "Where open money was a month later",
        "days beyond terms a month later",
        "days beyond terms",
        (7.5, 4.4),
    )
    values = shares.to_numpy(dtype=float)
    axes.imshow(np.nan_to_num(values), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.set_xticks(np.arange(len(names)), names)
    axes.set_yticks(np.arange(len(rows)), rows)
    for (y, x), share in np.ndenumerate(values):
        if np.isfinite(share) and share > 0:
            text = "<0.1%" if share < 0.0005 else f"{share:.1%}"
            axes.text(
                x, y, text, ha="center", va="center", fontsize=9, color="white" if share > 0.55 else INK
            )
    return figure


def roll_rates_by_month(table: pd.DataFrame) -> Figure:
    """Share of each bucket's money that rolled on into an older one within the month, by month."""
    figure, axes = canvas(
        "Share of open money that grew a bucket older", "from the start of", "share of the bucket"
    )
    for name, color in zip(table.columns[1:], LINES, strict=False):
        axes.plot(table["month"], table[name], color=color, lw=1.8, marker="o", ms=4, label=name)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(bottom=0, top=1.25 * max(0.1, float(np.nanmax(table.iloc[:, 1:].to_numpy(dtype=float)))))
    _months(axes, table["month"])
    legend(axes, loc="upper left", ncol=2)
    return figure


def outstanding(table: pd.DataFrame) -> Figure:
    """Days of sales outstanding, and the lateness of what fell due, by month (`portfolio`'s table `by_month`)."""
    figure = Figure(figsize=(7.5, 5.6), layout="constrained")
    figure.suptitle("Receivables by month", x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, column, color, label in (
        (upper, "dso_days", BLUE, "days of sales outstanding,\nstart of the month"),
        (lower, "mean_days_beyond_terms", ORANGE, "days beyond terms by amount,\ndue in the month before"),
    ):
        style(axes)
        axes.plot(table["month"], table[column], color=color, lw=2, marker="o", ms=4)
        axes.set_ylabel(label, fontsize=10, color=INK)
        known = table[column].to_numpy(dtype=float)
        known = known[np.isfinite(known)]
        if len(known):
            axes.set_ylim(min(0.0, 1.15 * known.min()), max(1.0, 1.15 * known.max()))
        axes.axhline(0, color=INK, lw=0.8)
    _months(lower, table["month"])
    return figure


def delay_reasons(table: pd.DataFrame, currency: str) -> Figure:
    """Late payments of the last year by recorded reason; beside the bars their money and mean days."""
    figure, axes = canvas(
        "Why payments were late", "late payments", "", (7.5, 1.6 + 0.42 * max(1, len(table)))
    )
    counts = table["payments"].to_numpy(dtype=float)
    position = np.arange(len(table))
    axes.barh(position, counts, height=0.7, color=ORANGE)
    axes.set_yticks(position, [str(reason).replace("_", " ") for reason in table["reason"]])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * counts.max() if len(counts) else 1)
    for y, row in enumerate(table.itertuples()):
        _beside(axes, row.payments, y, f"{row.amount:,.0f} {currency}, {row.mean_days_beyond_terms:.0f} days")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(False, axis="y")
    return figure


def calibration_by(table: pd.DataFrame, *, title: str) -> Figure:
    """Mean predicted beside mean realised per group, with the 95 % range in which a right forecast's rate would fall.

    `table`: evaluation.calibration_in_the_large; of more than 12 groups the largest are shown.
    """
    name = str(table.columns[0])
    if len(table) > SHOWN_GROUPS:
        table = table.nlargest(SHOWN_GROUPS, "rows").sort_values(name)
    figure, axes = canvas(title, name, "share paid late")
    position = np.arange(len(table))
    axes.errorbar(
        position,
        table["mean_predicted"],
        yerr=STANDARD_ERRORS * table["standard_error"],
        fmt="o",
        color=BLUE,
        ecolor="#a9c5e4",
        elinewidth=5,
        ms=6,
        label="predicted, 95 % range of the rate",
    )
    axes.plot(position, table["mean_realised"], "D", color=ORANGE, ms=6, label="realised")
    labels = [f"{value}\n{rows:,}" for value, rows in zip(table[name], table["rows"], strict=True)]
    slanted = {"rotation": 45, "ha": "right"} if len(table) > 7 else {}
    axes.set_xticks(position, labels, **slanted)
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_ylim(bottom=0, top=1.3 * float(table[["mean_predicted", "mean_realised"]].max(axis=None)) + 0.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_xlabel(f"{name}, and invoices judged")
    legend(axes, loc="upper left", ncol=2)
    return figure


def _beside(axes: Any, x: float, y: int, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9, color=INK)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _money(axis: Any) -> None:
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _months(axes: Any, months: pd.Series) -> None:
    shown = months.iloc[::2] if len(months) > 7 else months
    axes.set_xticks(list(shown), [f"{month:%Y-%m}" for month in shown])
    axes.tick_params(colors=MUTED, labelcolor=INK)
