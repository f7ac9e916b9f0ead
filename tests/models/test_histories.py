"""Customers counted by their histories: nothing is lost, and the order of the rows leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clv.models import histories
from clv.models.histories import Coded, Histories, Orders, distinct_rows

Floats = NDArray[np.float64]
NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, 7.0, 1_000.0, 1e9, 0.5, 1 / 7, 30.25])


def customers(n: int = 900, seed: int = 3) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    T = rng.integers(10, 60, n).astype(np.float64)
    x = np.minimum(rng.poisson(1.2, n), 6).astype(np.float64)
    return x, np.where(x > 0, np.ceil(T * rng.random(n)), 0.0), T


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=40))
def test_distinct_rows_are_those_of_numpy(rows: list[tuple[float, float, float]]) -> None:
    table = np.array(rows)
    columns = [Coded.of(column) for column in table.T]
    for column, values in zip(columns, table.T, strict=True):
        np.testing.assert_array_equal(column.column, values)
        assert (np.diff(column.values) > 0).all()
    found, inverse, counts = distinct_rows(*columns)
    expected, expected_inverse, expected_counts = np.unique(
        table, axis=0, return_inverse=True, return_counts=True
    )
    np.testing.assert_array_equal(table[found], expected)
    np.testing.assert_array_equal(inverse, expected_inverse.ravel())
    np.testing.assert_array_equal(counts, expected_counts)


@pytest.mark.parametrize("dense", [0, 10**9])
def test_counting_and_sorting_find_the_same_rows(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "DENSE", dense)
    columns = [np.repeat(column, 3) for column in customers(50)]
    found, inverse, counts = distinct_rows(*(Coded.of(column) for column in columns))
    table = np.column_stack(columns)
    np.testing.assert_array_equal(table[found], np.unique(table, axis=0))
    np.testing.assert_array_equal(table[found][inverse], table)
    assert counts.sum() == 150


def test_more_combinations_than_a_whole_number_can_hold_are_still_told_apart() -> None:
    rng = np.random.default_rng(1)
    columns = [rng.random(300) for _ in range(9)]  # 300^9 > 2^63
    found, inverse, counts = distinct_rows(*(Coded.of(np.repeat(column, 2)) for column in columns))
    assert len(found) == 300
    assert (counts == 2).all()
    np.testing.assert_array_equal(np.repeat(columns[0], 2)[found][inverse], np.repeat(columns[0], 2))


def test_histories_count_every_customer_once_in_any_order() -> None:
    x, recency, T = customers()
    whole = Histories.of(x, recency, T)
    assert whole.customers == len(x)
    assert whole.purchases == x.sum()
    assert whole.weights[: whole.without_repeats].sum() == (x == 0).sum()
    assert (whole.columns[0][whole.without_repeats :] > 0).all()
    np.testing.assert_array_equal(whole.by_x, np.bincount(x.astype(int)))
    assert whole.by_T[1].sum() == x.sum()
    shuffled = np.random.default_rng(2).permutation(len(x))
    again = Histories.of(x[shuffled], recency[shuffled], T[shuffled])
    for one, other in zip((*whole.columns, whole.weights), (*again.columns, again.weights), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_portion_weighs_as_much_as_the_whole_with_and_without_repeats() -> None:
    whole = Histories.of(*customers(5_000))
    part = whole.portion(200)
    assert 150 <= len(part) <= 200
    assert part.customers == pytest.approx(whole.customers)
    assert part.weights[: part.without_repeats].sum() == pytest.approx(
        whole.weights[: whole.without_repeats].sum()
    )
    assert part.purchases == pytest.approx(whole.purchases, rel=0.1)
    assert whole.portion(len(whole)) is whole


@pytest.mark.parametrize("repeat_buyers", [0, 3, 997, 1_000])
def test_a_portion_takes_no_history_twice(repeat_buyers: int) -> None:
    T = np.arange(2.0, 1_002.0)
    x = (np.arange(1_000) < repeat_buyers) * 1.0
    part = Histories.of(x, x, T).portion(400)
    assert len(part) == 400
    assert len(np.unique(part.T.column)) == 400
    assert part.customers == pytest.approx(1_000)
    assert part.purchases == pytest.approx(repeat_buyers)


def test_halves_share_the_customers_of_every_history() -> None:
    whole = Histories.of(*customers())
    first, second = whole.halves()
    assert first.customers + second.customers == whole.customers
    assert abs(first.customers - second.customers) <= 1
    assert first.purchases == pytest.approx(second.purchases, rel=0.1)
    alone, nobody = Histories.of(*(np.array([number]) for number in (2.0, 3.0, 9.0))).halves()
    assert (alone.customers, nobody.customers) == (1, 0)


def test_orders_are_grouped_and_rise_in_any_order() -> None:
    x, _, _ = customers()
    totals = np.random.default_rng(4).gamma(2.0, 50.0, len(x))
    whole = Orders.of(x, x + 1, totals)
    assert whole.sizes.sum() == len(x)
    np.testing.assert_array_equal(whole.counts, whole.repeats + 1)
    np.testing.assert_allclose(whole.sums(whole.totals), np.bincount(x.astype(int), totals))
    np.testing.assert_allclose(
        whole.log_means, np.bincount(x.astype(int), np.log(totals / (x + 1))), rtol=1e-12
    )
    counts, means = whole.means
    assert sorted(means * counts) == pytest.approx(sorted(totals))
    shuffled = np.random.default_rng(2).permutation(len(x))
    again = Orders.of(x[shuffled], x[shuffled] + 1, totals[shuffled])
    np.testing.assert_array_equal(whole.totals, again.totals)
    part = whole.portion(100)
    assert len(part) == part.sizes.sum() == 100
    assert set(part.totals) <= set(whole.totals)
    assert part.means[1].mean() == pytest.approx(means.mean(), rel=0.1)
