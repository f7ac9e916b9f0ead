"""BG/NBD and MBG/NBD: the published likelihoods and expectations, their slopes, and answers for any history."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import hyp2f1

from clv.models import bg_nbd, lifetimes_guess
from clv.models.bg_nbd import BgNBD
from clv.models.histories import Histories

Floats = NDArray[np.float64]
TRUE = (0.8, 40.0, 0.7, 2.5)
BOTH = pytest.mark.parametrize("may_leave_at_once", [False, True], ids=["bgnbd", "mbgnbd"])
FITTERS = {False: "BetaGeoFitter", True: "ModifiedBetaGeoFitter"}


def customers(n: int = 400) -> tuple[Floats, Floats, Floats]:
    """Histories of every kind, unlikely ones among them."""
    rng = np.random.default_rng(1)
    T = rng.integers(1, 1_500, n).astype(np.float64)
    x = np.floor(np.minimum(np.exp(rng.uniform(0, 7, n)) - 1, T))
    return x, np.where(x > 0, np.maximum(np.ceil(T * rng.random(n)), x), 0.0), T


@BOTH
@pytest.mark.parametrize("params", [TRUE, (0.02, 3.0, 12.0, 0.1), (30.0, 900.0, 0.01, 40.0)])
def test_likelihood_equals_that_of_lifetimes(
    params: tuple[float, float, float, float], may_leave_at_once: bool
) -> None:
    x, recency, T = customers()
    with lifetimes_guess.lifetimes() as lifetimes:
        fitter = getattr(lifetimes, FITTERS[may_leave_at_once])
        theirs = [
            -fitter._negative_log_likelihood(np.log(params), *(row[None] for row in history), np.ones(1), 0.0)
            for history in zip(x.astype(int), recency, T, strict=True)
        ]
    own = BgNBD(*params, may_leave_at_once).log_likelihood(x, recency, T)
    np.testing.assert_allclose(own, theirs, rtol=1e-10)


@BOTH
@pytest.mark.parametrize("params", [TRUE, (0.02, 3.0, 12.0, 0.1), (30.0, 900.0, 0.01, 40.0)])
def test_slopes_and_curvature_are_those_of_the_likelihood(
    params: tuple[float, float, float, float], may_leave_at_once: bool
) -> None:
    rows = [np.concatenate([column, column[:50]]) for column in customers()]
    histories, logs = Histories.of(*rows), np.log(params)

    def likelihood(logs: Floats) -> tuple[float, Floats, Floats]:
        return bg_nbd.likelihood(histories, logs, may_leave_at_once=may_leave_at_once)

    value, slopes, curvature = likelihood(logs)
    assert value == pytest.approx(BgNBD(*params, may_leave_at_once).log_likelihood(*rows).mean(), rel=1e-12)
    for parameter, step in enumerate(1e-5 * np.eye(4)):
        up, down = likelihood(logs + step), likelihood(logs - step)
        assert slopes[parameter] == pytest.approx((up[0] - down[0]) / 2e-5, rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(curvature[parameter], (up[1] - down[1]) / 2e-5, rtol=1e-5, atol=1e-5)


@BOTH
def test_pieces_of_a_long_table_add_up(may_leave_at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    histories, logs = Histories.of(*customers()), np.log(TRUE)
    whole = bg_nbd.likelihood(histories, logs, may_leave_at_once=may_leave_at_once)
    monkeypatch.setattr(bg_nbd, "ROWS_AT_ONCE", 7)
    for one, other in zip(
        whole, bg_nbd.likelihood(histories, logs, may_leave_at_once=may_leave_at_once), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@BOTH
def test_expectations_equal_the_published_formulas(may_leave_at_once: bool) -> None:
    rng = np.random.default_rng(2)
    T = rng.integers(100, 700, 300).astype(np.float64)
    x = rng.poisson(3, 300).astype(np.float64)
    recency = np.where(x > 0, np.maximum(np.ceil(T * rng.random(300)), x), 0.0)
    own = BgNBD(*TRUE, may_leave_at_once)
    with lifetimes_guess.lifetimes() as lifetimes:
        import pandas as pd

        theirs = getattr(lifetimes, FITTERS[may_leave_at_once])()
        theirs.params_ = pd.Series(dict(zip(("r", "alpha", "a", "b"), TRUE, strict=True)))
        active = theirs.conditional_probability_alive(x, recency, T)
        purchases = theirs.conditional_expected_number_of_purchases_up_to_time(365, x, recency, T)
    still = own.probability_active(x, recency, T)
    np.testing.assert_allclose(still, active, rtol=1e-10)
    np.testing.assert_allclose(still * own.purchases_if_active(x, T, 365), purchases, rtol=1e-8)


def test_quadrature_equals_the_closed_form() -> None:
    x = np.array([0.0, 1, 5, 40])
    a, b, shape, time = 2.5, 3.0 + x, 0.8 + x, np.array([0.1, 1, 4, 0.5])
    z, c = time / (1 + time), a + b - 1
    closed = c / (a - 1) * (1 - (1 - z) ** shape * hyp2f1(shape, b, c, z))
    np.testing.assert_allclose(bg_nbd._purchases_by_quadrature(shape, a, b, time), closed, rtol=1e-5)


def test_only_mbgnbd_lets_a_customer_leave_before_its_first_repeat() -> None:
    T = np.array([10.0, 1_000.0])
    none = np.zeros(2)
    assert (BgNBD(*TRUE).probability_active(none, none, T) == 1).all()
    soon, late = BgNBD(*TRUE, may_leave_at_once=True).probability_active(none, none, T)
    assert late < soon < TRUE[3] / (TRUE[2] + TRUE[3]) + 1e-12
    assert astuple(BgNBD(*TRUE)) == (*TRUE, False)
