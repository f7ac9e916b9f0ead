"""The notebooks run from top to bottom, and the stories they tell are still true.

After a change that moves figures: `pytest tests/test_notebooks.py --update-golden` stores what is printed now. Then
mend the prose until the last test passes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def run(path: Path, folder: Path) -> Any:
    """The notebook executed in `folder`, without anything that differs between two runs."""
    from nbclient import NotebookClient

    notebook = read(path)
    metadata = dict(notebook.metadata)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(metadata)
    return notebook


def printed(notebook: Any) -> Iterator[str]:
    """What each code cell says in text, blanks evened out."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
            yield " ".join(text.split())


def numbers(text: str) -> list[str]:
    return [found.rstrip(",").replace(",", "") for found in NUMBER.findall(text)]


def same(now: str, stored: str) -> bool:
    """Equal words and whole numbers; decimals may part by one in the last place shown."""
    if NUMBER.sub("#", now) != NUMBER.sub("#", stored):
        return False
    return all(
        one == other or close(one, other) for one, other in zip(numbers(now), numbers(stored), strict=True)
    )


def close(one: str, other: str) -> bool:
    places = len(other.partition(".")[2])
    return places > 0 and abs(float(one) - float(other)) < 1.5 * 10**-places


@pytest.mark.slow
@each_notebook
def test_notebook_runs_prints_what_is_stored_and_writes_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for name in ("configs", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name)
    before = sorted((tmp_path / "copy").rglob("*"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    executed = run(path, tmp_path / "copy" / "notebooks")
    assert sorted((tmp_path / "copy").rglob("*")) == before
    if request.config.getoption("--update-golden"):
        nbformat.write(executed, path)
    wrong = [
        f"now:    {now}\nstored: {stored}"
        for now, stored in zip(printed(executed), printed(read(path)), strict=True)
        if not same(now, stored)
    ]
    assert not wrong, "\n".join(wrong)


@each_notebook
def test_stored_notebook_is_small_and_holds_no_trace_of_who_ran_it(path: Path) -> None:
    notebook, text = read(path), path.read_text(encoding="utf-8")
    nbformat.validate(notebook)
    assert len(text) < 400_000
    assert "/home/" not in text
    assert "/root/" not in text
    assert str(ROOT) not in text
    counts = [cell["execution_count"] for cell in notebook.cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom, every cell once"
    assert not any(cell["metadata"] for cell in notebook.cells)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output.get("name") == "stderr"]


@each_notebook
def test_every_figure_in_the_prose_stands_in_an_output_or_in_the_code(path: Path) -> None:
    notebook = read(path)
    code = " ".join(cell["source"] for cell in notebook.cells if cell["cell_type"] == "code")
    known = {float(found) for text in (*printed(notebook), code) for found in numbers(text)}
    missing = []
    for cell in notebook.cells:
        if cell["cell_type"] != "markdown":
            continue
        prose = re.sub(r"`[^`]*`|^#.*$|\b(?:19|20)\d\d\b", "", cell["source"], flags=re.MULTILINE)
        for match in NUMBER.finditer(prose):
            found = numbers(match.group())[0]
            places = len(found.partition(".")[2])
            scales = (1, 100) if prose[match.end() :].startswith(" %") else (1,)
            if not any(round(number * scale, places) == float(found) for number in known for scale in scales):
                missing.append(match.group())
    assert not missing
