"""What all figures share: colours, axes, legends."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

INK, MUTED, GRID = "#22303c", "#8a949e", "#e6e9ec"
BLUE, ORANGE = "#2f6db3", "#d9822b"
REALISED = "#aab4be"  # bars of what happened; as a line it is INK
LINES = (BLUE, ORANGE, "#3d9970", "#8e5ea2", "#b8423f", "#7a7a52")
NAMED = dict(zip(("model", "last_period", "btyd", "bgnbd"), LINES, strict=False))  # the same in every figure


def colours(names: list[str]) -> dict[str, str]:
    """Forecast -> its colour."""
    free = [colour for colour in LINES if colour not in {NAMED.get(name) for name in names}]
    others = [name for name in names if name not in NAMED]
    return {name: NAMED[name] for name in names if name in NAMED} | {
        name: free[i % len(free)] for i, name in enumerate(others)
    }


def canvas(
    title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (7.5, 5.0)
) -> tuple[Figure, Any]:
    """A figure with one pair of axes."""
    figure, (axes,) = panels(title, xlabel, [ylabel], size)
    return figure, axes


def panels(
    title: str, xlabel: str, ylabels: list[str], size: tuple[float, float]
) -> tuple[Figure, list[Any]]:
    """A figure with axes on top of each other that share their x."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    axes = list(figure.subplots(len(ylabels), 1, sharex=True, squeeze=False)[:, 0])
    for each, ylabel in zip(axes, ylabels, strict=True):
        style(each)
        each.set_ylabel(ylabel, color=INK, fontsize=10)
    axes[-1].set_xlabel(xlabel, color=INK, fontsize=10)
    return figure, axes


def style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, length=3)
    axes.grid(True, color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def legend(axes: Any, **where: Any) -> None:
    made = axes.legend(frameon=False, fontsize=9, labelcolor=INK, title_fontsize=9, **where)
    made.get_title().set_color(INK)
