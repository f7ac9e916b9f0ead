"""Scores on one learned scale, and the composite over what was measured."""

from __future__ import annotations

import json
import math
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clv import composite, scales
from clv.composite import Grading
from clv.errors import ModelError
from clv.scales import Scale

TABLE = settings(derandomize=True, deadline=None, max_examples=100, database=None)
TRAINED = date(2026, 1, 1)
KINDS = {
    "lifetime_value": "log",
    "payment": "payment",
    "contribution": "asinh",
    "order_amount": "log1p",
    "prospect": "log",
}
WEIGHTS = {"lifetime_value": 0.5, "payment": 0.3, "contribution": 0.2, "order_amount": 0.0}


def _values(n: int = 500) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    clv = rng.lognormal(6, 1.5, n)
    return {
        "lifetime_value": clv,
        "payment": rng.beta(1, 8, n),
        "contribution": clv * rng.normal(0.8, 0.5, n),
        "order_amount": np.where(rng.random(n) < 0.2, 0.0, clv * 6),
        "prospect": rng.lognormal(3, 1, n // 5),
    }


def _grading() -> Grading:
    return composite.fit(_values(), KINDS, {"lifetime_value": 400.0}, trained_as_of=TRAINED)


def _one(kind: str, values: list[float]) -> Scale:
    return composite.fit({"c": values}, {"c": kind}, {}, trained_as_of=TRAINED).scales["c"]


def test_scores_have_the_middle_and_spread_that_make_weights_mean_what_they_say() -> None:
    grading = _grading()
    for name, values in _values().items():
        scores = grading.scales[name].score(values)
        assert scores.mean() == pytest.approx(50, abs=0.2)
        assert scores.std() == pytest.approx(50 / 6, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "values", "unit", "transformed"),
    [
        ("log", [0.0, 10.0, 100.0], 10.9, [math.log(10.9), math.log(10.9), math.log(100)]),
        ("log", [-5.0, 0.0, 20.0], 5.0, [math.asinh(-1), 0.0, math.asinh(4)]),
        ("asinh", [-3.0, 1.0, 8.0], 3.0, [math.asinh(-1), math.asinh(1 / 3), math.asinh(8 / 3)]),
        ("asinh", [0.0, 0.0, 8.0], 8.0, [0.0, 0.0, math.asinh(1)]),
        ("log1p", [-4.0, 2.0, 6.0], 2.0, [0.0, math.log(2), math.log(4)]),
        ("log1p", [0.0, 0.0, 6.0], 6.0, [0.0, 0.0, math.log(2)]),
        ("payment", [0.0, 0.5, 0.99], 0.05, [0.0, math.log(0.5), math.log(0.05)]),
        ("record", [1.0, 0.5, 0.0], 0.05, [0.0, math.log(0.5), math.log(0.05)]),
    ],
)
def test_scale_is_the_stated_transform(
    kind: str, values: list[float], unit: float, transformed: list[float]
) -> None:
    scale = _one(kind, values)
    assert scale.unit == pytest.approx(unit)
    assert scale.mean == pytest.approx(np.mean(transformed))
    assert scale.sd == pytest.approx(np.std(transformed))
    expected = [50 + 50 * (x - np.mean(transformed)) / np.std(transformed) / 6 for x in transformed]
    assert scale.score(values).tolist() == pytest.approx(expected)


def test_value_turns_to_asinh_as_soon_as_one_is_negative() -> None:
    assert _one("log", [1.0, 2.0, 3.0]).kind == "log"
    assert _one("log", [-1.0, 2.0, 3.0]).kind == "asinh"


@TABLE
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=2, max_size=20),
)
def test_a_better_value_never_lowers_its_score(criterion: str, values: list[float]) -> None:
    ordered = np.sort(values)
    scores = _grading().scales[criterion].score(-ordered if criterion == "payment" else ordered)
    assert (np.diff(scores) >= 0).all()
    assert (scores >= 0).all()
    assert (scores <= 100).all()


def test_six_deviations_end_the_scale() -> None:
    scale = Scale("contribution", "asinh", 1.0, 0.0, 1.0, 0.0)
    assert scale.score([math.sinh(3.0), math.sinh(6.0), 1e300, -1e300]).tolist() == pytest.approx(
        [75, 100, 100, 0]
    )


def test_not_measured_stays_not_measured() -> None:
    assert np.isnan(_grading().scales["payment"].score([0.1, math.nan])).tolist() == [False, True]


@pytest.mark.parametrize("values", [[], [math.nan], [7.0, 7.0, math.nan], [-3.0, -9.0]])
def test_what_tells_nobody_apart_scores_50_for_everybody(values: list[float]) -> None:
    scale = _one("log1p", values)
    assert scale.score([0.0, 1e9, math.nan]).tolist()[:2] == [50.0, 50.0]
    assert math.isnan(scale.score([math.nan])[0])
    assert scale.baseline == 50.0


def test_tiny_differences_are_not_blown_up() -> None:
    scale = _one("payment", [0.010, 0.011, 0.012])
    assert scale.sd == scales.SD_FLOOR
    assert np.ptp(scale.score([0.010, 0.012])) < 0.5


def test_infinite_values_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(ModelError, match="finite values of c, found 1 infinite"):
        _one("log", [1.0, math.inf])
    with pytest.raises(ModelError, match="found 'cubic'"):
        _one("cubic", [1.0, 2.0])


def test_reference_customer_scores_the_baseline() -> None:
    grading = _grading()
    assert grading.baselines["lifetime_value"] == grading.scales["lifetime_value"].score(400.0)
    assert grading.scales["payment"].reference == np.median(_values()["payment"])


def test_learning_does_not_depend_on_the_order_of_rows() -> None:
    shuffled = {k: np.random.default_rng(1).permutation(v) for k, v in _values().items()}
    again = composite.fit(shuffled, KINDS, {"lifetime_value": 400.0}, trained_as_of=TRAINED)
    assert again == _grading()


def test_grading_comes_back_from_its_files_to_the_last_digit() -> None:
    assert Grading.from_files(_grading().to_files()) == _grading()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("scales"),
        lambda c: c["scales"][0].update(kind="cubic"),
        lambda c: c["scales"][0].update(sd=math.nan),
        lambda c: c["scales"][0].update(unit=0),
        lambda c: c["scales"][0].update(mean="high"),
        lambda c: c["scales"][0].update(extra=1),
        lambda c: c.update(trained_as_of="soon"),
    ],
)
def test_files_that_are_no_grading_are_refused(change) -> None:  # type: ignore[no-untyped-def]
    content = json.loads(_grading().to_files()["grading.json"])
    change(content)
    with pytest.raises(ModelError, match="Train again"):
        Grading.from_files({"grading.json": json.dumps(content)})


def test_customer_scores_the_same_alone_as_in_the_batch() -> None:
    frame = pd.DataFrame({k: v for k, v in _values().items() if k != "prospect"})
    frame.loc[::7, "payment"] = math.nan
    grading = _grading()

    def grade(rows: pd.DataFrame) -> pd.DataFrame:
        scores = grading.score(rows)
        return composite.compose(scores, WEIGHTS, set(WEIGHTS), grading.baselines, 0.6)

    batch = grade(frame)
    for row in (0, 7, 123, 499):
        pd.testing.assert_frame_equal(grade(frame.iloc[[row]]), batch.iloc[[row]], check_exact=True)
    turned = grade(frame[frame.columns[::-1]])
    pd.testing.assert_frame_equal(turned[batch.columns], batch, check_exact=True)


def test_criterion_unknown_to_the_grading_is_refused() -> None:
    with pytest.raises(ModelError, match="found loyalty"):
        _grading().score(pd.DataFrame({"loyalty": [1.0]}))


def test_missing_criterion_is_weighted_away_and_never_counts_as_zero() -> None:
    nan = math.nan
    scores = pd.DataFrame(
        {
            "lifetime_value": [60.0, 60.0, nan, nan],
            "payment": [40.0, nan, 40.0, nan],
            "contribution": [50.0, 50.0, nan, nan],
            "order_amount": [99.0, 99.0, 99.0, 99.0],
        },
        index=["a", "b", "c", "d"],
    )
    baselines = {"lifetime_value": 50.0, "payment": 45.0, "contribution": 40.0, "order_amount": 0.0}
    result = composite.compose(scores, WEIGHTS, list(WEIGHTS), baselines, 0.6)
    assert result.index.tolist() == ["a", "b", "c", "d"]
    assert result["composite_score"].tolist() == pytest.approx([52, 40 / 0.7, 40, nan], nan_ok=True)
    assert result["composite_baseline"].tolist() == pytest.approx([46.5, 33 / 0.7, 45, nan], nan_ok=True)
    assert result["coverage_ratio"].tolist() == [1.0, 0.7, 0.3, 0.0]
    assert result["is_provisional"].tolist() == [False, False, True, True]
    assert result["weight_payment"].tolist() == pytest.approx([0.3, 0, 1, 0])
    weights = result.filter(like="weight_").sum(axis=1)
    assert weights.tolist() == pytest.approx([1, 1, 1, 0])
    assert result["weight_order_amount"].tolist() == [0.0] * 4


def test_coverage_counts_only_what_the_company_switched_on() -> None:
    scores = pd.DataFrame({"lifetime_value": [60.0], "payment": [99.0]})
    result = composite.compose(
        scores, WEIGHTS, {"lifetime_value", "contribution"}, {"lifetime_value": 50.0}, 0.6
    )
    assert result["coverage_ratio"].tolist() == pytest.approx([0.5 / 0.7])
    assert result["composite_score"].tolist() == [60.0]
    assert result["weight_payment"].tolist() == [0.0]


def test_coverage_of_exactly_the_minimum_is_enough() -> None:
    weights = {"lifetime_value": 0.1, "payment": 0.2, "contribution": 0.3, "order_amount": 0.4}
    scores = pd.DataFrame({"lifetime_value": [50.0], "payment": [50.0], "contribution": [50.0]})
    result = composite.compose(scores, weights, set(weights), dict.fromkeys(weights, 50.0), 0.6)
    assert result["is_provisional"].tolist() == [False]


def test_single_criterion_can_grade_alone() -> None:
    scores = pd.DataFrame({"payment": [12.5, 80.0], "lifetime_value": [1.0, 1.0]})
    result = composite.compose(
        scores, {"payment": 1.0}, {"payment", "lifetime_value"}, {"payment": 50.0}, 0.6
    )
    assert result["composite_score"].tolist() == [12.5, 80.0]


SCORE = st.one_of(st.floats(0, 100), st.just(math.nan))


@TABLE
@given(st.lists(st.tuples(SCORE, SCORE, SCORE), min_size=1, max_size=8), st.integers(0, 2), st.floats(0, 100))
def test_improving_one_criterion_alone_never_lowers_the_composite(
    rows: list[tuple[float, float, float]], column: int, gain: float
) -> None:
    names = ["lifetime_value", "payment", "contribution"]
    before = pd.DataFrame(rows, columns=names, dtype="float64")
    after = before.copy()
    after[names[column]] = np.minimum(before[names[column]] + gain, 100)
    baselines = dict.fromkeys(names, 50.0)
    low, high = (
        composite.compose(s, WEIGHTS, names, baselines, 0.6)["composite_score"] for s in (before, after)
    )
    assert ((high >= low) | low.isna()).all()


def test_effective_weight_is_the_share_of_the_composite_it_decides() -> None:
    rng = np.random.default_rng(9)
    value = rng.normal(50, 8, 2000)
    scores = pd.DataFrame(
        {
            "lifetime_value": value,
            "payment": rng.normal(50, 8, 2000),
            "contribution": value + rng.normal(0, 2, 2000),
            "order_amount": value,
        }
    )
    effective = composite.effective_weights(scores, WEIGHTS)
    total = sum(WEIGHTS[c] * scores[c] for c in WEIGHTS)
    for name, weight in WEIGHTS.items():
        expected = weight * np.cov(scores[name], total)[0, 1] / total.var()
        assert effective[name] == pytest.approx(expected, abs=1e-9)
    assert sum(effective.values()) == pytest.approx(1)
    assert effective["payment"] < 0.2 < WEIGHTS["payment"]
    scores.loc[::3, "payment"] = math.nan
    assert sum(composite.effective_weights(scores, WEIGHTS).values()) == pytest.approx(1)


def test_effective_weights_of_equal_composites_are_unknown() -> None:
    scores = pd.DataFrame({"payment": [50.0, 50.0]})
    assert math.isnan(composite.effective_weights(scores, {"payment": 1.0})["payment"])


def test_criteria_that_say_the_same_are_named() -> None:
    rng = np.random.default_rng(9)
    value = rng.normal(50, 8, 500)
    scores = pd.DataFrame(
        {
            "lifetime_value": value,
            "payment": rng.normal(50, 8, 500),
            "contribution": value + rng.normal(0, 2, 500),
            "order_amount": np.full(500, 50.0),
            "prospect": np.full(500, math.nan),
        }
    )
    [(one, other, correlation)] = composite.correlated_pairs(scores)
    assert (one, other) == ("lifetime_value", "contribution")
    assert correlation == pytest.approx(np.corrcoef(value, scores["contribution"])[0, 1])
