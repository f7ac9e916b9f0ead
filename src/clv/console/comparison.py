"""A published month beside another policy, on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from clv.console.screen import number, terminal

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config

CUSTOMERS_SHOWN = 5


def show_comparison(config: Config, both: pd.DataFrame, report: dict[str, Any]) -> None:
    """Who would move under other settings: figures of what_if.report, and the key customers won and lost."""
    console = terminal()
    agreement, kappa = report["agreement_ratio"] or 0.0, report["kappa"]
    console.print(
        f"{report['moved']:,} of {report['customers']:,} customers would be in another tier; agreement {agreement:.1%}"
        + ("" if kappa is None else f", kappa {kappa:.2f}")
    )
    table = Table(box=None, pad_edge=False)
    names = [name for name in ("contribution_margin", "clv", "order_amount") if name in report["key_money"]]
    for heading in ("from", "to", "customers", *names):
        table.add_column(
            Text(heading.replace("_", " ")), justify="left" if heading in ("from", "to") else "right"
        )
    for move in report["moves"]:
        cells = [f"{move['customers']:,.0f}", *(number(move[name] or 0.0) for name in names)]
        table.add_row(Text(move["from"]), Text(move["to"]), *cells)
    console.print(table)
    for name, money in report["key_money"].items():
        console.print(
            f"{name.replace('_', ' ')} of key customers: {number(money['published'])} as published, "
            f"{number(money['then'])} then ({config.reporting_currency})"
        )
    for sign, chosen in (
        ("+", ~both["was_key"] & both["is_key_then"]),
        ("−", both["was_key"] & ~both["is_key_then"]),
    ):
        first = both[chosen.to_numpy(bool)].nlargest(CUSTOMERS_SHOWN, "order_amount")
        for row in first.to_dict("records"):
            console.print(
                Text(
                    f"  {sign} {row['customer_id']}: {row['tier']} → {row['tier_then']} ({row['rule_then']})"
                )
            )
