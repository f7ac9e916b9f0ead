"""The simulated time: days counted from the first one, months, the season, and streams of random numbers."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

DAYS_PER_YEAR = 365.0
# January to December: a quiet summer, a mild rush before the books close.
SEASON = (0.90, 0.96, 1.02, 1.00, 1.00, 1.00, 0.94, 0.88, 1.02, 1.05, 1.12, 1.11)


def generator(seed: int, purpose: str, block: int = 0) -> np.random.Generator:
    """The stream of one purpose in one block; a new purpose never shifts the numbers of another."""
    key = (zlib.crc32(purpose.encode()), block)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def pick(rng: np.random.Generator, weights: npt.ArrayLike, size: int) -> Ints:
    """Positions drawn with the given weights."""
    edges = np.cumsum(np.asarray(weights, dtype=np.float64))
    positions = np.searchsorted(edges / edges[-1], rng.random(size), side="right")
    return np.minimum(positions, len(edges) - 1).astype(np.int64)


@dataclass(frozen=True)
class Timeline:
    """Days are counted from the first simulated day (0); facts exist on days 0 to `end` - 1.

    Times are real numbers of days: an order at 12.7 is dated day 12, so "before the date" and "before the
    time" mean the same.
    """

    first_graded_month: date
    history_months: int
    future_months: int

    @cached_property
    def _months(self) -> npt.NDArray[np.datetime64]:
        first = np.datetime64(self.first_graded_month, "M")
        # A year beyond the end: expectations reach that far.
        return first + np.arange(-self.history_months, self.future_months + 13)

    @cached_property
    def month_start(self) -> Floats:
        """First day of each month, from the first simulated one to a year after the last."""
        days = self._months.astype("datetime64[D]")
        return np.asarray((days - days[0]).astype(np.int64), dtype=np.float64)

    @cached_property
    def season(self) -> Floats:
        """Order rate of each month relative to the year's mean."""
        relative = np.array(SEASON) * 12 / sum(SEASON)
        return np.asarray(relative[self._months.astype(np.int64) % 12], dtype=np.float64)

    @cached_property
    def _seasonal_years(self) -> Floats:
        passed = np.diff(self.month_start) * self.season[:-1] / DAYS_PER_YEAR
        return np.concatenate([[0.0], np.cumsum(passed)])

    @cached_property
    def epoch_day(self) -> int:
        """Days from 1970-01-01 to the first simulated day."""
        return int(self._months[0].astype("datetime64[D]").astype(np.int64))

    def month_day(self, months_from_first_graded: int) -> int:
        """First day of the month that lies so many months after the first graded one."""
        return int(self.month_start[self.history_months + months_from_first_graded])

    @property
    def first_graded(self) -> int:
        return self.month_day(0)

    @property
    def end(self) -> int:
        """The first day without facts."""
        return self.month_day(self.future_months)

    @property
    def path_months(self) -> int:
        """Months for which paying habits are simulated: the facts' and three more."""
        return self.history_months + self.future_months + 3

    def month_of(self, day: Ints) -> Ints:
        return np.searchsorted(self.month_start, day, side="right") - 1

    def seasonal_years(self, time: Floats) -> Floats:
        """Integral of the seasonal rate from day 0 to `time`, in years of mean rate."""
        return np.interp(time, self.month_start, self._seasonal_years)

    def time_at(self, seasonal_years: Floats) -> Floats:
        """Inverse of `seasonal_years`."""
        return np.interp(seasonal_years, self._seasonal_years, self.month_start)
