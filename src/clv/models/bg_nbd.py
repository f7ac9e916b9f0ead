"""BG/NBD and MBG/NBD: customers buy in Poisson processes of gamma rates and may leave after each purchase.

BG/NBD: Fader, Hardie and Lee (2005, "Counting your customers the easy way", Marketing Science 24). MBG/NBD, where a
customer may leave right after its first purchase too: Batislam, Denizel and Filiztekin (2007, IJRM 24); Wagner and
Hoppe (2008, IJRM 25). Its formulas are those of BG/NBD with one more purchase survived.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, digamma, expit, gammaln, hyp2f1, zeta

from clv.models.histories import Histories
from clv.models.maximum_likelihood import Derivatives

Floats = NDArray[np.float64]

ROWS_AT_ONCE = 8_192  # a dozen columns of them stay in the processor's cache


@dataclass(frozen=True)
class BgNBD:
    """Purchase rates are gamma(r, alpha), chances to leave beta(a, b); alpha has the unit of time.

    A row is a history: x repeat purchases, the last one `recency` after the first, watched until T after it.
    """

    r: float
    alpha: float
    a: float
    b: float
    may_leave_at_once: bool = False  # MBG/NBD

    @property
    def _survived(self) -> float:
        """b and the purchases survived before the first repeat."""
        return self.b + self.may_leave_at_once

    def log_likelihood(self, x: Floats, recency: Floats, T: Floats) -> Floats:
        """Of each history, one per row."""
        r, alpha, a, c = self.r, self.alpha, self.a, self._survived
        rates = gammaln(r + x) - gammaln(r) + r * np.log(alpha) - (r + x) * np.log(alpha + T)
        survival = gammaln(c + x) - gammaln(a + c + x) + gammaln(a + self.b) - gammaln(self.b)
        return np.asarray(rates + survival + np.logaddexp(0.0, self._log_odds_left(x, recency, T)))

    def probability_active(self, x: Floats, recency: Floats, T: Floats) -> Floats:
        """P(the customer has not left by T | its history), one per row; BG/NBD without repeats: 1."""
        return np.asarray(expit(-self._log_odds_left(x, recency, T)))

    def purchases_if_active(self, x: Floats, T: Floats, horizon: float | Floats) -> Floats:
        """Expected purchases in the `horizon` after T of customers active at T; of BG/NBD eq. (10), its numerator.

        Euler's transformation 2F1(A, B; C; z) = (1 - z)^(C - A - B) 2F1(C - A, C - B; C; z) takes the large x out
        of the first two arguments, where the published form overflows for some hundred purchases.
        """
        r, alpha, a, b = self.r, self.alpha, self.a, self._survived
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

    def _log_odds_left(self, x: Floats, recency: Floats, T: Floats) -> Floats:
        """Of having left with the last purchase; -inf where no purchase could be the last."""
        survived = x - 1 if self.may_leave_at_once else np.maximum(x, 1.0) - 1
        odds = (self.r + x) * np.log((self.alpha + T) / (self.alpha + recency))
        odds += np.log(self.a / (self._survived + survived))
        return odds if self.may_leave_at_once else np.where(x > 0, odds, -np.inf)


def _purchases_by_quadrature(shape: Floats, a: float, b: Floats, time: Floats) -> Floats:
    """E[(1 - (1 + p time)^-shape) / p] for p ~ Beta(a, b), to about 1e-5: the same expectation, always finite.

    A customer that drops out with probability p after each purchase makes (1 - exp(-rate p t)) / p of them.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    p = np.maximum(betaincinv(a, b[:, None], (nodes + 1) / 2), 1e-200)
    purchases = -np.expm1(-shape[:, None] * np.log1p(p * time[:, None])) / p
    return np.asarray(np.sum(purchases * (weights / 2), axis=1))


def likelihood(histories: Histories, logs: Floats, *, may_leave_at_once: bool) -> Derivatives:
    """Mean log-likelihood a customer, slopes and curvature by the logarithms of r, alpha, a, b.

    What depends on x or on T alone comes from tables, so that only the odds of having left are taken row by row.
    """
    r, alpha, a, b = np.exp(logs).tolist()
    c = b + may_leave_at_once
    x, customers = histories.x.values, histories.by_x
    among_T, purchases_T = histories.by_T
    T = histories.T.values
    rate_T = r * among_T + purchases_T
    value = float(
        np.sum(customers * (gammaln(r + x) - gammaln(r) + gammaln(c + x) - gammaln(a + c + x)))
        + histories.customers * (r * np.log(alpha) + gammaln(a + b) - gammaln(b))
        - np.sum(rate_T * np.log(alpha + T))
    )
    end, end_2 = digamma(a + b) - digamma(a + c + x), zeta(2.0, a + b) - zeta(2.0, a + c + x)
    slopes = np.array(
        [
            np.sum(customers * (digamma(r + x) - digamma(r) + np.log(alpha)))
            - np.sum(among_T * np.log(alpha + T)),
            np.sum(among_T * r / alpha - rate_T / (alpha + T)),
            np.sum(customers * end),
            np.sum(customers * (end + digamma(c + x) - digamma(b))),
        ]
    )
    curvature = np.zeros((4, 4))
    curvature[0, 0] = np.sum(customers * (zeta(2.0, r + x) - zeta(2.0, r)))
    curvature[0, 1] = curvature[1, 0] = np.sum(among_T * (1 / alpha - 1 / (alpha + T)))
    curvature[1, 1] = np.sum(rate_T / (alpha + T) ** 2 - among_T * r / alpha**2)
    curvature[2:, 2:] = np.sum(customers * end_2)
    curvature[3, 3] += np.sum(customers * (zeta(2.0, c + x) - zeta(2.0, b)))
    params = np.array([r, alpha, a, b])
    slopes = params * slopes
    curvature = curvature * np.outer(params, params) + np.diag(slopes)

    first = 0 if may_leave_at_once else histories.without_repeats
    odds = _sums_of_odds(histories, first, r, alpha, a, b, c)
    n = histories.customers
    return (value + odds[0]) / n, (slopes + odds[1]) / n, (curvature + odds[2]) / n


def _sums_of_odds(
    histories: Histories, first: int, r: float, alpha: float, a: float, b: float, c: float
) -> Derivatives:
    """Sums of log(1 + odds of having left) over the rows from `first` on, and its derivatives by the logarithms."""
    x, recency, T = histories.x.values, histories.recency.values, histories.T.values
    with np.errstate(divide="ignore", invalid="ignore"):  # of x = 0 in BG/NBD, which `first` leaves out
        shape, log_last, lasting = r + x, np.log(a) - np.log(c + x - 1), b / (c + x - 1)
    log_end, log_start = np.log(alpha + T), np.log(alpha + recency)
    share_end, share_start = alpha / (alpha + T), alpha / (alpha + recency)
    value, slopes, curvature = 0.0, np.zeros(4), np.zeros((4, 4))
    by_logs = np.empty((4, ROWS_AT_ONCE))
    for start in range(first, len(histories), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        of_x, of_recency, of_T = (
            histories.x.codes[rows],
            histories.recency.codes[rows],
            histories.T.codes[rows],
        )
        weights = histories.weights[rows]
        # log odds and their derivatives by log r, log alpha, log a, log b
        by = by_logs[:, : len(weights)]
        end, begin = share_end.take(of_T), share_start.take(of_recency)
        rate, stretch = shape.take(of_x), log_end.take(of_T) - log_start.take(of_recency)
        by[0], by[1], by[2] = r * stretch, rate * (end - begin), 1.0
        np.negative(lasting.take(of_x), out=by[3])
        odds = rate * stretch + log_last.take(of_x)
        small = np.exp(-np.abs(odds))
        left = np.where(odds > 0, 1.0, small) / (1 + small)
        value += float(np.sum(weights * (np.maximum(odds, 0.0) + np.log1p(small))))
        sure = weights * left
        slopes += np.einsum("in,n->i", by, sure)
        curvature += np.einsum("in,jn->ij", by * (sure * (1 - left)), by)
        curvature[0, 0] += np.sum(sure * by[0])
        cross = r * np.sum(sure * (end - begin))
        curvature[0, 1] += cross
        curvature[1, 0] += cross
        curvature[1, 1] += np.sum(sure * by[1] * (1 - end - begin))
        curvature[3, 3] += np.sum(sure * (by[3] + by[3] ** 2))
    return value, slopes, curvature
