"""The check of our Shapley values against the package's, where the package is right and where it is not."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clv import drivers
from clv.models.shapley import TreeShapley

Floats = np.ndarray[Any, np.dtype[np.float64]]
CLOSE = 1e-9  # apart by less than single precision can tell


def of_close_values() -> tuple[lgb.Booster, Floats]:
    """A model that parts values which single precision takes for equal, and rows of them."""
    rng = np.random.default_rng(1)
    X = np.column_stack([25.9 + CLOSE * rng.integers(0, 2, 400), rng.normal(size=400)])
    y = (X[:, 0] > 25.9).astype(float) + 0.1 * X[:, 1]
    parameters = {
        "objective": "regression",
        "num_leaves": 4,
        "min_data_in_leaf": 5,
        "verbosity": -1,
        "seed": 1,
    }
    return lgb.train(parameters | {"num_threads": 1}, lgb.Dataset(X, y), num_boost_round=20), X


def test_where_single_precision_cannot_tell_values_apart_ours_equal_the_prediction_and_the_check_steps_aside() -> (
    None
):
    booster, X = of_close_values()
    reference = np.array([20.0, 0.0])
    ours = TreeShapley(booster, reference)
    found = ours.attribute(X)
    np.testing.assert_allclose(found.raw, booster.predict(X, raw_score=True), rtol=0, atol=1e-12)
    assert drivers._difference(booster, reference, X) > drivers.TOLERANCE  # the package's error
    moved = drivers._off(ours.thresholds, X)
    assert drivers._difference(booster, reference, moved) < 1e-7
    assert np.abs(moved - X).max() < 1e-3


@given(
    limits=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8, unique=True),
    nudge=st.floats(-1e-5, 1e-5),
)
def test_values_moved_off_thresholds_can_be_told_from_them(limits: list[float], nudge: float) -> None:
    thresholds = np.sort(np.array(limits))
    X = np.column_stack([thresholds * (1 + nudge), thresholds])
    moved = drivers._off({0: thresholds}, X)
    gap = np.abs(moved[:, :1] - thresholds).min(axis=1)
    assert (gap >= 0.9 * drivers.SINGLE * np.abs(moved[:, 0])).all()
    np.testing.assert_array_equal(moved[:, 1], X[:, 1])
