"""Customers with equal histories counted once, and columns as places in tables of their distinct values.

A million customers have a few thousand distinct numbers among their frequencies and days: whatever depends on one of
them alone (log-gammas of frequencies, logarithms of days) is computed once for each number and looked up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

DENSE = 65_536  # a table of so many cells, or of four a row, is cheaper than sorting the rows
WITHOUT_REPEATS = (
    0.25  # of a portion of histories: those without repeat purchases, more where there are no others
)


@dataclass(frozen=True)
class Coded:
    """A column: row i has the number `values[codes[i]]`; `values` are distinct and rise."""

    values: Floats
    codes: Places

    @classmethod
    def of(cls, column: Floats) -> Coded:
        """Whole numbers in a small range are counted, others sorted."""
        if len(column) and column.min() >= 0 and column.max() < max(DENSE, 4 * len(column)):
            codes = column.astype(np.intp)
            if np.array_equal(codes, column):
                present = np.bincount(codes) > 0
                return cls(np.flatnonzero(present).astype(np.float64), (np.cumsum(present) - 1)[codes])
        values, codes = np.unique(column, return_inverse=True)
        return cls(values, codes)

    @property
    def column(self) -> Floats:
        return self.values[self.codes]

    def take(self, rows: Places) -> Coded:
        return Coded(self.values, self.codes[rows])


def distinct_rows(*columns: Coded) -> tuple[Places, Places, Floats]:
    """The first positions of the distinct rows in rising order, where each row went, and how many rows went there."""
    key, size = np.zeros(len(columns[0].codes), dtype=np.intp), 1
    for column in columns:
        if size * len(column.values) >= 2**62:
            key = np.unique(key, return_inverse=True)[1]
            size = int(key.max()) + 1
        size *= len(column.values)
        key = key * len(column.values) + column.codes
    if size <= max(DENSE, 4 * len(key)):
        counts = np.bincount(key, minlength=size)
        present = counts > 0
        position = np.empty(size, dtype=np.intp)
        position[key] = np.arange(len(key))  # equal rows: any of them will do
        return position[present], (np.cumsum(present) - 1)[key], counts[present].astype(np.float64)
    order = np.argsort(key)
    ordered = key[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    group = np.cumsum(is_first) - 1
    inverse = np.empty(len(order), dtype=np.intp)
    inverse[order] = group
    return order[is_first], inverse, np.bincount(group).astype(np.float64)


@dataclass(frozen=True)
class Histories:
    """Distinct purchase histories, a row each, in rising order of x, recency and T, for `weights` customers each.

    x repeat purchases, the last one `recency` after the first, watched until T after it.
    """

    x: Coded
    recency: Coded
    T: Coded
    weights: Floats

    @classmethod
    def of(cls, x: Floats, recency: Floats, T: Floats) -> Histories:
        """Of customers, one row each; the order of the rows does not matter."""
        columns = [Coded.of(column) for column in (x, recency, T)]
        rows, _, weights = distinct_rows(*columns)
        coded_x, coded_recency, coded_T = (column.take(rows) for column in columns)
        return cls(coded_x, coded_recency, coded_T, weights)

    def __len__(self) -> int:
        return len(self.weights)

    @cached_property
    def customers(self) -> float:
        return float(self.weights.sum())

    @cached_property
    def purchases(self) -> float:
        """Repeat purchases of all customers."""
        return float(np.sum(self.by_x * self.x.values))

    @cached_property
    def without_repeats(self) -> int:
        """How many of the first rows have no repeat purchase."""
        return int(np.searchsorted(self.x.column, 0.0, side="right"))

    @cached_property
    def by_x(self) -> Floats:
        """Customers of each of `x.values`."""
        return _sums(self.x.codes, self.weights, len(self.x.values))

    @cached_property
    def by_T(self) -> tuple[Floats, Floats]:
        """Customers of each of `T.values`, and their repeat purchases."""
        codes, size = self.T.codes, len(self.T.values)
        return _sums(codes, self.weights, size), _sums(codes, self.weights * self.x.column, size)

    @property
    def columns(self) -> tuple[Floats, Floats, Floats]:
        return self.x.column, self.recency.column, self.T.column

    def in_units_of(self, unit: float) -> Self:
        """The same with times in another unit."""
        recency, T = (Coded(column.values / unit, column.codes) for column in (self.recency, self.T))
        return replace(self, recency=recency, T=T)

    def portion(self, size: int) -> Self:
        """About `size` of the rows, evenly spaced, or all; with and without repeats weigh together as before.

        Rows without repeats stand for many customers each, so that few of them would be a rough sample.
        """
        if len(self) <= size:
            return self
        some = min(self.without_repeats, int(size * WITHOUT_REPEATS))
        repeats = min(len(self) - self.without_repeats, size - some)
        rows, weights = [], []
        for start, end, count in (
            (0, self.without_repeats, size - repeats),
            (self.without_repeats, len(self), repeats),
        ):
            taken = start + _spaced(end - start, count)
            weight = self.weights[taken]
            rows.append(taken)
            weights.append(weight * (self.weights[start:end].sum() / (weight.sum() or 1.0)))
        return self._some(np.concatenate(rows), np.concatenate(weights))

    def halves(self) -> tuple[Self, Self]:
        """Every other customer in the order of the histories, and the rest."""
        until = np.cumsum(self.weights)
        first = np.ceil(until / 2) - np.ceil((until - self.weights) / 2)
        second = self.weights - first
        some, others = np.flatnonzero(first), np.flatnonzero(second)
        return self._some(some, first[some]), self._some(others, second[others])

    def _some(self, rows: Places, weights: Floats) -> Self:
        return type(self)(self.x.take(rows), self.recency.take(rows), self.T.take(rows), weights)


@dataclass(frozen=True)
class Orders:
    """Customers by their numbers of repeat purchases and of orders, a group each pair, and what each ordered in all.

    `totals` are one per customer, group after group from `starts` on, rising within each.
    """

    repeats: Floats
    counts: Floats
    starts: Places
    totals: Floats

    @classmethod
    def of(cls, repeats: Floats, counts: Floats, totals: Floats) -> Orders:
        """Of customers, one row each; the order of the rows does not matter."""
        columns = Coded.of(repeats), Coded.of(counts)
        rows, group, size = distinct_rows(*columns)
        # of 16 bits numpy sorts them by counting
        narrow = group.astype(np.uint16) if len(rows) < 2**16 else group
        ordered = totals[np.argsort(narrow, kind="stable")]
        starts = np.concatenate([[0], np.cumsum(size)[:-1]]).astype(np.intp)
        for some in np.split(ordered, starts[1:]):
            some.sort()
        return cls(columns[0].take(rows).column, columns[1].take(rows).column, starts, ordered)

    def __len__(self) -> int:
        return len(self.totals)

    @cached_property
    def sizes(self) -> Floats:
        """Customers of each group."""
        return np.diff(np.append(self.starts, len(self))).astype(np.float64)

    @cached_property
    def log_means(self) -> Floats:
        """Sums over each group of the logarithms of the mean order values."""
        return self.sums(np.log(self.totals)) - self.sizes * np.log(self.counts)

    @property
    def means(self) -> tuple[Floats, Floats]:
        """Number of orders and mean order value, one per customer."""
        counts = np.repeat(self.counts, self.sizes.astype(np.intp))
        return counts, self.totals / counts

    def in_units_of(self, unit: float) -> Self:
        """The same with money in another unit."""
        return replace(self, totals=self.totals / unit)

    def sums(self, values: Floats) -> Floats:
        """Sums of one value a customer, one per group."""
        return np.asarray(np.add.reduceat(values, self.starts))

    def portion(self, size: int) -> Self:
        """`size` of the customers, evenly spaced, or all."""
        if len(self) <= size:
            return self
        rows = _spaced(len(self), size)
        group = np.searchsorted(self.starts, rows, side="right") - 1
        present, starts = np.unique(group, return_index=True)
        return type(self)(self.repeats[present], self.counts[present], starts, self.totals[rows])


def _sums(codes: Places, values: Floats, size: int) -> Floats:
    return np.asarray(np.bincount(codes, values, minlength=size), dtype=np.float64)


def _spaced(length: int, count: int) -> Places:
    """`count` places among `length`, evenly spaced, the middle of equal stretches each."""
    return ((np.arange(count) + 0.5) * (length / max(count, 1))).astype(np.intp)
