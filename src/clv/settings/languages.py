"""The language that sales read: a file of the package by its name (`en`, `zh`), or one of a company's own by its path.

A file holds every sentence, unit and form of number; nothing of a language stands in code. A new language is a copy of
`clv/language/en.yaml` in other words: the same keys, the same placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import StringConstraints

STANDARD = "en"
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# Lists of names that each language fills as it needs.
OPEN = ("currencies",)

Label = Annotated[str, StringConstraints(min_length=1)] | dict[str, str]


def built_in() -> list[str]:
    """Languages that come with the package."""
    files = resources.files("clv").joinpath("language").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def code(language: str) -> str:
    """What labels call a language: `zh` of `zh`, and of `company/zh.yaml`."""
    return Path(language).stem


@cache
def content(language: str) -> Mapping[str, Any]:
    """The language's file. Raises ValueError where there is none, or where it is not complete."""
    if language in built_in():
        text = resources.files("clv").joinpath(f"language/{language}.yaml").read_text(encoding="utf-8")
        found: Mapping[str, Any] = yaml.safe_load(text)
        return found
    if not language.endswith(".yaml"):
        raise ValueError(
            f"expected one of {', '.join(built_in())}, or the path of a .yaml file, found {language!r}"
        )
    try:
        found = yaml.safe_load(Path(language).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"expected a language file at {language}, found none that can be read: {error}"
        ) from error
    differing = differences(found)
    if differing:
        raise ValueError(
            f"{language}: expected the keys and placeholders of clv/language/{STANDARD}.yaml, found "
            f"{len(differing)} differences, first {'; '.join(differing[:3])}"
        )
    return found


def differences(found: Any) -> list[str]:
    """How a language file differs from the English one in its keys and placeholders; empty where it does not."""
    expected, given = dict(_leaves(content(STANDARD))), dict(_leaves(found))
    said = [f"{path} is missing" for path in expected if path not in given]
    said += [f"{path} is unknown" for path in given if path not in expected]
    for path in (path for path in expected if path in given):
        one, other = (_shape(side[path]) for side in (expected, given))
        if one != other:
            said.append(f"{path} has {other}, expected {one}")
    return said


def label_in(label: Label, language: str) -> str:
    """A label in a language; in English, else in the first there is, where it has none in this one."""
    if isinstance(label, str):
        return label
    return label.get(code(language)) or label.get(STANDARD) or next(iter(label.values()))


def _leaves(branch: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(branch, Mapping):
        yield path, branch
        return
    for key, value in branch.items():
        below = f"{path}.{key}" if path else str(key)
        if below not in OPEN:
            yield from _leaves(value, below)


def _shape(leaf: Any) -> str:
    """What must be alike in all languages: the placeholders of a text, the length of a list."""
    if isinstance(leaf, list):
        return f"{len(leaf)} entries"
    if isinstance(leaf, str):
        return "the placeholders " + (", ".join(sorted(set(PLACEHOLDER.findall(leaf)))) or "none")
    return f"a {type(leaf).__name__}"
