"""Time and memory of the payment side at size: invoices featured, graded rows predicted, and a model trained.

Invents a ledger in SQL (ten invoices a customer over four years, three in ten paid late, one in twenty never), then
runs what a month runs. CPU seconds and peak memory are the operating system's own account: what a busy machine adds to
the time on the clock is in neither.

    python benchmarks/payment_scale.py [--invoices 200000] [--training-rows 40000] [--threads 2] [--memory 4GB]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from clv import invoice_rows, period, portfolio, receivables, warehouse
from clv.config import PaymentSettings
from clv.models.payment_delay import PaymentDelay, customer_figures
from clv.tables import CORE

AS_OF = date(2026, 1, 1)
INVOICES_PER_CUSTOMER = 10
SEGMENT = ["industry"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--invoices", type=int, default=200_000)
    parser.add_argument(
        "--training-rows", type=int, default=40_000, help="about so many, from as few customers"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="4GB", help="DuckDB's limit; it spills past it")
    asked = parser.parse_args()
    payment = PaymentSettings()
    steps: list[tuple[str, float, float, float, str]] = []

    @contextmanager
    def step(name: str) -> Iterator[list[str]]:
        """Measures the block; what it appends is told beside the figures."""
        note: list[str] = []
        started, used = time.monotonic(), time.process_time()
        yield note
        measured = time.monotonic() - started, time.process_time() - used, _peak_mb()
        steps.append((name, *measured, " ".join(note)))
        Console(stderr=True).print("{}: {:.1f} s, CPU {:.1f} s, peak {:,.0f} MB {}".format(*steps[-1]))

    with (
        tempfile.TemporaryDirectory(prefix="clv-benchmark-") as folder,
        warehouse.workspace(
            threads=asked.threads, memory_limit=asked.memory, temp_directory=Path(folder)
        ) as db,
    ):
        with step("simulate"):
            invent(db, asked.invoices)
        with step("record of the last year"):
            period.see(db, AS_OF)
            receivables.payment_record(db, AS_OF, payment)
        with step("portfolio"):
            portfolio.portfolio(db, AS_OF, payment)
        with step("features of every customer and open invoice") as note:
            view = invoice_rows.customer_view(db, AS_OF, payment, SEGMENT)
            note.append(f"{len(view):,} rows")
        with step("training rows") as note:
            training = rows_to_learn(db, payment, asked.training_rows)
            note.append(f"{len(training):,} rows of {training['invoice_id'].nunique():,} invoices")
        with step("training"):
            model = PaymentDelay.fit(training, payment, 7, asked.threads, reference=view)
        del training
        with step("prediction") as note:
            figures = customer_figures(view, model.predict(view, asked.threads))
            note.append(f"{len(figures):,} customers")
    table = Table(title=f"{asked.invoices:,} invoices, {asked.threads} threads")
    for heading in ("step", "wall s", "CPU s", "peak MB so far", ""):
        table.add_column(heading, justify="left" if heading in ("step", "") else "right")
    steps.append(("all", sum(step[1] for step in steps), sum(step[2] for step in steps), _peak_mb(), ""))
    for name, seconds, used, peak, note in steps:
        table.add_row(name, f"{seconds:,.1f}", f"{used:,.1f}", f"{peak:,.0f}", note)
    Console(width=120).print(table)


def invent(db: warehouse.Engine, invoices: int) -> None:
    """A ledger of so many invoices; everything about one follows from the hash of its number."""
    for table in CORE.values():
        if table.name != "customers":
            db.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
    db.run(f"CREATE TABLE main.customers ({CORE['customers'].ddl()}, industry VARCHAR)")
    customers = max(1, invoices // INVOICES_PER_CUSTOMER)
    db.run(f"""
        INSERT INTO main.customers BY NAME
        SELECT 'C' || i AS customer_id, DATE '2021-12-01' AS first_contact_date, 'S' || (i % 6) AS industry
        FROM range({customers}) AS r(i)""")
    db.run(f"""
        INSERT INTO main.invoices BY NAME
        SELECT 'I' || i AS invoice_id, 'C' || (i % {customers}) AS customer_id,
               DATE '2022-01-01' + CAST(hash(i, 1) % 1461 AS INTEGER) AS invoice_date,
               DATE '2022-01-01' + CAST(hash(i, 1) % 1461 AS INTEGER)
                   + [14, 30, 45, 60][1 + CAST(hash(i % {customers}, 2) % 4 AS INTEGER)] AS due_date,
               CAST(exp(4 + (hash(i, 3) % 1000) / 250e0) AS DECIMAL(18,4)) AS amount
        FROM range({invoices}) AS r(i)""")
    # A payer's tendency lies between 0 and 0.6; who falls late pays 1 + Exp(30) days after the due date.
    db.run(f"""
        INSERT INTO main.payments BY NAME
        WITH drawn AS (
            SELECT i, 'I' || i AS invoice_id, (hash(i % {customers}, 4) % 1000) / 1000e0 * 0.6 AS tendency,
                   (hash(i, 5) % 10000) / 10000e0 AS draw, (1 + hash(i, 6) % 9999) / 10000e0 AS length
            FROM range({invoices}) AS r(i)
        )
        SELECT d.invoice_id, n.amount,
               n.due_date + CAST(CASE WHEN draw < tendency THEN 1 - floor(30 * ln(length))
                                      ELSE -least(floor(-9 * ln(length)), 14) END AS INTEGER) AS payment_date
        FROM drawn AS d JOIN main.invoices AS n USING (invoice_id) WHERE hash(d.i, 7) % 20 > 0""")
    db.run(f"DELETE FROM main.payments WHERE payment_date >= DATE '{AS_OF}'")


def rows_to_learn(db: warehouse.Engine, payment: PaymentSettings, wanted: int) -> pd.DataFrame:
    """training_rows of as many customers as hold some `wanted` rows: what TRAINING_CUSTOMERS bounds, here by rows."""
    # Every invoice of the months is a row when it is new, and further rows while it stays open.
    rows_per_customer = 4 * INVOICES_PER_CUSTOMER * payment.training_months / 48
    chosen = int(wanted / rows_per_customer) + 1
    before, invoice_rows.TRAINING_CUSTOMERS = invoice_rows.TRAINING_CUSTOMERS, chosen
    try:
        return invoice_rows.training_rows(db, AS_OF, payment, SEGMENT)
    finally:
        invoice_rows.TRAINING_CUSTOMERS = before


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
