"""One block of accounts with everything that happens to them; blocks do not know each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clv.simulate import population, receivables, relations, trade, truth
from clv.simulate.catalogue import Products
from clv.simulate.population import Accounts
from clv.simulate.timeline import Floats, Ints, Timeline, generator

STANDING_RATIO = 1.0 - trade.CANCELLED_RATIO


@dataclass(frozen=True)
class World:
    """What all blocks share."""

    seed: int
    timeline: Timeline
    catalogue: Products
    eur_per_usd: Floats
    intercept: float


@dataclass(frozen=True)
class Block:
    """The block's number, how many accounts come before it, its accounts and their facts and expectations."""

    number: int
    first: int
    accounts: Accounts
    orders: trade.Orders
    lines: trade.Lines
    late_regime: Floats  # accounts x months
    invoices: receivables.Invoices
    credits: receivables.Credits
    payments: receivables.Payments
    services: relations.Events
    credit_events: relations.Events
    group: Ints  # 0 = none
    links: relations.Links
    sales_rep: Ints
    judgements: relations.Judgements
    order_value: Floats  # expected net value of an order that stands, EUR
    order_margin: Floats  # its contribution margin
    revenue_after_conversion: Floats
    value_after_conversion: Floats


def stream(world: World, purpose: str, number: int) -> np.random.Generator:
    return generator(world.seed, purpose, number)


def simulate_block(
    world: World, number: int, first: int, customers: int, prospects: int, later: int
) -> Block:
    """The block with that number: the same arguments, the same block."""
    timeline = world.timeline

    def rng(purpose: str) -> np.random.Generator:
        return stream(world, purpose, number)

    accounts = population.accounts(rng("accounts"), timeline, customers, prospects, later, world.intercept)
    orders = trade.orders(rng("orders"), timeline, accounts)
    lines = trade.lines(rng("lines"), timeline, accounts, orders, world.catalogue, world.eur_per_usd)
    late_regime = receivables.late_regime_probability(rng("habits"), timeline, accounts)
    invoices = receivables.invoices(rng("invoices"), timeline, accounts, orders, lines, late_regime)
    credits = receivables.credits(orders, lines, invoices)
    group, links = relations.account_groups(rng("account_groups"), timeline, accounts)
    order_value, order_margin = trade.expected_order(accounts, world.catalogue)
    value = truth.value_after_conversion(accounts, order_margin, STANDING_RATIO)
    rep = relations.sales_reps(rng("sales_reps"), accounts)
    return Block(
        number=number,
        first=first,
        accounts=accounts,
        orders=orders,
        lines=lines,
        late_regime=late_regime,
        invoices=invoices,
        credits=credits,
        payments=receivables.payments(rng("payments"), timeline, invoices, credits),
        services=relations.service_events(rng("service_events"), timeline, accounts),
        credit_events=relations.credit_events(rng("credit_events"), timeline, accounts, invoices),
        group=group,
        links=links,
        sales_rep=rep,
        judgements=relations.judgements(rng("judgements"), timeline, accounts, value, rep),
        order_value=order_value,
        order_margin=order_margin,
        revenue_after_conversion=truth.value_after_conversion(accounts, order_value, STANDING_RATIO),
        value_after_conversion=value,
    )
