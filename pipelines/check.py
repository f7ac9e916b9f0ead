"""Try a company's mapping and contract, and nothing else: where a new company starts."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from clv import program
from clv.program import ConfigPath, LogFormat, Overrides

if TYPE_CHECKING:
    from rich.table import Table as Shown

    from clv.ingest import Loaded
    from clv.warehouse import Engine


def main(
    config: ConfigPath,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            formats=["%Y-%m-%d"],
            help="Facts dated strictly before this day are visible; else today's.",
        ),
    ] = None,
    set_: Overrides = None,
    log_format: LogFormat = "text",
) -> None:
    """Read every source, and show per table what was read, kept and set aside, and why."""
    from clv.config import load

    program.start_logging(log_format)
    settings = load(config, set_ or ())

    from rich.console import Console

    from clv import ingest, warehouse

    day = as_of.date() if as_of else date.today()  # noqa: DTZ011  # a calendar day, as every date here
    with warehouse.workspace_of(settings) as db:
        loaded = ingest.load(db, settings, day)
        for shown in (_tables(db, loaded), _empty(db, loaded), _rejected(db)):
            Console().print(shown)
    for note in loaded.notes:
        Console().print(f"• {note}", markup=False)
    if loaded.absent:
        Console().print(f"Without a source: {', '.join(sorted(loaded.absent))}", markup=False)


def _tables(db: Engine, loaded: Loaded) -> Shown:
    """One row per source: what became of its rows, and their dates."""
    from rich.box import SIMPLE
    from rich.table import Table

    from clv.tables import CORE

    shown = Table(title="Sources", title_justify="left", box=SIMPLE, padding=0)
    shown.add_column("table", no_wrap=True)
    for heading in ("read", "kept", "set aside", "left out", "later", "first", "last"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, account in loaded.accounts.items():
        day = CORE[name].dated_by or ("first_contact_date" if name == "customers" else "NULL")
        days = db.rows(f"SELECT min({day}), max({day}) FROM main.{name}")[0]
        left_out = account.filtered + account.left_truncated
        numbers = (account.read, account.kept, sum(account.set_aside.values()), left_out, account.later)
        shown.add_row(name, *(f"{number:,}" for number in numbers), *(str(day or "") for day in days))
    return shown


def _empty(db: Engine, loaded: Loaded) -> Shown:
    """One row per source: the columns that nothing fills, and those with gaps."""
    from rich.box import SIMPLE
    from rich.table import Table

    shown = Table(
        "table", "wholly empty", "partly empty", title="Empty values", title_justify="left", box=SIMPLE
    )
    for name, account in loaded.accounts.items():
        columns = [row[0] for row in db.rows(f"DESCRIBE main.{name}")]
        counts = ", ".join(f"count(*) - count({column})" for column in columns)
        nulls = dict(zip(columns, db.rows(f"SELECT {counts} FROM main.{name}")[0], strict=True))
        wholly = (column for column, rows in nulls.items() if rows == account.kept)
        partly = (f"{column} {rows:,}" for column, rows in nulls.items() if 0 < rows < account.kept)
        shown.add_row(name, ", ".join(wholly), ", ".join(partly))
    return shown


def _rejected(db: Engine) -> Shown | str:
    """Rows set aside, by table and rule, each with an example."""
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    found = db.rows(
        "SELECT table_name, rule, count(*), min(row_key), arg_min(detail, (row_key, detail)) "
        "FROM main.rejected_rows GROUP BY ALL ORDER BY ALL"
    )
    if not found:
        return "No row was set aside."
    headings = ("table", "rule", "rows", "first row", "found")
    shown = Table(*headings, title="Rows set aside", title_justify="left", box=SIMPLE)
    for table, rule, rows, key, detail in found:
        shown.add_row(table, rule, f"{rows:,}", escape(str(key)), escape(str(detail or "")))
    return shown


if __name__ == "__main__":
    program.run(main)
