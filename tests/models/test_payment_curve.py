"""The curve of payment: worked by hand, against the sums it stands for, and learned from a known world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clv.config import PaymentSettings
from clv.models.payment_curve import (
    Chances,
    Periods,
    edges_of,
    exceedance,
    hurdle_periods,
    median_days,
    restricted_mean_days,
)
from clv.models.payment_features import FEATURES

EDGES = edges_of(PaymentSettings())
CAP = 180


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_thresholds_and_cap_are_edges() -> None:
    assert {-1, 0, 30, 60, 90} <= set(EDGES.tolist())
    assert EDGES[-1] == CAP
    other = edges_of(PaymentSettings(late_after_days=10, thresholds_days=[3, 45], cap_days=90))
    assert other.tolist() == [-30, -14, -7, -1, 0, 3, 7, 10, 25, 40, 45, 70, 90]


def test_periods_hold_the_days_on_which_an_invoice_might_have_been_paid() -> None:
    """Edges 0, 7, 30. Due in 2 days and paid on the 5th day late; open 10 days late, last seen unpaid 20 days late."""
    edges = np.array([0, 7, 30])
    found = Periods.cut(edges, after=floats(-3, 9), until=floats(5, 20), is_paid=np.array([True, False]))
    assert found.row.tolist() == [0, 0, 1]
    assert found.stretch.tolist() == [0, 1, 2]
    assert found.days.tolist() == [3, 5, 11]
    assert found.is_paid.tolist() == [0, 1, 0]


def test_periods_of_late_invoices_begin_behind_the_threshold_and_those_of_others_end_before_it() -> None:
    edges = np.array([0, 7, 30, 60])
    found = hurdle_periods(
        edges, 30, floats(-3, -3, -3), floats(45, 5, 29), floats(1, 0, 0), np.array([True, True, True])
    )
    rows = list(zip(found.row, found.stretch, found.days, found.is_paid, strict=True))
    assert rows == [(0, 3, 15, 1), (1, 0, 3, 0), (1, 1, 5, 1), (2, 0, 3, 0), (2, 1, 7, 0)]


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.floats(0.05, 1.0), min_size=len(EDGES), max_size=len(EDGES)),
    overdue=st.integers(-60, 200),
)
def test_mean_and_median_are_those_of_the_daily_curve(steps: list[float], overdue: int) -> None:
    """The slow twin: the curve written out day by day."""
    after = float(overdue - 1)
    edges = EDGES.tolist()
    factors = [step if edge > after else 1.0 for step, edge in zip(steps, edges, strict=True)]
    unpaid = np.cumprod(factors)[None, :]
    days = np.arange(-100, CAP + 1)
    daily = np.ones(len(days))
    low = after
    level = 1.0
    for edge, value in zip(edges, unpaid[0], strict=True):
        if edge <= low:
            continue
        inside = (days > low) & (days <= edge)
        daily[inside] = level * (value / level) ** ((days[inside] - low) / (edge - low))
        low, level = edge, value
    expected = daily[(days >= 0) & (days < CAP)].sum()
    assert restricted_mean_days(unpaid, EDGES, floats(after), CAP)[0] == pytest.approx(expected, rel=1e-9)
    reached = days[(daily <= 0.5 + 1e-12) & (days > after)]
    found = median_days(unpaid, EDGES, floats(after))[0]
    if len(reached):
        assert abs(found - reached[0]) <= (1 if np.isclose(daily, 0.5, atol=1e-9).any() else 0)
    else:
        assert np.isnan(found)


def known_world(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, terms and days beyond terms: 3 in 10 fall late by 1 + Exp(30), the others are paid at due or before."""
    X = np.full((n, len(FEATURES)), np.nan)
    terms = rng.choice([14.0, 30.0], n)
    is_late = rng.random(n) < 0.3
    early = -np.minimum(np.floor(rng.exponential(9, n)), terms)
    days = np.where(is_late, 1 + np.floor(rng.exponential(30, n)), np.where(rng.random(n) < 0.4, 0, early))
    return X, terms, days


def test_a_known_world_is_recovered() -> None:
    rng = np.random.default_rng(4)
    X, terms, days = known_world(rng, 30_000)
    after, paid = -terms - 1, np.ones(len(days), dtype=bool)
    periods = hurdle_periods(EDGES, 30, after, days, (days > 30).astype(float), paid)
    chances = Chances.fit(X, periods, EDGES, 7, 1)
    p = np.full(len(days), (days > 30).mean())
    unpaid = exceedance(chances, 30, X, after, p, 1)
    for k, edge in enumerate(EDGES):
        if edge > -14:  # before it terms matter, which these inputs do not tell
            assert unpaid[:, k].mean() == pytest.approx((days > edge).mean(), abs=0.02), edge
    mean = restricted_mean_days(unpaid, EDGES, after, CAP).mean()
    assert mean == pytest.approx(days.clip(0, CAP).mean(), rel=0.03)


def test_the_curve_falls_and_meets_the_probability_at_the_threshold() -> None:
    rng = np.random.default_rng(5)
    X, terms, days = known_world(rng, 3_000)
    after = np.where(rng.random(len(days)) < 0.5, -terms - 1, rng.integers(-20, 220, len(days)))
    late = (days > 30).astype(float)
    periods = hurdle_periods(EDGES, 30, -terms - 1, days, late, np.ones(len(days), dtype=bool))
    chances = Chances.fit(X, periods, EDGES, 7, 1)
    p = np.where(after >= 30, 1.0, rng.random(len(days)))
    unpaid = exceedance(chances, 30, X, after, p, 1)
    assert (np.diff(unpaid, axis=1) <= 0).all()
    np.testing.assert_array_equal(unpaid[:, EDGES.tolist().index(30)], p)
    assert (unpaid[after[:, None] >= EDGES] == 1).all()
    median = median_days(unpaid, EDGES, after)
    for h in (0, 30, 60, 90):
        more = unpaid[:, EDGES.tolist().index(h)]
        np.testing.assert_array_equal(more > 0.5, (median > h) | np.isnan(median))
    mean = restricted_mean_days(unpaid, EDGES, after, CAP)
    assert (mean >= np.clip(after + 1, 0, CAP) - 1e-9).all()
    assert (mean <= CAP + 1e-9).all()
    # A row's answer does not depend on the others.
    alone = exceedance(chances, 30, X[7:8], after[7:8], p[7:8], 1)
    np.testing.assert_array_equal(alone[0], unpaid[7])
