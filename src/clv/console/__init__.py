"""What the programs show on a terminal. What comes from outside (ids, tier names, paths) is shown as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clv.console.comparison import show_comparison
from clv.console.forecasts import show_backtest, show_rolling
from clv.console.month import prospect_warnings, show_month, show_receipt
from clv.console.screen import terminal

if TYPE_CHECKING:
    from clv.cards import Card

__all__ = [
    "prospect_warnings",
    "show_backtest",
    "show_card",
    "show_comparison",
    "show_month",
    "show_receipt",
    "show_rolling",
    "terminal",
]


def show_card(card: Card) -> None:
    """The card of one customer or prospect."""
    from clv.cards import as_table

    console = terminal()
    console.print()
    console.print(as_table(card))
    console.print()
