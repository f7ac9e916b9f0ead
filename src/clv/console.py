"""What the programs show on a terminal: receipts, the pyramid, key customers with their reasons, tier moves."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clv import publish

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config
    from clv.publish import Receipt

KEY_CUSTOMERS_SHOWN = 5
BAR_WIDTH = 24


def show_receipt(as_of: date, receipt: Receipt) -> None:
    """One line: what became of the month."""
    console = Console(highlight=False)
    graded = receipt.row_counts["grades"]
    if receipt.status == "unchanged":
        console.print(
            f"{as_of}: {graded:,} graded, same as published before in run {receipt.run_id}; nothing changed"
        )
        return
    console.print(f"{as_of}: {graded:,} graded and published as run {receipt.run_id}")
    if receipt.rejected:
        console.print(f"  {receipt.rejected:,} rows set aside, each with its reason in clv.rejected_rows")
    if receipt.stale_months:
        months = ", ".join(str(day) for day in receipt.stale_months)
        console.print(f"  stale now, grade them again (score.py --through): {months}")


def show_month(config: Config, as_of: date) -> None:
    """The month as published: pyramid, key customers and why, moves since the month before, where it all is."""
    console = Console(highlight=False)
    currency = config.reporting_currency
    with publish.reader(config) as read:
        summary = read("SELECT * FROM clv.tier_summary WHERE as_of_date = ? ORDER BY position", as_of)
        keys = read(_KEY_SQL.format(key=_names(config.tiers.key), n=KEY_CUSTOMERS_SHOWN), as_of)
        reasons = read(
            "SELECT customer_id, position, points, sentence FROM clv.reasons WHERE as_of_date = ? "
            f"AND customer_id IN ({_names(keys['customer_id'])}) ORDER BY customer_id, position",
            as_of,
        )
        moves = read(_MOVES_SQL, as_of)
        runs = read(
            "SELECT why FROM clv.runs JOIN clv.published USING (run_id, as_of_date) WHERE as_of_date = ?",
            as_of,
        )

    console.print()
    customers = summary[summary["value_source"] == "history"]
    console.print(
        _pyramid(f"{config.company}: customers as of {as_of}", customers, currency, "expected value")
    )
    prospects = summary[(summary["value_source"] == "prospect") & (summary["customers"] > 0)]
    if len(prospects):
        console.print(_pyramid("Prospects, a pyramid of their own", prospects, currency, "expected value"))
    console.print(Text("\nKey customers, and why", style="bold"))
    for customer in keys.to_dict("records"):
        console.print(_heading(customer, currency))
        for reason in reasons[reasons["customer_id"] == customer["customer_id"]].to_dict("records"):
            style = "dim" if reason["position"] == reasons["position"].max() else ""
            console.print(Text(f"    {reason['sentence']}", style=style))
    _show_moves(console, moves, [*config.tiers.shares_ratio, "inactive"])
    for line in _notes(runs):
        console.print(Text(line, style="yellow"))
    console.print()
    console.print(
        f"warehouse  {config.warehouse_path}  (schema clv: grades, reasons, criteria, tier_summary, …)"
    )
    console.print(
        f"models     {config.mlflow.tracking_uri}  (mlflow ui --backend-store-uri {config.mlflow.tracking_uri})"
    )


_KEY_SQL = """
    SELECT g.customer_id, g.tier, g.composite_score, g.clv, g.late_payment_probability FROM clv.grades AS g
    WHERE g.as_of_date = ? AND g.value_source = 'history' AND g.tier IN ({key})
    ORDER BY g.composite_rank LIMIT {n}
"""

_MOVES_SQL = """
    SELECT coalesce(previous_tier, 'new') AS from_tier, tier AS to_tier, count(*) AS customers FROM clv.grades
    WHERE as_of_date = ? AND value_source = 'history' GROUP BY ALL ORDER BY ALL
"""


def _names(values: Any) -> str:
    return ", ".join("'" + str(value).replace("'", "''") + "'" for value in values) or "NULL"


def _pyramid(title: str, summary: pd.DataFrame, currency: str, expected: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("tier")
    table.add_column("customers", justify="right")
    has = {name: bool(summary[name].notna().any()) for name in ("revenue", "contribution_margin", "clv")}
    headings = {"revenue": "revenue 12 m", "contribution_margin": "contribution 12 m", "clv": expected}
    for name, heading in headings.items():
        if has[name]:
            table.add_column(f"{heading}, {currency}", justify="right")
            table.add_column("", justify="right")
    table.add_column(" share of " + ("contribution" if has["contribution_margin"] else "expected value"))
    shares = {
        "revenue": "share_of_revenue_ratio",
        "contribution_margin": "share_of_contribution_ratio",
        "clv": "share_of_clv_ratio",
    }
    barred = "contribution_margin" if has["contribution_margin"] else "clv"
    for row in summary.to_dict("records"):
        cells = [Text(row["tier"], style="bold" if row["is_key"] else ""), f"{row['customers']:,}"]
        for name in headings:
            if has[name]:
                cells += [_number(row[name]), _percent(row[shares[name]])]
        share = row[shares[barred]]
        cells.append(
            Text(" " + "█" * round(max(share, 0) * BAR_WIDTH) if share == share else "", style="cyan")
        )
        table.add_row(*cells)
    return table


def _heading(customer: dict[str, Any], currency: str) -> Text:
    """Text, never markup: ids come from outside."""
    figures = [f"score {customer['composite_score']:.1f}"]
    if customer["clv"] == customer["clv"]:
        figures.append(f"expected value {_number(customer['clv'])} {currency}")
    if customer["late_payment_probability"] == customer["late_payment_probability"]:
        figures.append(f"late payment {customer['late_payment_probability']:.0%}")
    return Text(f"  {customer['customer_id']}  {customer['tier']}  ", style="bold").append(
        Text(", ".join(figures), style="not bold")
    )


def _show_moves(console: Console, moves: pd.DataFrame, order: list[str]) -> None:
    known = moves[moves["from_tier"] != "new"]
    console.print()
    if known.empty:
        console.print(Text("Tier moves since last month: none, this is the first month", style="bold"))
        return
    moved = known[known["from_tier"] != known["to_tier"]]
    new = int(moves.loc[moves["from_tier"] == "new", "customers"].sum())
    total, count = int(known["customers"].sum()), int(moved["customers"].sum())
    console.print(
        Text(
            f"Tier moves since last month: {count:,} of {total:,} customers ({count / total:.1%})",
            style="bold",
        )
    )
    for row in moved.to_dict("records"):
        rises = (
            order.index(row["to_tier"]) < order.index(row["from_tier"]) if row["from_tier"] in order else True
        )
        console.print(
            f"  {'▲' if rises else '▼'} {row['from_tier']} → {row['to_tier']}: {row['customers']:,}"
        )
    if new:
        console.print(f"  + {new:,} new")


def _notes(runs: pd.DataFrame) -> list[str]:
    import json

    if runs.empty:
        return []
    why = json.loads(runs["why"].iloc[0])
    lines = [f"{name} is switched off: {reason}" for name, reason in why.get("off", {}).items()]
    return lines + [f"{name}: {reason}" for name, reason in why.get("fallback", {}).items()]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == value else "–"


def _percent(value: float) -> str:
    return f"{value:.0%}" if value == value else ""
