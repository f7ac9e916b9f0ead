"""Buy till you die: how often a customer will buy, whether it still does, and how much an order will bring.

Purchases follow BG/NBD (Fader, Hardie and Lee, 2005, "Counting your customers the easy way", Marketing Science
24) or, where that cannot be fitted, MBG/NBD (Batislam, Denizel and Filiztekin, 2007, IJRM 24; Wagner and Hoppe,
2008, IJRM 25), or, if asked for, Pareto/NBD (`pareto_nbd`). Order values follow Gamma-Gamma (Fader and Hardie,
2013, brucehardie.com/notes/025).

The one adapter over `lifetimes`: only its fitters are used, and only to fit. What was fitted are a few numbers;
what is expected of a customer is computed from them here. Its Pareto/NBD is not used: from 200 purchases on, where
alpha and beta lie far apart, its likelihood is NaN.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, expit, hyp2f1

from clv.errors import ModelError
from clv.models import pareto_nbd
from clv.models.pareto_nbd import ParetoNBD

Floats = NDArray[np.float64]

PurchaseModel = Literal["bgnbd", "mbgnbd", "pareto_nbd"]

PURCHASE_MODELS = {  # as they are called, and their parameters
    "bgnbd": ("BG/NBD", {"r", "alpha", "a", "b"}),
    "mbgnbd": ("MBG/NBD", {"r", "alpha", "a", "b"}),
    "pareto_nbd": ("Pareto/NBD", {"r", "alpha", "s", "beta"}),
}
FALLBACKS = ("bgnbd", "mbgnbd")
PENALISERS = (0.0, 1e-3, 0.01, 0.1, 1.0)
TOLERANCES = (1e-7, 1e-5)  # of the gradient; where likelihoods are flat the finer one is below rounding
STEP_DAYS = 30.5  # discounting by months instead of days moves a year's value by less than 1e-5
EXPLODING = (
    1e3  # a parameter above it (time in units of the longest history, value in those of the mean order)
)
BOUNDARY = 1e-3  # a parameter below it
PLAUSIBLE = 5.0  # the fitted total may be off from the actual one by this factor


@dataclass(frozen=True)
class Btyd:
    """A fitted model. All times are days, the parameters alpha and beta too; money has the unit of the orders.

    `purchase_model` is `bgnbd` or `mbgnbd` with r, alpha, a, b, or `pareto_nbd` with r, alpha, s, beta.
    `value_model` is `gamma_gamma` with p, q, v, or `shrinkage` with `mean` (of all orders) and `k` (orders that
    weigh as much as that mean).
    `verdict` opens with how the model asked for fared without a penaliser: `converged`, `boundary` (a parameter
    near 0: hardly anyone lapses, or all do), `exploding`, `not converged` or `implausible total`; then it names the
    fallbacks.
    `detail` has `n` (customers), `log_likelihood` (of the purchases, unpenalised, time in days), `penaliser`,
    `fitted_to_actual_ratio` (repeat purchases), `frequency_value_correlation` (repeat buyers; the models assume
    0) and `value_n`; with Gamma-Gamma also `value_log_likelihood` and `value_penaliser`.
    """

    purchase_model: str
    purchase_params: dict[str, float]
    value_model: str
    value_params: dict[str, float]
    verdict: str
    detail: dict[str, float | str]

    def probability_active(self, frequency: ArrayLike, recency_days: ArrayLike, T_days: ArrayLike) -> Floats:
        """P(the customer still buys) at the end of T_days, one per customer.

        BG/NBD: a customer can only stop after a repeat purchase, so without one it is 1.
        """
        x, recency, T = _aligned(frequency, recency_days, T_days)
        if self.purchase_model == "pareto_nbd":
            return ParetoNBD(**self.purchase_params).probability_active(x, recency, T)
        r, alpha, a, b = self._rabb()
        if self.purchase_model == "bgnbd":
            can_be_lost, survived = x > 0, np.maximum(x, 1.0) - 1
        else:
            can_be_lost, survived = np.ones(x.shape, dtype=bool), x - 1
        log_odds_lost = (r + x) * np.log((alpha + T) / (alpha + recency)) + np.log(a / (b + survived))
        return np.where(can_be_lost, expit(-log_odds_lost), 1.0)

    def expected_purchases(
        self, frequency: ArrayLike, recency_days: ArrayLike, T_days: ArrayLike, horizon_days: float
    ) -> Floats:
        """Expected purchases in the horizon_days after T_days, one per customer; finite and never negative."""
        return self.discounted_purchases(frequency, recency_days, T_days, horizon_days, 0.0)

    def discounted_purchases(
        self,
        frequency: ArrayLike,
        recency_days: ArrayLike,
        T_days: ArrayLike,
        horizon_days: float,
        discount_rate_annual_ratio: float,
    ) -> Floats:
        """Expected purchases, each worth (1 + rate)^(-t / 365), t the middle of the month it falls in."""
        x, recency, T = _aligned(frequency, recency_days, T_days)
        (pair_x, pair_T), pair, _ = _unique_rows(x, T)
        steps = 1 if discount_rate_annual_ratio == 0 else max(1, int(np.ceil(horizon_days / STEP_DAYS)))
        ends = np.linspace(0.0, horizon_days, steps + 1)
        worth, before = np.zeros(len(pair_x)), np.zeros(len(pair_x))
        for start, end in pairwise(ends.tolist()):
            until = np.maximum(self._purchases_if_active(pair_x, pair_T, end), before)
            worth += (until - before) * (1 + discount_rate_annual_ratio) ** (-(start + end) / 2 / 365)
            before = until
        return np.asarray(worth[pair] * self.probability_active(x, recency, T))

    def cumulative_purchases(
        self,
        frequency: ArrayLike,
        recency_days: ArrayLike,
        T_days: ArrayLike,
        days: ArrayLike,
        worth: ArrayLike = 1.0,
    ) -> Floats:
        """Purchases expected of all customers together within each of `days` after T_days; never decreasing.

        A purchase of a customer counts `worth` times: expected order values turn purchases into value.
        """
        x, recency, T, weight = _aligned(frequency, recency_days, T_days, worth)
        (pair_x, pair_T), pair, _ = _unique_rows(x, T)
        weights = np.bincount(pair, weight * self.probability_active(x, recency, T), minlength=len(pair_x))
        totals = [
            (weights * self._purchases_if_active(pair_x, pair_T, day)).sum() for day in np.asarray(days)
        ]
        return np.maximum.accumulate(np.array(totals, dtype=np.float64))

    def expected_order_value(self, order_count: ArrayLike, mean_order_value: ArrayLike) -> Floats:
        """Expected value of a customer's next orders, from the number and the mean of all its orders so far.

        Gamma-Gamma's conditional mean, or shrinkage; a customer without orders gets the population's mean, and a
        mean below 0 counts as 0.
        """
        count, mean = _aligned(order_count, mean_order_value)
        mean = np.where(count > 0, np.maximum(mean, 0.0), 0.0)
        if self.value_model == "gamma_gamma":
            p, q, v = (self.value_params[name] for name in ("p", "q", "v"))
            return p * (v + count * mean) / (p * count + q - 1)
        k = self.value_params["k"]
        return (count * mean + k * self.value_params["mean"]) / (count + k)

    def to_dict(self) -> dict[str, Any]:
        """The model as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Btyd:
        """The model `to_dict` gave; ModelError where that is not what is given."""
        try:
            model = cls(**stored)
            names = {"gamma_gamma": {"p", "q", "v"}, "shrinkage": {"mean", "k"}}[model.value_model]
            numbers = [*model.purchase_params.values(), *model.value_params.values()]
            sound = (
                set(model.purchase_params) == PURCHASE_MODELS[model.purchase_model][1]
                and set(model.value_params) == names
                and all(isinstance(number, float) and 0 < number < np.inf for number in numbers)
            )
        except (TypeError, KeyError, AttributeError):
            sound = False
        if not sound:
            raise ModelError(
                "expected the parameters of a buy-till-you-die model, found others. Train it again."
            )
        return model

    def _rabb(self) -> tuple[float, float, float, float]:
        """r, alpha, a, b; MBG/NBD's chance to stop at once counts like one more purchase survived: b + 1."""
        r, alpha, a, b = (self.purchase_params[name] for name in ("r", "alpha", "a", "b"))
        return r, alpha, a, b + (self.purchase_model == "mbgnbd")

    def _purchases_if_active(self, x: Floats, T: Floats, horizon: float | Floats) -> Floats:
        """Expected purchases in `horizon` of a customer that is active at T; of BG/NBD eq. (10), its numerator.

        Euler's transformation 2F1(A, B; C; z) = (1 - z)^(C - A - B) 2F1(C - A, C - B; C; z) takes the large x out
        of the first two arguments, where the published form overflows for some hundred purchases.
        """
        if self.purchase_model == "pareto_nbd":
            return ParetoNBD(**self.purchase_params).purchases_if_active(x, T, horizon)
        r, alpha, a, b = self._rabb()
        # the limits exist where a = 1 or c = 0, the quotients do not
        smooth_a = a if abs(a - 1) > 1e-6 else 1 + 1e-6
        c = smooth_a + b + x - 1
        c = np.where(np.abs(c) > 1e-6, c, 1e-6)
        z = horizon / (alpha + T + horizon)
        with np.errstate(over="ignore", invalid="ignore"):
            lost = (1 - z) ** (smooth_a - 1) * hyp2f1(smooth_a - 1, smooth_a + b - 1 - r, c, z)
            purchases = np.asarray(c / (smooth_a - 1) * (1 - lost))
        # dropping out can only lower what the posterior rate promises
        ceiling = np.broadcast_to((r + x) / (alpha + T) * horizon, purchases.shape)
        bad = ~((purchases >= 0) & (purchases <= ceiling * (1 + 1e-9)))
        if bad.any():  # parameters in the hundreds
            time = np.broadcast_to(horizon / (alpha + T), purchases.shape)
            purchases[bad] = _purchases_by_quadrature(r + x[bad], a, b + x[bad], time[bad])
        return np.asarray(np.minimum(purchases, ceiling))


def _purchases_by_quadrature(shape: Floats, a: float, b: Floats, time: Floats) -> Floats:
    """E[(1 - (1 + p time)^-shape) / p] for p ~ Beta(a, b), to about 1e-5: the same expectation, always finite.

    A customer that drops out with probability p after each purchase makes (1 - exp(-rate p t)) / p of them.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    p = np.maximum(betaincinv(a, b[:, None], (nodes + 1) / 2), 1e-200)
    purchases = -np.expm1(-shape[:, None] * np.log1p(p * time[:, None])) / p
    return np.asarray(np.sum(purchases * (weights / 2), axis=1))


def fit(
    frequency: ArrayLike,
    recency_days: ArrayLike,
    T_days: ArrayLike,
    order_count: ArrayLike,
    mean_order_value: ArrayLike,
    *,
    purchase_model: PurchaseModel = "bgnbd",
) -> Btyd:
    """Fit purchases and order values; one element per customer with at least one order.

    frequency, recency_days and T_days have their usual meanings (repeat purchase days, first to last and first
    purchase to as_of); order_count and mean_order_value describe all orders, not the repeats alone, which ranks
    better. Customers without a positive mean are left out of the value model only. `purchase_model`, one of
    PURCHASE_MODELS, is tried first, then the FALLBACKS.

    Errors: ModelError, its message the diagnosis, for data of the wrong shape or range, no repeat buyers, no
    positive order value, or purchases that no model fits with any penaliser.
    """
    x, recency, T, count, mean = _aligned(frequency, recency_days, T_days, order_count, mean_order_value)
    _check(x, recency, T)
    # floating sums below then do not depend on the order of the rows
    order = np.lexsort((mean, count, T, recency, x))
    x, recency, T, count, mean = (column[order] for column in (x, recency, T, count, mean))
    model, params, verdict, detail = _fit_purchases(x, recency, T, purchase_model)
    has_value = (count > 0) & (mean > 0) & np.isfinite(mean)
    if not has_value.any():
        raise ModelError(f"no positive order value among {len(x)} customers. Check the sign of net_amount.")
    value_model, value_params, value_verdict, value_detail = _fit_values(count[has_value], mean[has_value])
    repeat = has_value & (x > 0)
    detail |= value_detail | {"frequency_value_correlation": _correlation(x[repeat], mean[repeat])}
    return Btyd(model, params, value_model, value_params, verdict + value_verdict, detail)


def _fit_purchases(
    x: Floats, recency: Floats, T: Floats, first: PurchaseModel
) -> tuple[str, dict[str, float], str, dict[str, float | str]]:
    (unique_x, unique_recency, unique_T), _, weights = _unique_rows(x, recency, T)
    attempts: list[str] = []
    models = list(dict.fromkeys((first, *FALLBACKS)))
    for model in models:
        for penaliser in PENALISERS:
            fitted = _run_fitter(model, penaliser, (unique_x, unique_recency, unique_T), weights)
            if fitted is None:
                attempts.append("not converged")
                continue
            params, loss = fitted
            unit = {"alpha": T.max(), "beta": T.max()}
            scaled = np.array([number / unit.get(name, 1.0) for name, number in params.items()])
            candidate = Btyd(model, params, "", {}, "", {})
            ratio = _fitted_to_actual(candidate, x, T)
            if not (np.isfinite(scaled).all() and scaled.min() > 0 and scaled.max() <= EXPLODING):
                attempts.append("exploding")
                continue
            if not 1 / PLAUSIBLE <= ratio <= PLAUSIBLE:
                attempts.append("implausible total")
                continue
            attempts.append("boundary" if scaled.min() < BOUNDARY else "converged")
            verdict = attempts[0]
            if len(attempts) > 1:
                verdict += f" without a penaliser; used {model} with penaliser {penaliser:g} ({attempts[-1]})"
            detail: dict[str, float | str] = {
                "n": float(len(x)),
                "penaliser": penaliser,
                "log_likelihood": -len(x) * (loss - penaliser * float(scaled @ scaled))
                - float(x.sum()) * float(np.log(T.max())),
                "fitted_to_actual_ratio": ratio,
            }
            return model, params, verdict, detail
    tried = " nor ".join(PURCHASE_MODELS[model][0] for model in models)
    raise ModelError(
        f"neither {tried} fits {len(x)} customers with {int((x > 0).sum())} repeat buyers "
        f"(penalisers {', '.join(f'{p:g}' for p in PENALISERS)}: {', '.join(attempts)}). "
        "Use a longer history, or grade by last-period value."
    )


def _fit_values(count: Floats, mean: Floats) -> tuple[str, dict[str, float], str, dict[str, float | str]]:
    """Gamma-Gamma, or shrinkage with the reason; the verdict is empty where nothing had to give way."""
    # values of size 1, whatever the currency, so that the search starts near the answer
    unit = float(np.sum(count * mean) / count.sum())
    (unique_count, unique_mean), _, weights = _unique_rows(count, mean / unit)
    diagnosis = ""
    for penaliser in PENALISERS:
        fitted = _run_fitter("gamma_gamma", penaliser, (unique_count, unique_mean), weights)
        if fitted is None:
            diagnosis = diagnosis or "Gamma-Gamma did not converge"
            continue
        params, loss = fitted
        p, q, v = params["p"], params["q"], params["v"]
        if not np.isfinite([p, q, v]).all() or max(p, q, v) > EXPLODING:
            diagnosis = diagnosis or f"Gamma-Gamma's parameters explode: p = {p:.3g}, q = {q:.3g}"
            continue
        if q <= 1:
            diagnosis = diagnosis or f"Gamma-Gamma has q = {q:.3g} <= 1: order values so unequal have no mean"
            break
        if not 1 / PLAUSIBLE <= p * v / (q - 1) <= PLAUSIBLE:
            diagnosis = diagnosis or f"Gamma-Gamma's mean order is {p * v / (q - 1):.3g} times the actual one"
            continue
        verdict = f"; order value with penaliser {penaliser:g} ({diagnosis})" if diagnosis else ""
        likelihood = -len(count) * (loss - penaliser * (p * p + q * q + v * v) + float(np.log(unit)))
        detail: dict[str, float | str] = {
            "value_n": float(len(count)),
            "value_penaliser": penaliser,
            "value_log_likelihood": likelihood,
        }
        return "gamma_gamma", {"p": p, "q": q, "v": v * unit}, verdict, detail
    params = {"mean": unit, "k": _credibility(count, mean / unit)}
    return "shrinkage", params, f"; order value by shrinkage ({diagnosis})", {"value_n": float(len(count))}


def _credibility(count: Floats, mean: Floats) -> float:
    """k of (n x + k m) / (n + k): variance within customers over variance between them (Bühlmann, 1967).

    From E(x - m)^2 = between + within / n, by least squares over customers; kept within [0.1, 100]. Where all
    have as many orders the two cannot be told apart, and own and common mean get the same weight.
    """
    if np.ptp(count) == 0:
        return float(count[0])
    squared = (mean - np.sum(count * mean) / count.sum()) ** 2
    inverse = 1 / count - (1 / count).mean()
    within = float(np.sum(inverse * squared) / np.sum(inverse**2))
    between = float(squared.mean()) - within * float((1 / count).mean())
    return float(np.clip(within / between, 0.1, 100.0)) if between > 0 else 100.0


def _fitted_to_actual(model: Btyd, x: Floats, T: Floats) -> float:
    """Repeat purchases the model expects of new customers within their T, over the actual ones."""
    (unique_T,), _, weights = _unique_rows(T)
    zero = np.zeros(len(unique_T))
    with np.errstate(all="ignore"):
        active = model.probability_active(0, 0, 0)
        purchases = model._purchases_if_active(zero, zero, unique_T)
        return float(np.sum(purchases * weights) * active[0] / x.sum())


def _check(x: Floats, recency: Floats, T: Floats) -> None:
    bad = ~np.isfinite(x + recency + T) | (x < 0) | (x != np.floor(x)) | (recency < 0) | (recency > T)
    bad |= (x > 0) != (recency > 0)
    if bad.any():
        raise ModelError(
            "expected whole frequency >= 0, 0 <= recency_days <= T_days and recency_days > 0 exactly where there "
            f"are repeat purchases, found {int(bad.sum())} of {len(x)} customers otherwise (first at position "
            f"{int(np.argmax(bad))}). Derive all three from the same purchase days."
        )
    if not (x > 0).any():
        raise ModelError(
            f"no repeat buyers among {len(x)} customers: how often they buy cannot be learned. "
            "Use a longer history, or grade by last-period value."
        )


def _correlation(x: Floats, mean: Floats) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(mean) == 0:
        return 0.0
    x, mean = x - x.mean(), mean - mean.mean()
    return float(np.sum(x * mean) / np.sqrt(np.sum(x**2) * np.sum(mean**2)))


def _aligned(*columns: ArrayLike) -> tuple[Floats, ...]:
    """The columns as float arrays of one length."""
    arrays = [np.atleast_1d(np.asarray(column, dtype=np.float64)) for column in columns]
    try:
        return tuple(np.broadcast_arrays(*arrays))
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ModelError(
            f"expected columns of one length, found {shapes}. Give one element per customer."
        ) from None


def _unique_rows(*columns: Floats) -> tuple[tuple[Floats, ...], NDArray[np.intp], Floats]:
    """Distinct rows in sorted order, where each row went, and how many rows each stands for."""
    order = np.lexsort(columns[::-1])
    ordered = [column[order] for column in columns]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.any([column[1:] != column[:-1] for column in ordered], axis=0)
    group = np.cumsum(is_first) - 1
    inverse = np.empty(len(order), dtype=np.intp)
    inverse[order] = group
    return tuple(column[is_first] for column in ordered), inverse, np.bincount(group).astype(np.float64)


def _run_fitter(
    model: str, penaliser: float, columns: tuple[Floats, ...], weights: Floats
) -> tuple[dict[str, float], float] | None:
    """Parameters and the loss (mean negative log-likelihood + penalty); None: not converged.

    By `lifetimes`, Pareto/NBD excepted; likelihoods are of times in units of the longest.
    """
    if model == "pareto_nbd":
        x, recency, T = columns
        found = pareto_nbd.fit(x, recency, T, weights, penaliser)
        return found and (asdict(found[0]), found[1])
    with _lifetimes() as lifetimes:
        fitters = {
            "bgnbd": lifetimes.BetaGeoFitter,
            "mbgnbd": lifetimes.ModifiedBetaGeoFitter,
            "gamma_gamma": lifetimes.GammaGammaFitter,
        }
        for tolerance in TOLERANCES:
            fitter = fitters[model](penalizer_coef=penaliser)
            try:
                fitter.fit(*columns, weights=weights, tol=tolerance)
            except (ValueError, ArithmeticError):  # ConvergenceError and numpy's LinAlgError are ValueErrors
                continue
            params = {str(name): float(number) for name, number in fitter.params_.items()}
            return params, float(fitter._negative_log_likelihood_)
    return None


@contextlib.contextmanager
def _lifetimes() -> Iterator[Any]:
    """`lifetimes`, imported late and kept from what it does to its surroundings.

    On import and in fits it changes the process's warning filters and a pandas option, it prints failed
    optimisations, and its optimiser's line search steps through overflow.
    """
    import pandas as pd

    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        option = pd.get_option("mode.chained_assignment")
        import lifetimes

        pd.set_option("mode.chained_assignment", option)
        yield lifetimes
