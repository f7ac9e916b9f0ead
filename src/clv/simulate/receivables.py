"""Invoices, credit notes, disputes and payments, with the true probability that an invoice is paid late."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from clv.simulate.catalogue import TERMS_DAYS
from clv.simulate.population import Accounts
from clv.simulate.timeline import Flags, Floats, Ints, Timeline, pick
from clv.simulate.trade import NO_DAY, Lines, Orders

LATE_AFTER_DAYS = 30
NEVER_PAID_RATIO = 0.03  # of the invoices in the late regime
HABIT_PERSISTENCE = 0.85  # from month to month
HABIT_SHOCK = 0.30
NEVER = 1_000_000  # a day that does not come
REASONS = ("cash_shortage", "approval_pending", "bank_error", "dispute")
DISPUTE = REASONS.index("dispute")
NO_REASON = -1


@dataclass(frozen=True)
class Invoices:
    """One row per invoice; days may lie at or after the end of the facts, NEVER where nothing happens."""

    order: Ints
    account: Ints
    day: Ints
    due_day: Ints
    cents: Ints
    is_cancelled: Flags
    dispute_opened_day: Ints
    dispute_closed_day: Ints
    is_sellers_fault: Flags
    reason: Ints
    paid_day: Ints
    late_probability: Floats


@dataclass(frozen=True)
class Credits:
    """One row per credit note."""

    invoice: Ints
    day: Ints
    cents: Ints  # positive


@dataclass(frozen=True)
class Payments:
    """One row per payment or instalment before the end."""

    invoice: Ints
    day: Ints
    cents: Ints
    reason: Ints


def late_regime_probability(rng: np.random.Generator, timeline: Timeline, accounts: Accounts) -> Floats:
    """P(an invoice of the account issued in the month falls into the late regime): accounts x months.

    Log-odds: level + slope x years + an AR(1) habit with monthly persistence HABIT_PERSISTENCE.
    """
    months = timeline.path_months
    path = np.empty((len(accounts), months))
    habit = rng.standard_normal(len(accounts)) * HABIT_SHOCK / np.sqrt(1 - HABIT_PERSISTENCE**2)
    for month in range(months):
        years = (month - timeline.history_months) / 12 + 1.0
        path[:, month] = expit(accounts.late_level + accounts.late_slope * years + habit)
        habit = HABIT_PERSISTENCE * habit + HABIT_SHOCK * rng.standard_normal(len(accounts))
    return path


def late_payment_probability(late_regime: Floats, scale_days: Floats) -> Floats:
    """P(paid more than LATE_AFTER_DAYS beyond terms, or never): the closed form of the law in `invoices`.

    The seller's own disputes are taken off the delay. Shapes broadcast.
    """
    beyond = np.exp(-LATE_AFTER_DAYS / scale_days)
    return late_regime * (NEVER_PAID_RATIO + (1.0 - NEVER_PAID_RATIO) * beyond)


def invoices(
    rng: np.random.Generator,
    timeline: Timeline,
    accounts: Accounts,
    orders: Orders,
    lines: Lines,
    late_regime: Floats,
) -> Invoices:
    """One invoice per order, 0 to 3 days after it, over its positive lines; none where cancelled the same day.

    In the late regime the delay beyond terms is 1 + floor(Exp(scale)) days, or never; else payment comes on the
    due day or Exp(9) days before it, rarely before the invoice. A dispute of the seller's fault opens on the due
    day and shifts payment by its own length; a buyer's explains a delay and adds none.
    """
    is_sale = lines.quantity > 0
    cents = np.bincount(lines.order[is_sale], weights=lines.cents[is_sale], minlength=len(orders.account))
    order = np.flatnonzero(orders.cancelled_day != orders.day)
    n, account = len(order), orders.account[order]
    day = orders.day[order] + pick(rng, (30, 35, 20, 15), n)
    changed = rng.random(n) < 0.04
    other_terms = np.array(TERMS_DAYS)[rng.integers(0, len(TERMS_DAYS), n)]
    terms = np.where(changed, other_terms, accounts.terms_days[account])
    due = day + terms

    month = np.minimum(timeline.month_of(day), timeline.path_months - 1)
    regime, scale = late_regime[account, month], accounts.late_scale_days[account]
    is_late = rng.random(n) < regime
    is_never = is_late & (rng.random(n) < NEVER_PAID_RATIO)
    delay = 1 + np.floor(rng.exponential(1.0, n) * scale).astype(np.int64)
    early = np.minimum(1 + np.floor(rng.exponential(9.0, n)).astype(np.int64), terms)
    lead = np.where(rng.random(n) < 0.33, 0, early)
    paid = due + np.where(is_late, delay, -lead)
    is_prepaid = ~is_late & (rng.random(n) < 0.04)
    paid = np.where(is_prepaid, orders.day[order], paid)

    draw = rng.random(n)
    length = rng.integers(5, 61, n)
    by_seller = (draw < 0.015) & ~is_prepaid
    by_buyer = (draw >= 0.015) & (draw < 0.075) & is_late
    paid = np.where(by_seller, np.maximum(paid, due) + length, paid)
    opened = np.where(by_seller, due, np.where(by_buyer, due + 1, NEVER))
    closed = np.where(by_seller, due + length, np.where(by_buyer, np.minimum(paid, due + 90), NEVER))
    paid = np.where(is_never, NEVER, paid)

    # The poorer the payer, the likelier it is short of cash.
    short_of_cash = rng.random(n) < 0.25 + 0.5 * regime
    reason = np.where(short_of_cash, 0, 1 + pick(rng, (70, 30), n))
    reason = np.where(by_seller | by_buyer, DISPUTE, np.where(is_late, reason, NO_REASON))
    return Invoices(
        order=order,
        account=account,
        day=day,
        due_day=due,
        cents=np.rint(cents[order]).astype(np.int64),
        is_cancelled=orders.cancelled_day[order] != NO_DAY,
        dispute_opened_day=opened,
        dispute_closed_day=closed,
        is_sellers_fault=by_seller,
        reason=reason,
        paid_day=paid,
        late_probability=late_payment_probability(regime, scale),
    )


def credits(orders: Orders, lines: Lines, invoices: Invoices) -> Credits:
    """A credit note per returned line on the day of the return, and one over the whole of a cancelled invoice."""
    invoice_of = np.full(len(orders.account), -1, dtype=np.int64)
    invoice_of[invoices.order] = np.arange(len(invoices.order))
    back = np.flatnonzero(lines.is_return)
    cancelled = np.flatnonzero(invoices.is_cancelled)
    cancelled_day = np.maximum(orders.cancelled_day[invoices.order[cancelled]], invoices.day[cancelled])
    return Credits(
        invoice=np.concatenate([invoice_of[lines.order[back]], cancelled]),
        day=np.concatenate([lines.day[back], cancelled_day]),
        cents=np.concatenate([-lines.cents[back], invoices.cents[cancelled]]),
    )


def payments(rng: np.random.Generator, timeline: Timeline, invoices: Invoices, credits: Credits) -> Payments:
    """What comes in before the end: one payment, or two or three instalments of which the last is on `paid_day`.

    Credits up to that day are deducted; a later credit stays as a balance in the customer's favour.
    """
    n = len(invoices.order)
    deducted = credits.day <= invoices.paid_day[credits.invoice]
    credit = np.bincount(credits.invoice[deducted], weights=credits.cents[deducted], minlength=n)
    owed = invoices.cents - np.rint(credit).astype(np.int64)
    splits = (rng.random(n) < 0.07) & (owed > 20_000)
    pays = (owed > 0) & ~invoices.is_cancelled & (invoices.paid_day < NEVER)
    count = np.where(splits, rng.integers(2, 4, n), 1)
    invoice = np.repeat(np.flatnonzero(pays), count[pays])
    instalments = count[invoice]
    position = np.arange(len(invoice)) - np.repeat(np.cumsum(count[pays]) - count[pays], count[pays]) + 1
    is_last = position == instalments
    share = owed[invoice] // instalments
    cents = np.where(is_last, owed[invoice] - share * (instalments - 1), share)
    span = np.maximum(invoices.paid_day - invoices.day, 0)[invoice]
    day = invoices.paid_day[invoice] - (span * (instalments - position)) // instalments
    reason = np.where(day > invoices.due_day[invoice], invoices.reason[invoice], NO_REASON)
    known = day < timeline.end
    return Payments(invoice[known], day[known], cents[known], reason[known])
