"""The way of the data, checked on the imports themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "clv"

# Left to right: a room imports from rooms before its own line, and from rooms of its own package.
ORDER = (
    ("errors",),
    ("tables", "pairwise"),
    ("settings",),
    ("config",),
    ("warehouse",),
    ("period",),
    ("metrics", "pseudonyms"),
    ("simulate",),
    ("ingest",),
    ("contribution",),
    ("features",),
    ("receivables", "prospects", "outcomes", "credit"),
    ("invoice_rows", "portfolio"),
    ("scenario", "levers"),
    ("customers",),
    ("models",),
    ("evaluation", "field_audit"),
    ("scales", "firmness", "policies", "drift", "disparity", "judges", "first_order"),
    ("composite", "tiers", "edges"),
    ("groups", "quadrants"),
    ("learn",),
    ("criteria",),
    ("references",),
    ("grades", "outlook"),
    ("month_facts", "prospect_month", "what_if", "snapshots"),
    ("points",),
    ("explain",),
    ("changes",),
    ("paths",),
    ("plots", "pyfunc"),
    ("tracking",),
    ("exhibits",),
    ("drivers",),
    ("evidence", "champions"),
    ("audits", "published"),
    ("publish",),
    ("truth", "backtests", "pages", "stability", "cards"),
    ("rolling",),
    ("program", "console"),
    ("prospect_list",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
# `learn` hands its verdicts to `champions` and `evidence`; MLflow itself is behind `tracking` and `pyfunc` alone.
MLFLOW_ROOMS = {"tracking"}


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[tuple[str, bool]]:
    """Modules imported, and whether only for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            only_types.update(inner for statement in node.body for inner in ast.walk(statement))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found.update((name, node in only_types) for name in names)
    return found


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_from_its_left(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return
    assert room in LEVEL, f"{room} has no place in the order; put it into ORDER and docs/architecture.md"
    for name, _ in _imports(path):
        parts = name.split(".")
        if parts[0] != "clv" or len(parts) < 2 or parts[1] == room or parts[1] not in LEVEL:
            continue
        assert LEVEL[parts[1]] < LEVEL[room], f"{room} imports {parts[1]}, which stands to its right"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_tracking_imports_mlflow(path: Path) -> None:
    names = {name.split(".")[0] for name, _ in _imports(path)}
    assert "mlflow" not in names or _room(path) in MLFLOW_ROOMS


def test_no_pickle_anywhere() -> None:
    for path in [*MODULES, *(ROOT / "pipelines").glob("*.py")]:
        names = {name.split(".")[0] for name, _ in _imports(path)}
        assert not names & {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}, path


def test_every_room_stands_in_the_document() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [room for room in LEVEL if f"`{room}`" not in text and f"`{room}/`" not in text]
    assert not missing


def test_the_lock_names_no_index_and_every_requirement_has_a_hash() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert "index-url" not in text
    assert "file:" not in text
    entries = [line for line in text.splitlines() if line and not line.startswith((" ", "#", "\t"))]
    assert entries
    assert all("==" in entry and entry.endswith("\\") for entry in entries)
