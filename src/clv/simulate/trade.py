"""Orders, their lines, cancellations and returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clv.simulate.catalogue import LINE_VALUE_FACTOR, QUANTITY_SIGMA, Products, expected_quantity
from clv.simulate.population import Accounts
from clv.simulate.timeline import Flags, Floats, Ints, Timeline

MEAN_LINES = 3.0
CANCELLED_RATIO = 0.02
CANCELLED_SAME_DAY_RATIO = 0.5
RETURNED_SHARE_RATIO = 0.75  # of the quantity, where a line is returned: half of the time all, else half
NO_DAY = -1


@dataclass(frozen=True)
class Orders:
    """One row per order, sorted by account and time. The first order of an account is never cancelled."""

    account: Ints
    time: Floats
    is_first: Flags
    cancelled_day: Ints  # NO_DAY where it stands

    @property
    def day(self) -> Ints:
        return np.floor(self.time).astype(np.int64)


@dataclass(frozen=True)
class Lines:
    """One row per order line; negative quantities and amounts cancel or return earlier lines."""

    order: Ints
    product: Ints
    day: Ints
    posted_day: Ints
    quantity: Ints
    cents: Ints  # net amount in the customer's currency
    unit_cost: Floats  # in the customer's currency
    has_unit_cost: Flags
    is_return: Flags


def orders(rng: np.random.Generator, timeline: Timeline, accounts: Accounts) -> Orders:
    """A first order at conversion, then a seasonal Poisson process until the dropout."""
    buyers = np.flatnonzero(accounts.conversion_time < timeline.end)
    start = accounts.conversion_time[buyers]
    stop = np.minimum(accounts.dropout_time[buyers], timeline.end)
    since, until = timeline.seasonal_years(start), timeline.seasonal_years(stop)
    repeats = rng.poisson(accounts.order_rate[buyers] * (until - since))
    owner = np.repeat(np.arange(len(buyers)), repeats)
    passed = since[owner] + rng.random(len(owner)) * (until - since)[owner]
    account = np.concatenate([buyers, buyers[owner]])
    time = np.concatenate([start, timeline.time_at(passed)])
    is_first = np.arange(len(account)) < len(buyers)
    by_time = np.lexsort((time, account))
    account, time, is_first = account[by_time], time[by_time], is_first[by_time]
    cancelled = (rng.random(len(account)) < CANCELLED_RATIO) & ~is_first
    lag = np.where(rng.random(len(account)) < CANCELLED_SAME_DAY_RATIO, 0, rng.integers(1, 5, len(account)))
    day = np.floor(time).astype(np.int64)
    return Orders(account, time, is_first, np.where(cancelled, day + lag, NO_DAY))


def _round_at_random(rng: np.random.Generator, values: Floats) -> Ints:
    """Integers with the given means."""
    return np.floor(values + rng.random(len(values))).astype(np.int64)


def _sales(
    rng: np.random.Generator, accounts: Accounts, orders: Orders, catalogue: Products, eur_per_usd: Floats
) -> Lines:
    order = np.repeat(np.arange(len(orders.account)), 1 + rng.poisson(MEAN_LINES - 1, len(orders.account)))
    n, account, day = len(order), orders.account[order], orders.day[order]
    edges = np.cumsum(accounts.category_mix, axis=1)[:, :-1]
    category = (rng.random(n)[:, None] >= edges[account]).sum(axis=1).astype(np.int64)
    product = catalogue.draw(rng, category)
    price = catalogue.price_eur[product]
    target = accounts.line_value_eur[account] * LINE_VALUE_FACTOR[category] / price
    target *= np.exp(QUANTITY_SIGMA * rng.standard_normal(n) - QUANTITY_SIGMA**2 / 2)
    quantity = np.where(target > 1.0, _round_at_random(rng, target), 1)
    rate = np.where(accounts.currency_is_usd[account], eur_per_usd[day], 1.0)
    net = quantity * price * (1.0 - accounts.discount_ratio[account]) / rate
    late_posting = (rng.random(n) < 0.03) & ~orders.is_first[order]
    return Lines(
        order=order,
        product=product,
        day=day,
        posted_day=day + np.where(late_posting, rng.integers(1, 6, n), 0),
        quantity=quantity,
        cents=np.maximum(1, np.rint(net * 100)).astype(np.int64),
        unit_cost=np.round(catalogue.unit_cost_eur[product] / rate, 4),
        has_unit_cost=~catalogue.is_service[product] & (rng.random(n) >= 0.05),
        is_return=np.zeros(n, dtype=np.bool_),
    )


def _reversal(lines: Lines, rows: Ints, day: Ints, quantity: Ints, *, is_return: bool) -> Lines:
    """Negative lines at the price and cost of the lines in `rows`."""
    cents = np.rint(lines.cents[rows] * (quantity / lines.quantity[rows])).astype(np.int64)
    return Lines(
        order=lines.order[rows],
        product=lines.product[rows],
        day=day,
        posted_day=day,
        quantity=-quantity,
        cents=-cents,
        unit_cost=lines.unit_cost[rows],
        has_unit_cost=lines.has_unit_cost[rows],
        is_return=np.full(len(rows), is_return),
    )


def lines(
    rng: np.random.Generator,
    timeline: Timeline,
    accounts: Accounts,
    orders: Orders,
    catalogue: Products,
    eur_per_usd: Floats,
) -> Lines:
    """All lines dated before the end: sales, then cancellations (0 to 4 days later) and returns (3 to 30)."""
    sales = _sales(rng, accounts, orders, catalogue, eur_per_usd)
    n = len(sales.order)
    cancelled_day = orders.cancelled_day[sales.order]
    cancelled = np.flatnonzero(cancelled_day != NO_DAY)
    cancellations = _reversal(
        sales, cancelled, cancelled_day[cancelled], sales.quantity[cancelled], is_return=False
    )
    is_returned = rng.random(n) < accounts.return_ratio[orders.account[sales.order]]
    returned = np.flatnonzero(is_returned & (cancelled_day == NO_DAY))
    bought = sales.quantity[returned]
    part = _round_at_random(rng, bought / 2)
    quantity = np.where(rng.random(len(returned)) < 0.5, bought, part)
    day = sales.day[returned] + rng.integers(3, 31, len(returned))
    some = quantity > 0
    returns = _reversal(sales, returned[some], day[some], quantity[some], is_return=True)
    parts = (sales, cancellations, returns)
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Lines.__dataclass_fields__
    }
    known = np.flatnonzero(joined["day"] < timeline.end)
    joined = {name: values[known] for name, values in joined.items()}
    joined["posted_day"] = np.minimum(joined["posted_day"], timeline.end - 1)
    return Lines(**joined)


def expected_order(accounts: Accounts, catalogue: Products) -> tuple[Floats, Floats]:
    """Expected net value and contribution margin of one order that is not cancelled, in EUR, returns taken off.

    Product cost is the only cost; a service's margin is its product's ratio of the net amount. Returns count at
    their order's date. Cents and ten-thousandths of cost are rounded in the facts and not here.
    """
    value, margin = np.zeros(len(accounts)), np.zeros(len(accounts))
    paid = 1.0 - accounts.discount_ratio
    for product, category in enumerate(catalogue.category):
        price = catalogue.price_eur[product]
        weight = accounts.category_mix[:, category] * catalogue.popularity[product]
        quantity = weight * expected_quantity(accounts.line_value_eur * LINE_VALUE_FACTOR[category] / price)
        net = quantity * price * paid
        value += net
        if catalogue.is_service[product]:
            margin += net * catalogue.margin_ratio[product]
        else:
            margin += net - quantity * catalogue.unit_cost_eur[product]
    kept = MEAN_LINES * (1.0 - RETURNED_SHARE_RATIO * accounts.return_ratio)
    return value * kept, margin * kept
