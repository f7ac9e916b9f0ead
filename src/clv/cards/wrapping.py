"""Lines of a terminal that break where Chinese does: between any two characters, but not before a closing mark."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.measure import Measurement
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_WIDE = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
_CLOSING = "，。；：、！？）》」』"
_OPENING = "（《「『"
# What stays together: a figure with the character that counts it, a character with the marks around it, a word.
_PIECES = re.compile(
    rf"[{_OPENING}]*(?:[−+±]?[\d.,]*\d%? ?[{_WIDE}]|[{_WIDE}]|[^\s{_WIDE}]+)[{_CLOSING}]*[{_CLOSING}\s]*|\s+"
)


class Paragraph:
    """A text that wraps at the width it is given."""

    def __init__(self, text: str, style: str = "") -> None:
        self._text, self._style = text, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(lines(self._text, options.max_width)), style=self._style, overflow="fold")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max((cell_len(piece.strip()) for piece in _PIECES.findall(self._text)), default=0)
        return Measurement(min(longest, options.max_width), min(cell_len(self._text), options.max_width))


def lines(text: str, width: int) -> list[str]:
    """`text` in lines of at most so many cells, where its words allow; nothing is lost but spaces at their ends."""
    found, line = [], ""
    for piece in _PIECES.findall(text):
        if line and cell_len(line + piece.rstrip()) > width:
            found.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
    return [*found, line.rstrip()]
