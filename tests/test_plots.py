"""What the figures show: the values behind the marks, and that nothing global is touched."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from clv import plots
from clv.evaluation import Report, decile_table, tier_table
from clv.plots.forecasts import _wilson
from clv.plots.style import INK, NAMED


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
    low, high = _wilson(0.1, 100)
    assert (low, high) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert _wilson(0.0, 10)[0] == 0.0


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
        lambda p, r: [bar.get_height() for bar in plots.decile_bars(decile_table(r, p, 1)).axes[0].patches],
        lambda p, r: plots.lorenz(r, p).axes[0].get_lines()[1].get_ydata(),
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
    figure = plots.decile_bars(decile_table(predicted * 2, predicted, seed=1), unit="EUR per customer")
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[:10] == pytest.approx(4.5 + 10 * np.arange(10))
    assert heights[10:] == pytest.approx(9 + 20 * np.arange(10))
    assert [text.get_text() for text in axes.texts] == ["2.00"] * 10
    assert axes.get_ylabel() == "EUR per customer (mean of decile)"
    assert axes.get_xlabel() == "predicted decile (10 = highest)"
    assert draws(figure)


def test_few_customers_have_fewer_bars_and_losses_no_ratio() -> None:
    table = decile_table(np.array([1.0, 1.0, -2.0]), np.array([1.0, 2.0, 3.0]), seed=1)
    (axes,) = plots.decile_bars(table).axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([1, 2, 3, 1, 1, -2])
    assert [text.get_text() for text in axes.texts] == ["1.00", "0.50", ""]


def test_the_whiskers_of_bars_are_the_ends_of_their_interval(rng: np.random.Generator) -> None:
    realised = rng.lognormal(size=200)
    predicted = realised * rng.lognormal(size=200)
    deciles = decile_table(realised, predicted, seed=1)
    tiers = tier_table(realised, predicted, {"key": 20, "rest": 180}, seed=1)
    for figure, table, side in (
        (plots.decile_bars(deciles), deciles, 1),
        (plots.tier_bars(tiers), tiers, 0),
    ):
        (whiskers,) = figure.axes[0].collections
        ends = np.array([path.vertices[:, side] for path in whiskers.get_paths()])
        assert ends == pytest.approx(table[["realised_low", "realised_high"]].to_numpy())
        assert draws(figure)


def test_tiers_stand_from_the_highest_down_with_their_sizes() -> None:
    table = tier_table(np.arange(10.0), np.arange(10.0), {"key": 2, "the rest": 8}, seed=1)
    (axes,) = plots.tier_bars(table, unit="EUR").axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([17, 28, 17, 28])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["key\n2", "the rest\n8"]
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "EUR (total of tier)"


def test_lorenz_curves_begin_with_the_least_valuable() -> None:
    realised, predicted = np.array([1.0, 0.0, 3.0, 4.0]), np.array([10.0, 20.0, 30.0, 40.0])
    forecast, by_forecast, own, equal = plots.lorenz(realised, predicted).axes[0].get_lines()
    assert forecast.get_ydata() == pytest.approx([0, 0.1, 0.3, 0.6, 1])
    assert by_forecast.get_ydata() == pytest.approx([0, 1 / 8, 1 / 8, 4 / 8, 1])
    assert own.get_ydata() == pytest.approx([0, 0, 1 / 8, 4 / 8, 1])
    assert list(equal.get_xdata()) == list(equal.get_ydata())
    assert draws(plots.lorenz(np.zeros(4), predicted))  # nothing realised: no curve, no error


def _course(**columns: list[float]) -> pd.DataFrame:
    base = {
        "day": [7, 14, 20],
        "date": pd.to_datetime(["2026-01-08", "2026-01-15", "2026-01-21"]),
        "realised_value": [10.0, 30.0, 40.0],
        "model_value": [20.0, 40.0, 60.0],
        "btyd_value": [15.0, 25.0, 30.0],
        "realised_orders": [1.0, 3.0, 4.0],
        "expected_orders": [2.0, 3.0, 5.0],
    }
    return pd.DataFrame(base | columns)


def test_the_course_begins_at_nothing_and_says_how_far_off_it_ends() -> None:
    figure = plots.course(_course(), unit="EUR")
    value, orders = figure.axes
    assert [line.get_ydata()[0] for axes in (value, orders) for line in axes.get_lines()] == [0] * 5
    assert value.get_lines()[0].get_ydata() == pytest.approx([0, 10, 30, 40])
    labels = [text.get_text() for axes in (value, orders) for text in axes.get_legend().get_texts()]
    assert labels == [
        "realised  40",
        "model  60  (+50.0%)",
        "btyd  30  (−25.0%)",
        "realised  4",
        "btyd  5  (+25.0%)",
    ]
    assert (value.get_ylabel(), orders.get_ylabel()) == ("EUR (running total)", "orders (running total)")
    assert draws(figure)


def test_a_course_without_a_purchase_model_shows_what_there_is() -> None:
    unknown = [float("nan")] * 3
    figure = plots.course(_course(btyd_value=unknown, expected_orders=unknown))
    assert [len(axes.get_lines()) for axes in figure.axes] == [2, 1]
    assert draws(figure)


def test_origins_show_rank_and_level_by_date_with_gaps_where_a_forecast_is_missing() -> None:
    def report(gini: float, *, with_btyd: bool) -> Report:
        row: dict[str, float | None] = {"normalised_gini": gini, "bias_ratio": 0.1}
        row |= {"normalised_gini_low": gini - 0.1, "normalised_gini_high": gini + 0.1}
        row |= {"bias_ratio_low": 0.0, "bias_ratio_high": None}
        return {"model": row, "last_period": row} | ({"btyd": row} if with_btyd else {})

    dates = [pd.Timestamp(2026, month, 1).date() for month in (1, 2, 3)]
    figure = plots.origins(dates, [report(g, with_btyd=g != 0.6) for g in (0.5, 0.6, 0.7)])
    gini, level = figure.axes
    by_name = {line.get_label(): line for line in gini.get_lines()}
    assert by_name["model"].get_ydata() == pytest.approx([0.5, 0.6, 0.7])
    assert by_name["btyd"].get_ydata() == pytest.approx([0.5, np.nan, 0.7], nan_ok=True)
    assert "last_period" not in {
        line.get_label() for line in level.get_lines()
    }  # a year's value, not a level
    assert [text.get_text() for text in gini.get_legend().get_texts()] == ["model", "last_period", "btyd"]
    assert draws(figure)


def test_a_forecast_has_one_colour_in_every_picture() -> None:
    realised = np.array([3.0, 2.0, 1.0])
    lines = plots.gains({"btyd": (realised, realised), "model": (realised, realised)}).axes[0].get_lines()
    assert {line.get_label().split()[0]: line.get_color() for line in lines[1:3]} == {
        "btyd": NAMED["btyd"],
        "model": NAMED["model"],
    }
    course = plots.course(_course()).axes[0].get_lines()
    assert [line.get_color() for line in course] == [INK, NAMED["model"], NAMED["btyd"]]
    mixed = (
        plots.gains(dict.fromkeys(["model", "logistic", "rate"], (realised, realised))).axes[0].get_lines()
    )
    assert len({line.get_color() for line in mixed[1:4]}) == 3


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


def test_shap_bars_are_mean_sizes_from_the_largest_down_and_the_rest_is_one_bar() -> None:
    phi = np.array([[1.0, -4.0, 0.0, 0.5, 0.1], [-1.0, 2.0, 0.0, 0.5, 0.1]])
    figure = plots.shap_bar(phi, ["b", "a", "none", "c", "d"], max_names=3, title="t", unit="points")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([3.0, 1.0, 0.6])
    assert [label.get_text() for label in axes.get_yticklabels()][:3] == ["a", "b", "2 smaller ones together"]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0.6"]
    assert axes.get_xlabel() == "points"
    assert draws(figure)
    assert draws(plots.shap_bar(np.zeros((3, 2)), ["a", "b"], title="nothing moves", unit="points"))


def test_shap_dependence_shows_the_features_that_move_most(rng: np.random.Generator) -> None:
    X = pd.DataFrame(rng.normal(size=(300, 4)), columns=["small", "large", "medium", "still"])
    X.loc[::5, "large"] = np.nan
    phi = X.fillna(0).to_numpy() * [1, 9, 3, 0]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    pictures = [plots.shap_dependence(phi, X, title="t", unit="u") for _ in range(2)]
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    shown = [axes for axes in pictures[0].axes if axes.get_visible() and axes.get_xlabel()]
    assert [axes.get_xlabel() for axes in shown] == ["large", "medium", "small"]
    dots = shown[1].collections[0].get_offsets()
    assert np.asarray(dots[:, 1]) == pytest.approx(3 * np.asarray(dots[:, 0]))
    again = next(axes for axes in pictures[1].axes if axes.get_xlabel() == "medium")
    assert (again.collections[0].get_offsets() == dots).all(), "the same picture twice"
    assert draws(pictures[0])
    assert draws(plots.shap_dependence(np.zeros((3, 1)), X.iloc[:3, :1], title="nothing moves", unit="u"))


def test_a_waterfall_leads_from_the_baseline_to_the_score_however_short_a_step_is() -> None:
    points = np.array([0.01, 12.0, -3.0, 0.0, 0.2, -0.3])
    one = plots.Waterfall("0a1b", 50.0, points, ["tiny", "most", "less", "none", "little", "bit"])
    figure = plots.shap_waterfalls([one, one], max_names=4, title="t", unit="points")
    axes = figure.axes[0]
    arrows = [patch.get_xy() for patch in axes.patches if type(patch).__name__ == "FancyArrow"]
    assert len(arrows) == 4
    arrows.sort(key=lambda xy: xy[:, 1].mean())  # from the baseline up
    ends = [(xy[:, 0].min(), xy[:, 0].max()) for xy in arrows]
    expected = [(50.0, 50.21), (49.91, 50.21), (46.91, 49.91), (46.91, 58.91)]
    assert np.array(ends) == pytest.approx(np.array(expected), abs=1e-6)
    names = [label.get_text() for label in axes.get_yticklabels()][:4]
    assert sorted(names) == sorted(["most", "less", "bit", "2 smaller ones together"])
    assert axes.get_title(loc="left") == "0a1b: typical 50.0 → score 58.9"
    assert draws(figure)


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


NO_FONTS_LETTER = "\U0010fffd"  # private to whoever uses it


def _two_tiers(names: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"tier": names, "customers": [1, 9], "contribution_margin": [5.0, 2.0]})


def _labels(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_names_in_letters_that_no_font_has_are_drawn_as_numbers() -> None:
    figure = plots.pyramid(_two_tiers([f"vip {NO_FONTS_LETTER}", "rest"]))
    assert _labels(figure) == ["1", "2"]
    assert draws(figure)


@pytest.mark.parametrize(
    "names", [["重要客户", "一般客户"], ["大切", "普通"], ["önemli", "küçük"], ["важные", "прочие"]]
)
def test_names_in_any_language_are_drawn_without_a_warning(names: list[str]) -> None:
    figure = plots.pyramid(_two_tiers(names))
    assert _labels(figure) in (names, ["1", "2"])
    assert draws(figure)


def test_an_installed_font_that_has_the_letters_stands_behind_the_usual_one(tmp_path: Path) -> None:
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "own"])
    builder.setupCharacterMap({ord(NO_FONTS_LETTER): "own"})
    pen = TTGlyphPen(None)
    for point in ((0, 0), (0, 700), (500, 700)):
        (pen.lineTo if pen.points else pen.moveTo)(point)
    pen.closePath()
    glyph = pen.glyph()
    builder.setupGlyf({".notdef": glyph, "own": glyph})
    builder.setupHorizontalMetrics({".notdef": (600, 0), "own": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Own Sans", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    path = tmp_path / "own.ttf"
    builder.save(path)
    font_manager.fontManager.addfont(path)
    try:
        figure = plots.pyramid(_two_tiers([f"vip {NO_FONTS_LETTER}", "rest"]))
        assert _labels(figure) == [f"vip {NO_FONTS_LETTER}", "rest"]
        assert figure.axes[0].get_yticklabels()[0].get_fontfamily()[-1] == "Own Sans"
        assert draws(figure)
    finally:
        fonts = font_manager.fontManager.ttflist
        fonts[:] = [font for font in fonts if font.name != "Own Sans"]


def test_figures_leave_pyplot_alone(rng: np.random.Generator) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    settings = {**mpl.rcParams, "backend": None}
    X = pd.DataFrame(rng.normal(size=(30, 2)), columns=["a", "b"])
    plots.shap_summary(X.to_numpy(), X)
    plots.shap_dependence(X.to_numpy(), X, title="t", unit="u")
    plots.shap_waterfalls([plots.Waterfall("a", 50.0, np.ones(2), ["b", "c"])], title="t", unit="points")
    plots.calibration([0.1, 0.2], [0.0, 1.0])
    assert plt.get_fignums() == []
    assert {**mpl.rcParams, "backend": None} == settings
