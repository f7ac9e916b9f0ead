"""When an invoice is paid, day by day: the curve around the probability that it is late.

The probability of more than `late_after_days` beyond terms is a model's own (`payment_delay`). The curve says how
payments fall before and after that threshold: a chance of being paid per day, learned apart for invoices that turned
out late and for those that did not (a hurdle model: Mullahy, 1986). So P(more than h days) falls with h, equals the
model's probability at its threshold, and rises with past lateness wherever that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clv.models.boosting import threads_for, train_trees
from clv.models.payment_features import FEATURES

if TYPE_CHECKING:
    import lightgbm as lgb

    from clv.config import PaymentSettings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Ends of the stretches of days beyond terms within which the chance of being paid is one; the later ones count from
# the threshold.
EDGES_DAYS = (-30, -14, -7, -1, 0, 7, 14, 21)
LATER_EDGES_DAYS = (15, 30, 60, 90)
LARGEST_CHANCE = 0.95  # of being paid on a day
LEARNED_ROWS = 100_000  # observations; each becomes several rows
BLOCK_ROWS = 20_000


def edges_of(payment: PaymentSettings) -> Ints:
    """Ends of the stretches in days beyond terms, rising; thresholds are among them, the cap is the last."""
    late, cap = payment.late_after_days, payment.cap_days
    before = {edge for edge in EDGES_DAYS if edge < late}
    after = {late + days for days in LATER_EDGES_DAYS if late + days < cap}
    return np.array(sorted(before | after | {late, cap, *payment.thresholds_days}), dtype=np.int64)


@dataclass(frozen=True)
class Periods:
    """Observations cut into stretches: a row per observation and stretch in which it was unpaid and seen.

    `days`: on how many days of the stretch it might have been paid; `is_paid`: whether it was, in this stretch.
    """

    row: NDArray[np.intp]
    stretch: NDArray[np.intp]
    days: Floats
    is_paid: Floats

    @classmethod
    def cut(cls, edges: Ints, after: Floats, until: Floats, is_paid: NDArray[np.bool_]) -> Periods:
        """Of observations that might be paid from the day behind `after` on, and were, or were seen, on `until`."""
        days = _days_in(edges, after, until)
        row, stretch = np.nonzero(days > 0)
        paid = is_paid[row] & (until[row] <= edges[stretch])
        return cls(row, stretch, days[row, stretch], paid.astype(np.float64))


@dataclass(frozen=True)
class Chances:
    """The chance of being paid on a day, by stretch: exp(`level` + what `trees` say), `edges` the stretches' ends."""

    trees: lgb.Booster
    level: float
    edges: Ints

    @classmethod
    def fit(cls, X: Floats, periods: Periods, edges: Ints, seed: int, threads: int) -> Chances:
        """From the inputs `X` of FEATURES, a row per observation, in one order.

        A Poisson model with the days as exposure: paid / days is the maximum-likelihood chance of a geometric
        waiting time (Holford, 1980; Laird & Olivier, 1981). What raises the risk never raises the chance.
        """
        parameters = {
            "objective": "poisson",
            "num_leaves": 7,
            "learning_rate": 0.1,
            "min_data_in_leaf": 40,
            "lambda_l2": 10.0,
            "feature_fraction": 0.7,
            "monotone_constraints": [*(-feature.monotone for feature in FEATURES), 0],
        }
        level = float(np.log(max(periods.is_paid.sum(), 1.0) / periods.days.sum()))
        inputs = np.column_stack([X[periods.row], edges[periods.stretch]])
        offset = np.log(periods.days) + level
        trees = train_trees(inputs, periods.is_paid, parameters, 100, seed, threads, offset=offset)
        return cls(trees, level, edges)

    def still_unpaid(
        self, X: Floats, after: Floats, *, begin: float = -np.inf, end: float = np.inf, threads: int
    ) -> Floats:
        """P(unpaid at the end of each stretch | unpaid on the days `begin` and `after`): rows x stretches.

        What comes behind the day `end` is left out.
        """
        unpaid = np.ones((len(X), len(self.edges)))
        days = _days_in(self.edges, np.maximum(after, begin), np.full(len(X), end))
        row, stretch = np.nonzero(days > 0)
        raw = self.trees.predict(
            np.column_stack([X[row], self.edges[stretch]]),
            raw_score=True,
            num_threads=threads_for(len(row), threads),
        )
        chance = np.minimum(np.exp(self.level + np.asarray(raw)), LARGEST_CHANCE)
        unpaid[row, stretch] = (1 - chance) ** days[row, stretch]
        return np.asarray(np.cumprod(unpaid, axis=1), dtype=np.float64)


def hurdle_periods(
    edges: Ints,
    late_after_days: int,
    after: Floats,
    until: Floats,
    is_late: Floats,
    is_paid: NDArray[np.bool_],
) -> Periods:
    """Periods of observations whose lateness is known: up to the threshold if not late, and behind it if late.

    The last stretch before the threshold says nothing: who is not late is paid within it.
    """
    late = is_late == 1
    found = Periods.cut(edges, np.where(late, np.maximum(after, late_after_days), after), until, is_paid)
    told = edges[found.stretch] != late_after_days
    return Periods(found.row[told], found.stretch[told], found.days[told], found.is_paid[told])


def exceedance(
    chances: Chances, late_after_days: int, X: Floats, after: Floats, probability: Floats, threads: int
) -> Floats:
    """P(more days beyond terms than each edge): rows x edges, falling; `probability` is that of the threshold.

    `after`: the last day on which the invoice is known to have been unpaid (its issue for a new one), in days beyond
    terms; up to then it is 1.
    """
    found = np.empty((len(X), len(chances.edges)))
    before, at = chances.edges < late_after_days, chances.edges == late_after_days
    for start in range(0, len(X), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        p, known, rows = probability[block, None], after[block], X[block]
        early = chances.still_unpaid(rows, known, end=late_after_days, threads=threads)
        late = chances.still_unpaid(rows, known, begin=late_after_days, threads=threads)
        found[block] = np.where(before, p + (1 - p) * early, np.where(at, p, p * late))
    return found


def restricted_mean_days(unpaid: Floats, edges: Ints, after: Floats, cap_days: int) -> Floats:
    """Mean of the days beyond terms between 0 and the cap: the sum over its days of P(more than so many).

    `unpaid`: see `exceedance`; within a stretch it falls by an equal factor a day.
    """
    total = np.clip(after + 1, 0, cap_days)  # days that have passed already
    higher = np.ones(len(unpaid))
    for k, days in enumerate(_days_in(edges, after, np.full(len(after), np.inf)).T):
        if edges[k] >= 0:
            total += np.where(days > 0, _falling_sum(higher, unpaid[:, k], days), 0.0)
        higher = unpaid[:, k]
    return np.asarray(np.where(after < cap_days, total - unpaid[:, -1], total), dtype=np.float64)


def median_days(unpaid: Floats, edges: Ints, after: Floats) -> Floats:
    """The first day beyond terms by which payment is at least as likely as not; NaN where no edge has it."""
    days = _days_in(edges, after, np.full(len(after), np.inf))
    reached = (unpaid <= 0.5) & (days > 0)
    k = reached.argmax(axis=1)
    row = np.arange(len(unpaid))
    low, length = unpaid[row, k], days[row, k]
    high = np.where(k > 0, unpaid[row, np.maximum(k - 1, 0)], 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.ceil(length * np.log(0.5 / high) / np.log(low / high))
    day = edges[k] - length + np.clip(steps, 1, length)
    return np.asarray(np.where(reached.any(axis=1), day, np.nan), dtype=np.float64)


def _days_in(edges: Ints, after: Floats, until: Floats) -> Floats:
    """Days of each stretch behind `after` and up to `until`: rows x stretches."""
    begins = np.concatenate([[-np.inf], edges[:-1]])
    days = np.minimum(until[:, None], edges) - np.maximum(after[:, None], begins)
    return np.asarray(np.maximum(days, 0.0), dtype=np.float64)


def _falling_sum(high: Floats, low: Floats, days: Floats) -> Floats:
    """Sum of `days` values that fall from `high` (not among them) to `low` by an equal factor a day."""
    factor = (low / high) ** (1 / np.maximum(days, 1.0))
    level = np.isclose(factor, 1.0, rtol=0, atol=1e-12)
    return np.asarray(
        np.where(level, low * days, factor * (high - low) / np.where(level, 1.0, 1 - factor)),
        dtype=np.float64,
    )
