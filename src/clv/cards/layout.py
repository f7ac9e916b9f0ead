"""A card set for a terminal, or as Markdown. What data hold is text in both, never markup, and has no control signs."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from clv.cards.wrapping import Paragraph

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clv.cards.wording import Card, Reason

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$])")

_CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")


def as_table(card: Card) -> RenderableType:
    """The card for a console; wraps at whatever width that has."""
    card = _plain(card)
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(Text(card.title, style="bold"), Text(card.tier, style="bold reverse"))
    parts: list[RenderableType] = [head, Text(card.about, style="dim"), Text("")]
    if card.standing:
        parts.append(Text(card.standing, style="bold"))
    parts += [Paragraph(note) for note in card.notes]
    if card.figures:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column()
        for name, text in card.figures:
            grid.add_row(Text(name), Paragraph(text))
        parts += [Text(""), grid]
    if card.standards:
        parts += [*_heading(card.standards_heading), _standards(card)]
    for heading, is_for, style in ((card.for_heading, True, "green"), (card.against_heading, False, "red")):
        reasons = [reason for reason in card.reasons if reason.is_for is is_for]
        if reasons:
            parts += [*_heading(heading), _reasons(reasons, style)]
    if card.rest is not None:
        parts += [Text(""), Padding(Text(card.rest.sentence, style="dim"), (0, 0, 0, 2))]
    if card.total is not None:
        parts.append(Padding(Text(card.total, style="bold"), (0, 0, 0, 2)))
    for heading, lines in card.sections:
        grid = Table.grid(padding=(0, 1))
        for line in lines:
            grid.add_row(Text(" •"), Paragraph(line))
        parts += [*_heading(heading), grid]
    return Group(*parts)


def as_markdown(card: Card, level: int = 3) -> str:
    """The card as Markdown, its title a heading of `level`."""
    card = _plain(card)
    lines = [f"{'#' * level} {_escaped(' '.join(card.title.split()))}", "", _escaped(card.about), ""]
    standing = f" — {_escaped(card.standing)}" if card.standing else ""
    lines += [f"**{_escaped(card.tier)}**{standing}", "", *(f"{_escaped(note)}  " for note in card.notes), ""]
    lines += [f"- {_escaped(name)} — {_escaped(text)}" for name, text in card.figures]
    if card.standards:
        first, *rows = card.standards
        lines += [
            "",
            _row(first),
            _row(("---", "---:", "---:", "---:", "---:", "---"), is_rule=True),
            *map(_row, rows),
        ]
    for heading, is_for in ((card.for_heading, True), (card.against_heading, False)):
        reasons = [reason for reason in card.reasons if reason.is_for is is_for]
        if reasons:
            lines += [
                "",
                f"**{_escaped(heading)}**",
                "",
                *(f"- {_escaped(reason.sentence)}" for reason in reasons),
            ]
    if card.rest is not None:
        lines += ["", f"{_escaped(card.rest.sentence)}  "]
    if card.total is not None:
        lines += [f"{_escaped(card.total)}"]
    for heading, said in card.sections:
        lines += ["", f"**{_escaped(heading)}**", "", *(f"- {_escaped(line)}" for line in said)]
    return "\n".join(lines) + "\n"


def _heading(text: str) -> list[RenderableType]:
    return [Text(""), Rule(Text(text, style="bold"), align="left", style="dim")]


def _standards(card: Card) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    first, *rows = card.standards
    for i, name in enumerate(first):
        is_figure = 0 < i < len(first) - 1
        table.add_column(Text(name), justify="right" if is_figure else "left", no_wrap=is_figure)
    for row in rows:
        counts = row[3] != "–"
        table.add_row(*(Text(cell) for cell in row), style="" if counts else "dim")
    return table


def _reasons(reasons: list[Reason], style: str) -> Table:
    """Points in a column of their own; the fact, and dimmed below it what it is held against."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column()
    for reason in reasons:
        said = [Paragraph(reason.fact), *([Paragraph(reason.beside, "dim")] if reason.beside else [])]
        grid.add_row(Text("  " + reason.points, style=style), Group(*said))
    return grid


def _plain(value: Any) -> Any:
    """Every text inside without control signs, and without those that turn the direction of what follows."""
    if isinstance(value, str):
        return "".join(
            sign if unicodedata.category(sign) not in ("Cc", "Cf", "Zl", "Zp", "Cs") else " "
            for sign in value
        )
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _plain(getattr(value, field.name)) for field in fields(value)})
    return value


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _row(cells: tuple[str, ...], *, is_rule: bool = False) -> str:
    return "| " + " | ".join(cell if is_rule else _escaped(cell) for cell in cells) + " |"
