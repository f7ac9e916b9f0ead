"""Weights from comparisons in pairs: Saaty's method, by his own example and by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clv.pairwise import compare

TABLE = settings(derandomize=True, deadline=None, max_examples=60, database=None)

# Saaty (1980), choice of a school: six criteria.
SCHOOL = {
    "learning/friends": 4, "learning/school_life": 3, "learning/vocational": 1, "learning/college": 3,
    "learning/music": 4, "friends/school_life": 7, "friends/vocational": 3, "friends/college": 1 / 5,
    "friends/music": 1, "school_life/vocational": 1 / 5, "school_life/college": 1 / 5, "school_life/music": 1 / 6,
    "vocational/college": 1, "vocational/music": 1 / 3, "college/music": 3,
}  # fmt: skip


def consistent(weights: dict[str, float]) -> dict[str, float]:
    return {f"{a}/{b}": weights[a] / weights[b] for a, b in combinations(sorted(weights), 2)}


def test_consistent_answers_give_their_weights_back() -> None:
    found = compare({"anna": consistent({"a": 0.5, "b": 0.3, "c": 0.2})})
    assert found.weights == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2})
    assert found.consistency_ratio == pytest.approx(0, abs=1e-12)


def test_three_criteria_by_hand() -> None:
    # a = 2b, b = 2c, a = 6c: the cyclic product is 6/4 = 1.5, so λ = 1 + 1.5^(1/3) + 1.5^(-1/3).
    found = compare({"anna": {"a/b": 2, "b/c": 2, "a/c": 6}})
    largest = 1 + 1.5 ** (1 / 3) + 1.5 ** (-1 / 3)
    assert found.consistency_ratio == pytest.approx((largest - 3) / 2 / 0.58)
    # For three criteria the eigenvector is the geometric mean of the rows.
    rows = {"a": (2 * 6) ** (1 / 3), "b": (2 / 2) ** (1 / 3), "c": (1 / 12) ** (1 / 3)}
    assert found.weights == pytest.approx({k: v / sum(rows.values()) for k, v in rows.items()})


def test_saatys_school_example_contradicts_itself_and_names_its_worst_pair() -> None:
    names = sorted({name for pair in SCHOOL for name in pair.split("/")})
    matrix = np.ones((6, 6))
    for pair, ratio in SCHOOL.items():
        i, j = (names.index(name) for name in pair.split("/"))
        matrix[i, j], matrix[j, i] = ratio, 1 / ratio
    ratio = (max(np.linalg.eigvals(matrix).real) - 6) / 5 / 1.24
    assert ratio == pytest.approx(0.23, abs=0.01)  # published as 0.24
    with pytest.raises(
        ValueError, match=rf"pairwise\.anna: consistency ratio {ratio:.2f}, below 0\.10 is needed"
    ):
        compare({"anna": SCHOOL})
    with pytest.raises(
        ValueError, match=r"learning/school_life is 3, the other answers make it 9\.2; ask again"
    ):
        compare({"anna": SCHOOL})


def test_several_judges_are_joined_by_the_geometric_mean() -> None:
    one, other = {"a": 0.8, "b": 0.2}, {"a": 0.2, "b": 0.8}
    joined = compare({"anna": consistent(one), "ben": consistent(other)})
    assert joined.weights == pytest.approx({"a": 0.5, "b": 0.5})
    thrice = compare({"anna": {"a/b": 8}, "ben": {"a/b": 1}, "eva": {"a/b": 1}})
    assert thrice.weights["a"] / thrice.weights["b"] == pytest.approx(2.0)


@TABLE
@given(st.lists(st.floats(0.06, 0.3), min_size=2, max_size=6))
def test_weights_sum_to_one_in_the_order_of_importance(parts: list[float]) -> None:
    given_weights = {f"c{i}": part for i, part in enumerate(parts)}
    found = compare({"anna": consistent(given_weights)}).weights
    assert math.fsum(found.values()) == pytest.approx(1)
    assert found == pytest.approx({k: v / sum(parts) for k, v in given_weights.items()})


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"a/b": 2, "b/c": 2}, "expected every pair, a/c is missing"),
        ({"a/b": 2, "b/a": 2}, "is compared twice"),
        ({"a/b": 12}, "expected a ratio from 1/9 to 9, found 12"),
        ({"ab": 2}, "expected a pair such as"),
    ],
)
def test_answers_that_cannot_be_used_are_named(answers: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare({"anna": answers})


def test_no_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one judge"):
        compare({})
