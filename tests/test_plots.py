"""What the figures show: the values behind the marks, and that nothing global is touched."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from clv import plots


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def draws(figure: Figure) -> bool:
    """Whether the figure can be rendered; drawing also lays it out."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=40)
    return target.getvalue().startswith(b"\x89PNG")


def test_calibration_puts_weighted_decile_means_on_the_axes(rng: np.random.Generator) -> None:
    predicted = np.repeat([0.1, 0.5], 500)
    realised = np.concatenate([np.arange(500) < 50, np.arange(500) < 100]).astype(float)
    weights = np.concatenate([np.ones(500), np.where(np.arange(500) < 100, 4.0, 1.0)])
    figure = plots.calibration(predicted, realised, weights, title="Late payment", bins=2)
    (axes,) = figure.axes
    points = axes.containers[0].lines[0].get_xydata()
    assert points == pytest.approx(np.array([[0.1, 0.1], [0.5, 0.5]]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "predicted probability (mean of decile)",
        "realised share (mean of decile)",
    )
    assert title(figure) == "Late payment"
    assert draws(figure)


def test_calibration_intervals_are_wilsons() -> None:
    # 10 of 100: Wilson's 95 % interval is 0.0552 to 0.1744
    low, high = plots._wilson(0.1, 100)
    assert (low, high) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert plots._wilson(0.0, 10)[0] == 0.0


def test_calibration_ignores_rows_without_weight() -> None:
    figure = plots.calibration([0.2, 0.2, 0.9], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], bins=1)
    points = figure.axes[0].containers[0].lines[0].get_xydata()
    assert points == pytest.approx(np.array([[0.2, 0.5]]))


def test_gains_show_the_share_held_by_the_first_fifth_beside_the_oracle() -> None:
    realised = np.array([50.0, 20.0, 10.0, 10.0, 10.0])
    figure = plots.gains({"model": (realised, [5, 4, 3, 2, 1]), "last_period": (realised, [1, 2, 3, 4, 5])})
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["oracle  50%", "model  50%", "last_period  10%", "random  20%"]
    curve = axes.get_lines()[2].get_xydata()
    assert curve[:, 0] == pytest.approx(np.linspace(0, 1, 6))
    assert curve[:, 1] == pytest.approx([0, 0.1, 0.2, 0.3, 0.5, 1.0])
    assert axes.get_xlabel() == "customers, best predicted first (share)"
    assert axes.get_ylabel() == "realised value (cumulative share)"
    assert draws(figure)


def test_equal_predictions_are_drawn_the_same_in_any_row_order(rng: np.random.Generator) -> None:
    predicted, realised = rng.integers(0, 4, 400).astype(float), rng.lognormal(size=400)
    order = rng.permutation(400)
    for draw in (
        lambda p, r: plots.gains({"model": (r, p)}).axes[0].get_lines()[1].get_ydata(),
        lambda p, r: [bar.get_height() for bar in plots.decile_bars(p, r).axes[0].patches],
    ):
        assert draw(predicted[order], realised[order]) == pytest.approx(draw(predicted, realised), rel=1e-12)


def test_gains_of_a_large_population_stay_light(rng: np.random.Generator) -> None:
    realised = rng.lognormal(size=50_000)
    figure = plots.gains({"model": (realised, realised + rng.normal(size=50_000))})
    assert max(len(line.get_xdata()) for line in figure.axes[0].get_lines()) <= 1001


def test_gains_without_realised_value_are_flat() -> None:
    figure = plots.gains({"model": ([0.0, 0.0], [1.0, 2.0])})
    assert figure.axes[0].get_lines()[1].get_ydata() == pytest.approx([0, 0, 0])


def test_decile_bars_rise_to_the_right_with_the_prediction() -> None:
    predicted = np.arange(100, dtype=float)
    figure = plots.decile_bars(predicted, predicted * 2, unit="EUR per customer")
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[:10] == pytest.approx(4.5 + 10 * np.arange(10))
    assert heights[10:] == pytest.approx(9 + 20 * np.arange(10))
    assert axes.get_ylabel() == "EUR per customer (mean of decile)"
    assert axes.get_xlabel() == "predicted decile (10 = highest)"
    assert draws(figure)


def test_few_customers_have_fewer_bars() -> None:
    figure = plots.decile_bars([1.0, 2.0, 3.0], [1.0, 1.0, -2.0])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [1, 2, 3, 1, 1, -2]


def test_shap_summary_orders_features_by_mean_absolute_contribution(rng: np.random.Generator) -> None:
    X = pd.DataFrame(rng.normal(size=(300, 4)), columns=["small", "large", "medium", "tiny"])
    X.loc[::5, "large"] = np.nan
    X["segment"] = "retail"
    phi = np.column_stack([X[["small", "large", "medium", "tiny"]].fillna(0) * [1, 9, 3, 0.1], np.zeros(300)])
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    figure = plots.shap_summary(phi, X, max_features=3)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    axes = figure.axes[0]
    bottom_up = [label.get_text() for label in axes.get_yticklabels()]
    assert bottom_up == ["small", "medium", "large"]
    dots = [len(collection.get_offsets()) for collection in axes.collections]
    assert dots == [0, 300, 0, 300, 60, 240]  # without and with a value, feature by feature
    assert axes.get_xlabel() == "contribution to the raw prediction"
    assert draws(figure)


def test_shap_summary_is_the_same_picture_twice(rng: np.random.Generator) -> None:
    X = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    first, second = (plots.shap_summary(X.to_numpy(), X).axes[0].collections[1] for _ in range(2))
    assert (first.get_offsets() == second.get_offsets()).all()


def test_shap_summary_draws_at_most_two_thousand_rows(rng: np.random.Generator) -> None:
    X = pd.DataFrame(rng.normal(size=(5000, 1)), columns=["a"])
    dots = plots.shap_summary(X.to_numpy(), X).axes[0].collections
    assert sum(len(collection.get_offsets()) for collection in dots) == 2000


def test_pyramid_mirrors_customers_and_profit() -> None:
    tiers = pd.DataFrame(
        {
            "tier": ["important", "main", "ordinary", "small"],
            "customers": [1, 19, 30, 50],
            "contribution_margin": [400.0, 500.0, 150.0, -50.0],
        }
    )
    figure = plots.pyramid(tiers)
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0.01, 0.19, 0.30, 0.50])
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.40, 0.50, 0.15, -0.05])
    assert [label.get_text() for label in left.get_yticklabels()] == list(tiers["tier"])
    assert left.xaxis_inverted()
    assert left.yaxis_inverted()  # the highest tier on top
    assert [text.get_text() for text in right.texts] == ["40.0%", "50.0%", "15.0%", "−5.0%"]
    assert (left.get_xlabel(), right.get_xlabel()) == ("share of customers", "share of contribution margin")
    assert draws(figure)


def test_pyramid_without_profit_draws_no_shares_of_it() -> None:
    tiers = pd.DataFrame({"tier": ["a", "b"], "customers": [1, 9], "contribution_margin": [-5.0, 2.0]})
    figure = plots.pyramid(tiers)
    assert [bar.get_width() for bar in figure.axes[1].patches] == [0, 0]
    assert draws(figure)


def test_figures_leave_pyplot_alone(rng: np.random.Generator) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    settings = {**mpl.rcParams, "backend": None}
    X = pd.DataFrame(rng.normal(size=(30, 2)), columns=["a", "b"])
    plots.shap_summary(X.to_numpy(), X)
    plots.calibration([0.1, 0.2], [0.0, 1.0])
    assert plt.get_fignums() == []
    assert {**mpl.rcParams, "backend": None} == settings
