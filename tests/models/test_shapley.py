"""Shapley values: against their definition, against `shap` where that is exact, and their promises."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import permutations
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from clv.errors import ModelError
from clv.models import shapley
from clv.models.shapley import TreeShapley, coalition_shapley, linear_shapley

Array = np.ndarray[Any, np.dtype[np.float64]]


def train(X: Array, y: Array, rounds: int = 20, **parameters: Any) -> lgb.Booster:
    settled = {
        "objective": "regression", "num_leaves": 7, "min_data_in_leaf": 5, "learning_rate": 0.2, "seed": 3,
        "num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1,
    }  # fmt: skip
    data = lgb.Dataset(X, y, categorical_feature=parameters.pop("categorical_feature", []))
    return lgb.train({**settled, **parameters}, data, num_boost_round=rounds)


def raw_output(booster: lgb.Booster) -> Callable[[Array], Array]:
    return lambda rows: np.asarray(booster.predict(rows, raw_score=True, num_threads=1))


def by_permutations(f: Callable[[Array], Array], X: Array, reference: Array) -> Array:
    """The definition: a feature's mean effect over all orders of turning features from reference to own."""
    phi = np.zeros(X.shape)
    orders = list(permutations(range(X.shape[1])))
    for order in orders:
        rows = np.tile(reference, (len(X), 1))
        before = f(rows)
        for feature in order:
            rows[:, feature] = X[:, feature]
            after = f(rows)
            phi[:, feature] += (after - before) / len(orders)
            before = after
    return phi


def with_holes(X: Array, rng: np.random.Generator, share: float, hole: float = np.nan) -> Array:
    X = X.copy()
    X[rng.random(X.shape) < share] = hole
    return X


def invented(rng: np.random.Generator, n: int = 400, features: int = 4) -> tuple[Array, Array]:
    X = rng.normal(size=(n, features)).round(1)
    y = np.where(X[:, 0] > 0, X[:, 1] * 3, X[:, 2] ** 2) + X[:, -1] + rng.normal(scale=0.2, size=n)
    return X, y


def assert_exact(booster: lgb.Booster, X: Array, reference: Array) -> None:
    result = TreeShapley(booster, reference).attribute(X)
    f = raw_output(booster)
    np.testing.assert_allclose(result.raw, f(X), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.raw_reference, f(reference[None, :])[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.raw_reference + result.phi.sum(axis=1), result.raw, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.phi, by_permutations(f, X, reference), rtol=0, atol=1e-10)


@pytest.mark.parametrize("leaves", [2, 4, 7, 11])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_definition_without_missing_values(leaves: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, y = invented(rng)
    assert_exact(train(X, y, num_leaves=leaves), X[:60], np.median(X, axis=0))


@pytest.mark.parametrize("missing", [{}, {"zero_as_missing": True}, {"use_missing": False}])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_equals_the_definition_with_missing_values_in_rows_and_reference(
    missing: dict[str, bool], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    X, y = invented(rng)
    X = with_holes(with_holes(X, rng, 0.2), rng, 0.2, hole=0.0)
    booster = train(X, y, **missing)
    odd = np.array([0.0, -0.0, 1e-36, -1e-36, 1e-35, 2e-35, -2e-35, np.nan, np.inf, -np.inf, 1e300])
    rows = np.vstack([X[:40], rng.choice(odd, size=(40, X.shape[1]))])
    assert_exact(booster, rows, np.array([0.3, np.nan, 0.0, -0.2]))
    assert_exact(booster, rows, np.array([np.nan, 0.0, 0.4, np.nan]))


@pytest.mark.parametrize("missing_is_high", [True, False])
def test_missing_values_go_the_learned_default_way(missing_is_high: bool) -> None:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(300, 2))
    y = np.where(X[:, 0] > 0, 1.0, 0.0)
    X[:100, 0] = np.nan
    y[:100] = 1.0 if missing_is_high else 0.0
    booster = train(X, y, rounds=5, num_leaves=2)
    tree = booster.dump_model()["tree_info"][0]["tree_structure"]
    assert tree["missing_type"] == "NaN"
    assert tree["default_left"] is not missing_is_high
    rows = np.array([[np.nan, 0.0], [2.0, np.nan], [-2.0, 0.0]])
    assert_exact(booster, rows, np.array([-1.0, 0.0]))
    assert_exact(booster, rows, np.array([np.nan, 0.0]))


def test_missing_where_training_had_none_counts_as_zero() -> None:
    rng = np.random.default_rng(6)
    X, y = invented(rng)
    booster = train(X, y)
    assert booster.dump_model()["tree_info"][0]["tree_structure"]["missing_type"] == "None"
    reference = np.median(X, axis=0)
    explainer = TreeShapley(booster, reference)
    rows = with_holes(X[:50], rng, 0.4)
    np.testing.assert_array_equal(explainer.attribute(rows).phi, explainer.attribute(np.nan_to_num(rows)).phi)
    assert_exact(booster, rows, reference)


def test_a_feature_that_splits_twice_on_a_path_is_one_player() -> None:
    rng = np.random.default_rng(7)
    X = rng.uniform(-3, 3, size=(500, 2))
    booster = train(X, np.sin(2 * X[:, 0]) + 0.1 * X[:, 1], num_leaves=11)
    splits = [line for line in booster.model_to_string().splitlines() if line.startswith("split_feature=")]
    assert any(line.split("=")[1].split().count("0") > 4 for line in splits)
    assert_exact(booster, X[:80], np.array([0.1, -0.2]))


@settings(max_examples=40, deadline=None)
@given(
    rows=st_numpy.arrays(np.float64, (6, 3), elements=st.floats(allow_subnormal=True)),
    reference=st_numpy.arrays(np.float64, (3,), elements=st.floats(allow_subnormal=True)),
)
def test_any_double_is_explained_exactly(rows: Array, reference: Array) -> None:
    assert_exact(ANY_DOUBLE, rows, reference)


def _any_double_model() -> lgb.Booster:
    rng = np.random.default_rng(8)
    X, y = invented(rng, features=3)
    return train(with_holes(X, rng, 0.2), y, zero_as_missing=True)


ANY_DOUBLE = _any_double_model()


def test_equals_shap_on_rows_without_missing_values() -> None:
    rng = np.random.default_rng(9)
    X, y = invented(rng, n=1_000, features=12)
    booster = train(X, y, rounds=60)
    reference = np.median(X, axis=0)
    with warnings.catch_warnings():
        # shap's imports and its wording on LightGBM's output shape warn; neither concerns the numbers
        warnings.simplefilter("ignore")
        import shap

        explainer = shap.TreeExplainer(
            booster, data=reference[None, :], feature_perturbation="interventional"
        )
        theirs = explainer.shap_values(X[:200], check_additivity=False)
    # shap's own sums miss the prediction by up to 5e-7
    np.testing.assert_allclose(TreeShapley(booster, reference).attribute(X[:200]).phi, theirs, atol=5e-6)


@pytest.mark.parametrize("objective", ["regression", "binary", "tweedie"])
def test_link_scale_outputs_of_every_objective_used(objective: str) -> None:
    rng = np.random.default_rng(10)
    X, y = invented(rng)
    target = {"regression": y, "binary": (y > 1).astype(float), "tweedie": np.maximum(y, 0)}[objective]
    assert_exact(train(X, target, objective=objective), X[:40], np.median(X, axis=0))


def test_trees_of_one_leaf_are_a_constant() -> None:
    X = np.zeros((100, 2))
    booster = train(X, np.full(100, 3.5), rounds=3)
    result = TreeShapley(booster, np.zeros(2)).attribute(np.array([[1.0, 2.0], [np.nan, 0.0]]))
    np.testing.assert_allclose(result.raw, raw_output(booster)(np.zeros((2, 2))), atol=1e-12)
    assert result.raw_reference == result.raw[0]
    assert not result.phi.any()


def test_the_reference_row_itself_has_nothing_to_explain() -> None:
    rng = np.random.default_rng(11)
    X, y = invented(rng)
    reference = np.array([0.1, np.nan, 0.0, 0.3])
    result = TreeShapley(train(with_holes(X, rng, 0.1), y), reference).attribute(reference[None, :])
    assert result.raw[0] == result.raw_reference
    assert not result.phi.any()


def test_a_monotone_model_never_contradicts_its_fact() -> None:
    rng = np.random.default_rng(12)
    X, y = invented(rng, n=1_000)
    booster = train(X, y + 2 * X[:, 1] - X[:, 2], rounds=100, monotone_constraints=[0, 1, -1, 0])
    reference = np.median(X, axis=0)
    phi = TreeShapley(booster, reference).attribute(X).phi
    above = X - reference
    assert (phi[:, 1] * np.sign(above[:, 1]) >= -1e-12).all()
    assert (phi[:, 2] * np.sign(above[:, 2]) <= 1e-12).all()
    assert not phi[above == 0].any()


def test_a_row_is_explained_the_same_alone_as_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(13)
    X, y = invented(rng)
    explainer = TreeShapley(train(X, y, num_leaves=11), np.median(X, axis=0))
    whole = explainer.attribute(X)
    monkeypatch.setattr(shapley, "BLOCK_ROWS", 7)
    blocks = explainer.attribute(X)
    np.testing.assert_array_equal(blocks.phi, whole.phi)
    np.testing.assert_array_equal(blocks.raw, whole.raw)
    np.testing.assert_array_equal(explainer.attribute(X[5:6]).phi, whole.phi[5:6])
    assert explainer.attribute(X[:0]).phi.shape == (0, 4)


def test_models_without_tables_are_refused_by_name() -> None:
    rng = np.random.default_rng(14)
    X, y = invented(rng)
    reference = np.zeros(4)
    with pytest.raises(ModelError, match="at most 11 leaves, found 12"):
        TreeShapley(train(X, y, num_leaves=12), reference)
    category = np.column_stack([rng.integers(0, 6, len(X)), X[:, 1:]])
    with pytest.raises(ModelError, match="categorical"):
        TreeShapley(train(category, (category[:, 0] == 3) * 9.0, categorical_feature=[0]), reference)
    with pytest.raises(ModelError, match="linear"):
        TreeShapley(train(X, y, linear_tree=True), reference)
    with pytest.raises(ModelError, match="averaged"):
        TreeShapley(train(X, y, boosting="rf", bagging_freq=1, bagging_fraction=0.5), reference)
    with pytest.raises(ModelError, match="several outputs"):
        TreeShapley(train(X, np.digitize(y, [0, 1]), objective="multiclass", num_class=3), reference)


def test_rows_or_references_of_another_width_are_refused() -> None:
    rng = np.random.default_rng(15)
    booster = train(*invented(rng))
    with pytest.raises(ModelError, match="reference row of 4 features"):
        TreeShapley(booster, np.zeros(3))
    with pytest.raises(ModelError, match="rows of 4 features"):
        TreeShapley(booster, np.zeros(4)).attribute(np.zeros((2, 5)))


def test_linear_model_equals_the_definition() -> None:
    rng = np.random.default_rng(16)
    X, weights, reference = rng.normal(size=(20, 4)), rng.normal(size=4), rng.normal(size=4)
    result = linear_shapley(weights, 0.7, X, reference)
    f = lambda rows: rows @ weights + 0.7  # noqa: E731
    np.testing.assert_allclose(result.raw, f(X))
    np.testing.assert_allclose(result.raw_reference + result.phi.sum(axis=1), result.raw, atol=1e-12)
    np.testing.assert_allclose(result.phi, by_permutations(f, X, reference), atol=1e-12)


def test_coalitions_equal_the_definition_on_a_function_of_interactions() -> None:
    rng = np.random.default_rng(17)
    X, reference = rng.uniform(0.5, 2, size=(30, 4)), np.array([1.0, 1.5, 0.7, 1.2])
    f = lambda rows: rows[:, 0] * rows[:, 1] ** rows[:, 2] + np.maximum(rows[:, 3], rows[:, 0])  # noqa: E731
    result = coalition_shapley(f, X, reference)
    np.testing.assert_allclose(result.raw, f(X))
    np.testing.assert_allclose(result.raw_reference + result.phi.sum(axis=1), result.raw, atol=1e-12)
    np.testing.assert_allclose(result.phi, by_permutations(f, X, reference), atol=1e-12)
    assert coalition_shapley(f, X[:0], reference).raw_reference == f(reference[None, :])[0]
    with pytest.raises(ModelError, match="at most 6 inputs"):
        coalition_shapley(f, np.zeros((1, 7)), np.zeros(7))


def test_a_row_of_a_linear_model_is_explained_the_same_alone_as_among_all() -> None:
    rng = np.random.default_rng(18)
    X, weights = rng.normal(size=(1000, 23)), rng.normal(size=23)
    together = linear_shapley(weights, 0.7, X, X[0]).raw
    alone = [linear_shapley(weights, 0.7, X[i : i + 1], X[0]).raw[0] for i in range(len(X))]
    np.testing.assert_array_equal(together, alone)
