"""The receivables of the whole company: how old they are, how they age from month to month, and why they are late."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from clv import period
from clv.receivables import beyond_terms_sql, invoice_state, ratio_sql

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import PaymentSettings
    from clv.warehouse import Engine

MONTHS = 12
BILLING_DAYS = 90  # of billing that a balance is measured by
SETTLING_DAYS = 90  # after which the lateness of a month's invoices is mostly known
BUCKETS = ("not due", "1–30", "31–60", "61–90", "over 90")  # days beyond terms
PAID = "paid"


def portfolio(db: Engine, as_of: date, payment: PaymentSettings) -> dict[str, pd.DataFrame]:
    """What finance asks of a ledger, as tables by name; none where no invoice is visible.

    Reads `past`, which must show `as_of`. Invoices credited in full count nowhere; money is in the reporting currency.
    `ageing`: a row per bucket of days beyond terms with `invoices`, `amount_open`, `amount_ratio`. `roll_rates`: a row
    per bucket and where its money was a month later (a bucket, or paid), over the last 12 months: `amount`,
    `amount_ratio` (of the bucket, null where it was empty). `roll_rates_by_month`: the share that rolled on to the
    next older bucket. `by_month`: `dso_days`, days of billing that were outstanding at the start of the month (open
    balance / billing of the 90 days before x 90, null without billing), `overdue_ratio` of that balance, and
    `mean_days_beyond_terms` by amount of what fell due in the month before it, paid or not: null until 90 days have
    passed, for what is open still grows older. `delay_reasons`: late
    payments of the record's months by recorded reason: `payments`, `amount`, `mean_days_beyond_terms` by amount.
    """
    state = invoice_state(db, as_of, payment)
    if not db.rows(f"SELECT count(*) FROM {state}")[0][0]:
        return {}
    months = [period.add_months(as_of, -i) for i in range(MONTHS, -1, -1)]
    db.run("""
        CREATE OR REPLACE TABLE receivables.open_at (
            month INTEGER, start DATE, invoice_id VARCHAR, bucket INTEGER, amount DECIMAL(38,4))""")
    db.run(f"""
        CREATE OR REPLACE TABLE receivables.lately AS
        SELECT n.*, s.settled_date FROM receivables.net AS n JOIN {state} AS s USING (invoice_id)
        WHERE NOT s.is_fully_credited AND (s.settled_date IS NULL OR s.settled_date >= DATE '{months[0]}')""")
    db.run("""
        CREATE OR REPLACE TABLE receivables.lately_paid AS
        SELECT p.invoice_id, p.paid_date, p.applied
        FROM receivables.piece AS p JOIN receivables.lately USING (invoice_id)""")
    for number, start in enumerate(months):
        _make_open_at(db, number, start)
    return {
        "ageing": _ageing(db),
        "roll_rates": _roll_rates(db),
        "roll_rates_by_month": _roll_rates_by_month(db),
        "by_month": _by_month(db, state, as_of, months),
        "delay_reasons": _delay_reasons(db, state, period.add_months(as_of, -payment.record_months)),
    }


def _make_open_at(db: Engine, number: int, start: date) -> None:
    """Add what was open at the start of a day: one row per invoice, by what is known now."""
    db.run(f"""
        INSERT INTO receivables.open_at
        WITH paid AS (
            SELECT invoice_id, sum(applied) AS applied FROM receivables.lately_paid
            WHERE paid_date < DATE '{start}' GROUP BY 1
        ), open AS (
            SELECT n.invoice_id, n.amount - coalesce(p.applied, 0) AS amount,
                   {beyond_terms_sql(f"DATE '{start}'")} AS days
            FROM receivables.lately AS n LEFT JOIN paid AS p USING (invoice_id)
            WHERE n.invoice_date < DATE '{start}' AND (n.settled_date IS NULL OR n.settled_date >= DATE '{start}')
        )
        SELECT {number}, DATE '{start}', invoice_id,
               CASE WHEN days <= 0 THEN 0 ELSE least((days - 1) // 30 + 1, {len(BUCKETS) - 1}) END, amount
        FROM open WHERE amount > 0""")


def _ageing(db: Engine) -> pd.DataFrame:
    return db.frame(f"""
        WITH buckets AS (SELECT unnest({list(BUCKETS)}) AS name, unnest(range({len(BUCKETS)})) AS bucket)
        SELECT b.name AS days_beyond_terms, count(o.invoice_id) AS invoices,
               CAST(coalesce(sum(o.amount), 0) AS DOUBLE) AS amount_open,
               {ratio_sql("coalesce(sum(o.amount), 0)", "sum(sum(o.amount)) OVER ()")} AS amount_ratio
        FROM buckets AS b LEFT JOIN receivables.open_at AS o ON o.bucket = b.bucket AND o.month = {MONTHS}
        GROUP BY b.name, b.bucket ORDER BY b.bucket""")


_ROLLED = f"""
    WITH rolled AS (
        SELECT a.month, a.start, a.bucket, b.bucket AS later, a.amount,
               least(coalesce(b.amount, 0), a.amount) AS still_open
        FROM receivables.open_at AS a
        LEFT JOIN receivables.open_at AS b ON b.invoice_id = a.invoice_id AND b.month = a.month + 1
        WHERE a.month < {MONTHS}
    )"""


def _roll_rates(db: Engine) -> pd.DataFrame:
    names = [*BUCKETS, PAID]
    return db.frame(f"""
        {_ROLLED}, parts AS (
            SELECT bucket, later, still_open AS amount FROM rolled WHERE later IS NOT NULL
            UNION ALL SELECT bucket, {len(BUCKETS)}, amount - still_open FROM rolled
        ), names AS (SELECT unnest({names}) AS name, unnest(range({len(names)})) AS bucket)
        SELECT f.name AS from_bucket, t.name AS to_bucket, CAST(coalesce(sum(p.amount), 0) AS DOUBLE) AS amount,
               {ratio_sql("coalesce(sum(p.amount), 0)", "sum(sum(p.amount)) OVER (PARTITION BY f.bucket)")}
                   AS amount_ratio
        FROM names AS f CROSS JOIN names AS t
        LEFT JOIN parts AS p ON p.bucket = f.bucket AND p.later = t.bucket
        WHERE f.name <> '{PAID}' GROUP BY f.name, f.bucket, t.name, t.bucket ORDER BY f.bucket, t.bucket""")


def _roll_rates_by_month(db: Engine) -> pd.DataFrame:
    shares = ", ".join(
        f'{_share(f"bucket = {k} AND later > {k}", f"bucket = {k}")} AS "{BUCKETS[k]} to {BUCKETS[k + 1]}"'
        for k in range(len(BUCKETS) - 1)
    )
    return db.frame(f"{_ROLLED} SELECT start AS month, {shares} FROM rolled GROUP BY start ORDER BY start")


def _share(some: str, of: str) -> str:
    return ratio_sql(
        f"coalesce(sum(still_open) FILTER ({some}), 0)",
        f"sum(amount) FILTER ({of})",
    )


def _by_month(db: Engine, state: str, as_of: date, months: list[date]) -> pd.DataFrame:
    return db.frame(f"""
        WITH months AS (SELECT unnest({[str(month) for month in months]})::DATE AS start),
        balance AS (
            SELECT start, sum(amount) AS open_amount, sum(amount) FILTER (bucket > 0) AS overdue
            FROM receivables.open_at GROUP BY 1
        ), billed AS (
            SELECT m.start, sum(s.amount) AS billed FROM months AS m JOIN {state} AS s
                ON s.invoice_date < m.start AND s.invoice_date >= m.start - {BILLING_DAYS} GROUP BY 1
        ), fell_due AS (
            SELECT m.start, sum(s.amount_days) AS amount_days, sum(s.amount_counted) AS amount
            FROM months AS m JOIN {state} AS s
                ON s.due_date < m.start AND s.due_date >= m.start - INTERVAL 1 MONTH
            WHERE NOT s.is_fully_credited AND m.start <= DATE '{as_of}' - {SETTLING_DAYS} GROUP BY 1
        )
        SELECT m.start AS month, CAST(coalesce(b.open_amount, 0) AS DOUBLE) AS amount_open,
               {ratio_sql(f"coalesce(b.open_amount, 0) * {BILLING_DAYS}", "i.billed")} AS dso_days,
               coalesce({ratio_sql("b.overdue", "b.open_amount")}, 0e0) AS overdue_ratio,
               {ratio_sql("f.amount_days", "f.amount")} AS mean_days_beyond_terms
        FROM months AS m LEFT JOIN balance AS b USING (start) LEFT JOIN billed AS i USING (start)
        LEFT JOIN fell_due AS f USING (start) ORDER BY m.start""")


def _delay_reasons(db: Engine, state: str, since: date) -> pd.DataFrame:
    return db.frame(f"""
        SELECT coalesce(p.delay_reason, 'not recorded') AS reason, count(*) AS payments,
               CAST(sum(x.applied) AS DOUBLE) AS amount,
               {ratio_sql("sum(x.applied * x.days)", "sum(x.applied)")} AS mean_days_beyond_terms
        FROM receivables.piece AS x JOIN {state} AS s USING (invoice_id)
        JOIN (
            SELECT invoice_id, payment_date, min(delay_reason) AS delay_reason FROM past.payments GROUP BY 1, 2
        ) AS p ON p.invoice_id = x.invoice_id AND greatest(p.payment_date, s.invoice_date) = x.paid_date
        WHERE x.days > 0 AND x.applied > 0 AND s.due_date >= DATE '{since}' AND NOT s.is_fully_credited
        GROUP BY 1 ORDER BY payments DESC, reason""")
