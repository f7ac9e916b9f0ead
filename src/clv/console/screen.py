"""The terminal, and how figures stand on it."""

from __future__ import annotations

from rich.console import Console


def terminal() -> Console:
    """The terminal, which reads no markup: what comes from outside is shown as text."""
    return Console(highlight=False, markup=False, emoji=False)


def plain(words: str) -> str:
    """Names of columns and quadrants as words."""
    return words.replace("_", " ")


def number(value: float) -> str:
    """Whole, or a dash where there is none."""
    return f"{value:,.0f}" if value == value else "–"


def percent(value: float) -> str:
    """Whole per cent, or nothing where there is none."""
    return f"{value:.0%}" if value == value else ""
