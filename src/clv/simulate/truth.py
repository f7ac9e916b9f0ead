"""What only the simulator knows: closed forms of the expectations, from the true parameters."""

from __future__ import annotations

import numpy as np

from clv.simulate.population import Accounts
from clv.simulate.timeline import DAYS_PER_YEAR, Floats, Timeline

DISCOUNT_RATE_ANNUAL = 0.10
FORCE_OF_INTEREST = float(np.log1p(DISCOUNT_RATE_ANNUAL))  # per year


def alive_probability(
    timeline: Timeline, order_rate: Floats, dropout_rate: Floats, last_order: Floats, as_of: float
) -> Floats:
    """P(alive at `as_of` | last order at `last_order`, true rates per year).

    The individual-level P(alive) of Schmittlein, Morrison and Colombo (1987) with a seasonal order rate: for D,
    the odds of being dead, dD/dt = mu + D (mu + lambda s(t)), solved month by month.
    """
    odds = np.zeros(len(last_order))
    for start, stop, season in zip(
        timeline.month_start, timeline.month_start[1:], timeline.season, strict=False
    ):
        if start >= as_of:
            break
        years = np.maximum(min(stop, as_of) - np.maximum(last_order, start), 0.0) / DAYS_PER_YEAR
        hazard = dropout_rate + order_rate * season
        growth = np.exp(np.minimum(hazard * years, 200.0))
        odds = np.minimum(odds * growth + dropout_rate / hazard * (growth - 1.0), 1e100)
    return 1.0 / (1.0 + odds)


def expected_orders(
    timeline: Timeline, order_rate: Floats, dropout_rate: Floats, as_of_month: int, *, discounted: bool
) -> Floats:
    """Expected orders of an account alive at the start of a month, over the 12 months from there.

    `as_of_month` counts from the first graded month. With `discounted`, an order d days later counts
    1.1^(-d/365).
    """
    first = timeline.history_months + as_of_month
    decay = dropout_rate + (FORCE_OF_INTEREST if discounted else 0.0)
    total = np.zeros(len(order_rate))
    for month in range(first, first + 12):
        since = (timeline.month_start[month] - timeline.month_start[first]) / DAYS_PER_YEAR
        until = (timeline.month_start[month + 1] - timeline.month_start[first]) / DAYS_PER_YEAR
        total += timeline.season[month] * (np.exp(-decay * since) - np.exp(-decay * until)) / decay
    return order_rate * total


def value_after_conversion(accounts: Accounts, order_value: Floats, standing_ratio: float) -> Floats:
    """Expected discounted value (revenue or contribution, as `order_value` of one order is) of the 12 months from the
    first order on, that order included.

    Discounted to the first order; `standing_ratio` is the share of later orders that are not cancelled. The
    season averages out over the year.
    """
    decay = accounts.dropout_rate + FORCE_OF_INTEREST
    later = accounts.order_rate * -np.expm1(-decay) / decay
    return order_value * (1.0 + standing_ratio * later)


def conversion_probability(accounts: Accounts, as_of: float, horizon_days: float) -> Floats:
    """P(first order within the horizon | none by `as_of`)."""
    age = as_of - accounts.contact_time
    p, rate = accounts.conversion_probability, accounts.conversion_rate_per_day
    waiting = p * np.exp(-rate * age)
    return waiting * -np.expm1(-rate * horizon_days) / (waiting + 1.0 - p)
