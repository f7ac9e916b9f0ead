"""Order values: Gamma-Gamma's likelihood, what it recovers, and what stands in where it does not hold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from clv.models import gamma_gamma, lifetimes_guess, order_values
from clv.models.histories import Orders

Floats = NDArray[np.float64]
TRUE = (6.0, 4.0, 90.0)


def simulate(n: int = 6_000, params: tuple[float, float, float] = TRUE) -> tuple[Floats, Floats]:
    """Number of orders and their mean."""
    p, q, v = params
    rng = np.random.default_rng(2)
    count = rng.geometric(0.3, n).astype(np.float64)
    return count, rng.gamma(p * count, 1 / (rng.gamma(q, 1 / v, n) * count))


def orders(count: Floats, mean: Floats) -> Orders:
    return Orders.of(count - 1, count, count * mean)


@pytest.mark.parametrize("params", [TRUE, (0.3, 1.2, 5.0), (50.0, 9.0, 2.0)])
def test_likelihood_equals_that_of_lifetimes(params: tuple[float, float, float]) -> None:
    count, mean = simulate(200)
    with lifetimes_guess.lifetimes() as lifetimes:
        loss = lifetimes.GammaGammaFitter._negative_log_likelihood
        theirs = [
            -loss(np.log(params), count[i : i + 1], mean[i : i + 1], np.ones(1), 0.0) for i in range(200)
        ]
    own = gamma_gamma.log_likelihood(np.array(params), count, mean)
    np.testing.assert_allclose(own, theirs, rtol=1e-10)


@pytest.mark.parametrize("params", [TRUE, (0.3, 1.2, 5.0), (50.0, 9.0, 2.0)])
def test_slopes_and_curvature_are_those_of_the_likelihood(params: tuple[float, float, float]) -> None:
    count, mean = simulate(500)
    data, logs = orders(count, mean), np.log(params)
    value, slopes, curvature = gamma_gamma.likelihood(data, logs)
    single = gamma_gamma.log_likelihood(np.array(params), count, mean)
    assert value == pytest.approx(single.mean(), rel=1e-12)
    for parameter, step in enumerate(1e-5 * np.eye(3)):
        up, down = (gamma_gamma.likelihood(data, logs + sign * step) for sign in (1, -1))
        assert slopes[parameter] == pytest.approx((up[0] - down[0]) / 2e-5, rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(curvature[parameter], (up[1] - down[1]) / 2e-5, rtol=1e-6, atol=1e-6)


def test_recovers_simulated_parameters_in_any_currency() -> None:
    count, mean = simulate(40_000)
    name, params, verdict, detail = order_values.fit(orders(count, mean))
    assert (name, verdict) == ("gamma_gamma", "")
    assert [params[key] for key in "pqv"] == pytest.approx(TRUE, rel=0.1)
    single = gamma_gamma.log_likelihood(np.array(list(params.values())), count, mean)
    assert detail["value_log_likelihood"] == pytest.approx(single.sum(), rel=1e-10)
    for unit in (1e12, 1e-9):
        _, other, _, _ = order_values.fit(orders(count, mean * unit))
        assert other == pytest.approx(params | {"v": params["v"] * unit}, rel=1e-6)


def test_without_lifetimes_the_same_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    data = orders(*simulate())
    with_it = order_values.fit(data)
    monkeypatch.setattr(lifetimes_guess, "FITTERS", {})
    alone = order_values.fit(data)
    assert alone[1] == pytest.approx(with_it[1], rel=1e-8)
    assert alone[2] == with_it[2] == ""


@pytest.mark.parametrize(
    ("params", "diagnosis"),
    [
        ((6.0, 0.6, 90.0), "<= 1: order values so unequal have no mean"),
        ((1e9, 1e9, 90.0), "parameters explode"),  # order values all alike
    ],
)
def test_values_that_gamma_gamma_does_not_hold_for_are_named(
    params: tuple[float, float, float], diagnosis: str
) -> None:
    count, mean = simulate(3_000, params)
    name, found, verdict, detail = order_values.fit(orders(count, mean))
    assert diagnosis in verdict
    assert np.isfinite(list(found.values())).all()
    assert (name == "shrinkage") == (detail.get("value_penaliser") is None)


def test_a_single_huge_order_leaves_a_finite_answer() -> None:
    count, mean = simulate(2_000)
    mean[7] = 1e12
    name, params, verdict, _ = order_values.fit(orders(count, mean))
    assert name == "shrinkage"
    assert "times the actual one" in verdict or "<= 1" in verdict
    assert params["mean"] == pytest.approx(np.sum(count * mean) / count.sum())
    assert 0 < params["k"] < np.inf


def test_shrinkage_trusts_many_orders_more_than_few() -> None:
    rng = np.random.default_rng(6)
    count = rng.integers(1, 40, 4_000).astype(np.float64)
    own = rng.normal(100, 20, len(count))
    mean = own + rng.normal(0, 60, len(count)) / np.sqrt(count)
    k = order_values.credibility(count, mean)
    assert k == pytest.approx(60**2 / 20**2, rel=0.25)
    shrunk = (count * mean + k * 100) / (count + k)
    assert np.mean((shrunk - own) ** 2) < 0.9 * np.mean((mean - own) ** 2)
    assert order_values.credibility(np.full(10, 3.0), rng.random(10)) == 3.0


def test_correlation_is_that_of_repeat_buyers() -> None:
    count, mean = simulate(3_000)
    mean = mean * (1 + count / 5)
    repeat = count > 1
    expected = np.corrcoef(count[repeat], mean[repeat])[0, 1]
    assert order_values.frequency_value_correlation(orders(count, mean)) == pytest.approx(expected)
    for same in (np.full(3_000, 25.1), np.where(repeat, 25.1, mean)):
        assert order_values.frequency_value_correlation(orders(count, same)) == 0.0
    assert order_values.frequency_value_correlation(orders(np.ones(9), np.arange(1.0, 10))) == 0.0
