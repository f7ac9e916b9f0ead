"""What drives a model: the contributions of its features."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from clv.plots.style import INK, canvas


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
    figure, axes = canvas(title, unit, "", size=(8.5, 1.6 + 0.36 * shown))
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
