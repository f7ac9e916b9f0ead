"""Prospects as of a date: who has been contacted and not ordered, who then orders, and what that is worth.

An order is any row of order_lines: with the first one, whatever its sign, somebody stops being a prospect.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pandas as pd

from clv import period
from clv.errors import ModelError
from clv.tables import CORE
from clv.warehouse import quote

if TYPE_CHECKING:
    from clv.config import Config
    from clv.warehouse import Engine


@dataclass(frozen=True)
class TrainingRows:
    """What the prospect model learns from, and what was left out of it.

    `rows`: one per prospect and snapshot, as `prospect_outcomes` gives them, all labels mature.
    `left_truncated`: prospects dropped since first contacted before `observable_from`, the first day on which
    an order would have been seen.
    """

    rows: pd.DataFrame
    snapshots: tuple[date, ...]
    observable_from: date
    left_truncated: int


def prospect_rows(db: Engine, as_of: date) -> pd.DataFrame:
    """One row per prospect, by customer_id: contacted before `as_of`, without any order known by then.

    Columns: customer_id, days_since_first_contact (days, at least 1), and every attribute of customers, those
    known only later included (an encoder picks). The schema `past` must show `as_of` (`period.see`). Customers
    without a first_contact_date are none: nobody can say how long they have been prospects.
    """
    return db.frame(f"{_prospects_sql(db, as_of)} ORDER BY c.customer_id")


def prospect_outcomes(db: Engine, snapshot: date, conversion_days: int, as_of: date) -> pd.DataFrame:
    """The prospects of `snapshot` with what they did next, as known at the start of `as_of`.

    Columns of `prospect_rows`, snapshot_date and `converted`: first order dated within
    [snapshot, snapshot + conversion_days). It is null in every row while that window has not ended by `as_of`:
    those who ordered early are known and those who did not are not, so a part would be biased. Left out are those
    who had ordered before the snapshot already, only posted later. Leaves `past` at `as_of`.
    """
    period.see(db, as_of)
    _remember_first_orders(db)
    outcomes = _outcomes(db, snapshot, conversion_days, as_of)
    period.see(db, as_of)
    return outcomes


def training_rows(db: Engine, as_of: date, config: Config) -> TrainingRows:
    """Mature snapshots every `prospect.snapshot_step_days` over the last `prospect.training_months`, stacked.

    A prospect is in every snapshot at which it still was one: each is an exposure of conversion_days, as the
    prospects of a month are when they are scored. Every row counts the same, so that aged prospects, who order
    rarely, have the share that they have on any given day. Leaves `past` at `as_of`. Raises ModelError where no
    order was seen or no snapshot is mature.
    """
    settings = config.prospect
    period.see(db, as_of)
    observable_from = first_observable(db, config)
    horizon = period.Horizon(days=settings.conversion_days)
    earliest = period.add_months(as_of, -settings.training_months)
    count = (horizon.before(as_of) - earliest).days // settings.snapshot_step_days + 1
    snapshots = period.training_snapshots(
        as_of,
        horizon,
        observable_from,
        count=max(count, 1),
        step_days=settings.snapshot_step_days,
        min_history_days=1,
    )
    _remember_first_orders(db)
    stacked = pd.concat(
        [_outcomes(db, snapshot, settings.conversion_days, as_of) for snapshot in sorted(snapshots)],
        ignore_index=True,
    )
    period.see(db, as_of)
    contact = stacked["snapshot_date"] - pd.to_timedelta(stacked["days_since_first_contact"], unit="D")
    truncated = contact < pd.Timestamp(observable_from)
    return TrainingRows(
        rows=stacked[~truncated].reset_index(drop=True),
        snapshots=tuple(sorted(snapshots)),
        observable_from=observable_from,
        left_truncated=int(stacked.loc[truncated, "customer_id"].nunique()),
    )


def first_observable(db: Engine, config: Config) -> date:
    """The first day on which an order would have been seen: as configured, or the earliest order in `past`.

    Of those first contacted before it only the ones who did not order then can be seen: a cohort without its
    conversions. Raises ModelError where no order was seen at all.
    """
    if config.left_truncated_before is not None:
        return config.left_truncated_before
    [[first]] = db.rows("SELECT min(order_date) FROM past.order_lines")
    if first is None:
        raise ModelError(
            "No orders before this date: nobody has converted yet. Score prospects by judgement."
        )
    assert isinstance(first, date)
    return first


def conversion_values(
    db: Engine,
    as_of: date,
    value_months: int,
    discount_rate_annual_ratio: float,
    observable_from: date | None = None,
) -> pd.DataFrame:
    """What converted prospects were worth: one row per customer whose first `value_months` have ended by `as_of`.

    Columns: customer_id, days_since_first_contact (at the first order), the attributes as known when the first order
    came (their first row where none was), and `value`: Σ of the
    lines' value over the value_months from the first order, discounted to it at the annual effective rate, in the
    reporting currency. A negative sum counts as 0, which the Tweedie likelihood asks for: the expected value of
    those who lose money is overstated until their history speaks. Left out are customers without a first contact
    on or before their first order, and those first contacted before `observable_from` (see `first_observable`):
    their first order seen need not be their first. The schema `past` must show `as_of`.
    """
    observable = "" if observable_from is None else f"AND c.first_contact_date >= DATE '{observable_from}'"
    age = "date_diff('day', f.first_order_date, l.order_date)"
    factor = period.discount_days_sql(age, discount_rate_annual_ratio)
    _remember_first_orders(db)
    return db.frame(f"""
        WITH matured AS (
            SELECT customer_id, first_order_date,
                   CAST(first_order_date + INTERVAL {int(value_months)} MONTH AS DATE) AS value_end
            FROM first_orders
        ),
        valued AS (
            SELECT f.customer_id, f.first_order_date,
                   sum(CAST(round(l.value * {factor}, 6) AS DECIMAL(38, 6))) AS value
            FROM matured AS f JOIN past.order_lines AS l ON l.customer_id = f.customer_id
            WHERE f.value_end <= DATE '{as_of}' AND l.order_date < f.value_end
            GROUP BY f.customer_id, f.first_order_date
        ),
        known AS (
            SELECT c.*
            FROM past.customer_versions AS c JOIN valued AS v ON v.customer_id = c.customer_id
            QUALIFY row_number() OVER (PARTITION BY c.customer_id ORDER BY
                coalesce(c.valid_from < v.first_order_date, true) DESC,
                CASE WHEN c.valid_from < v.first_order_date THEN c.valid_from END DESC NULLS LAST, c.valid_from) = 1
        )
        SELECT c.customer_id, date_diff('day', c.first_contact_date, v.first_order_date) AS days_since_first_contact
               {_attributes_sql(db)}, CAST(greatest(v.value, 0) AS DOUBLE) AS value
        FROM valued AS v JOIN known AS c ON c.customer_id = v.customer_id
        WHERE c.first_contact_date <= v.first_order_date {observable}
        ORDER BY c.customer_id
    """)


def judgements_valid(db: Engine, as_of: date, criterion: str = "prospect") -> pd.DataFrame:
    """The newest judgement of each customer on the `criterion` that still counts on `as_of`.

    Columns customer_id, score (0-100), judged_by, judged_date, valid_until (last day it counts; null = open), note.
    The schema `past` must show `as_of`.
    """
    return db.frame(f"""
        SELECT customer_id, score, judged_by, judged_date, valid_until, note
        FROM past.judgements
        WHERE criterion = '{criterion}' AND (valid_until IS NULL OR valid_until >= DATE '{as_of}')
        QUALIFY row_number() OVER (
            PARTITION BY customer_id
            ORDER BY judged_date DESC, judged_by, score DESC, valid_until DESC NULLS FIRST, note NULLS LAST) = 1
        ORDER BY customer_id
    """)


def judged_outcomes(db: Engine, as_of: date, conversion_days: int, since: date) -> pd.DataFrame:
    """Judgements of prospects, from `since` on, whose conversion window has ended by `as_of`, with what happened.

    One row per judge and customer, the first judgement that judge gave: customer_id, judged_by, judged_date,
    judgement (0-100), days_since_first_contact, the attributes, and `converted`: first order within conversion_days
    from the day after the judgement on. Who had ordered by the end of that day was no prospect any more, or was known
    to be a customer, and is left out. Attributes are as known on `as_of`: those known at first contact do not change.
    The schema `past` must show `as_of`.
    """
    _remember_first_orders(db)
    attributes = _attributes_sql(db)
    return db.frame(f"""
        WITH judged AS (
            SELECT * FROM past.judgements WHERE criterion = 'prospect' AND judged_date >= DATE '{since}'
            QUALIFY row_number() OVER (PARTITION BY customer_id, judged_by
                                       ORDER BY judged_date, score, valid_until NULLS LAST, note NULLS LAST) = 1
        )
        SELECT j.customer_id, j.judged_by, j.judged_date, j.score AS judgement,
               date_diff('day', c.first_contact_date, j.judged_date) + 1 AS days_since_first_contact {attributes},
               coalesce(date_diff('day', j.judged_date, f.first_order_date) <= {int(conversion_days)}, false)
                   AS converted
        FROM judged AS j JOIN past.customers AS c USING (customer_id) LEFT JOIN first_orders AS f USING (customer_id)
        WHERE c.first_contact_date <= j.judged_date
          AND (f.first_order_date IS NULL OR f.first_order_date > j.judged_date)
          AND date_diff('day', j.judged_date, DATE '{as_of}') > {int(conversion_days)}
        ORDER BY j.judged_date, j.customer_id, j.judged_by
    """)


def _prospects_sql(db: Engine, as_of: date) -> str:
    return f"""
        SELECT c.customer_id, date_diff('day', c.first_contact_date, DATE '{as_of}') AS days_since_first_contact
               {_attributes_sql(db)}
        FROM past.customers AS c
        WHERE c.first_contact_date IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM past.order_lines AS l WHERE l.customer_id = c.customer_id)"""


def _attributes_sql(db: Engine) -> str:
    names = [row[0] for row in db.rows("DESCRIBE past.customers")]
    return "".join(f", c.{quote(name)}" for name in names if name not in CORE["customers"].names)


def _remember_first_orders(db: Engine) -> None:
    """What is known of first orders at the date that `past` shows, kept while `past` moves to the snapshots."""
    db.run("""
        CREATE OR REPLACE TEMPORARY TABLE first_orders AS
        SELECT customer_id, min(order_date) AS first_order_date FROM past.order_lines GROUP BY customer_id
    """)


def _outcomes(db: Engine, snapshot: date, conversion_days: int, as_of: date) -> pd.DataFrame:
    """`prospect_outcomes` from the temporary table first_orders; moves `past` to the snapshot."""
    period.see(db, snapshot)
    end = snapshot + timedelta(days=conversion_days)
    converted = f"f.first_order_date IS NOT NULL AND f.first_order_date < DATE '{end}'"
    return db.frame(f"""
        SELECT p.*, DATE '{snapshot}' AS snapshot_date,
               {converted if end <= as_of else "CAST(NULL AS BOOLEAN)"} AS converted
        FROM ({_prospects_sql(db, snapshot)}) AS p LEFT JOIN first_orders AS f USING (customer_id)
        WHERE f.first_order_date IS NULL OR f.first_order_date >= DATE '{snapshot}'
        ORDER BY p.customer_id
    """)
