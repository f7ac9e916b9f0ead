"""Invoices and payments -> what is owed and how late it comes: per invoice, per customer, and as training rows.

The rules, the same everywhere (all money in the reporting currency, all days in calendar days):

- A credit note that names its invoice nets within it from the issue on; an invoice credited in full is neither
  late nor on time and leaves every count. A credit note that names none says nothing about lateness; it lowers
  the customer's open balance. Invoices of zero are ignored.
- A payment before its invoice counts as made at issue. What is paid beyond what an invoice asks for (a transfer made
  twice) settles nothing more and weighs in no average. An invoice is settled on the day from which its open
  balance stays within tolerance (`payment.settled_tolerance_ratio` of the amount or
  `payment.settled_tolerance_amount`, whichever is more, but never more than half the amount), so a payment that
  bounces opens it again.
- Days beyond terms run from the due date plus `payment.grace_days`, negative when early; days after it on which
  a dispute that was the seller's own fault was open do not run. A dispute whose fault is not known yet runs.
- Nothing is averaged over paid invoices only: an open invoice that has fallen due counts with its days so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from clv import period
from clv.features import segment_sql

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import PaymentSettings
    from clv.warehouse import Engine

YEAR_DAYS = period.DAYS_PER_YEAR
RECENT_DAYS = 90
LONG_DAYS = 3 * YEAR_DAYS  # the long counts: a year holds few invoices of most customers
ARREARS_DAYS = 30  # overdue by more than this is arrears
DOUBTFUL_DAYS = 90  # a balance overdue by more than this may not come in

# Who pays on one weekday, on at least so many days of the year and in so large a share of them, has payment runs.
PAYMENT_RUN_DAYS, PAYMENT_RUN_RATIO = 6, 0.8

# Of how many invoices a customer's late ratios are made: each pair is "of so many" and "so many were".
COUNTS = (
    *("known_invoices", "late_invoices", "long_known_invoices", "long_late_invoices"),
    *("due_invoices", "beyond_terms_invoices", "long_due_invoices", "long_beyond_terms_invoices"),
)


def invoice_state(db: Engine, as_of: date, payment: PaymentSettings, *, only: str = "true") -> str:
    """Name of the table it makes: what is known as of the date of every visible invoice (no credit notes).

    Reads `past`, which must show `as_of`; `only` is an SQL condition on an invoice's columns, for invoices do not
    depend on each other. One row per invoice: invoice_id, customer_id, invoice_date, due_date, terms_days;
    `original_amount`, `amount` (net of its credit notes), `amount_paid` (of it), `amount_open` (0 once settled);
    `settled_date` (null while open or fully credited); `days_beyond_terms` (of the settlement, or so
    far); `weighted_days_beyond_terms` (of the payments and the open rest, by amount); `late_ratio` (share of the
    amount paid, or still open, beyond terms); `is_open`, `is_fully_credited`, `is_disputed` (now), `age_days`
    (since issue), `overdue_days` (since the last day within terms: known of every invoice, paid or not).
    """
    db.run("CREATE SCHEMA IF NOT EXISTS receivables")
    today = f"DATE '{as_of}'"
    year_ago = f"DATE '{as_of - timedelta(days=YEAR_DAYS)}'"
    tolerance_ratio = f"CAST({payment.settled_tolerance_ratio} AS DECIMAL(9,6))"
    tolerance_amount = f"CAST({payment.settled_tolerance_amount} AS DECIMAL(18,4))"
    db.run(f"""
        CREATE OR REPLACE TABLE receivables.net AS
        WITH credit AS (
            SELECT credited_invoice_id AS invoice_id, sum(-amount) AS credited
            FROM past.invoices WHERE amount < 0 AND credited_invoice_id IS NOT NULL GROUP BY 1
        ), dated AS (
            SELECT * REPLACE (
                coalesce(due_date, CAST(invoice_date + INTERVAL {payment.default_terms_days} DAY AS DATE)) AS due_date
            ) FROM past.invoices WHERE amount > 0 AND {only}
        )
        SELECT i.invoice_id, i.customer_id, i.invoice_date, i.due_date,
               CAST(i.due_date + INTERVAL {payment.grace_days} DAY AS DATE) AS last_day_date,
               i.amount AS original_amount,
               CAST(greatest(i.amount - coalesce(c.credited, 0), 0) AS DECIMAL(18,4)) AS amount,
               CAST(least(greatest({tolerance_ratio} * i.amount, {tolerance_amount}),
                          CAST(0.5 AS DECIMAL(2,1)) * i.amount) AS DECIMAL(18,4)) AS tolerance,
               i.dispute_opened_date, i.dispute_closed_date, i.dispute_fault
        FROM dated AS i LEFT JOIN credit AS c USING (invoice_id)
    """)
    days = beyond_terms_sql("paid_date")
    before = beyond_terms_sql(f"least(paid_date, {year_ago})")
    db.run(f"""
        CREATE OR REPLACE TABLE receivables.piece AS
        WITH paid AS (
            SELECT p.invoice_id, greatest(p.payment_date, n.invoice_date) AS paid_date, sum(p.amount) AS paid
            FROM past.payments AS p JOIN receivables.net AS n USING (invoice_id) GROUP BY 1, 2
        ), running AS (
            SELECT p.*, sum(p.paid) OVER (PARTITION BY p.invoice_id ORDER BY p.paid_date) AS paid_to_date, n.amount
            FROM paid AS p JOIN receivables.net AS n USING (invoice_id)
        ), staying AS (
            SELECT *, least(paid_to_date, amount) - least(paid_to_date - paid, amount) AS applied,
                   min(least(paid_to_date, amount)) OVER (
                PARTITION BY invoice_id ORDER BY paid_date ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
            ) AS lowest_from_here FROM running
        )
        SELECT s.invoice_id, s.paid_date, s.applied, s.lowest_from_here, {days} AS days,
               greatest({days}, 0) - greatest({before}, 0) AS late_days_of_year,
               s.lowest_from_here >= n.amount - n.tolerance AS is_settled
        FROM staying AS s JOIN receivables.net AS n USING (invoice_id)
    """)
    so_far, year_before = beyond_terms_sql(today), beyond_terms_sql(year_ago)
    db.run(f"""
        CREATE OR REPLACE TABLE receivables.invoice_state AS
        WITH pieces AS (
            SELECT invoice_id, sum(applied) AS amount_paid, min(paid_date) FILTER (is_settled) AS settled_date,
                   sum(applied * days) AS amount_days, sum(applied * late_days_of_year) AS balance_days,
                   max(lowest_from_here) FILTER (days <= 0) AS on_time_amount
            FROM receivables.piece GROUP BY 1
        ), known AS (
            SELECT n.*, n.amount <= n.tolerance AS is_fully_credited, coalesce(p.amount_paid, 0) AS amount_paid,
                   CASE WHEN n.amount > n.tolerance THEN p.settled_date END AS settled_date,
                   n.amount > n.tolerance AND p.settled_date IS NULL AS is_open,
                   coalesce(p.amount_days, 0) AS amount_days, coalesce(p.balance_days, 0) AS balance_days,
                   greatest(coalesce(p.on_time_amount, 0), 0) AS on_time_amount,
                   {so_far} AS overdue_days,
                   greatest({so_far}, 0) - greatest({year_before}, 0) AS late_days_of_year
            FROM receivables.net AS n LEFT JOIN pieces AS p USING (invoice_id)
        ), opened AS (
            SELECT *, CASE WHEN is_open THEN amount - amount_paid ELSE 0 END AS amount_open FROM known
        ), summed AS (
            SELECT * REPLACE (
                amount_days + amount_open * overdue_days AS amount_days,
                balance_days + amount_open * late_days_of_year AS balance_days
            ), amount_paid + amount_open AS amount_counted,
               CASE WHEN overdue_days > 0 THEN amount_paid + amount_open - on_time_amount ELSE 0 END AS late_amount
            FROM opened
        )
        SELECT invoice_id, customer_id, invoice_date, due_date, original_amount, amount, amount_paid, amount_open,
               settled_date, date_diff('day', invoice_date, due_date) AS terms_days,
               {beyond_terms_sql(f"coalesce(settled_date, {today})")} AS days_beyond_terms,
               CAST(amount_days AS DOUBLE) / nullif(CAST(amount_counted AS DOUBLE), 0) AS weighted_days_beyond_terms,
               CAST(late_amount AS DOUBLE) / nullif(CAST(amount_counted AS DOUBLE), 0) AS late_ratio,
               is_open, is_fully_credited, dispute_opened_date IS NOT NULL AS was_disputed,
               dispute_opened_date IS NOT NULL AND dispute_closed_date IS NULL AS is_disputed,
               date_diff('day', invoice_date, {today}) AS age_days, overdue_days,
               amount_counted, amount_days, late_amount, balance_days
        FROM summed
    """)
    return "receivables.invoice_state"


def beyond_terms_sql(day: str) -> str:
    """SQL: days from the last day within terms to `day`, less days of a dispute that was the seller's fault."""
    return f"""(date_diff('day', last_day_date, {day}) - CASE WHEN dispute_fault = 'seller' THEN greatest(0,
        date_diff('day', greatest(dispute_opened_date, last_day_date),
                  least(coalesce(dispute_closed_date, {day}), {day}))) ELSE 0 END)"""


def customer_history(
    db: Engine, as_of: date, payment: PaymentSettings, segment: Sequence[str] = ()
) -> pd.DataFrame:
    """How each customer has paid, as of the date: one row per customer with an invoice that counts, by customer_id.

    Reads `past`, which must show `as_of`. The averages are over invoices that have fallen due, paid or not, so a
    later payment only ever makes them worse. `known_invoices` and `late_invoices` count those of the last year
    whose lateness is certain, `due_invoices` and `beyond_terms_invoices` those that fell due and those of them
    that are beyond terms by however little, `long_` the same of three years; `PaymentDelay` shrinks their ratios
    with constants it has learned. `payment_weekday` (1 Monday to 7) is that of the customer's payment runs.
    Null where there is nothing to average. `segment` is 'all' without segment attributes.
    """
    make_history(db, as_of, payment)
    return db.frame(f"""
        SELECT {segment_sql(segment)} AS segment, h.*
        FROM receivables.history AS h LEFT JOIN past.customers AS c USING (customer_id) ORDER BY h.customer_id
    """)


def make_history(db: Engine, as_of: date, payment: PaymentSettings, only: str = "true") -> None:
    """Make the table receivables.history, and receivables.invoice_state with it."""
    state = invoice_state(db, as_of, payment, only=only)
    late = payment.late_after_days
    year_ago = f"DATE '{as_of - timedelta(days=YEAR_DAYS)}'"
    in_year = f"overdue_days <= {YEAR_DAYS}"
    known = f"overdue_days > {late} AND overdue_days <= {YEAR_DAYS + late}"
    long_known = f"overdue_days > {late} AND overdue_days <= {LONG_DAYS + late}"
    in_long = f"overdue_days <= {LONG_DAYS}"
    paid = f"invoice_date >= {year_ago} AND NOT is_open"
    db.run(f"""
        CREATE OR REPLACE TABLE receivables.history AS
        WITH counted AS (SELECT * FROM {state} WHERE NOT is_fully_credited),
        ranked AS (
            SELECT *, row_number() OVER (
                PARTITION BY customer_id ORDER BY due_date DESC, invoice_date DESC, invoice_id DESC) AS latest
            FROM counted WHERE overdue_days > 0
        ), fallen_due AS (
            SELECT customer_id,
                count(*) FILTER ({known}) AS known_invoices,
                count(*) FILTER ({known} AND days_beyond_terms > {late}) AS late_invoices,
                count(*) FILTER ({long_known}) AS long_known_invoices,
                count(*) FILTER ({long_known} AND days_beyond_terms > {late}) AS long_late_invoices,
                count(*) FILTER ({in_year}) AS due_invoices,
                count(*) FILTER ({in_year} AND days_beyond_terms > 0) AS beyond_terms_invoices,
                count(*) FILTER ({in_long}) AS long_due_invoices,
                count(*) FILTER ({in_long} AND days_beyond_terms > 0) AS long_beyond_terms_invoices,
                {_mean_days(in_year)} AS mean_days_beyond_terms,
                {_mean_days(f"overdue_days <= {RECENT_DAYS}")} AS recent_days_beyond_terms,
                max(days_beyond_terms) FILTER ({in_year}) AS worst_days_beyond_terms,
                max(days_beyond_terms) FILTER (latest = 1) AS last_days_beyond_terms,
                {ratio_sql("sum(days_beyond_terms) FILTER (latest <= 3)", "count(*) FILTER (latest <= 3)")}
                    AS last_three_days_beyond_terms,
                {
        ratio_sql(
            f"count(*) FILTER (latest <= 3 AND days_beyond_terms > {late})", "count(*) FILTER (latest <= 3)"
        )
    } AS last_three_late_ratio,
                {ratio_sql(f"sum(late_amount) FILTER ({in_year})", f"sum(amount_counted) FILTER ({in_year})")}
                    AS late_amount_ratio
            FROM ranked GROUP BY 1
        ), issued AS (
            SELECT customer_id,
                count(*) FILTER (invoice_date >= {year_ago}) AS issued_invoices,
                coalesce(sum(amount) FILTER (invoice_date >= {year_ago}), 0) AS billed,
                quantile_disc(amount, 0.5) FILTER (invoice_date >= {year_ago}) AS typical_amount,
                quantile_disc(terms_days, 0.5) FILTER (invoice_date >= {year_ago}) AS typical_terms_days,
                count(*) FILTER ({paid}) AS paid_invoices,
                count(*) FILTER ({paid} AND days_beyond_terms > {late}) AS paid_late_invoices,
                {
        ratio_sql(
            f"count(*) FILTER (was_disputed AND invoice_date >= {year_ago})",
            f"count(*) FILTER (invoice_date >= {year_ago})",
        )
    } AS dispute_ratio,
                sum(amount_open) AS open_amount,
                coalesce(sum(amount_open) FILTER (overdue_days > 0), 0) AS overdue_amount,
                count(*) FILTER (is_open AND overdue_days > 0) AS overdue_invoices,
                coalesce(max(overdue_days) FILTER (is_open AND overdue_days > 0), 0) AS longest_overdue_days
            FROM counted GROUP BY 1
        ), last_paid AS (
            SELECT n.customer_id, date_diff('day', max(p.paid_date), DATE '{
        as_of
    }') AS days_since_last_payment
            FROM receivables.piece AS p JOIN receivables.net AS n USING (invoice_id) GROUP BY 1
        ), run_days AS (
            SELECT n.customer_id, isodow(p.paid_date) AS weekday, count(DISTINCT p.paid_date) AS days
            FROM receivables.piece AS p JOIN receivables.net AS n USING (invoice_id)
            WHERE p.applied > 0 AND p.paid_date >= {year_ago} GROUP BY 1, 2
        ), run AS (
            SELECT customer_id, weekday AS payment_weekday FROM run_days
            QUALIFY days >= {PAYMENT_RUN_RATIO} * sum(days) OVER (PARTITION BY customer_id)
                AND sum(days) OVER (PARTITION BY customer_id) >= {PAYMENT_RUN_DAYS}
        )
        SELECT i.*, {", ".join(f"coalesce(d.{name}, 0) AS {name}" for name in COUNTS)},
               d.mean_days_beyond_terms, d.recent_days_beyond_terms,
               d.recent_days_beyond_terms - d.mean_days_beyond_terms AS trend_days_beyond_terms,
               d.worst_days_beyond_terms, d.last_days_beyond_terms, d.last_three_days_beyond_terms,
               d.last_three_late_ratio, d.late_amount_ratio, p.days_since_last_payment, r.payment_weekday,
               coalesce({ratio_sql("i.overdue_amount", "i.open_amount")}, 0e0) AS overdue_balance_ratio,
               {ratio_sql("i.overdue_amount", "i.billed")} AS overdue_to_billed_ratio
        FROM issued AS i LEFT JOIN fallen_due AS d USING (customer_id) LEFT JOIN last_paid AS p USING (customer_id)
        LEFT JOIN run AS r USING (customer_id)
    """)


def _mean_days(condition: str) -> str:
    return ratio_sql(f"sum(amount_days) FILTER ({condition})", f"sum(amount_counted) FILTER ({condition})")


def ratio_sql(above: str, below: str) -> str:
    """SQL: the quotient of two exact sums as a double, null over nothing."""
    return f"(CAST({above} AS DOUBLE) / nullif(CAST({below} AS DOUBLE), 0e0))"


def payment_record(db: Engine, as_of: date, payment: PaymentSettings) -> pd.DataFrame:
    """The plain record: one row per customer with an invoice that counts, ordered by customer_id.

    Reads `past`, which must show `as_of`. Over the invoices that fell due in the last `record_months`, paid or
    not, by amount: `on_time_share_ratio`, `mean_days_beyond_terms`; `main_delay_reason` is the reason recorded
    most often with their late payments (ties: the larger amount, then the name); `counted_invoices` is how many
    they are; null (0) where none fell due. As of the date: `open_balance` (less credit notes that name no invoice,
    never below 0) and `overdue_balance_ratio`, the share of what is open that is more than 30 days beyond terms (0
    where nothing is open), `doubtful_balance` what is open more than 90 days beyond terms. `balance_days`: money x
    days beyond terms within the last 365 days, to be priced by a capital rate.
    """
    state = invoice_state(db, as_of, payment)
    start = f"DATE '{period.add_months(as_of, -payment.record_months)}'"
    return db.frame(f"""
        WITH counted AS (
            SELECT *, overdue_days > 0 AND due_date >= {start} AS in_record
            FROM {state} WHERE NOT is_fully_credited
        ), reasons AS (
            SELECT c.customer_id, p.delay_reason,
                   row_number() OVER (PARTITION BY c.customer_id
                                      ORDER BY count(*) DESC, sum(p.amount) DESC, p.delay_reason) AS position
            FROM past.payments AS p
            JOIN counted AS c USING (invoice_id)
            JOIN receivables.piece AS x
              ON x.invoice_id = p.invoice_id AND x.paid_date = greatest(p.payment_date, c.invoice_date)
            WHERE c.in_record AND x.days > 0 AND p.delay_reason IS NOT NULL
            GROUP BY 1, 2
        ), unapplied AS (
            SELECT customer_id, sum(-amount) AS credit FROM past.invoices
            WHERE amount < 0 AND coalesce(credited_invoice_id, '') NOT IN (SELECT invoice_id FROM receivables.net)
            GROUP BY 1
        ), refunded AS (
            SELECT i.customer_id, sum(-p.amount) AS refund
            FROM past.payments AS p JOIN past.invoices AS i USING (invoice_id) WHERE i.amount < 0 GROUP BY 1
        ), summed AS (
            SELECT customer_id,
                {
        ratio_sql(
            "sum(amount_counted - late_amount) FILTER (in_record)", "sum(amount_counted) FILTER (in_record)"
        )
    } AS on_time_share_ratio,
                {_mean_days("in_record")} AS mean_days_beyond_terms,
                count(*) FILTER (in_record) AS counted_invoices,
                sum(amount_open) AS open_amount,
                coalesce({
        ratio_sql(f"sum(amount_open) FILTER (overdue_days > {ARREARS_DAYS})", "sum(amount_open)")
    }, 0e0) AS overdue_balance_ratio,
                coalesce(sum(amount_open) FILTER (overdue_days > {DOUBTFUL_DAYS}), 0) AS doubtful_balance,
                sum(balance_days) AS balance_days
            FROM counted GROUP BY 1
        )
        SELECT s.customer_id, s.on_time_share_ratio, s.mean_days_beyond_terms, r.delay_reason AS main_delay_reason,
               s.counted_invoices,
               greatest(s.open_amount - greatest(coalesce(u.credit, 0) - coalesce(f.refund, 0), 0), 0) AS open_balance,
               s.overdue_balance_ratio, s.doubtful_balance, s.balance_days
        FROM summed AS s
        LEFT JOIN reasons AS r ON r.customer_id = s.customer_id AND r.position = 1
        LEFT JOIN unapplied AS u ON u.customer_id = s.customer_id
        LEFT JOIN refunded AS f ON f.customer_id = s.customer_id
        ORDER BY s.customer_id
    """)
