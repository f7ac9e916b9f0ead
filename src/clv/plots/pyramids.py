"""Tiers: how few customers hold how much."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from clv.plots.letters import drawable
from clv.plots.style import BLUE, INK, ORANGE, style


def pyramid(tier_summary: pd.DataFrame, *, title: str = "Customers and profit by tier") -> Figure:
    """Each tier's share of customers beside its share of profit, as mirrored bars, the highest tier on top.

    `tier_summary` has a row per tier, highest first, with `tier`, `customers` (count) and `contribution_margin`
    (money; a tier that loses money has a negative share). Without a positive total no profit is drawn. Names whose
    letters no installed font has are numbers, the highest tier 1.
    """
    tiers, fonts = drawable([str(tier) for tier in tier_summary["tier"]])
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
        style(axes)
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
    left.set_yticks(position, tiers, fontsize=10, fontfamily=fonts)
    left.invert_yaxis()
    right.tick_params(labelleft=False)
    return figure
