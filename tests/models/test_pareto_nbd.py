"""Pareto/NBD: its integral is exact, its slopes are those of the likelihood, and what was simulated is recovered."""

from __future__ import annotations

from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import gammaln, hyp2f1

from clv.models import lifetimes_guess, pareto_nbd, purchase_models
from clv.models.histories import Histories
from clv.models.pareto_nbd import ParetoNBD

Floats = NDArray[np.float64]
History = tuple[Floats, Floats, Floats]
TRUE = ParetoNBD(r=0.9, alpha=40.0, s=0.8, beta=300.0)
MODELS = [
    ParetoNBD(r, alpha, s, beta)
    for r in (1e-3, 0.5, 20.0, 1e3)
    for alpha in (0.01, 10.0, 1e5)
    for s in (1e-3, 0.6, 1.0, 1e3)
    for beta in (0.01, 10.0, 1e5)
]
# new, just bought, long gone; ordinary; most active: 200, 1,000 and 20,000 purchases
HISTORIES = np.array(
    [
        (0, 0, 0), (0, 0, 1), (0, 0, 900), (0, 0, 30_000), (1, 1, 3_000), (2, 400, 500), (50, 60, 60), (50, 10, 4_000),
        (200, 300, 700), (200, 690, 700), (1_000, 1_000, 1_100), (1_000, 1_000, 30_000), (20_000, 20_500, 25_000),
    ],
    dtype=np.float64,
)  # fmt: skip


def simulate(
    n: int, model: ParetoNBD, seed: int = 1, days: int = 900, ahead: float = 0.0
) -> tuple[Floats, ...]:
    """Histories as the authors tell them, in whole days from the first purchase; and purchases in `ahead` days."""
    rng = np.random.default_rng(seed)
    rate = np.maximum(rng.gamma(model.r, 1 / model.alpha, n), 1e-9)
    lifetime = rng.exponential(1 / np.maximum(rng.gamma(model.s, 1 / model.beta, n), 1e-9))
    T = rng.integers(days // 3, days, n).astype(np.float64)
    frequency, last, later, now = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    active = np.ones(n, dtype=bool)
    while active.any():
        now = now + rng.exponential(1 / rate)
        active &= now < np.minimum(lifetime, T + ahead)
        before = active & (now < T)
        frequency[before] += 1
        last[before] = now[before]
        later[active & ~before] += 1
    return frequency, np.ceil(last), T, later


def columns(histories: Floats) -> History:
    return histories[:, 0], histories[:, 1], histories[:, 2]


@pytest.fixture(scope="module")
def customers() -> History:
    frequency, recency, T, _ = simulate(8_000, TRUE)
    return frequency, recency, T


def test_recovers_simulated_parameters(customers: History) -> None:
    name, params, verdict, detail = purchase_models.fit(Histories.of(*customers), "pareto_nbd")
    assert (name, verdict) == ("pareto_nbd", "converged")
    assert params["r"] == pytest.approx(TRUE.r, rel=0.1)
    assert params["alpha"] == pytest.approx(TRUE.alpha, rel=0.1)
    assert params["s"] == pytest.approx(TRUE.s, rel=0.2)
    assert params["beta"] == pytest.approx(TRUE.beta, rel=0.3)
    single = ParetoNBD(**params).log_likelihood(*customers).sum()
    assert single >= TRUE.log_likelihood(*customers).sum()
    assert single == pytest.approx(detail["log_likelihood"], rel=1e-10)


def test_active_share_and_later_purchases_are_those_simulated() -> None:
    x, recency, T, later = simulate(40_000, TRUE, seed=5, ahead=365.0)
    active = TRUE.probability_active(x, recency, T)
    expected = active * TRUE.purchases_if_active(x, T, 365.0)
    assert expected.sum() == pytest.approx(later.sum(), rel=0.03)
    edges = np.quantile(active, [0.0, 0.25, 0.5, 0.75, 1.0])
    for low, high in pairwise(edges):
        some = (active >= low) & (active <= high)
        assert expected[some].sum() == pytest.approx(later[some].sum(), rel=0.15)
    top = np.argsort(-expected)[:4_000]
    assert expected[top].sum() == pytest.approx(later[top].sum(), rel=0.05)


def test_likelihood_is_the_mixture_over_rates_and_lifetimes() -> None:
    """The story itself, integrated over both gammas: x purchases of a Poisson process, the lifetime over or not."""
    model = ParetoNBD(r=1.4, alpha=3.0, s=1.7, beta=8.0)

    def gamma(value: float, shape: float, rate: float) -> float:
        return float(
            np.exp(shape * np.log(rate) - gammaln(shape)) * value ** (shape - 1) * np.exp(-rate * value)
        )

    def given(rate: float, death: float, x: float, recency: float, T: float) -> float:
        total = rate + death
        left = death / total * (np.exp(-total * recency) - np.exp(-total * T))
        return float(rate**x * (left + np.exp(-total * T)))

    for x, recency, T in ((0.0, 0.0, 5.0), (2.0, 4.0, 6.0), (3.0, 2.0, 12.0)):

        def over_rates(death: float, x: float = x, recency: float = recency, T: float = T) -> float:
            inner = quad(lambda rate: given(rate, death, x, recency, T) * gamma(rate, 1.4, 3.0), 0, np.inf)[0]
            return float(inner) * gamma(death, 1.7, 8.0)

        mixture = quad(over_rates, 0, np.inf)[0]
        own = model.log_likelihood(*(np.array([value]) for value in (x, recency, T)))[0]
        assert np.exp(own) == pytest.approx(mixture, rel=1e-6)


def test_likelihood_equals_that_of_lifetimes_where_it_has_any(customers: History) -> None:
    x, recency, T = (column[:500] for column in customers)
    with lifetimes_guess.lifetimes() as lifetimes:
        theirs = lifetimes.ParetoNBDFitter._conditional_log_likelihood(astuple(TRUE), x, recency, T)
    some = np.isfinite(theirs)
    assert some.mean() > 0.8
    np.testing.assert_allclose(TRUE.log_likelihood(x, recency, T)[some], theirs[some], rtol=1e-9)


@pytest.mark.parametrize("model", [ParetoNBD(0.55, 10.6, 0.61, 11.7), ParetoNBD(0.55, 10.6, 0.61, 4.2)])
def test_likelihood_equals_the_published_form(model: ParetoNBD, customers: History) -> None:
    """The difference of two 2F1 (Fader and Hardie, 2005), for alpha below and above beta; where it has digits."""
    r, alpha, s, beta = model.r, model.alpha, model.s, model.beta
    x, recency, T = (column[:300] for column in customers)
    few = (x < 15) & (recency < 0.9 * T)
    x, recency, T = x[few], recency[few] / 7, T[few] / 7
    larger, second = max(alpha, beta), s + 1 if alpha > beta else r + x

    def term(time: Floats) -> Floats:
        z = abs(alpha - beta) / (larger + time)
        return np.asarray(hyp2f1(r + s + x, second, r + s + x + 1, z) / (larger + time) ** (r + s + x))

    stayed = (alpha + T) ** -(r + x) * (beta + T) ** -s
    left = s / (r + s + x) * (term(recency) - term(T))
    published = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + s * np.log(beta) + np.log(stayed + left)
    np.testing.assert_allclose(model.log_likelihood(x, recency, T), published, rtol=1e-9)
    np.testing.assert_allclose(model.probability_active(x, recency, T), stayed / (stayed + left), rtol=1e-7)


def test_expectations_equal_those_of_lifetimes_where_it_has_any(customers: History) -> None:
    x, recency, T = (column[:300] for column in customers)
    with lifetimes_guess.lifetimes() as lifetimes:
        import pandas as pd

        theirs = lifetimes.ParetoNBDFitter()
        theirs.params_ = pd.Series({"r": TRUE.r, "alpha": TRUE.alpha, "s": TRUE.s, "beta": TRUE.beta})
        active = np.asarray(theirs.conditional_probability_alive(x, recency, T))
        purchases = np.asarray(theirs.conditional_expected_number_of_purchases_up_to_time(365, x, recency, T))
    some = np.isfinite(active) & np.isfinite(purchases)
    assert some.mean() > 0.8
    own = TRUE.probability_active(x, recency, T)
    np.testing.assert_allclose(own[some], active[some], rtol=1e-7)
    np.testing.assert_allclose(
        own[some] * TRUE.purchases_if_active(x, T, 365.0)[some], purchases[some], rtol=1e-7
    )


def test_the_integral_is_exact_whatever_the_history_and_the_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(9)
    T = rng.integers(1, 3_000, 400).astype(np.float64)
    x = np.floor(np.minimum(np.exp(rng.uniform(0, 6, 400)) - 1, T))
    ordinary = x, np.where(x > 0, np.maximum(np.ceil(T * rng.random(400)), x), 0.0), T
    histories = [np.concatenate(pair) for pair in zip(columns(HISTORIES), ordinary, strict=True)]
    rough = [model.log_likelihood(*histories) for model in MODELS]
    monkeypatch.setattr(pareto_nbd, "NODES", ((np.inf, 600),))
    monkeypatch.setitem(pareto_nbd.RULES, 600, np.polynomial.legendre.leggauss(600))
    monkeypatch.setattr(pareto_nbd, "NEGLIGIBLE", 300.0)
    fine = [model.log_likelihood(*histories) for model in MODELS]
    np.testing.assert_allclose(rough, fine, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("model", [TRUE, ParetoNBD(0.5, 10.0, 0.6, 3.0), ParetoNBD(3.0, 5.0, 2.0, 80.0)])
def test_slopes_and_curvature_are_those_of_the_likelihood(model: ParetoNBD, customers: History) -> None:
    few = [np.concatenate([a, b[:200]]) for a, b in zip(columns(HISTORIES), customers, strict=True)]
    histories = Histories.of(*few)
    logs = np.log(astuple(model))
    value, slopes, curvature = pareto_nbd.likelihood(histories, logs)
    assert value == pytest.approx(model.log_likelihood(*few).mean(), rel=1e-12)
    for parameter, step in enumerate(1e-5 * np.eye(4)):
        up, down = (pareto_nbd.likelihood(histories, logs + sign * step) for sign in (1, -1))
        assert slopes[parameter] == pytest.approx((up[0] - down[0]) / 2e-5, rel=1e-6, abs=1e-7)
        np.testing.assert_allclose(curvature[parameter], (up[1] - down[1]) / 2e-5, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("s", [1e-6, 0.3, 1.0, 1.0 + 1e-9, 2.0, 800.0])
@pytest.mark.parametrize("beta", [1e-3, 30.0, 1e5])
def test_any_history_has_a_finite_answer_that_grows_with_the_horizon(s: float, beta: float) -> None:
    x, recency, T = columns(HISTORIES)
    model = ParetoNBD(0.8, 40.0, s, beta)
    active = model.probability_active(x, recency, T)
    assert ((active >= 0) & (active <= 1)).all()
    before = np.zeros(len(x))
    for horizon in (1.0, 30.0, 365.0, 3_650.0):
        purchases = model.purchases_if_active(x, T, horizon)
        assert np.isfinite(purchases).all()
        assert (purchases >= before * (1 - 1e-12)).all()
        assert (purchases <= (0.8 + x) / (40 + T) * horizon * (1 + 1e-12)).all()
        before = purchases


def test_expected_purchases_are_continuous_at_s_of_one() -> None:
    x, _, T = columns(HISTORIES)
    below, at, above = (
        ParetoNBD(0.8, 40.0, s, 90.0).purchases_if_active(x, T, 365.0) for s in (1 - 1e-7, 1.0, 1 + 1e-7)
    )
    np.testing.assert_allclose(below, at, rtol=1e-6)
    np.testing.assert_allclose(above, at, rtol=1e-6)
    np.testing.assert_allclose(at, (0.8 + x) / (40 + T) * (90 + T) * np.log1p(365 / (90 + T)), rtol=1e-12)


def test_the_longer_the_silence_the_less_likely_active() -> None:
    T = np.arange(100.0, 2_000.0, 50.0)
    for x in (0.0, 1.0, 20.0, 200.0):
        active = TRUE.probability_active(np.full(len(T), x), np.full(len(T), 100.0 * (x > 0)), T)
        assert (np.diff(active) < 0).all()


def test_no_histories_no_answers() -> None:
    none = np.zeros(0)
    assert TRUE.probability_active(none, none, none).shape == (0,)
    assert TRUE.log_likelihood(none, none, none).shape == (0,)


def test_pieces_of_a_long_table_are_put_together_in_order(
    monkeypatch: pytest.MonkeyPatch, customers: History
) -> None:
    whole = TRUE.probability_active(*customers)
    monkeypatch.setattr(pareto_nbd, "ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(TRUE.probability_active(*customers), whole)
    monkeypatch.setattr(pareto_nbd, "CELLS_AT_ONCE", 100)
    np.testing.assert_array_equal(TRUE.probability_active(*customers), whole)
