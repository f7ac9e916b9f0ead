"""Buy till you die: recovers what was simulated, names what it cannot fit, and answers within sense."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.models import btyd, lifetimes_guess
from clv.models.bg_nbd import BgNBD
from clv.models.btyd import Btyd
from clv.models.purchase_models import PURCHASE_MODELS

Floats = NDArray[np.float64]
Purchases = tuple[Floats, Floats, Floats]
TRUE = {"r": 0.8, "alpha": 40.0, "a": 0.7, "b": 2.5}
PARETO = {"r": 0.8, "alpha": 40.0, "s": 0.7, "beta": 200.0}
VALUE = {"p": 6.0, "q": 4.0, "v": 90.0}


def simulate(
    n: int, params: dict[str, float], seed: int = 1, days: int = 720, *, may_leave_at_once: bool = False
) -> Purchases:
    """BG/NBD as its authors tell it: gamma rates, beta drop-out after each repeat purchase; whole days.

    MBG/NBD: after the first purchase too.
    """
    rng = np.random.default_rng(seed)
    rate = np.maximum(rng.gamma(params["r"], 1 / params["alpha"], n), 1e-9)
    drop_out = rng.beta(params["a"], params["b"], n)
    T = rng.integers(days // 6, days, n).astype(np.float64)
    frequency, last, now = np.zeros(n), np.zeros(n), np.zeros(n)
    active = np.ones(n, dtype=bool)
    if may_leave_at_once:
        active &= rng.random(n) >= drop_out
    while active.any():
        now = now + rng.exponential(1 / rate)
        active &= now < T
        frequency[active] += 1
        last[active] = now[active]
        active &= rng.random(n) >= drop_out
    return frequency, np.ceil(last), T


def simulate_pareto(n: int) -> Purchases:
    """Pareto/NBD: gamma rates, lifetimes that end at any moment."""
    rng = np.random.default_rng(1)
    rate, T = rng.gamma(2.0, 1 / 30.0, n), rng.integers(120, 720, n).astype(np.float64)
    end = np.minimum(rng.exponential(1 / rng.gamma(1.0, 1 / 100.0, n)), T)
    x = rng.poisson(rate * end).astype(np.float64)
    last = np.ceil(end * rng.random(n) ** (1 / np.maximum(x, 1)))  # the latest of x uniform moments
    return x, np.where(x > 0, last, 0.0), T


def simulate_values(count: Floats, seed: int = 2) -> Floats:
    rng = np.random.default_rng(seed)
    rate = rng.gamma(VALUE["q"], 1 / VALUE["v"], len(count))
    return rng.gamma(VALUE["p"] * count, 1 / (rate * count))


def model(purchase_model: str = "bgnbd", **params: float) -> Btyd:
    return Btyd(purchase_model, TRUE | params, "gamma_gamma", VALUE, "converged", {})


@pytest.fixture(scope="module")
def customers() -> Purchases:
    return simulate(6_000, TRUE)


@pytest.fixture(scope="module")
def fitted(customers: Purchases) -> Btyd:
    count = customers[0] + 1
    return btyd.fit(*customers, count, simulate_values(count))


def test_recovers_simulated_parameters(fitted: Btyd) -> None:
    assert fitted.verdict == "converged"
    assert fitted.detail["penaliser"] == 0
    assert fitted.purchase_params["r"] == pytest.approx(TRUE["r"], rel=0.1)
    assert fitted.purchase_params["alpha"] == pytest.approx(TRUE["alpha"], rel=0.1)
    a, b = fitted.purchase_params["a"], fitted.purchase_params["b"]
    assert a / (a + b) == pytest.approx(TRUE["a"] / (TRUE["a"] + TRUE["b"]), rel=0.1)
    p, q, v = (fitted.value_params[name] for name in "pqv")
    assert p * v / (q - 1) == pytest.approx(6 * 90 / 3, rel=0.05)
    assert fitted.detail["fitted_to_actual_ratio"] == pytest.approx(1, abs=0.05)


def test_expected_total_meets_what_was_then_simulated() -> None:
    """Histories cut a year before their end: the purchases after the cut are known."""
    rng = np.random.default_rng(5)
    n, cut, horizon = 20_000, 360.0, 365.0
    rate, drop_out = rng.gamma(TRUE["r"], 1 / TRUE["alpha"], n), rng.beta(TRUE["a"], TRUE["b"], n)
    frequency, recency, later, now = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    active = np.ones(n, dtype=bool)
    while active.any():
        now = now + rng.exponential(1 / np.maximum(rate, 1e-9))
        active &= now < cut + horizon
        before = active & (now < cut)
        frequency[before] += 1
        recency[before] = now[before]
        later[active & ~before] += 1
        active &= rng.random(n) >= drop_out
    expected = model().expected_purchases(frequency, recency, np.full(n, cut), horizon)
    assert expected.sum() == pytest.approx(later.sum(), rel=0.03)
    top = np.argsort(-expected)[: n // 10]
    assert expected[top].sum() == pytest.approx(later[top].sum(), rel=0.05)


def test_the_answer_is_at_least_as_likely_as_that_of_lifetimes(customers: Purchases, fitted: Btyd) -> None:
    """Of single rows, as a user of that package would fit them."""
    count = customers[0] + 1
    values = simulate_values(count)
    with lifetimes_guess.lifetimes() as lifetimes:
        purchases, orders = lifetimes.BetaGeoFitter(), lifetimes.GammaGammaFitter()
        purchases.fit(*customers)
        orders.fit(count, values)
    assert fitted.purchase_params == pytest.approx(dict(purchases.params_), rel=1e-4)
    assert fitted.value_params == pytest.approx(dict(orders.params_), rel=1e-3)
    theirs = BgNBD(**purchases.params_).log_likelihood(*customers).sum()
    assert fitted.log_likelihood(*customers).sum() >= theirs - 1e-9 * abs(theirs)
    assert fitted.log_likelihood(*customers).sum() == pytest.approx(
        fitted.detail["log_likelihood"], rel=1e-10
    )


@pytest.mark.parametrize("name", ["bgnbd", "mbgnbd", "pareto_nbd", "auto"])
def test_the_order_of_the_rows_leaves_no_trace(name: btyd.PurchaseModel, customers: Purchases) -> None:
    x, recency, T = (column[:1_500] for column in customers)
    rows = (x, recency / 7, T / 7, x + 1, simulate_values(x + 1))
    fitted = btyd.fit(*rows, purchase_model=name)
    shuffled = np.random.default_rng(3).permutation(len(x))
    assert btyd.fit(*(column[shuffled] for column in rows), purchase_model=name) == fitted


def test_to_dict_and_back_gives_equal_answers(customers: Purchases, fitted: Btyd) -> None:
    again = Btyd.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    np.testing.assert_array_equal(
        again.discounted_purchases(*customers, 365, 0.1), fitted.discounted_purchases(*customers, 365, 0.1)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"purchase_model": "pareto"},
        {"purchase_model": "pareto_nbd"},
        {"purchase_params": PARETO},
        {"value_model": "os.system"},
        {"purchase_params": {"r": 1.0}},
        {"value_params": {"p": 1.0, "q": float("nan"), "v": 1.0}},
        {"purchase_params": TRUE | {"a": -1.0}},
        {"extra": 1},
    ],
)
def test_foreign_parameters_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="Train it again"):
        Btyd.from_dict(model().to_dict() | change)


@pytest.mark.parametrize("name", ["mbgnbd", "pareto_nbd"])
def test_the_model_asked_for_is_fitted_and_kept(name: btyd.PurchaseModel, customers: Purchases) -> None:
    x, recency, T = (column[:2_000] for column in customers)
    values = simulate_values(x + 1)
    result = btyd.fit(x, recency, T, x + 1, values, purchase_model=name)
    assert result.purchase_model == name
    assert result.verdict == "converged"
    assert result.detail["fitted_to_actual_ratio"] == pytest.approx(1, abs=0.1)
    assert Btyd.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_pareto_nbd_discounts_and_answers_for_the_most_active() -> None:
    subject = Btyd("pareto_nbd", PARETO, "gamma_gamma", VALUE, "converged", {})
    x = np.array([0.0, 0, 5, 200, 1_000, 20_000])
    T = np.array([0.0, 900, 400, 700, 1_100, 25_000])
    recency = np.array([0.0, 0, 300, 690, 1_100, 24_999])
    active = subject.probability_active(x, recency, T)
    assert ((active >= 0) & (active <= 1)).all()
    before = np.zeros(len(x))
    for horizon in (1, 30, 365, 3_650):
        plain = subject.expected_purchases(x, recency, T, horizon)
        discounted = subject.discounted_purchases(x, recency, T, horizon, 0.1)
        assert (plain > before).all()
        assert np.isfinite(plain).all()
        assert (discounted > 0).all()
        assert (discounted < plain).all()
        before = plain
    assert active[0] == 1
    r, alpha, s, beta = PARETO.values()
    fresh = r * beta / (alpha * (s - 1)) * (1 - (beta / (beta + 365)) ** (s - 1))
    assert subject.expected_purchases(0, 0, 0, 365)[0] == pytest.approx(fresh, rel=1e-12)


def test_pareto_nbd_where_nobody_lapses() -> None:
    x, recency, T = simulate(1_500, {"r": 2.0, "alpha": 60.0, "a": 1e-9, "b": 1.0})
    result = btyd.fit(x, recency, T, x + 1, simulate_values(x + 1), purchase_model="pareto_nbd")
    assert result.verdict != "converged"
    assert result.expected_purchases(x, recency, T, 365).sum() == pytest.approx((x / T).sum() * 365, rel=0.15)


EQUAL = np.ones(400)
WHALES = [5_000.0, 9_000.0]
DESERVED = {  # by the first model asked for: x, recency, T
    "converged": simulate(800, TRUE),
    # few leave, and those at once
    "boundary": simulate(3_000, {"r": 2.0, "alpha": 60.0, "a": 5e-4, "b": 0.02}),
    # all buy alike
    "exploding": (3 * EQUAL, 200 * EQUAL, 300 * EQUAL),
    # who came back did so once and on the last day: nothing is known of leaving
    "not positive definite": tuple(
        np.tile(column, 200)
        for column in np.array([[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 5], [17, 13, 28, 21, 19, 5]], dtype=float)
    ),
    # two customers with far more purchases than all others
    "implausible total": tuple(
        np.append(column, more)
        for column, more in zip(simulate(800, TRUE), (WHALES, [6_000, 9_500], [6_100, 10_000]), strict=True)
    ),
}


@pytest.mark.parametrize("verdict", DESERVED)
def test_each_verdict_is_given_to_data_that_deserve_it(verdict: str) -> None:
    x, recency, T = DESERVED[verdict]
    result = btyd.fit(x, recency, T, x + 1, simulate_values(x + 1))
    used = r" without a penaliser; used (bgnbd|mbgnbd) with penaliser [\d.]+ \((boundary|converged)\)"
    accepted = verdict in ("converged", "boundary")
    assert re.fullmatch(verdict + ("" if accepted else used), result.verdict)
    assert (result.detail["penaliser"] == 0) == accepted
    expected = result.discounted_purchases(x, recency, T, 365, 0.1)
    assert np.isfinite(expected).all()
    assert (expected >= 0).all()


def test_frequencies_beyond_all_numbers_do_not_converge_and_are_an_error() -> None:
    with pytest.raises(
        ModelError, match=r"neither BG/NBD nor MBG/NBD fits 2 customers with 1 .*not converged"
    ):
        btyd.fit([1e307, 0], [1e307, 0], [1e307, 5], 1, 1)


@pytest.mark.parametrize(
    ("asked", "fallback"), [("bgnbd", "mbgnbd"), ("mbgnbd", "bgnbd"), ("pareto_nbd", "bgnbd")]
)
def test_where_a_model_fails_the_stated_fallback_stands_in(
    asked: btyd.PurchaseModel,
    fallback: btyd.PurchaseModel,
    customers: Purchases,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, recency, T = (column[:2_000] for column in customers)
    values = simulate_values(x + 1)
    alone = btyd.fit(x, recency, T, x + 1, values, purchase_model=fallback)
    failing = replace(
        PURCHASE_MODELS[asked], likelihood=lambda data, logs: (np.nan, np.zeros(4), np.zeros((4, 4)))
    )
    monkeypatch.setitem(PURCHASE_MODELS, asked, failing)
    result = btyd.fit(x, recency, T, x + 1, values, purchase_model=asked)
    assert (
        result.verdict == f"not converged without a penaliser; used {fallback} with penaliser 0 (converged)"
    )
    assert result.purchase_params == alone.purchase_params


@pytest.mark.parametrize("name", ["bgnbd", "mbgnbd", "pareto_nbd"])
def test_auto_finds_the_model_that_the_customers_follow(name: str) -> None:
    """Where they differ most: who buys often and may leave at the first purchase, after it, or at any moment."""
    torn = {"r": 2.0, "alpha": 30.0, "a": 0.5, "b": 0.5}
    if name == "pareto_nbd":
        x, recency, T = simulate_pareto(8_000)
    else:
        x, recency, T = simulate(8_000, torn, may_leave_at_once=name == "mbgnbd")
    result = btyd.fit(x, recency, T, x + 1, simulate_values(x + 1), purchase_model="auto")
    assert result.purchase_model == name
    scores = {key: result.detail[f"held_out_log_likelihood_{key}"] for key in PURCHASE_MODELS}
    assert max(scores, key=lambda key: scores[key]) == name
    assert f"; auto chose {name} by mean log-likelihood of customers held out" in result.verdict
    # what a customer is worth to the model that has seen it, a little more
    assert scores[name] == pytest.approx(result.detail["log_likelihood"] / len(x), rel=5e-3)
    assert Btyd.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result


def test_auto_with_too_few_customers_to_compare_takes_the_first_fallback() -> None:
    result = btyd.fit([3, 0], [200, 0], [300, 100], [4, 1], [20, 30], purchase_model="auto")
    assert result.purchase_model == "bgnbd"
    assert "; auto: no model fits both halves of the customers" in result.verdict


@pytest.mark.parametrize("name", ["bgnbd", "mbgnbd", "pareto_nbd", "auto"])
@pytest.mark.parametrize(
    "rows",
    [
        ([3], [200], [300], [4], [25]),
        ([1, 0], [1, 0], [1, 0], [2, 1], [1e12, 1e-6]),
        (
            [3_000, 2_900, 4_000],
            [3_600, 3_640, 5_000],
            [3_650, 3_650, 5_000],
            [3_001, 2_901, 4_001],
            [5, 6, 7],
        ),
        ([2] * 9, [9] * 9, [9] * 9, [3] * 9, [25] * 9),
        ([1] + [0] * 99, [7] + [0] * 99, [400] * 100, [2] + [1] * 99, [1e12] + [10] * 99),
    ],
    ids=[
        "one customer",
        "first and last day",
        "thousands of purchases",
        "all alike",
        "one repeat, one huge order",
    ],
)
def test_poor_data_get_a_verdict_and_finite_answers(
    rows: tuple[list[float], ...], name: btyd.PurchaseModel
) -> None:
    result = btyd.fit(*rows, purchase_model=name)
    x, recency, T, count, mean = rows
    assert result.verdict
    value = result.discounted_purchases(x, recency, T, 365, 0.1) * result.expected_order_value(count, mean)
    assert np.isfinite(value).all()
    assert (value >= 0).all()
    assert Btyd.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result


def test_frequency_that_goes_with_value_is_said(customers: Purchases, fitted: Btyd) -> None:
    x, recency, T = customers
    assert abs(fitted.detail["frequency_value_correlation"]) < 0.05
    result = btyd.fit(x, recency, T, x + 1, simulate_values(x + 1) * (1 + x))
    assert result.detail["frequency_value_correlation"] > 0.3
    assert "; frequency and order value correlate by 0." in result.verdict


def test_no_repeat_buyers_is_named() -> None:
    n = np.ones(50)
    with pytest.raises(ModelError, match="no repeat buyers among 50 customers"):
        btyd.fit(0 * n, 0 * n, 100 * n, n, 10 * n)


def test_rows_that_contradict_themselves_are_refused() -> None:
    one = np.ones(3)
    for frequency, recency, T in (
        ([1, 1, 0.5], 5, 9),
        ([1, 1, 0], 5, 9),
        (1, 10, 9),
        (1, np.nan, 9),
        (1, 0, 9),
    ):
        with pytest.raises(ModelError, match="of 3 customers otherwise"):
            btyd.fit(frequency * one, recency * one, T * one, one, one)
    with pytest.raises(ModelError, match="one length"):
        btyd.fit([1, 1, 0], [1, 2], [3, 4, 5], one, one)


def test_no_positive_order_value_is_named(customers: Purchases) -> None:
    with pytest.raises(ModelError, match="no positive order value"):
        btyd.fit(*customers, customers[0] + 1, -np.ones(len(customers[0])))


def test_where_nobody_lapses_purchases_go_on() -> None:
    x, recency, T = simulate(1_500, {"r": 2.0, "alpha": 60.0, "a": 1e-9, "b": 1.0})
    result = btyd.fit(x, recency, T, x + 1, simulate_values(x + 1))
    assert result.verdict != "converged"
    often = x >= 3
    assert result.probability_active(x, recency, T)[often].min() > 0.9
    expected = result.expected_purchases(x, recency, T, 365)
    assert expected.sum() == pytest.approx((x / T).sum() * 365, rel=0.15)


def test_where_everybody_lapses_at_once_little_is_expected() -> None:
    x, recency, T = simulate(1_500, {"r": 3.0, "alpha": 20.0, "a": 50.0, "b": 0.01})
    result = btyd.fit(x, recency, T, x + 1, simulate_values(x + 1))
    expected = result.expected_purchases(x, recency, T, 365)
    assert np.isfinite(expected).all()
    assert expected[x > 0].mean() < 0.1


def test_values_without_a_finite_mean_fall_back_to_shrinkage_and_say_so(customers: Purchases) -> None:
    x, recency, T = customers
    rng = np.random.default_rng(4)
    endless = rng.gamma(6 * (x + 1), 1 / (rng.gamma(0.6, 1 / 90, len(x)) * (x + 1)))
    result = btyd.fit(x, recency, T, x + 1, endless)
    assert result.value_model == "shrinkage"
    assert "; order value by shrinkage (Gamma-Gamma has q = " in result.verdict
    value = result.expected_order_value(x + 1, endless)
    assert np.isfinite(value).all()
    assert (value > 0).all()
    assert Btyd.from_dict(result.to_dict()) == result


def test_equal_order_values_are_expected_to_stay(customers: Purchases) -> None:
    x, recency, T = customers
    result = btyd.fit(x, recency, T, x + 1, np.full(len(x), 25.0))
    np.testing.assert_allclose(result.expected_order_value(x + 1, np.full(len(x), 25.0)), 25.0, rtol=0.1)


def test_order_value_lies_between_own_and_common_mean(fitted: Btyd) -> None:
    p, q, v = (fitted.value_params[name] for name in "pqv")
    common = p * v / (q - 1)
    few, many = fitted.expected_order_value([1, 100], [1_000.0, 1_000.0])
    assert common < few < many < 1_000
    np.testing.assert_allclose(fitted.expected_order_value([0, 0], [0.0, np.nan]), common)
    assert fitted.expected_order_value(3, -5.0)[0] == fitted.expected_order_value(3, 0.0)[0] > 0


def test_money_unit_does_not_matter(customers: Purchases, fitted: Btyd) -> None:
    count = customers[0] + 1
    millions = btyd.fit(*customers, count, simulate_values(count) * 1e6)
    assert millions.value_params["v"] == pytest.approx(fitted.value_params["v"] * 1e6, rel=1e-3)
    assert millions.value_params["q"] == pytest.approx(fitted.value_params["q"], rel=1e-3)


@pytest.mark.parametrize("name", ["bgnbd", "mbgnbd"])
@pytest.mark.parametrize("a", [1e-6, 0.3, 1.0, 1.0 + 1e-9, 2.0, 800.0])
@pytest.mark.parametrize("b", [1e-6, 0.7, 3.0, 900.0])
def test_any_history_has_a_finite_answer_that_grows_with_the_horizon(name: str, a: float, b: float) -> None:
    x = np.array([0, 0, 1, 1, 2, 50, 50, 1_000, 20_000, 20_000], dtype=np.float64)
    T = np.array([0, 900, 1, 3_000, 500, 60, 4_000, 1_100, 25_000, 30_000], dtype=np.float64)
    recency = np.array([0, 0, 1, 1, 400, 60, 10, 1_000, 20_500, 30_000], dtype=np.float64)
    subject = model(name, a=a, b=b)
    active = subject.probability_active(x, recency, T)
    assert ((active >= 0) & (active <= 1)).all()
    before = np.zeros(len(x))
    for horizon in (1, 30, 365, 3_650):
        plain = subject.expected_purchases(x, recency, T, horizon)
        discounted = subject.discounted_purchases(x, recency, T, horizon, 0.1)
        assert np.isfinite(plain).all()
        assert np.isfinite(discounted).all()
        assert (plain >= before * (1 - 1e-5)).all()
        assert (discounted >= 0).all()
        assert (discounted <= plain * (1 + 1e-5)).all()
        ceiling = active * (TRUE["r"] + x) / (TRUE["alpha"] + T) * horizon
        assert (plain <= ceiling * (1 + 1e-9)).all()
        before = plain


@pytest.mark.parametrize("name", ["bgnbd", "mbgnbd", "pareto_nbd"])
def test_the_course_of_purchases_is_the_sum_over_customers_day_by_day(
    name: str, customers: Purchases
) -> None:
    known = model() if name == "bgnbd" else Btyd(name, TRUE, "gamma_gamma", VALUE, "converged", {})
    if name == "pareto_nbd":
        known = Btyd(name, PARETO, "gamma_gamma", VALUE, "converged", {})
    rows = tuple(column[:400] for column in customers)
    worth = np.arange(400.0)
    days = [1, 7, 100, 365]
    loop = [
        [known.expected_purchases(x, t, T, day)[0] for x, t, T in zip(*rows, strict=True)] for day in days
    ]
    found = known.cumulative_purchases(*rows, days)
    assert found == pytest.approx([sum(each) for each in loop])
    assert (np.diff(found) > 0).all()
    assert known.cumulative_purchases(*rows, days, worth) == pytest.approx([worth @ each for each in loop])
    nobody = [np.empty(0)] * 3
    assert known.cumulative_purchases(*nobody, days).tolist() == [0, 0, 0, 0]


def test_a_year_at_ten_per_cent_is_annual_and_effective() -> None:
    """A customer that certainly goes on buying at an even pace: the annuity at 10 % a year, known in closed form."""
    steady = model(r=1e4, alpha=1e5, a=1e-9, b=1e6)
    plain = steady.expected_purchases(10, 365, 365, 365)[0]
    assert plain == pytest.approx(36.5, rel=0.01)
    annuity = (1 - 1 / 1.1) / np.log(1.1)
    assert steady.discounted_purchases(10, 365, 365, 365, 0.1)[0] == pytest.approx(plain * annuity, rel=1e-5)
    second_year = (
        steady.discounted_purchases(10, 365, 365, 730, 0.1)
        - steady.discounted_purchases(10, 365, 365, 365, 0.1)
    )[0]
    assert second_year == pytest.approx(plain * annuity / 1.1, rel=1e-3)
    assert steady.discounted_purchases(10, 365, 365, 365, 0.0)[0] == plain


@pytest.mark.parametrize("name", ["bgnbd", "pareto_nbd"])
@pytest.mark.parametrize("horizon", [30, 365, 1_095])
def test_purchases_are_discounted_day_by_day(name: str, horizon: int) -> None:
    """Slow twin: a sum over the days, each day's purchases discounted to its noon."""
    params = TRUE if name == "bgnbd" else PARETO
    subject = Btyd(name, params, "gamma_gamma", VALUE, "converged", {})
    x, recency, T = (
        np.array(column, dtype=float)
        for column in ([0, 0, 1, 8, 90], [0, 0, 20, 300, 500], [0, 400, 30, 310, 520])
    )
    until = np.array([subject.expected_purchases(x, recency, T, day) for day in range(horizon + 1)])
    noon = np.arange(horizon) + 0.5
    daily = np.sum(np.diff(until, axis=0) * 1.1 ** (-noon / 365)[:, None], axis=0)
    found = subject.discounted_purchases(x, recency, T, horizon, 0.1)
    np.testing.assert_allclose(found, daily, rtol=1e-6)
    mean_factor = found / until[-1]
    assert (mean_factor < 1).all()
    assert (mean_factor > 1.1 ** (-horizon / 365)).all()


def test_lifetimes_leaves_no_trace_in_the_process() -> None:
    """In a process of its own: the import happens once."""
    program = """
import warnings, sys
from clv.models import btyd, lifetimes_guess
assert "lifetimes" not in sys.modules and "pandas" not in sys.modules
import numpy as np, pandas as pd
filters, option, errors = list(warnings.filters), pd.get_option("mode.chained_assignment"), np.geterr()
x = np.array([0, 1, 2, 0, 3, 1, 0, 5]); T = np.full(8, 90.0); recency = x * 12.0
btyd.fit(x, recency, T, x + 1, np.array([5.0, 7, 9, 4, 12, 3, 8, 6]))
assert list(warnings.filters) == filters
assert pd.get_option("mode.chained_assignment") == option and np.geterr() == errors
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_fit_warns_of_nothing(customers: Purchases) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, recency, T = (column[:200] for column in customers)
        btyd.fit(x, recency, T, x + 1, np.full(len(x), 25.0))
