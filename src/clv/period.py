"""Time: horizons, training snapshots, and what is visible as of a date. The only code that splits time.

Queries never compare dates with `as_of` themselves. `see` puts the facts visible as of a date into the schema
`past`, and what happened within a window into the schema `next`; features read `past` only.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from clv.errors import ModelError
from clv.tables import CORE, Table

if TYPE_CHECKING:
    from clv.warehouse import Engine

DAYS_PER_YEAR = 365
UNEQUAL_MONTHS_DAYS = 3  # by so many days the same number of months may differ


def add_months(day: date, months: int) -> date:
    """The same day `months` calendar months later, or the last day of a shorter month."""
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


@dataclass(frozen=True)
class Horizon:
    """A stretch of time ahead: calendar months by default, or days where a back-test asks for them."""

    months: int = 0
    days: int = 0

    def after(self, start: date) -> date:
        """First day that no longer belongs to the horizon begun at `start`."""
        return add_months(start, self.months) + timedelta(days=self.days)

    def before(self, end: date) -> date:
        """Latest start whose horizon ends on or before `end`."""
        start = add_months(end, -self.months) - timedelta(days=self.days)
        # Months are of unequal length, so going back and forth may end a few days apart.
        while self.after(start) > end:
            start -= timedelta(days=1)
        while self.after(start + timedelta(days=1)) <= end:
            start += timedelta(days=1)
        return start

    def length_days(self, start: date) -> int:
        return (self.after(start) - start).days


def day_factor(annual_ratio: float) -> float:
    """What a value one day ahead is worth now, at an annual effective rate; d days ahead, its d-th power."""
    return float((1 + annual_ratio) ** (-1 / DAYS_PER_YEAR))


def discount_sql(date_sql: str, start: date, annual_ratio: float) -> str:
    """SQL factor that discounts a value dated `date_sql` to `start` at an annual effective rate."""
    return discount_days_sql(f"date_diff('day', DATE '{start}', {date_sql})", annual_ratio)


def discount_days_sql(days_sql: str, annual_ratio: float) -> str:
    """SQL factor of a value `days_sql` days ahead: `day_factor` to that power."""
    return f"power({day_factor(annual_ratio)!r}e0, {days_sql})"


def training_snapshots(
    as_of: date, horizon: Horizon, first_fact: date, *, count: int, step_days: int, min_history_days: int
) -> list[date]:
    """Dates to learn from, latest first: each horizon has ended by `as_of`, each has enough history.

    Raises ModelError where not even one qualifies, naming what is missing.
    """
    latest = horizon.before(as_of)
    earliest = first_fact + timedelta(days=min_history_days)
    dates = [latest - timedelta(days=step_days * i) for i in range(count)]
    mature = [day for day in dates if day >= earliest]
    if not mature:
        short = (earliest - latest).days
        raise ModelError(
            f"History too short to learn from: facts begin {first_fact}, a training snapshot needs "
            f"{min_history_days} days before it and its whole horizon before {as_of}; {short} days are missing."
        )
    return mature


def visible_sql(table: Table) -> str:
    """SQL of the day a row of the core table became known: the later of its date and its posting date."""
    assert table.dated_by is not None
    if "posted_date" in table.names:
        return f"greatest({table.dated_by}, coalesce(posted_date, {table.dated_by}))"
    return table.dated_by


def see(db: Engine, as_of: date) -> None:
    """Make the schema `past` show the core tables as they were known at the start of `as_of`.

    Later dates on a visible row (the end of a dispute) are blank. Customers first contacted on or after
    `as_of` are absent unless they had ordered already. Of a dated customer (`valid_from`) the latest row known
    before `as_of` shows; one who had ordered before any row was known shows with the identifier alone.
    `past.customer_versions` holds every row of customers known by then.
    """
    _views(db, "past", as_of, start=None)


def see_window(db: Engine, start: date, end: date) -> None:
    """Make the schema `next` show the facts dated from `start` until the day before `end`.

    Customers first contacted in the window, or who ordered in it, show as they were first known.
    """
    _views(db, "next", end, start=start)


def _views(db: Engine, schema: str, end: date, start: date | None) -> None:
    db.run(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    for table in CORE.values():
        if table.dated_by is None:
            continue
        condition = f"{visible_sql(table)} < DATE '{end}'"
        if start is not None:
            # A fact of the window may be posted after it; the label is what happened, so its own date rules.
            condition = f"{table.dated_by} >= DATE '{start}' AND {table.dated_by} < DATE '{end}'"
        db.run(
            f"CREATE OR REPLACE VIEW {schema}.{table.name} AS "
            f"SELECT * {_blanked(table, end)} FROM main.{table.name} WHERE {condition}"
        )
    if start is not None:
        db.run(f"""
            CREATE OR REPLACE VIEW {schema}.customers AS
            SELECT * FROM main.customers
            WHERE first_contact_date >= DATE '{start}' AND first_contact_date < DATE '{end}'
                OR customer_id IN (SELECT customer_id FROM {schema}.order_lines)
            QUALIFY row_number() OVER (PARTITION BY customer_id ORDER BY valid_from NULLS FIRST) = 1
        """)
        return
    db.run(f"CREATE OR REPLACE VIEW {schema}.products AS SELECT * FROM main.products")
    db.run(f"""
        CREATE OR REPLACE VIEW {schema}.customer_versions AS
        SELECT * FROM main.customers WHERE valid_from IS NULL OR valid_from < DATE '{end}'
    """)
    db.run(f"""
        CREATE OR REPLACE VIEW {schema}.customers AS
        WITH known AS (
            SELECT * FROM {schema}.customer_versions
            QUALIFY row_number() OVER (PARTITION BY customer_id ORDER BY valid_from DESC NULLS LAST) = 1
        ), buyers AS (
            SELECT DISTINCT customer_id FROM {schema}.order_lines
        )
        SELECT * FROM known
        WHERE first_contact_date < DATE '{end}' OR customer_id IN (SELECT customer_id FROM buyers)
        UNION ALL BY NAME
        SELECT customer_id FROM buyers WHERE customer_id NOT IN (SELECT customer_id FROM known)
    """)


def later_values(table: Table, end: date) -> dict[str, str]:
    """Columns that must be blank for who looks before `end`, each with the SQL condition of the rows concerned."""
    masks: dict[str, list[str]] = {}
    for column, dependents in table.blank_if_later.items():
        for name in (column, *dependents):
            masks.setdefault(name, []).append(f"coalesce({column} >= DATE '{end}', false)")
    return {name: " OR ".join(conditions) for name, conditions in masks.items()}


def _blanked(table: Table, end: date) -> str:
    masks = later_values(table, end)
    replaced = ", ".join(
        f"CASE WHEN {mask} THEN NULL ELSE {name} END AS {name}" for name, mask in masks.items()
    )
    return f"REPLACE ({replaced})" if replaced else ""
