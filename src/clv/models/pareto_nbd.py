"""Pareto/NBD: customers buy in Poisson processes of gamma rates and leave after gamma-mixed exponential lifetimes.

Schmittlein, Morrison and Colombo (1987, "Counting your customers", Management Science 33); derivations in Fader and
Hardie (2005, brucehardie.com/notes/009). The published likelihood has a difference of two 2F1, which loses its digits
or overflows for very active customers. That difference is an integral over the moment the customer left, and here
the integral is taken: all of its terms are positive and are added by their logarithms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import digamma, exprel, gammaln

Floats = NDArray[np.float64]

NODE_COUNT = 64
NEGLIGIBLE = 40.0  # e-folds below the start of the integral
ROWS_AT_ONCE = 4_096  # each takes as many columns as there are nodes
STARTS = ((0.5, 0.5), (2.0, 2.0), (0.5, 0.05))  # shapes of the gammas of purchase and of death rates
BOUNDS = (1e-6, 1e6)  # of the parameters, time in units of the longest history
TOLERANCE = 1e-5  # of the mean log-likelihood's slope by log parameters, where rounding ends the search

_points, _weights = np.polynomial.legendre.leggauss(NODE_COUNT)
NODES, NODE_WEIGHTS = (_points + 1) / 2, _weights / 2


@dataclass(frozen=True)
class ParetoNBD:
    """Purchase rates are gamma(r, alpha), death rates gamma(s, beta); alpha and beta have the unit of time.

    A row is a history: x repeat purchases, the last one `recency` after the first, watched until T after it.
    """

    r: float
    alpha: float
    s: float
    beta: float

    def log_likelihood(self, x: Floats, recency: Floats, T: Floats) -> Floats:
        """Of each history, one per row."""
        return np.concatenate([self._likelihood_and_slopes(*rows)[0] for rows in _portions(x, recency, T)])

    def probability_active(self, x: Floats, recency: Floats, T: Floats) -> Floats:
        """P(the customer has not left by T | its history), one per row."""
        endings = [_Endings(self, *rows).probability[:, -1] for rows in _portions(x, recency, T)]
        return np.concatenate(endings)

    def purchases_if_active(self, x: Floats, T: Floats, horizon: float | Floats) -> Floats:
        """Expected purchases in the `horizon` after T of customers that are active at T, one per row."""
        stretch = np.log1p(horizon / (self.beta + T))
        # (1 - exp(-(s - 1) stretch)) / (s - 1) by a function that has its limit at s = 1
        lifetime = (self.beta + T) * stretch * exprel((1 - self.s) * stretch)
        return np.asarray((self.r + x) / (self.alpha + T) * np.minimum(lifetime, horizon))

    def _likelihood_and_slopes(self, x: Floats, recency: Floats, T: Floats) -> tuple[Floats, Floats]:
        """Log-likelihoods, one per row, and their derivatives by the logarithms of r, alpha, s, beta, a row each."""
        r, alpha, s, beta = astuple(self)
        ended = _Endings(self, x, recency, T)
        left = 1 - ended.probability[:, -1]
        shape = np.append(np.full(NODE_COUNT, s + 1), s)  # of the density of leaving, of staying until T
        by_r = digamma(r + x) - digamma(r) + np.log(alpha) - ended.mean(ended.log_alpha)
        by_alpha = r / alpha - (r + x) * ended.mean(np.exp(-ended.log_alpha))
        by_s = np.log(beta) - ended.mean(ended.log_beta) + left / s
        by_beta = s / beta - ended.mean(shape * np.exp(-ended.log_beta))
        rates = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
        return (
            rates + s * np.log(beta) + ended.log_total,
            np.stack([r * by_r, alpha * by_alpha, s * by_s, beta * by_beta]),
        )


class _Endings:
    """How histories may have ended, a row each: left at one of the nodes between last purchase and T; active at T.

    Leaving at y has density s (alpha + y)^-(r + x) (beta + y)^-(s + 1). By log(min(alpha, beta) + y) it is
    log-concave, so that its first slope bounds how far it matters, and smooth whatever the parameters.
    """

    def __init__(self, model: ParetoNBD, x: Floats, recency: Floats, T: Floats) -> None:
        r, alpha, s, beta = astuple(model)
        origin = min(alpha, beta) + recency
        slope = (r + x) * origin / (alpha + recency) + (s + 1) * origin / (beta + recency) - 1
        reach = np.full_like(slope, np.inf)
        np.divide(NEGLIGIBLE, slope, out=reach, where=slope > 0)
        width = np.minimum(np.log1p((T - recency) / origin), reach)
        step = width[:, None] * NODES
        time = np.column_stack([recency[:, None] + origin[:, None] * np.expm1(step), T])
        self.log_alpha, self.log_beta = np.log(alpha + time), np.log(beta + time)
        log_weight = -(r + x)[:, None] * self.log_alpha - s * self.log_beta
        with np.errstate(divide="ignore"):  # without time to leave in, nobody left
            log_time = np.log(s * origin * width)[:, None] + step + np.log(NODE_WEIGHTS)
        log_weight[:, :-1] += log_time - self.log_beta[:, :-1]
        largest = log_weight.max(axis=1)
        weight = np.exp(log_weight - largest[:, None])
        total = weight.sum(axis=1)
        self.probability = weight / total[:, None]
        self.log_total = largest + np.log(total)

    def mean(self, values: Floats) -> Floats:
        """Mean over a history's endings, one per row."""
        return np.asarray(np.sum(self.probability * values, axis=1))


def fit(
    x: Floats, recency: Floats, T: Floats, weights: Floats, penaliser: float = 0.0
) -> tuple[ParetoNBD, float] | None:
    """The likeliest model of distinct histories that stand for `weights` customers each, and its loss; or None.

    The loss is the mean negative log-likelihood, time in units of the longest history, plus `penaliser` times the
    sum of the squared parameters in that unit. None: the search converged from no start.
    """
    unit, customers = float(T.max()), float(weights.sum())
    portions = list(_portions(x, recency / unit, T / unit, weights))

    def loss(logs: Floats) -> tuple[float, Floats]:
        params = np.exp(logs)
        model = ParetoNBD(*params.tolist())
        value, slopes = penaliser * float(np.sum(params**2)), 2 * penaliser * params**2
        for *rows, weight in portions:
            likelihood, by_logs = model._likelihood_and_slopes(*rows)
            value -= float(np.sum(likelihood * weight)) / customers
            slopes = slopes - np.sum(by_logs * weight, axis=1) / customers
        return value, slopes

    # a customer's mean rate is then that of all customers over their whole histories
    unit_rate = float(np.sum(x * weights) / np.sum(T / unit * weights))
    best: tuple[float, Floats] | None = None
    for r, s in STARTS:
        found = minimize(
            loss,
            np.log([r, r / unit_rate, s, 1.0]),
            jac=True,
            method="L-BFGS-B",
            bounds=[tuple(np.log(BOUNDS))] * 4,
            options={"gtol": 1e-8, "ftol": 1e-13, "maxiter": 500},
        )
        flat = found.success or np.abs(found.jac).max() < TOLERANCE
        if flat and np.isfinite(found.fun) and (best is None or found.fun < best[0]):
            best = float(found.fun), found.x
    if best is None:
        return None
    r, alpha, s, beta = np.exp(best[1]).tolist()
    return ParetoNBD(r, alpha * unit, s, beta * unit), best[0]


def _portions(*columns: Floats) -> Iterator[tuple[Floats, ...]]:
    """The columns in pieces of ROWS_AT_ONCE; one of no rows where there are none."""
    for start in range(0, max(len(columns[0]), 1), ROWS_AT_ONCE):
        yield tuple(column[start : start + ROWS_AT_ONCE] for column in columns)
