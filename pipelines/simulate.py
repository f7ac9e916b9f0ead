"""Write the invented company, with its truth, to a DuckDB file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    first_graded_month: Annotated[str, typer.Option(help="first day of a month, YYYY-MM-DD")] = "2026-01-01",
    threads: Annotated[
        int, typer.Option(min=1, help="threads of DuckDB; the rows do not depend on them")
    ] = 2,
) -> None:
    """Write an invented B2B company, with its truth, to a DuckDB file (48 months of facts, then 6 more)."""
    from datetime import date

    from rich.console import Console
    from rich.table import Table

    from clv.errors import ClvError
    from clv.simulate import simulate

    try:
        first = date.fromisoformat(first_graded_month)
    except ValueError as error:
        raise typer.BadParameter(f"expected YYYY-MM-DD, found {first_graded_month!r}") from error
    try:
        rows = simulate(
            out,
            customers=customers,
            prospects=prospects,
            seed=seed,
            first_graded_month=first,
            threads=threads,
        )
    except ClvError as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        raise typer.Exit(error.exit_code) from error
    table = Table("table", "rows", title=f"{out}, seed {seed}", title_justify="left")
    table.columns[1].justify = "right"
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
