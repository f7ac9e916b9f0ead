"""A tiny invented company, graded for two months: everything published is kept in tests/golden/expected.

Where a change is meant, write the tables again and read the diff:

    .venv/bin/python -m pytest tests/test_golden.py --update-golden
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from clv.config import load

pytestmark = pytest.mark.slow  # one training, and two months

GOLDEN = Path(__file__).parent / "golden"
MONTHS = (date(2026, 1, 1), date(2026, 2, 1))
TABLES = (
    "grades",
    "criteria",
    "value_outlook",
    "reasons",
    "changes",
    "paths",
    "tier_history",
    "migrations",
    "tier_summary",
    "month_facts",
    "invoice_outlook",
    "rejected_rows",
)
TOLERANCE = 1e-6
Ask = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def warehouse(pipelines: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The company trained as of the first month, and both months graded."""
    place = tmp_path_factory.mktemp("golden")
    settings = {
        "warehouse.path": place / "tiny.duckdb",
        "mlflow.tracking_uri": f"sqlite:///{place}/mlflow.db",
        "mlflow.artifact_dir": place / "artifacts",
    }
    config = load(GOLDEN / "tiny.yaml", [f"{key}={value}" for key, value in settings.items()])
    pipelines.train(config, MONTHS[0])
    for month in MONTHS:
        pipelines.score(config, month)
    return place / "tiny.duckdb"


@pytest.fixture(scope="module")
def ask(warehouse: Path) -> Iterator[Ask]:
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        yield lambda sql: connection.execute(sql).fetchall()


def as_csv(warehouse: Path, table: str) -> str:
    """The published rows in one order, without the run that wrote them; null is empty, an empty text is quoted."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        found = connection.execute(f"SELECT * EXCLUDE (run_id) FROM clv.{table}")
        names = [column[0] for column in found.description]
        keys = [names.index(name) for name in KEYS if name in names]
        records = sorted(found.fetchall(), key=lambda row: [(row[i] is not None, row[i]) for i in keys])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(
        [f"{value:.12g}" if isinstance(value, float) else value for value in row] for row in records
    )
    return text.getvalue()


KEYS = (
    "as_of_date",
    "value_source",
    "customer_id",
    "criterion",
    "position",
    "horizon_months",
    "block",
    "lever",
    "from_tier",
    "to_tier",
    "tier",
    "valid_from",
    "invoice_id",
    "name",
    "table_name",
    "row_key",
)


@pytest.mark.parametrize("table", TABLES)
def test_published_rows_are_those_kept(table: str, warehouse: Path, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / "expected" / f"{table}.csv"
    found = as_csv(warehouse, table)
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    expected = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    rows = list(csv.reader(io.StringIO(found)))
    assert len(rows) == len(expected)
    for row, kept in zip(rows, expected, strict=True):
        differing = [
            f"{name}: expected {old!r}, found {new!r}"
            for name, new, old in zip(rows[0], row, kept, strict=True)
            if not equal(new, old)
        ]
        assert not differing, (row[:4], differing)


def equal(found: str, expected: str) -> bool:
    """Text exactly, numbers (also inside JSON) to 1e-6."""
    if found == expected:
        return True
    try:
        one, other = json.loads(found), json.loads(expected)
    except ValueError:
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    return near(one, other)


def near(found: Any, expected: Any) -> bool:
    if isinstance(found, int | float) and isinstance(expected, int | float):
        return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(found == expected)


def test_the_company_holds_what_is_awkward(ask: Ask) -> None:
    """So that the rows kept stand for more than the usual customer."""
    graded = {
        (row[0], row[1]): row[2:]
        for row in ask(
            "SELECT as_of_date, customer_id, value_source, tier, tier_rule, clv, order_amount FROM clv.grades"
        )
    }
    january, february = MONTHS
    # An identifier keeps its zeros; a decision by hand holds while it is valid, of prospects as of customers.
    assert graded[january, "K020"][:3] == ("history", "important", "override")
    assert graded[january, "Q006"][:3] == ("prospect", "hot", "override")
    assert graded[february, "Q006"][2] != "override"
    assert graded[january, "00002"][2] != "override"
    assert graded[february, "K015"][1:3] == ("small", "override")
    # The largest orders of all, always paid far too late: not key, whatever the amount.
    of_january = f"FROM clv.grades WHERE as_of_date = DATE '{january}'"
    assert ask(f"SELECT max_by(customer_id, order_amount) {of_january}") == [("00005",)]
    [(late,)] = ask(f"SELECT late_payment_probability {of_january} AND customer_id = '00005'")
    assert late > 0.5
    assert graded[january, "00005"][1] not in ("important", "main")
    # Who only returned goods is graded, on what is known.
    assert graded[january, "K900"][0] == "history"
    assert graded[january, "K900"][4] == -84
    # A judgement counts beside the model while it is valid.
    judged = ask(
        "SELECT DISTINCT customer_id, as_of_date FROM clv.reasons WHERE concept = 'judgement' ORDER BY ALL"
    )
    assert set(judged) <= {("Q001", january), ("Q001", february), ("Q002", january)}
    assert ("Q001", january) in judged
    assert {rule for (rule,) in ask("SELECT DISTINCT rule FROM clv.rejected_rows")} == {
        "unreadable_date",
        "unknown_customer",
        "unknown_invoice",
        "score_out_of_range",
    }
