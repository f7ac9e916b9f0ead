"""Names in any language: which installed font has their letters, and what to draw where none has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from matplotlib import font_manager, rcParams

BOXES = "Last Resort"  # fonts that have a box for every letter there is


def drawable(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names as they can be drawn, and the font families to draw them with, tried in turn for each letter.

    Where the usual font lacks letters, the first installed one that has all of them stands behind it (no font comes
    with the package). Where none has, all the names are their numbers from 1 on: the page says beside a picture what
    they are called, and a box would say nothing.
    """
    usual = list(rcParams["font.family"])
    letters = {letter for name in names for letter in name if not letter.isspace()}
    missing = frozenset(letters - _letters_of(_file(usual[0])))
    if not missing:
        return list(names), usual
    other = _family_with(missing)
    if other is None:
        return [str(place) for place in range(1, len(names) + 1)], usual
    return list(names), [*usual, other]


def _file(family: str) -> str:
    return str(font_manager.findfont(font_manager.FontProperties(family=[family])))


@cache
def _letters_of(path: str) -> frozenset[str]:
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))


def _family_with(letters: frozenset[str]) -> str | None:
    """The first upright family by name, those without serifs first, that has all the letters; None where none has."""
    fonts = {
        (("sans" not in font.name.lower(), font.name)): font.fname
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and not font.name.startswith(BOXES)
    }
    return next((name for (_, name), path in sorted(fonts.items()) if letters <= _letters_of(path)), None)
