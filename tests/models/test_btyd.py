"""Buy till you die: recovers what was simulated, names what it cannot fit, and answers within sense."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import hyp2f1

from clv.errors import ModelError
from clv.models import btyd
from clv.models.btyd import Btyd

Floats = NDArray[np.float64]
Purchases = tuple[Floats, Floats, Floats]
TRUE = {"r": 0.8, "alpha": 40.0, "a": 0.7, "b": 2.5}
PARETO = {"r": 0.8, "alpha": 40.0, "s": 0.7, "beta": 200.0}
VALUE = {"p": 6.0, "q": 4.0, "v": 90.0}


def simulate(n: int, params: dict[str, float], seed: int = 1, days: int = 720) -> Purchases:
    """BG/NBD as its authors tell it: gamma rates, beta drop-out after each repeat purchase; whole days."""
    rng = np.random.default_rng(seed)
    rate = np.maximum(rng.gamma(params["r"], 1 / params["alpha"], n), 1e-9)
    drop_out = rng.beta(params["a"], params["b"], n)
    T = rng.integers(days // 6, days, n).astype(np.float64)
    frequency, last, now = np.zeros(n), np.zeros(n), np.zeros(n)
    active = np.ones(n, dtype=bool)
    while active.any():
        now = now + rng.exponential(1 / rate)
        active &= now < T
        frequency[active] += 1
        last[active] = now[active]
        active &= rng.random(n) >= drop_out
    return frequency, np.ceil(last), T


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


def test_collapsed_rows_give_the_same_answer_as_single_ones(customers: Purchases, fitted: Btyd) -> None:
    with btyd._lifetimes() as lifetimes:
        single = lifetimes.BetaGeoFitter()
        single.fit(*customers)
    assert fitted.purchase_params == pytest.approx(dict(single.params_), rel=1e-4)
    shuffled = np.random.default_rng(3).permutation(len(customers[0]))
    count = customers[0] + 1
    again = btyd.fit(
        *(column[shuffled] for column in customers), count[shuffled], simulate_values(count)[shuffled]
    )
    assert again == fitted


@pytest.mark.parametrize("name", ["bgnbd", "mbgnbd"])
def test_expectations_equal_the_published_formulas(name: str, customers: Purchases) -> None:
    x, recency, T = (column[:300] for column in customers)
    own = model(name)
    fitter_name = {"bgnbd": "BetaGeoFitter", "mbgnbd": "ModifiedBetaGeoFitter"}[name]
    with btyd._lifetimes() as lifetimes:
        import pandas as pd

        theirs = getattr(lifetimes, fitter_name)()
        theirs.params_ = pd.Series(TRUE)
        active = theirs.conditional_probability_alive(x, recency, T)
        purchases = theirs.conditional_expected_number_of_purchases_up_to_time(365, x, recency, T)
    np.testing.assert_allclose(own.probability_active(x, recency, T), active, rtol=1e-10)
    np.testing.assert_allclose(own.expected_purchases(x, recency, T, 365), purchases, rtol=1e-8)


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
    shuffled = np.random.default_rng(3).permutation(len(x))
    rows = (column[shuffled] for column in (x, recency, T, x + 1, values))
    assert btyd.fit(*rows, purchase_model=name) == result


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
    run = btyd._run_fitter
    monkeypatch.setattr(btyd, "_run_fitter", lambda name, *rest: None if name == asked else run(name, *rest))
    result = btyd.fit(x, recency, T, x + 1, values, purchase_model=asked)
    assert (
        result.verdict == f"not converged without a penaliser; used {fallback} with penaliser 0 (converged)"
    )
    assert result.purchase_params == alone.purchase_params


def test_pareto_nbd_where_nobody_lapses() -> None:
    x, recency, T = simulate(1_500, {"r": 2.0, "alpha": 60.0, "a": 1e-9, "b": 1.0})
    result = btyd.fit(x, recency, T, x + 1, simulate_values(x + 1), purchase_model="pareto_nbd")
    assert result.verdict != "converged"
    assert result.expected_purchases(x, recency, T, 365).sum() == pytest.approx((x / T).sum() * 365, rel=0.15)


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


def test_what_neither_model_fits_is_an_error_with_the_attempts(
    customers: Purchases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(btyd, "EXPLODING", 0.0)
    x, recency, T = (column[:100] for column in customers)
    with pytest.raises(ModelError, match=r"neither BG/NBD nor MBG/NBD fits 100 customers .* exploding"):
        btyd.fit(x, recency, T, x + 1, x + 1)


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


def test_shrinkage_trusts_many_orders_more_than_few() -> None:
    rng = np.random.default_rng(6)
    count = rng.integers(1, 40, 4_000).astype(np.float64)
    own = rng.normal(100, 20, len(count))
    mean = own + rng.normal(0, 60, len(count)) / np.sqrt(count)
    k = btyd._credibility(count, mean)
    assert k == pytest.approx(60**2 / 20**2, rel=0.25)
    shrunk = Btyd("bgnbd", TRUE, "shrinkage", {"mean": 100.0, "k": k}, "", {}).expected_order_value(
        count, mean
    )
    assert np.mean((shrunk - own) ** 2) < 0.9 * np.mean((mean - own) ** 2)
    assert btyd._credibility(np.full(10, 3.0), rng.random(10)) == 3.0


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


def test_quadrature_equals_the_closed_form() -> None:
    x = np.array([0.0, 1, 5, 40])
    a, b, shape, time = 2.5, 3.0 + x, 0.8 + x, np.array([0.1, 1, 4, 0.5])
    z, c = time / (1 + time), a + b - 1
    closed = c / (a - 1) * (1 - (1 - z) ** shape * hyp2f1(shape, b, c, z))
    np.testing.assert_allclose(btyd._purchases_by_quadrature(shape, a, b, time), closed, rtol=1e-5)


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


def test_lifetimes_leaves_no_trace_in_the_process() -> None:
    """In a process of its own: the import happens once."""
    program = """
import warnings, sys
from clv.models import btyd
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
