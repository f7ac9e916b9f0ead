"""What drives a model and the grades: contributions, drawn by the `shap` package from our own exact values."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrow

from clv.plots.style import BLUE, INK, MUTED, canvas

DRAWN_ROWS = 2000  # dots of a picture: more only hide each other
WIDTH = 10.0  # inches of a waterfall
LABELS, PLOT = 0.42, 0.53  # the shares of them that names and steps take
SMALLEST_STEP = 1e-9
HEAD = 0.015  # of an arrow, as a share of its axes


@dataclass(frozen=True)
class Waterfall:
    """One customer: from `baseline`, step by step by `points` (named by `names`), to the sum of both."""

    title: str
    baseline: float
    points: npt.NDArray[np.float64]
    names: Sequence[str]


def load_shap() -> Any:
    """The package `shap`, imported when first used (4 s)."""
    with warnings.catch_warnings():
        # shap's modules warn about their own definitions, and build colour maps in a way matplotlib will deprecate.
        warnings.simplefilter("ignore")
        import shap
    return shap


def shap_summary(
    phi: npt.ArrayLike,
    X: pd.DataFrame,
    max_features: int = 15,
    *,
    title: str = "What moves the prediction, by feature",
    unit: str = "contribution to the raw prediction",
) -> Figure:
    """The beeswarm of contributions `phi` (rows x features of `X`).

    One dot is one row, coloured by the feature's value (grey where it is missing or no number); features are
    ordered by mean absolute contribution. Of more than 2,000 rows, 2,000 evenly spaced ones are drawn.
    """
    shown = min(max_features, X.shape[1])
    figure, axes = canvas(title, unit, "", size=(8.5, 1.6 + 0.36 * shown))
    shap = load_shap()
    with _same_dice():
        shap.plots.beeswarm(
            _explanation(phi, X),
            max_display=shown,
            ax=axes,
            show=False,
            plot_size=None,
            s=10,
            alpha=0.8,
            color_bar_label="feature value",
            group_remaining_features=False,
        )
    axes.set_xlabel(unit, fontsize=10, color=INK)
    axes.tick_params(axis="both", labelsize=9, labelcolor=INK)
    for other in figure.axes[1:]:
        other.tick_params(labelsize=9)
        other.set_ylabel("feature value", fontsize=9, color=INK, labelpad=0)
    return figure


def shap_bar(
    phi: npt.ArrayLike, names: Sequence[str], max_names: int = 15, *, title: str, unit: str
) -> Figure:
    """Mean absolute contribution by column of `phi` (rows x names), the largest on top; those that are 0 are left out.

    Of more columns than `max_names` the smallest are one bar, the sum of their means.
    """
    contributions = np.asarray(phi, dtype=np.float64)
    used = np.flatnonzero(np.abs(contributions).max(axis=0, initial=0.0) > 0)
    if not len(used):
        used = np.arange(min(1, contributions.shape[1]))
    shown = min(max_names, len(used))
    figure, axes = canvas(title, unit, "", size=(8.5, 1.4 + 0.36 * shown))
    shap = load_shap()
    found = shap.Explanation(values=contributions[:, used], feature_names=[names[int(i)] for i in used])
    shap.plots.bar(found, max_display=shown, ax=axes, show=False)
    axes.set_xlabel(unit, fontsize=10, color=INK)
    axes.tick_params(axis="both", labelsize=9, labelcolor=INK)
    _name_the_rest(axes, len(used) - shown + 1)
    for text in axes.texts:
        text.set_fontsize(9)
        text.set_text(text.get_text().removeprefix("+"))  # a mean of sizes has no direction
    return figure


def shap_dependence(
    phi: npt.ArrayLike, X: pd.DataFrame, max_features: int = 6, *, title: str, unit: str
) -> Figure:
    """Contribution over value, a dot per row, of the features of `X` with the largest mean absolute contribution.

    A dash at the left edge is a row without the value; the grey bars show how the values lie. The widest hundredth
    of the values is outside the picture. Of more than 2,000 rows, 2,000 evenly spaced ones are drawn.
    """
    found = _explanation(phi, X)
    size = np.abs(found.values).mean(axis=0)
    order = np.argsort(-size, kind="stable")[: min(max_features, int((size > 0).sum()))]
    across = min(3, max(1, len(order)))
    down = max(1, -(-len(order) // across))
    shap = load_shap()
    with _pyplot((3.6 * across + 0.6, 2.9 * down + 0.7), constrained=True) as figure, _same_dice():
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        for i, axes in enumerate(grid.flat):
            if i >= len(order):
                axes.set_visible(False)
                continue
            known = found.data[np.isfinite(found.data[:, order[i]]), order[i]]
            far = np.quantile(known, [0.005, 0.995]) if len(known) else (0.0, 1.0)
            shap.plots.scatter(
                found[:, int(order[i])],
                color=BLUE,
                dot_size=8,
                alpha=0.5,
                ax=axes,
                show=False,
                xmin=float(far[0]) if far[0] < far[1] else None,
                xmax=float(far[1]) if far[0] < far[1] else None,
            )
            axes.set_xlabel(found.feature_names[order[i]], fontsize=9, color=INK)
            axes.set_ylabel("")
            axes.tick_params(labelsize=8, color=MUTED, labelcolor=INK, labelleft=i % across == 0)
            axes.locator_params(axis="x", nbins=5)
        figure.supylabel(unit, fontsize=10, color=INK)
    return figure


def shap_waterfalls(shown: Sequence[Waterfall], max_names: int = 8, *, title: str, unit: str) -> Figure:
    """Customers below each other: how the contributions lead from the reference customer's score to their own.

    Of more contributions than `max_names` the smallest are one step.
    """
    shown = [_moved(each) for each in shown]
    rows = [min(max_names, len(each.points)) for each in shown]
    heights = [0.34 * n + 0.9 for n in rows]
    height = sum(heights) + 0.6
    shap = load_shap()
    with _pyplot((WIDTH, height), constrained=False) as figure:
        figure.suptitle(
            title, x=0.01, y=1 - 0.12 / height, va="top", ha="left", fontsize=13, fontweight="bold", color=INK
        )
        top = height - 0.55
        for each, n, tall in zip(shown, rows, heights, strict=True):
            axes = figure.add_axes((LABELS, (top - tall + 0.5) / height, PLOT, 0.34 * n / height))
            figure.sca(axes)
            shap.plots.waterfall(
                shap.Explanation(
                    values=each.points, base_values=each.baseline, feature_names=list(each.names)
                ),
                max_display=max_names,
                show=False,
            )
            _dress(figure, axes, each, n)
            top -= tall
        figure.supxlabel(unit, x=0.99, y=0.1 / height, ha="right", fontsize=10, color=INK)
        figure.set_size_inches(WIDTH, height)  # each waterfall sets the size that it would have alone
    return figure


def _moved(shown: Waterfall) -> Waterfall:
    """Without the steps that go nowhere; one of them stays where nothing else does."""
    steps = np.flatnonzero(np.abs(shown.points) > SMALLEST_STEP)
    steps = steps if len(steps) else np.arange(min(1, len(shown.points)))
    return replace(shown, points=shown.points[steps], names=[shown.names[int(i)] for i in steps])


def _dress(figure: Figure, axes: Any, shown: Waterfall, steps: int) -> None:
    """A waterfall in the style of the other pictures, in the words of a score rather than of expectations."""
    for other in figure.axes[-2:]:  # the axes that hold E[f(X)] and f(x)
        other.set_axis_off()
    score = shown.baseline + float(shown.points.sum())
    axes.set_title(
        f"{shown.title}: typical {shown.baseline:.1f} → score {score:.1f}", loc="left",
        x=0.01 - LABELS / PLOT, y=1.02, fontsize=10, fontweight="bold", color=INK, pad=2,
    )  # fmt: skip
    axes.tick_params(axis="both", labelsize=9, labelcolor=INK)
    axes.spines["bottom"].set_color(MUTED)
    _name_the_rest(axes, len(shown.points) - steps + 1)
    for text in axes.texts:
        text.set_fontsize(9)
    _mend_arrows(axes, shown, steps)


def _name_the_rest(axes: Any, count: int) -> None:
    """What shap calls other features are none of ours."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    rest = f"{count} smaller ones together"
    axes.set_yticks(axes.get_yticks(), [rest if name.endswith(" other features") else name for name in names])


def _mend_arrows(axes: Any, shown: Waterfall, steps: int) -> None:
    """Every arrow from its start to its end: shap turns those around that are shorter than an arrow's head."""
    sizes = shown.points[np.argsort(-np.abs(shown.points))]
    if steps < len(sizes):
        sizes = np.append(sizes[: steps - 1], sizes[steps - 1 :].sum())
    ends = shown.baseline + np.cumsum(sizes[::-1])[::-1]
    head = HEAD * float(np.ptp(axes.get_xlim()))
    for arrow in axes.patches:
        if isinstance(arrow, FancyArrow):
            i = steps - 1 - round(float(arrow.get_xy()[:, 1].mean()))
            tip = min(head, abs(float(sizes[i])))
            shaft = max(abs(float(sizes[i])) - tip, 1e-9) * np.sign(sizes[i])
            arrow.set_data(x=ends[i] - sizes[i], dx=shaft, head_length=tip)


def _explanation(phi: npt.ArrayLike, X: pd.DataFrame) -> Any:
    """shap's own container of our values: at most DRAWN_ROWS rows, what is no number as missing."""
    rows = evenly(len(X), DRAWN_ROWS)
    numbers = X.iloc[rows].apply(pd.to_numeric, errors="coerce").astype("float64")
    return load_shap().Explanation(
        values=np.asarray(phi, dtype=np.float64)[rows],
        data=numbers.to_numpy(),
        feature_names=[str(name) for name in X.columns],
    )


def evenly(n: int, most: int) -> npt.NDArray[np.intp]:
    """At most so many of n positions, evenly spaced, so that every part of a table is seen."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.intp))


@contextmanager
def _same_dice() -> Iterator[None]:
    """shap jitters and shuffles its dots with NumPy's global generator: the same picture twice, and no trace of it."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def _pyplot(size: tuple[float, float], *, constrained: bool) -> Iterator[Figure]:
    """A figure that pyplot knows within the block, where shap draws by it alone; pyplot is left as it was."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    backend = mpl.get_backend()
    with plt.rc_context():
        plt.switch_backend("agg")
        figure = plt.figure(figsize=size, layout="constrained" if constrained else None)
        try:
            yield figure
        finally:
            plt.close(figure)
    plt.switch_backend(backend)
