"""The picture of size × loyalty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from clv.plots.letters import drawable
from clv.plots.style import BLUE, INK, MUTED, ORANGE, canvas, legend

if TYPE_CHECKING:
    from clv.settings.grading import QuadrantSettings


def quadrants(grades: pd.DataFrame, settings: QuadrantSettings) -> Figure:
    """Customers by size and chance to be still active, coloured by their quadrant; the disloyal ones in warm colours.

    `grades`: rows of the table `grades` in tiers. Sizes are drawn on a scale that is straight around zero and
    logarithmic beyond, so that losses have a place.
    """
    figure, axes = canvas(
        "Size × loyalty", "probability that the customer still buys", settings.size.replace("_", " ")
    )
    shown, fonts = drawable([name.replace("_", " ") for name in settings.names])
    colors = (BLUE, "#b8423f", "#8fb3dd", ORANGE)
    for name, drawn, color in zip(settings.names, shown, colors, strict=True):
        rows = grades[(grades["quadrant"] == name).to_numpy(bool)]
        label = f"{drawn}  {len(rows):,}"
        axes.scatter(
            rows["probability_active"], rows[settings.size], s=9, alpha=0.6, color=color, lw=0, label=label
        )
    size = grades[settings.size].abs()
    axes.set_yscale("symlog", linthresh=float(max(size.median(), 1.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.axvline(settings.minimum_probability_active, color=MUTED, lw=0.8)
    axes.axhline(0, color=INK, lw=0.8)
    legend(axes, loc="upper left", bbox_to_anchor=(0.0, -0.12), ncols=2)
    for text in axes.get_legend().get_texts():
        text.set_fontfamily(fonts)
    return figure
