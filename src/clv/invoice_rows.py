"""Invoices to learn from, to judge a forecast by, and to score: rows of one shape, beside the customer's history.

A row is an invoice as it was known on a day: open then, or issued soon after, or a typical one that does not exist
yet. What a customer had done by then comes from `receivables`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from clv import period
from clv.features import segment_sql
from clv.receivables import COUNTS, YEAR_DAYS, invoice_state, make_history, ratio_sql

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import PaymentSettings
    from clv.warehouse import Engine

    Snapshots = dict[
        tuple[date, str], pd.DataFrame
    ]  # (snapshot, SQL condition on customer_id) -> observations

SNAPSHOT_STEP_DAYS = 30
TRAINING_CUSTOMERS = 50_000
MIN_HISTORY_DAYS = 90  # before a snapshot, so that "no history" means a new customer

# An ordinary due date, for an invoice that does not exist yet: mid-month, mid-week, not at the turn of the year.
ORDINARY_DUE_DAY, ORDINARY_WEEKDAY = 15, 3

_HISTORY_COLUMNS = f"""
    {", ".join(f"coalesce(h.{name}, 0) AS {name}" for name in COUNTS)},
    coalesce(h.issued_invoices, 0) AS issued_invoices, coalesce(h.billed, 0) AS billed,
    coalesce(h.paid_invoices, 0) AS paid_invoices, coalesce(h.paid_late_invoices, 0) AS paid_late_invoices,
    h.mean_days_beyond_terms, h.recent_days_beyond_terms, h.worst_days_beyond_terms, h.last_days_beyond_terms,
    h.last_three_days_beyond_terms, h.last_three_late_ratio, h.late_amount_ratio, h.dispute_ratio,
    coalesce(h.overdue_balance_ratio, 0e0) AS overdue_balance_ratio, h.overdue_to_billed_ratio,
    coalesce(h.overdue_invoices, 0) AS overdue_invoices,
    coalesce(h.longest_overdue_days, 0) AS longest_overdue_days"""


def _rows_sql(as_of: date, segment: Sequence[str], source: str, customers: str = "past.customers") -> str:
    """SELECT of observation rows from a FROM item with the columns of an invoice, and the customer's history."""
    return f"""
        SELECT x.customer_id, x.invoice_id, {segment_sql(segment)} AS segment, DATE '{as_of}' AS snapshot_date,
               x.due_date, x.is_typical, x.is_open, x.amount_open AS amount, x.age_days, x.overdue_days, x.terms_days,
               x.amount AS invoice_amount, {ratio_sql("x.amount_open", "x.amount")} AS open_ratio, x.is_disputed,
               {ratio_sql("x.amount", "h.typical_amount")} AS amount_to_typical_ratio,
               x.terms_days - h.typical_terms_days AS terms_change_days,
               CASE WHEN x.is_typical THEN {ORDINARY_DUE_DAY} ELSE day(x.due_date) END AS due_day_of_month,
               CASE WHEN x.is_typical THEN {ORDINARY_WEEKDAY} ELSE isodow(x.due_date) END AS due_weekday,
               NOT x.is_typical AND (month(x.due_date) = 12 AND day(x.due_date) >= 15
                                     OR month(x.due_date) = 1 AND day(x.due_date) <= 5) AS is_due_at_year_end,
               (h.payment_weekday - CASE WHEN x.is_typical THEN {ORDINARY_WEEKDAY} ELSE isodow(x.due_date) END + 7) % 7
                   AS days_to_payment_run,
               {_HISTORY_COLUMNS}
        FROM {source} AS x
        LEFT JOIN receivables.history AS h USING (customer_id)
        LEFT JOIN {customers} AS c USING (customer_id)
    """


# The invoice of a customer who was not known at the snapshot comes with what was known of it at first.
_CUSTOMERS = """(
    FROM past.customers UNION ALL BY NAME
    FROM next.customers WHERE customer_id NOT IN (SELECT customer_id FROM past.customers))"""

_OPEN_ROWS = """
    SELECT customer_id, invoice_id, due_date, false AS is_typical, true AS is_open, amount_open, age_days,
           overdue_days, terms_days, amount, is_disputed
    FROM receivables.invoice_state WHERE is_open"""


def observations(
    db: Engine,
    snapshot: date,
    payment: PaymentSettings,
    segment: Sequence[str] = (),
    *,
    window_days: int = SNAPSHOT_STEP_DAYS,
    only: str = "true",
) -> pd.DataFrame:
    """Invoices to learn from, or to judge a forecast by: one row per invoice, ordered by invoice_id.

    Those open at `snapshot` with their age, and those issued in [snapshot, snapshot + window_days) as new ones
    (age 0, `overdue_days` = -terms, amount as issued); both beside what was known of the customer at `snapshot`,
    or, of one first met in the window, its segment.
    `amount` is what is open. `only` is an SQL condition on customer_id.
    Leaves `past` showing `snapshot` and `next` the window.
    """
    period.see(db, snapshot)
    period.see_window(db, snapshot, snapshot + timedelta(days=window_days))
    make_history(db, snapshot, payment, only)
    new_rows = f"""
        SELECT customer_id, invoice_id, due_date, false AS is_typical, false AS is_open, amount AS amount_open,
               0 AS age_days, -date_diff('day', invoice_date, due_date) - {payment.grace_days} AS overdue_days,
               date_diff('day', invoice_date, due_date) AS terms_days, amount, false AS is_disputed
        FROM (SELECT * REPLACE (
                coalesce(due_date, CAST(invoice_date + INTERVAL {payment.default_terms_days} DAY AS DATE)) AS due_date
              ) FROM next.invoices WHERE amount > 0 AND {only})
        WHERE invoice_id NOT IN (SELECT invoice_id FROM receivables.net)"""
    source = f"({_OPEN_ROWS} UNION ALL {new_rows})"
    return db.frame(_rows_sql(snapshot, segment, source, _CUSTOMERS) + " ORDER BY x.invoice_id")


def labels(db: Engine, rows: pd.DataFrame, as_of: date, payment: PaymentSettings) -> pd.DataFrame:
    """`rows` of `observations` with what became of them, as known at `as_of`; in the same order.

    `days_beyond_terms`: of the settlement, or so far where `is_settled` is false: what a survival model reads.
    `is_late`: settled more than `late_after_days` beyond terms, or still open then; 1.0, 0.0, or null while that
    many days beyond terms have not passed, paid or not. `days_late`: days beyond terms between 0 and `cap_days`;
    null until `cap_days` beyond terms have passed, paid or not: to count an early payment at once and wait for
    the late ones would bias it. `known_days`: the days beyond terms that have passed, paid or not; more than h of
    them tell whether the invoice was more than h days late. `label_date` is the day from which `is_late` is known
    to anybody. Invoices credited in full by then, or not known at `as_of` yet, leave. Leaves `past` showing `as_of`.
    """
    period.see(db, as_of)
    db.run("CREATE SCHEMA IF NOT EXISTS receivables")
    db.load("receivables.asked", rows[["invoice_id"]].drop_duplicates())
    asked = "invoice_id IN (SELECT invoice_id FROM receivables.asked)"
    state = invoice_state(db, as_of, payment, only=asked)
    known_after = payment.late_after_days + payment.grace_days + 1
    outcome = db.frame(f"""
        SELECT invoice_id, days_beyond_terms, NOT is_open AS is_settled, overdue_days AS known_days,
               CASE WHEN overdue_days > {payment.late_after_days}
                   THEN CAST(days_beyond_terms > {payment.late_after_days} AS DOUBLE) END AS is_late,
               CASE WHEN overdue_days >= {payment.cap_days}
                   THEN CAST(greatest(least(days_beyond_terms, {payment.cap_days}), 0) AS DOUBLE) END AS days_late,
               CAST(due_date + INTERVAL {known_after} DAY AS DATE) AS label_date
        FROM {state} WHERE NOT is_fully_credited
    """)
    return rows.merge(outcome, on="invoice_id", how="inner", validate="m:1")


def training_rows(
    db: Engine,
    as_of: date,
    payment: PaymentSettings,
    segment: Sequence[str] = (),
    *,
    snapshots: Snapshots | None = None,
) -> pd.DataFrame:
    """Labelled observations of monthly snapshots over the `training_months` before `as_of`, as known at `as_of`.

    One row per invoice and snapshot at which it was new or open; empty where the ledger is too young. Of more
    than 50,000 customers, that many are drawn by the hash of their id: one small model learns nothing from more.
    What is observed at a snapshot is the same for every later `as_of`: `snapshots` hands observations from one
    call to the next, with equal settings. Leaves `past` showing `as_of`.
    """
    import pandas as pd

    period.see(db, as_of)
    first, customers = db.rows("SELECT min(invoice_date), count(DISTINCT customer_id) FROM past.invoices")[0]
    only = "true"
    if customers > TRAINING_CUSTOMERS:
        only = f"md5(customer_id) < '{16**8 * TRAINING_CUSTOMERS // customers:08x}'"
    earliest = period.add_months(as_of, -payment.training_months)
    if first is not None:
        earliest = max(earliest, first + timedelta(days=MIN_HISTORY_DAYS))
    count = (as_of - earliest).days // SNAPSHOT_STEP_DAYS if first is not None else 0
    known = {} if snapshots is None else snapshots
    frames = []
    for i in range(count, 0, -1):
        key = (as_of - timedelta(days=SNAPSHOT_STEP_DAYS * i), only)
        if key not in known:
            known[key] = observations(db, key[0], payment, segment, only=only)
        frames.append(known[key])
    if not frames:
        frames = [observations(db, as_of, payment, segment, window_days=0).head(0)]
    return labels(db, pd.concat(frames, ignore_index=True), as_of, payment)


def customer_view(
    db: Engine, as_of: date, payment: PaymentSettings, segment: Sequence[str] = ()
) -> pd.DataFrame:
    """What a customer is likely to owe: a typical invoice of the next `outlook_days`, and its open invoices.

    Reads `past`, which must show `as_of`. Rows have the columns of `observations`, ordered by customer_id, the
    typical one (`is_typical`, invoice_id null: median amount and terms of the customer's last year, an ordinary
    due date) before the open ones by invoice_id. `amount` is the money at stake: billing of the last 365 days
    x outlook_days / 365 for the typical invoice, else what is open; `weight` its share in the customer's sum.
    A customer neither billed within a year nor owing anything has no row.
    """
    make_history(db, as_of, payment)
    typical = f"""
        SELECT customer_id, CAST(NULL AS VARCHAR) AS invoice_id,
               CAST(NULL AS DATE) AS due_date, true AS is_typical, false AS is_open,
               typical_amount AS amount_open, 0 AS age_days,
               -typical_terms_days - {payment.grace_days} AS overdue_days, typical_terms_days AS terms_days,
               typical_amount AS amount, false AS is_disputed
        FROM receivables.history WHERE billed > 0"""
    source = f"({typical} UNION ALL {_OPEN_ROWS})"
    rows = db.frame(
        _rows_sql(as_of, segment, source) + " ORDER BY x.customer_id, x.is_typical DESC, x.invoice_id"
    )
    outlook = rows["billed"].astype("float64") * payment.outlook_days / YEAR_DAYS
    rows["amount"] = outlook.where(rows["is_typical"], rows["amount"].astype("float64"))
    rows["weight"] = rows["amount"] / rows.groupby("customer_id")["amount"].transform("sum")
    return rows
