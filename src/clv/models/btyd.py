"""Buy till you die: how often a customer will buy, whether it still does, and how much an order will bring.

Purchases follow BG/NBD or MBG/NBD (`bg_nbd`) or Pareto/NBD (`pareto_nbd`); order values follow Gamma-Gamma
(`gamma_gamma`) or, where that has no mean, are shrunk to the common one. The archived package `lifetimes` says where
to look (`lifetimes_guess`), likelihoods of our own say what fits (`maximum_likelihood`). What was fitted are a few
numbers; what is expected of a customer is computed from them here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clv.errors import ModelError
from clv.models import order_values, purchase_models
from clv.models.bg_nbd import BgNBD
from clv.models.histories import Coded, Histories, Orders, distinct_rows
from clv.models.pareto_nbd import ParetoNBD
from clv.models.purchase_models import PURCHASE_MODELS
from clv.models.purchase_models import PurchaseModel as PurchaseModel
from clv.period import DAYS_PER_YEAR, day_factor

Floats = NDArray[np.float64]

VALUE_PARAMETERS = {"gamma_gamma": {"p", "q", "v"}, "shrinkage": {"mean", "k"}}
CORRELATED = 0.3  # frequency and value, from which on the verdict says that they are
MOMENTS = (8, 2)  # at which purchases are discounted, and how many more for every year


@dataclass(frozen=True)
class Btyd:
    """A fitted model. All times are days, the parameters alpha and beta too; money has the unit of the orders.

    `purchase_model` is `bgnbd` or `mbgnbd` with r, alpha, a, b, or `pareto_nbd` with r, alpha, s, beta.
    `value_model` is `gamma_gamma` with p, q, v, or `shrinkage` with `mean` (of all orders) and `k` (orders that
    weigh as much as that mean).

    `verdict` opens with how the purchase model asked for fared without a penaliser:
    `converged`; `boundary`: a parameter near 0, as where few leave, and those at once; `exploding`: a parameter beyond
    all bounds, as where nobody leaves, or all buy alike; `not positive definite`: the data do not tell all parameters
    apart, as where who came back did so once, on the last day; `not converged`: no start led to a best answer;
    `implausible total`: it does not expect of new customers, within a factor of 5, what they did. Only the first two
    are used; else the verdict names what was: the model, its penaliser, how it fared. It goes on with `auto`'s choice,
    with why order values are penalised or shrunk (q <= 1, parameters that explode, a mean order far from the actual
    one, or one of the above), and with a correlation of frequency and value beyond 0.3, where Gamma-Gamma assumes
    none. No repeat buyers, no positive order value, and purchases that nothing fits are a ModelError.

    `detail` has `n` (customers), `log_likelihood` (of the purchases, unpenalised, time in days), `penaliser`,
    `fitted_to_actual_ratio` (repeat purchases), `frequency_value_correlation` (repeat buyers) and `value_n`; with
    Gamma-Gamma also `value_log_likelihood` and `value_penaliser`; with `auto` also `held_out_log_likelihood_NAME`,
    mean a customer, of each model that could be fitted on half of the customers.
    """

    purchase_model: str
    purchase_params: dict[str, float]
    value_model: str
    value_params: dict[str, float]
    verdict: str
    detail: dict[str, float | str]

    @property
    def purchases(self) -> BgNBD | ParetoNBD:
        """The model of purchases."""
        return PURCHASE_MODELS[self.purchase_model].build(**self.purchase_params)

    def log_likelihood(self, frequency: ArrayLike, recency_days: ArrayLike, T_days: ArrayLike) -> Floats:
        """Of each customer's purchases, one per customer."""
        return self.purchases.log_likelihood(*_aligned(frequency, recency_days, T_days))

    def probability_active(self, frequency: ArrayLike, recency_days: ArrayLike, T_days: ArrayLike) -> Floats:
        """P(the customer still buys) at the end of T_days, one per customer.

        BG/NBD: a customer can only stop after a repeat purchase, so without one it is 1.
        """
        return self.purchases.probability_active(*_aligned(frequency, recency_days, T_days))

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
        """Expected purchases, each worth (1 + rate)^(-t / 365) at its day t; one per customer.

        By parts, ∫ d(t) dE(t) = d(h) E(h) + f ∫ d(t) E(t) dt, f the force of interest. New customers may buy most
        in their first days, so the nodes of that integral are close there: t = h u^2 by Gauss-Legendre in u.
        """
        x, recency, T = _aligned(frequency, recency_days, T_days)
        columns = Coded.of(x), Coded.of(T)
        rows, pair, _ = distinct_rows(
            *columns
        )  # what is expected of an active customer depends on x and T alone
        of_pair = x[rows], T[rows]
        factor = day_factor(discount_rate_annual_ratio)
        purchases = self.purchases
        worth = factor**horizon_days * purchases.purchases_if_active(*of_pair, horizon_days)
        if factor < 1:
            few, more = MOMENTS
            nodes, weights = np.polynomial.legendre.leggauss(few + more * int(horizon_days / DAYS_PER_YEAR))
            for u, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
                day = horizon_days * u**2
                share = -np.log(factor) * factor**day * 2 * horizon_days * u * weight
                worth += share * purchases.purchases_if_active(*of_pair, day)
        return np.asarray(worth[pair] * purchases.probability_active(x, recency, T))

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
        rows, pair, _ = distinct_rows(Coded.of(x), Coded.of(T))
        purchases = self.purchases
        weights = np.bincount(pair, weight * purchases.probability_active(x, recency, T), minlength=len(rows))
        totals = [
            (weights * purchases.purchases_if_active(x[rows], T[rows], day)).sum() for day in np.asarray(days)
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
            numbers = [*model.purchase_params.values(), *model.value_params.values()]
            sound = (
                set(model.purchase_params) == set(PURCHASE_MODELS[model.purchase_model].parameters)
                and set(model.value_params) == VALUE_PARAMETERS[model.value_model]
                and all(isinstance(number, float) and 0 < number < np.inf for number in numbers)
            )
        except (TypeError, KeyError, AttributeError):
            sound = False
        if not sound:
            raise ModelError(
                "expected the parameters of a buy-till-you-die model, found others. Train it again."
            )
        return model


def fit(
    frequency: ArrayLike,
    recency_days: ArrayLike,
    T_days: ArrayLike,
    order_count: ArrayLike,
    mean_order_value: ArrayLike,
    *,
    purchase_model: PurchaseModel = "bgnbd",
) -> Btyd:
    """Fit purchases and order values; one element per customer with at least one order, in any order.

    frequency, recency_days and T_days have their usual meanings (repeat purchase days, first to last and first
    purchase to as_of); order_count and mean_order_value describe all orders, not the repeats alone, which ranks
    better. Customers without a positive mean are left out of the value model only. `purchase_model`, one of
    PURCHASE_MODELS, is tried first, then the FALLBACKS; `auto` tries first the one that gives customers it was not
    fitted on the highest likelihood.

    Errors: ModelError, its message the diagnosis, for data of the wrong shape or range, no repeat buyers, no
    positive order value, or purchases that no model fits with any penaliser.
    """
    x, recency, T, count, mean = _aligned(frequency, recency_days, T_days, order_count, mean_order_value)
    _check(x, recency, T)
    totals = count * mean
    has_value = (count > 0) & (totals > 0) & np.isfinite(totals)
    if not has_value.any():
        raise ModelError(f"no positive order value among {len(x)} customers. Check the sign of net_amount.")
    model, params, verdict, detail = purchase_models.fit(Histories.of(x, recency, T), purchase_model)
    orders = Orders.of(*(column if has_value.all() else column[has_value] for column in (x, count, totals)))
    value_model, value_params, value_verdict, value_detail = order_values.fit(orders)
    correlation = order_values.frequency_value_correlation(orders)
    verdict += value_verdict
    if abs(correlation) > CORRELATED:
        verdict += f"; frequency and order value correlate by {correlation:.2f}, the models assume 0"
    detail |= value_detail | {"frequency_value_correlation": correlation}
    return Btyd(model, params, value_model, value_params, verdict, detail)


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
