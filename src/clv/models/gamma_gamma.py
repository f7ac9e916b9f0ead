"""Gamma-Gamma: order values are gamma(p, rate), the rates of customers gamma(q, v).

Fader and Hardie (2013, brucehardie.com/notes/025); Fader, Hardie and Lee (2005, JMR 42).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, zeta

from clv.models.histories import Orders
from clv.models.maximum_likelihood import Derivatives

Floats = NDArray[np.float64]


def log_likelihood(params: Floats, count: Floats, mean: Floats) -> Floats:
    """Of the mean of `count` orders, one per row, given p, q, v; eq. (1a) of the note."""
    p, q, v = params
    shape = p * count
    return np.asarray(
        gammaln(shape + q)
        - gammaln(shape)
        - gammaln(q)
        + q * np.log(v)
        + (shape - 1) * np.log(mean)
        + shape * np.log(count)
        - (shape + q) * np.log(count * mean + v)
    )


def likelihood(orders: Orders, logs: Floats) -> Derivatives:
    """Mean log-likelihood a customer, slopes and curvature by the logarithms of p, q, v.

    p and q meet the single customer only through v, so that three sums a group are all it takes.
    """
    p, q, v = np.exp(logs).tolist()
    n, count, log_means = orders.sizes, orders.counts, orders.log_means
    share = v / (orders.totals + v)
    logs_of_totals = orders.sums(np.log(orders.totals + v))
    shares, squares = orders.sums(share), orders.sums(share * share)
    shape = p * count + q
    own = p * count
    value = (
        n * (gammaln(shape) - gammaln(own) - gammaln(q) + q * np.log(v) + own * np.log(count))
        + (own - 1) * log_means
        - shape * logs_of_totals
    )
    trigamma = zeta(2.0, shape)
    slopes = [
        p
        * (
            n * count * (digamma(shape) - digamma(own) + np.log(count)) + count * (log_means - logs_of_totals)
        ),
        q * (n * (digamma(shape) - digamma(q) + np.log(v)) - logs_of_totals),
        n * q - shape * shares,
    ]
    curvature = [
        [p * p * n * count**2 * (trigamma - zeta(2.0, own)) + slopes[0], p * q * n * count * trigamma, -own * shares],
        [p * q * n * count * trigamma, q * q * n * (trigamma - zeta(2.0, q)) + slopes[1], q * (n - shares)],
        [-own * shares, q * (n - shares), -shape * (shares - squares)],
    ]  # fmt: skip
    customers = float(len(orders))
    return (
        float(np.sum(value)) / customers,
        np.sum(slopes, axis=1) / customers,
        np.sum(curvature, axis=2) / customers,
    )
