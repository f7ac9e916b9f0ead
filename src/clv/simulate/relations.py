"""What surrounds orders and invoices: service, credit events, account groups, judgements and overrides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clv.simulate.population import Accounts
from clv.simulate.receivables import NEVER, Invoices
from clv.simulate.timeline import DAYS_PER_YEAR, Flags, Floats, Ints, Timeline, pick

ACTIVITIES = ("visit", "support_call", "expedite", "complaint")
CREDIT_EVENTS = ("insolvency", "write_off", "blocked", "released")
WRITE_OFF_DAYS = 150  # after the due day
JUDGED_RATIO = 0.45  # of the leads still prospects some weeks after the first contact
JUDGED_AGAIN_RATIO = 0.4  # of those who then still are
VALID_DAYS = (180, 60, 365)  # most, hurried and patient judgements
# What the salespeople's judgements are worth, one after the other: how much of the truth is in them, and by how many
# points they are too kind.
SKILL = (1.2, 0.8, 2.0, 1.2, 0.0, 1.6, 1.2, 0.5)
BIAS = (0.0, 8.0, 0.0, -6.0, 12.0, 0.0, 0.0, 4.0)
NOTES = (
    "Met at the fair, wants a quote",
    "Budget frozen until next year",
    "👍 strong interest, decision maker on board",
    "已与采购经理沟通,需求明确",
    "Только сравнивает цены",
    'Said "maybe later"; call again',
    "[bold]URGENT[/bold] <b>call</b>; =1+1, O'Neil's lead\t#1",
    "يرغب في تجربة المنتج",
    "",
)


@dataclass(frozen=True)
class Events:
    """One row per dated event of an account; `kind` is a position in the words of its table."""

    account: Ints
    day: Ints
    kind: Ints
    quantity: Ints


@dataclass(frozen=True)
class Links:
    """One row per membership; group 0 is none, `last_day` NEVER while it lasts."""

    account: Ints
    group: Ints
    first_day: Ints
    last_day: Ints


@dataclass(frozen=True)
class Judgements:
    """One row per judgement of a prospect's worth; `judge` is a position among the salespeople."""

    account: Ints
    judge: Ints
    score: Floats
    day: Ints
    last_day: Ints
    note: Ints


def _active_span(timeline: Timeline, accounts: Accounts) -> tuple[Floats, Floats]:
    start = np.minimum(accounts.conversion_time, timeline.end)
    return start, np.minimum(accounts.dropout_time, timeline.end)


def service_events(rng: np.random.Generator, timeline: Timeline, accounts: Accounts) -> Events:
    """A Poisson process from the first order to the dropout."""
    start, stop = _active_span(timeline, accounts)
    count = rng.poisson(accounts.service_rate * (stop - start) / DAYS_PER_YEAR)
    account = np.repeat(np.arange(len(accounts)), count)
    time = start[account] + rng.random(len(account)) * (stop - start)[account]
    kind = pick(rng, (30, 45, 15, 10), len(account))
    return Events(account, np.floor(time).astype(np.int64), kind, rng.integers(1, 4, len(account)))


def credit_events(
    rng: np.random.Generator, timeline: Timeline, accounts: Accounts, invoices: Invoices
) -> Events:
    """Insolvencies end some relations, invoices never paid are written off, the worst payers get blocked."""
    n = len(accounts)
    start, stop = _active_span(timeline, accounts)
    buys = accounts.conversion_time < timeline.end
    insolvent = np.flatnonzero(buys & (accounts.dropout_time < timeline.end) & (rng.random(n) < 0.04))
    unpaid = np.flatnonzero((invoices.paid_day == NEVER) & ~invoices.is_cancelled)
    blocked = np.flatnonzero(buys & (rng.random(n) < 0.04) & (accounts.late_level > 0.0))
    blocked_day = np.floor(start + rng.random(n) * (stop - start)).astype(np.int64)[blocked]
    released_day = blocked_day + rng.integers(30, 121, len(blocked))
    parts = (
        (insolvent, np.floor(accounts.dropout_time[insolvent]).astype(np.int64), 0),
        (invoices.account[unpaid], invoices.due_day[unpaid] + WRITE_OFF_DAYS, 1),
        (blocked, blocked_day, 2),
        (blocked, released_day, 3),
    )
    account = np.concatenate([part[0] for part in parts])
    day = np.concatenate([part[1] for part in parts])
    kind = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])
    known = day < timeline.end
    return Events(account[known], day[known], kind[known], np.ones(int(known.sum()), dtype=np.int64))


def account_groups(rng: np.random.Generator, timeline: Timeline, accounts: Accounts) -> tuple[Ints, Links]:
    """The current group of each account (0 = none), and every membership there was.

    About a tenth of the accounts form groups of two to five; some of those came from another group.
    """
    n = len(accounts)
    members = rng.permutation(n)[: n // 10]
    sizes = rng.integers(2, 6, len(members) // 2 + 1)
    group_of_place = np.repeat(np.arange(1, len(sizes) + 1), sizes)[: len(members)]
    alone = np.bincount(group_of_place, minlength=len(sizes) + 1)[group_of_place] < 2
    members, group_of_place = members[~alone], group_of_place[~alone]
    current = np.zeros(n, dtype=np.int64)
    current[members] = group_of_place

    since = np.floor(accounts.contact_time[members]).astype(np.int64)
    room = timeline.end - since
    groups = int(group_of_place.max(initial=0))
    moved = (rng.random(len(members)) < 0.12) & (room > 60) & (groups > 1)
    moved_day = since + 30 + np.floor(rng.random(len(members)) * (room - 31)).astype(np.int64)
    former = 1 + group_of_place[moved] % max(groups, 1)
    links = Links(
        account=np.concatenate([members[moved], members]),
        group=np.concatenate([former, group_of_place]),
        first_day=np.concatenate([since[moved], np.where(moved, moved_day, since)]),
        last_day=np.concatenate([moved_day[moved] - 1, np.full(len(members), NEVER)]),
    )
    return current, links


def _standardised(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / (values.std() + 1e-9), dtype=np.float64)


def sales_reps(rng: np.random.Generator, accounts: Accounts) -> Ints:
    """Who looks after each account: one of two people per region."""
    return np.asarray(accounts.region * 2 + rng.integers(0, 2, len(accounts)), dtype=np.int64)


def judgements(
    rng: np.random.Generator, timeline: Timeline, accounts: Accounts, value: Floats, rep: Ints
) -> Judgements:
    """What sales thought of some accounts while these had not ordered: truth by the judge's skill, bias and noise.

    The account's own salesperson judges within six weeks of the first contact; some who have not ordered two months
    later are judged again, every other time by the colleague of the region.
    """
    n = len(accounts)
    truth = _standardised(np.log(accounts.conversion_probability)) + _standardised(
        np.log(np.maximum(value, 1.0))
    )
    ordered = np.minimum(accounts.conversion_time, timeline.end)
    first_day = np.floor(accounts.contact_time).astype(np.int64) + rng.integers(2, 41, n)
    first = (first_day < ordered) & (rng.random(n) < JUDGED_RATIO)
    again_day = first_day + rng.integers(60, 151, n)
    again: Flags = first & (again_day < ordered) & (rng.random(n) < JUDGED_AGAIN_RATIO)
    colleague = np.where(rng.random(n) < 0.5, rep, rep ^ 1)
    account = np.concatenate([np.flatnonzero(first), np.flatnonzero(again)])
    judge = np.concatenate([rep[first], colleague[again]])
    day = np.concatenate([first_day[first], again_day[again]])
    noise = 12.0 * rng.standard_normal(len(account))
    score = 50.0 + np.array(BIAS)[judge] + 10.0 * np.array(SKILL)[judge] * truth[account] + noise
    valid = np.array(VALID_DAYS)[pick(rng, (70, 20, 10), len(account))]
    note = rng.integers(0, len(NOTES), len(account))
    return Judgements(account, judge, np.round(score.clip(0, 100)), day, day + valid, note)
