"""A month on the terminal: its receipt, the pyramid, key customers with their reasons, tier moves."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clv import publish
from clv.console.screen import number, percent, plain, terminal
from clv.settings.grading import INACTIVE

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config
    from clv.publish import Receipt

KEY_CUSTOMERS_SHOWN = 5
BAR_WIDTH = 24


def show_receipt(as_of: date, receipt: Receipt) -> None:
    """What became of the month, in a line or two."""
    console = terminal()
    graded = f"{as_of}: {receipt.row_counts['grades']:,} graded"
    if receipt.status == "unchanged":
        console.print(f"{graded}, the same as in run {receipt.run_id}: nothing changed", soft_wrap=True)
        return
    console.print(f"{graded} and published as run {receipt.run_id}", soft_wrap=True)
    if receipt.rejected:
        console.print(f"  {receipt.rejected:,} rows set aside, each with its reason in clv.rejected_rows")


def show_month(config: Config, as_of: date) -> None:
    """The month as published: pyramid, key customers and why, moves since the month before, where it all is."""
    console = terminal()
    currency = config.reporting_currency
    with publish.reader(config) as read:
        summary = read("SELECT * FROM clv.tier_summary WHERE as_of_date = ? ORDER BY position", as_of)
        keys = read(_KEY_SQL.format(key=_names(config.tiers.key), n=KEY_CUSTOMERS_SHOWN), as_of)
        reasons = read(
            "SELECT customer_id, direction, concept, sentence FROM clv.reasons WHERE as_of_date = ? "
            f"AND customer_id IN ({_names(keys['customer_id'])}) ORDER BY customer_id, position",
            as_of,
        )
        moves = read(_MOVES_SQL, as_of)
        runs = read(
            "SELECT why FROM clv.runs JOIN clv.published USING (run_id, as_of_date) WHERE as_of_date = ?",
            as_of,
        )
        facts = read(
            "SELECT name, value, detail FROM clv.month_facts WHERE as_of_date = ? ORDER BY name", as_of
        )
        stale = read("SELECT as_of_date FROM clv.published WHERE is_stale ORDER BY as_of_date")

    console.print()
    of_customers = summary["value_source"] == "history"
    console.print(
        Text(f"{config.company}: customers as of {as_of}", style="bold").append(
            Text(f"  (12 months in {currency}; expected: value to come)", style="not bold dim")
        )
    )
    console.print(_pyramid(summary[of_customers]))
    console.print()
    console.print(_pyramids(summary[of_customers]))
    for said in _verdict(facts):
        console.print(said if said.plain.startswith("\n") else Padding(said, (0, 0, 0, 2), expand=False))
    prospects = summary[~of_customers & (summary["customers"] > 0)]
    if len(prospects):
        console.print(Text("\nProspects, a pyramid of their own", style="bold"))
        console.print(_pyramid(prospects))
        for warning in prospect_warnings(facts):
            console.print(Padding(Text(warning, style="yellow"), (0, 0, 0, 2)))
    if len(keys):
        console.print(Text("\nKey customers, and why", style="bold"))
    for customer in keys.to_dict("records"):
        console.print(Padding(_heading(customer, currency), (0, 0, 0, 2)))
        console.print(
            Padding(_reasons(reasons[reasons["customer_id"] == customer["customer_id"]]), (0, 0, 0, 4))
        )
    _show_moves(console, moves, [*config.tiers.names, INACTIVE])
    for line in _notes(runs):
        console.print(Text(line, style="yellow"))
    if len(stale):
        days = [str(day.date()) for day in stale["as_of_date"]]
        console.print(
            Text(
                f"\nStale, as an earlier month has changed since: {', '.join(days)}. "
                f"Grade them again: score.py --as-of {days[0]} --through {days[-1]}",
                style="yellow",
            )
        )
    console.print()
    places = {
        "warehouse": f"{config.warehouse_path}  (schema clv: grades, reasons, criteria, tier_summary, …)",
        "models": f"{config.mlflow.tracking_uri}  "
        f"(mlflow ui --backend-store-uri {config.mlflow.tracking_uri})",
    }
    for name, place in places.items():
        console.print(f"{name:<11}{place}", soft_wrap=True)


def prospect_warnings(facts: pd.DataFrame) -> list[str]:
    """What month_facts flag about prospects: groups clearly below four fifths, attributes that have moved; in words."""
    from clv.disparity import CLEARLY_BELOW

    flagged = dict.fromkeys(("prospect_disparity_", "conversion_disparity_"), CLEARLY_BELOW)
    flagged["prospect_drift_psi"] = "moved:"
    return [
        plain(row["detail"])
        for row in facts.to_dict("records")
        if any(row["name"].startswith(name) and words in row["detail"] for name, words in flagged.items())
    ]


_KEY_SQL = """
    SELECT g.customer_id, g.tier, g.composite_score, g.clv, g.late_payment_probability FROM clv.grades AS g
    WHERE g.as_of_date = ? AND g.value_source = 'history' AND g.tier IN ({key})
    ORDER BY g.composite_rank LIMIT {n}
"""

_MOVES_SQL = """
    SELECT previous_tier AS from_tier, tier AS to_tier, count(*) AS customers FROM clv.grades
    WHERE as_of_date = ? AND value_source = 'history' GROUP BY ALL ORDER BY ALL
"""

# Figure of a tier -> its heading and its share; a heading fits the figures below it.
_FIGURES = {
    "revenue": ("revenue", "share_of_revenue_ratio"),
    "contribution_margin": ("contribution", "share_of_contribution_ratio"),
    "clv": ("expected", "share_of_clv_ratio"),
}


def _names(values: Any) -> str:
    return ", ".join("'" + str(value).replace("'", "''") + "'" for value in values) or "NULL"


def _pyramid(summary: pd.DataFrame) -> Table:
    """Tiers with what they hold and their shares, their sum below, lapsed customers outside it."""
    known = [name for name in _FIGURES if summary[name].notna().any()]
    table = Table(box=None, pad_edge=False)
    table.add_column(Text("tier"), overflow="fold")
    table.add_column(Text("customers"), justify="right", no_wrap=True)
    for name in known:
        table.add_column(Text(_FIGURES[name][0]), justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)

    def row(tier: str, cells: dict[str, Any], style: str) -> None:
        shown = [Text(tier), Text(f"{int(cells['customers']):,}")]
        for name in known:
            shown += [Text(number(cells[name])), Text(percent(cells[_FIGURES[name][1]]))]
        table.add_row(*shown, style=style)

    counted = summary[summary["tier"] != INACTIVE]
    for cells in counted.to_dict("records"):
        row(cells["tier"], cells, "bold" if cells["is_key"] else "")
    total = counted[["customers", *known]].sum(min_count=1).to_dict()
    shares = {_FIGURES[name][1]: counted[_FIGURES[name][1]].sum(min_count=1) for name in known}
    row("together", total | shares, "italic")
    for cells in summary[summary["tier"] == INACTIVE].to_dict("records"):
        row(INACTIVE, cells, "dim")
    return table


def _pyramids(summary: pd.DataFrame) -> Table:
    """The pyramid of customers beside the pyramid of profit: each tier's share of both, mirrored.

    Profit is contribution, else expected value, else revenue: the first that is known. A loss has no bar.
    """
    money = next(
        (name for name in ("contribution_margin", "clv", "revenue") if summary[name].notna().any()), "clv"
    )
    heading, share = _FIGURES[money]
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column(Text("customers"), justify="right", no_wrap=True, min_width=BAR_WIDTH)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="center", overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(Text(heading), no_wrap=True, min_width=BAR_WIDTH)
    for cells in summary[summary["tier"] != INACTIVE].to_dict("records"):
        left, right = cells["share_of_customers_ratio"], cells[share]
        table.add_row(
            Text(_bar(left), style="blue"),
            Text(percent(left)),
            Text(cells["tier"], style="bold" if cells["is_key"] else ""),
            Text(percent(right).replace("-", "−")),
            Text(_bar(right), style="yellow"),
        )
    return table


def _bar(share: float) -> str:
    """A bar for a share between 0 and 1; at least a sliver where there is something."""
    if not share > 0:
        return ""
    return "█" * round(min(share, 1.0) * BAR_WIDTH) or "▏"


def _verdict(facts: pd.DataFrame) -> list[Text]:
    """Whether tiers make sense this month, and who is large or small without being loyal."""
    known = {row["name"]: row for row in facts.to_dict("records")}
    if "tiering_tests_passed" not in known:
        return []
    passed = known["tiering_tests_passed"]
    lines = [Text(f"\nDo tiers make sense here? {passed['value']:.0f} {passed['detail']}", style="bold")]
    for name in ("tiering_number_of_customers", "tiering_repeat_business", "tiering_concentration"):
        row = known[name]
        verdict, _, what = row["detail"].partition(": ")
        figure = f"{row['value']:,.0f}" if name == "tiering_number_of_customers" else f"{row['value']:.0%}"
        sign = "✓" if verdict == "yes" else "✗"
        lines.append(Text(f"{sign} {'–' if row['value'] != row['value'] else figure} {plain(what)}"))
    for kind in ("large_disloyal", "small_disloyal"):
        row = known.get(f"quadrant_{kind}")
        if row and row["value"]:
            name, _, held = row["detail"].partition("; first ")[0].partition(": ")
            lines.append(Text(f"{plain(name)}: {row['value']:,.0f} customers, {held}", style="yellow"))
    return lines


def _heading(customer: dict[str, Any], currency: str) -> Text:
    figures = [f"score {customer['composite_score']:.1f}"]
    if customer["clv"] == customer["clv"]:
        figures.append(f"expected value {number(customer['clv'])} {currency}")
    if customer["late_payment_probability"] == customer["late_payment_probability"]:
        figures.append(f"late payment {customer['late_payment_probability']:.0%}")
    return Text(f"{customer['customer_id']}  {customer['tier']}  ", style="bold").append(
        Text(", ".join(figures), style="not bold")
    )


def _reasons(reasons: pd.DataFrame) -> Table:
    """Sentences behind a sign for or against, longer ones hanging below their first line."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column()
    for reason in reasons.to_dict("records"):
        is_rest = reason["concept"] == "other"
        sign = " " if is_rest else "+" if reason["direction"] == "for" else "−"
        grid.add_row(Text(sign), Text(reason["sentence"]), style="dim" if is_rest else "")
    return grid


def _show_moves(console: Console, moves: pd.DataFrame, order: list[str]) -> None:
    console.print()
    is_new = moves["from_tier"].isna()
    if is_new.all():
        console.print(Text("Tier moves since last month: none, this is the first month", style="bold"))
        return
    known = moves[~is_new]
    moved = known[known["from_tier"] != known["to_tier"]]
    total, count = int(known["customers"].sum()), int(moved["customers"].sum())
    heading = f"Tier moves since last month: {count:,} of {total:,} customers ({count / total:.1%})"
    console.print(Text(heading, style="bold"))
    place = {tier: i for i, tier in enumerate(order)}
    rows = sorted(
        moved.to_dict("records"),
        key=lambda row: (place.get(row["from_tier"], -1), place.get(row["to_tier"], -1)),
    )
    for row in rows:
        before, now = place.get(row["from_tier"]), place.get(row["to_tier"])
        sign = "•" if before is None or now is None else "▲" if now < before else "▼"
        console.print(f"  {sign} {row['from_tier']} → {row['to_tier']}: {row['customers']:,}")
    if is_new.any():
        console.print(f"  + {int(moves.loc[is_new, 'customers'].sum()):,} new")


def _notes(runs: pd.DataFrame) -> list[str]:
    if runs.empty:
        return []
    why = json.loads(runs["why"].iloc[0])
    lines = [f"{name} is switched off: {reason}" for name, reason in why.get("off", {}).items()]
    return lines + [f"{name}: {reason}" for name, reason in why.get("fallback", {}).items()]
