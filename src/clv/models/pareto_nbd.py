"""Pareto/NBD: customers buy in Poisson processes of gamma rates and leave after gamma-mixed exponential lifetimes.

Schmittlein, Morrison and Colombo (1987, "Counting your customers", Management Science 33); derivations in Fader and
Hardie (2005, brucehardie.com/notes/009). The published likelihood has a difference of two 2F1, which loses its digits
or overflows for very active customers. That difference is an integral over the moment the customer left, and here
the integral is taken: all of its terms are positive and are added by their logarithms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, exprel, gammaln, zeta

from clv.models.histories import Histories
from clv.models.maximum_likelihood import Derivatives

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

# Nodes by what the integrand does (e-folds that it falls by, plus its width): to 1e-11 of the likelihood
NODES = ((2.0, 12), (16.0, 32), (np.inf, 64))
RULES = {count: np.polynomial.legendre.leggauss(count) for _, count in NODES}
NEGLIGIBLE = 40.0  # e-folds below the start of the integral
ROWS_AT_ONCE = 65_536
CELLS_AT_ONCE = (
    16_384  # a row of them takes as many as there are nodes; so they stay in the processor's cache
)


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
        rates = gammaln(self.r + x) - gammaln(self.r) + self.r * np.log(self.alpha)
        endings = np.empty(len(x))
        for rows, some in _endings(self, x, recency, T):
            endings[rows] = some.log_total
        return np.asarray(rates + self.s * np.log(self.beta) + endings)

    def probability_active(self, x: Floats, recency: Floats, T: Floats) -> Floats:
        """P(the customer has not left by T | its history), one per row."""
        active = np.empty(len(x))
        for rows, some in _endings(self, x, recency, T):
            active[rows] = some.probability[-1]
        return active

    def purchases_if_active(self, x: Floats, T: Floats, horizon: float | Floats) -> Floats:
        """Expected purchases in the `horizon` after T of customers that are active at T, one per row."""
        stretch = np.log1p(horizon / (self.beta + T))
        # (1 - exp(-(s - 1) stretch)) / (s - 1) by a function that has its limit at s = 1
        lifetime = (self.beta + T) * stretch * exprel((1 - self.s) * stretch)
        return np.asarray((self.r + x) / (self.alpha + T) * np.minimum(lifetime, horizon))


class _Endings:
    """How histories may have ended, a column each: left at a node between last purchase and T; active at T, last.

    Leaving at y has density s (alpha + y)^-(r + x) (beta + y)^-(s + 1). By log(min(alpha, beta) + y) it is
    log-concave, so that its first slope bounds how far it matters, and smooth whatever the parameters.
    """

    def __init__(
        self, model: ParetoNBD, shape: Floats, recency: Floats, T: Floats, width: Floats, nodes: int
    ) -> None:
        _, alpha, s, beta = astuple(model)
        points, node_weights = RULES[nodes]
        origin = min(alpha, beta) + recency
        step = ((points + 1) / 2)[:, None] * width
        time = np.vstack([recency + origin * np.expm1(step), T])
        self.log_alpha, self.log_beta = np.log(alpha + time), np.log(beta + time)
        self.share_alpha, self.share_beta = alpha / (alpha + time), beta / (beta + time)
        log_weight = -shape * self.log_alpha - s * self.log_beta
        with np.errstate(divide="ignore"):  # without time to leave in, nobody left
            log_weight[:-1] += np.log(s * origin * width) + step + np.log(node_weights / 2)[:, None]
        log_weight[:-1] -= self.log_beta[:-1]
        largest = log_weight.max(axis=0)
        weight = np.exp(log_weight - largest)
        # in this order, whatever the number of histories: numpy's own sum of a single column has another
        total = reduce(np.add, weight)
        self.probability = weight / total
        self.log_total = largest + np.log(total)


def _endings(model: ParetoNBD, x: Floats, recency: Floats, T: Floats) -> Iterator[tuple[Places, _Endings]]:
    """The endings of all histories in pieces of bounded size, each with the rows it is of."""
    r, alpha, s, beta = astuple(model)
    for start in range(0, len(x), ROWS_AT_ONCE):
        piece = slice(start, start + ROWS_AT_ONCE)
        shape, last, end = r + x[piece], recency[piece], T[piece]
        origin = min(alpha, beta) + last
        slope = shape * origin / (alpha + last) + (s + 1) * origin / (beta + last) - 1
        reach = np.full_like(slope, np.inf)
        np.divide(NEGLIGIBLE, slope, out=reach, where=slope > 0)
        width = np.minimum(np.log1p((end - last) / origin), reach)
        until = origin * np.expm1(width)
        fall = shape * np.log1p(until / (alpha + last)) + (s + 1) * np.log1p(until / (beta + last)) - width
        hardness = np.maximum(fall, 0.0) + width
        easier = -np.inf
        for hardest, nodes in NODES:
            rows = np.flatnonzero((hardness > easier) & (hardness <= hardest))
            easier = hardest
            for some in np.array_split(rows, -(-len(rows) * nodes // CELLS_AT_ONCE) or 1):
                if len(some):
                    yield (
                        start + some,
                        _Endings(model, shape[some], last[some], end[some], width[some], nodes),
                    )


def likelihood(histories: Histories, logs: Floats) -> Derivatives:
    """Mean log-likelihood a customer, slopes and curvature by the logarithms of r, alpha, s, beta.

    The logarithm of a sum of weights exp(h) has as slopes the mean slopes of h, and as curvature the mean curvature
    of h and the covariance of its slopes, all by share of the weights: here over the endings of each history.
    """
    r, alpha, s, beta = np.exp(logs).tolist()
    x, recency, T = histories.columns
    counts, customers, n = histories.x.values, histories.by_x, histories.customers
    value = np.sum(customers * (gammaln(r + counts) - gammaln(r))) + n * (
        r * np.log(alpha) + s * np.log(beta)
    )
    slopes = np.array([r * np.sum(customers * (digamma(r + counts) - digamma(r))), n * r, 0.0, n * s])
    slopes += n * np.array([r * np.log(alpha), 0.0, s * np.log(beta), 0.0])
    curvature = np.diag([slopes[0], 0.0, slopes[2], 0.0])
    curvature[0, 0] += r * r * np.sum(customers * (zeta(2.0, r + counts) - zeta(2.0, r)))
    upper = {(0, 1): n * r, (2, 3): n * s}  # above the diagonal
    for rows, some in _endings(ParetoNBD(r, alpha, s, beta), x, recency, T):
        weights, shape = histories.weights[rows], r + x[rows]
        value += np.sum(weights * some.log_total)
        left = np.append(np.ones(len(some.probability) - 1), 0.0)[:, None]
        by_logs = np.stack(
            [
                -r * some.log_alpha,
                -shape * some.share_alpha,
                left - s * some.log_beta,
                -(s + left) * some.share_beta,
            ]
        )
        means = np.einsum("ikn,kn->in", by_logs, some.probability)
        of_rows = np.einsum("in,n->i", means, weights)
        slopes += of_rows
        share = some.probability * weights
        cells = by_logs.reshape(4, -1)
        curvature += np.einsum("ic,jc->ij", cells * share.ravel(), cells)
        curvature -= np.einsum("in,jn->ij", means * weights, means)
        curvature[0, 0] += of_rows[0]
        curvature[1, 1] += np.sum(share * by_logs[1] * (1 - some.share_alpha))
        curvature[2, 2] += of_rows[2] - np.sum(share[:-1])
        curvature[3, 3] += np.sum(share * by_logs[3] * (1 - some.share_beta))
        upper[0, 1] -= r * np.sum(share * some.share_alpha)
        upper[2, 3] -= s * np.sum(share * some.share_beta)
    for (row, column), cross in upper.items():
        curvature[row, column] += cross
        curvature[column, row] += cross
    return float(value) / n, slopes / n, curvature / n
