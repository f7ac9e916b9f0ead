"""Write the invented company, with its truth, to a DuckDB file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from clv import program
from clv.program import LogFormat


def main(
    customers: Annotated[
        int, typer.Option(min=1, help="customers with an order before the first month")
    ] = 2000,
    prospects: Annotated[
        int | None, typer.Option(min=0, help="without one; default: a fifth as many")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same company")] = 7,
    out: Annotated[Path, typer.Option(help="DuckDB file; the company in it is replaced")] = Path(
        "data/demo.duckdb"
    ),
    first_graded_month: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="first day of a month")
    ] = "2026-01-01",  # type: ignore[assignment]  # typer parses its defaults
    threads: Annotated[
        int, typer.Option(min=1, help="threads of DuckDB; the rows do not depend on them")
    ] = 2,
    log_format: LogFormat = "text",
) -> None:
    """Write an invented B2B company, with its truth, to a DuckDB file (48 months of facts, then 6 more)."""
    program.start_logging(log_format)

    from rich.console import Console
    from rich.table import Table

    from clv.simulate import simulate

    rows = simulate(
        out,
        customers=customers,
        prospects=prospects,
        seed=seed,
        first_graded_month=first_graded_month.date(),
        threads=threads,
    )
    table = Table("table", "rows", title=f"{out}, seed {seed}", title_justify="left")
    table.columns[1].justify = "right"
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    Console().print(table)


if __name__ == "__main__":
    program.run(main)
