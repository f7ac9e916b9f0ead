"""One month at a time, all of it or nothing: what stands in the warehouse after success, refusal, and death."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from clv import publish
from clv.config import Config
from clv.errors import BusyError, PublishError, TableError
from clv.publish import Receipt
from clv.tables import PUBLISHED

JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)
TIERS = ("high", "low")
Tables = dict[str, list[pd.DataFrame]]


def config_at(folder: Path, **more: Any) -> Config:
    return Config.model_validate(
        {
            "company": "tiny",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"path": "unused.csv"}},
            "warehouse": {"path": str(folder / "tiny.duckdb")},
            "engine": {"threads": 1, "memory_limit": "1GB"},
            **more,
        }
    )


def graded(
    tiers: Mapping[str, str], *, shift: float = 0.0, previous: Mapping[str, str] | None = None
) -> Tables:
    """A sound month: customer -> tier, best first."""
    ids, n = list(tiers), len(tiers)
    score = np.linspace(60, 40, n) + shift
    grades = pd.DataFrame(
        {
            "customer_id": ids,
            "value_source": "history",
            "clv": 100.0,
            "clv_low": 50.0,
            "clv_high": 150.0,
            "composite_score": score,
            "composite_baseline": 50.0,
            "composite_rank": np.arange(1, n + 1),
            "composite_percentile": (n - np.arange(1, n + 1)) / n,
            "contribution_margin": 10.0,
            "late_payment_probability": np.where(np.arange(n) % 2 == 0, np.nan, 0.25),
            "tier": list(tiers.values()),
            "previous_tier": [(previous or {}).get(customer) for customer in ids],
            "is_provisional": False,
        }
    )
    criteria = pd.DataFrame(
        {"customer_id": ids, "criterion": "lifetime_value", "value": 100.0, "score": score, "weight": 1.0}
    )
    reasons = pd.DataFrame(
        {
            "customer_id": ids,
            "position": 1,
            "direction": np.where(score >= 50, "for", "against"),
            "concept": "other",
            "points": score - 50,
            "sentence": "Zürich 東京 'quoted'",
        }
    )
    held = pd.Series(list(tiers.values())).value_counts()
    summary = pd.DataFrame(
        {
            "value_source": "history",
            "tier": TIERS,
            "position": (1, 2),
            "customers": held.reindex(TIERS).fillna(0),
        }
    )
    facts = pd.DataFrame({"name": ["tier_policy"], "value": [np.nan], "detail": ["two halves"]})
    tables = {"grades": grades, "criteria": criteria, "reasons": reasons, "tier_summary": summary}
    return {name: [frame] for name, frame in {**tables, "month_facts": facts}.items()}


def published(
    config: Config, as_of: date, tables: Mapping[str, Sequence[pd.DataFrame]], **more: Any
) -> Receipt:
    with publish.month(config, as_of) as month:
        told: dict[str, Any] = {"expected_counts": {}, "mlflow_run_id": "abc", "why": {}}
        return publish.publish(config, month, tables, **(told | more))


def rows(config: Config, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(config.warehouse_path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def visible(config: Config) -> dict[str, list[tuple[Any, ...]]]:
    """Every published row, as people see it."""
    names = [*sorted(set(PUBLISHED) - {"runs"}), "published", "tier_history", "migrations"]
    with duckdb.connect(str(config.warehouse_path), read_only=True) as connection:
        return {
            name: connection.execute(f"SELECT * FROM clv.{name} ORDER BY ALL").fetchall() for name in names
        }


def statuses(config: Config) -> list[tuple[Any, ...]]:
    return rows(config, "SELECT kind, status FROM clv.runs ORDER BY started_at")


SOUND = {"a": "high", "b": "low", "c": "low"}


def test_publishing_twice_equals_once(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    first = published(config, JANUARY, graded(SOUND))
    before = visible(config)
    again = published(config, JANUARY, {name: [f.sample(frac=1)] for name, [f] in graded(SOUND).items()})
    assert (first.status, again.status) == ("published", "unchanged")
    assert again.run_id == first.run_id
    assert visible(config) == before
    assert statuses(config) == [("score", "published"), ("score", "unchanged")]
    assert rows(config, "SELECT count(DISTINCT run_id) FROM clv_rows.grades") == [(1,)]


def test_changed_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    old = published(config, JANUARY, graded(SOUND))
    new = published(config, JANUARY, graded(SOUND, shift=1.0))
    assert new.status == "published"
    assert rows(config, "SELECT DISTINCT run_id FROM clv.grades") == [(new.run_id,)]
    assert rows(config, "SELECT run_id FROM clv.published") == [(new.run_id,)]
    assert rows(config, f"SELECT count(*) FROM clv_rows.grades WHERE run_id = '{old.run_id}'") == [(3,)]


def test_every_table_and_column_of_the_vocabulary_is_there(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded(SOUND))
    for table in PUBLISHED.values():
        found = rows(config, f"SELECT column_name FROM (DESCRIBE clv.{table.name})")
        assert [name for (name,) in found] == list(table.names)
    assert rows(config, "SELECT count(*) FROM clv.changes") == [(0,)]
    derived = {
        "tier_history": "as_of_date run_id customer_id tier valid_from valid_to",
        "migrations": "as_of_date run_id from_tier to_tier customers contribution_margin",
    }
    for name, columns in derived.items():
        found = rows(config, f"SELECT column_name FROM (DESCRIBE clv.{name})")
        assert [column for (column,) in found] == columns.split()


def test_a_missing_figure_is_null_and_never_nan(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded(SOUND))
    for table in PUBLISHED.values():
        for column in (c for c in table.columns if c.type == "DOUBLE"):
            found = rows(config, f'SELECT count(*) FROM clv.{table.name} WHERE isnan("{column.name}")')
            assert found == [(0,)], f"{table.name}.{column.name}"
    found = rows(
        config, "SELECT customer_id FROM clv.grades WHERE late_payment_probability IS NULL ORDER BY 1"
    )
    assert found == [("a",), ("c",)]
    assert rows(config, "SELECT count(*) FROM clv.grades WHERE main_delay_reason IS NULL") == [(3,)]


def test_text_that_first_appears_late_in_a_column_arrives(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    tables = graded({f"c{i:05}": "low" for i in range(5000)})
    tables["grades"][0]["main_delay_reason"] = pd.Series(
        [None] * 4990 + ["late approval"] + [None] * 9, dtype=object
    )
    published(config, JANUARY, tables)
    found = rows(config, "SELECT customer_id FROM clv.grades WHERE main_delay_reason = 'late approval'")
    assert found == [("c04990",)]


def test_views_work_under_any_name_of_the_file(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded(SOUND))
    moved = config.warehouse_path.rename(tmp_path / "some other name.db")
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{moved}' AS elsewhere (READ_ONLY)")
        for name in (*PUBLISHED, "tier_history", "migrations"):
            connection.execute(f"SELECT * FROM elsewhere.clv.{name}").fetchall()
        assert connection.execute("SELECT count(*) FROM elsewhere.clv.grades").fetchall() == [(3,)]


# What an audit refuses


def _set(table: str, column: str, value: Any, row: int = 0) -> Callable[[Tables], None]:
    def broken(tables: Tables) -> None:
        frame = tables[table][0]
        if column not in frame:
            frame[column] = None
        frame[column] = frame[column].astype("object")
        frame.loc[row, column] = value

    return broken


def _drop(table: str) -> Callable[[Tables], None]:
    def broken(tables: Tables) -> None:
        tables[table] = [tables[table][0].iloc[1:]]

    return broken


def _stranger(tables: Tables) -> None:
    tables["criteria"].append(tables["criteria"][0].head(1).assign(customer_id="nobody"))


def _outlook(tables: Tables) -> None:
    row = {"customer_id": "a", "horizon_months": 12, "clv": 5.0, "clv_low": 6.0, "clv_high": 7.0}
    tables["value_outlook"] = [pd.DataFrame([row])]


def _falling(tables: Tables) -> None:
    row = {"customer_id": "a", "horizon_months": 3, "clv": 5.0, "clv_low": 4.0, "clv_high": 7.0}
    tables["value_outlook"] = [pd.DataFrame([row, row | {"horizon_months": 6, "clv": 4.5}])]


def _paid_in_the_past(tables: Tables) -> None:
    row = {"invoice_id": "i", "customer_id": "a", "amount_open": 5.0, "days_open": 9}
    row["expected_payment_date"] = date(2000, 1, 1)
    tables["invoice_outlook"] = [pd.DataFrame([row])]


BROKEN: dict[str, tuple[Callable[[Tables], None], str]] = {
    "no criteria": (_drop("criteria"), "graded without criteria"),
    "stranger": (_stranger, "somebody who is not graded"),
    "score above 100": (_set("grades", "composite_score", 101.0), "scores outside 0-100"),
    "criterion below 0": (_set("criteria", "score", -1.0), "scores outside 0-100"),
    "infinite figure": (_set("criteria", "value", np.inf), "not finite"),
    "infinite money": (_set("grades", "clv_high", np.inf), "figures that fit"),
    "probability above 1": (_set("grades", "probability_active", 1.01), "outside 0-1"),
    "interval": (_set("grades", "clv_low", 101.0), "intervals"),
    "interval of the outlook": (_outlook, "intervals"),
    "value that falls with the horizon": (_falling, "fall as the horizon grows"),
    "payment in the past": (_paid_in_the_past, "expected to be paid in the past"),
    "rank twice": (_set("grades", "composite_rank", 2), "ranks"),
    "weights": (_set("criteria", "weight", 0.9), "weights"),
    "reasons": (_set("reasons", "points", 3.0), "reasons do not add up"),
    "no reasons": (_drop("reasons"), "reasons do not add up"),
    "summary": (_set("tier_summary", "customers", 2), "summary"),
    "no tier": (_set("grades", "tier", None), "grades.tier"),
    "customer twice": (_set("grades", "customer_id", "b"), "repeated keys"),
    "unknown column": (lambda tables: tables["grades"][0].insert(0, "nonsense", 1), "unknown columns"),
}


def test_every_audit_refuses_what_it_guards_against_and_nothing_is_left(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded(SOUND))
    before = visible(config)
    for name, (broken, says) in BROKEN.items():
        with subtests.test(name):
            tables = graded(SOUND, shift=1.0)
            broken(tables)
            with pytest.raises(PublishError, match=says):
                published(config, JANUARY, tables)
            assert visible(config) == before
    assert rows(config, "SELECT count(DISTINCT run_id) FROM clv_rows.grades") == [(1,)]


def test_changes_that_miss_what_happened_to_the_distance_are_refused(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    january, february = graded(SOUND), graded(SOUND, shift=4.0)
    for tables, edge in ((january, 45.0), (february, 46.0)):
        tables["grades"][0]["tier_edge_score"] = [edge, None, None]
    published(config, JANUARY, january)
    best = next(iter(SOUND))

    def told(customer: str, facts: float) -> dict[str, list[pd.DataFrame]]:
        rows = {"customer_id": customer, "block": ["facts", "peers"], "points": [facts, -1.0]}
        return {**february, "changes": [pd.DataFrame(rows)]}

    with pytest.raises(PublishError, match="1 whose changes do not add up"):
        published(config, FEBRUARY, told(best, 4.1))
    with pytest.raises(PublishError, match="somebody who is not graded"):
        published(config, FEBRUARY, told("nobody", 4.0))
    assert published(config, FEBRUARY, told(best, 4.0)).status == "published"
    again = rows(config, "SELECT sum(points) FROM clv.changes")
    assert again == [(3.0,)]


def test_changes_need_a_month_before(tmp_path: Path) -> None:
    config, tables = config_at(tmp_path), graded(SOUND)
    rows_of = {"customer_id": next(iter(SOUND)), "block": ["facts"], "points": [4.0]}
    with pytest.raises(PublishError, match="not graded the month before"):
        published(config, JANUARY, {**tables, "changes": [pd.DataFrame(rows_of)]})


def test_a_tier_of_the_wrong_size_is_refused_within_its_own_pyramid(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(
        config, JANUARY, graded(SOUND), expected_counts={("history", "high"): 1, ("prospect", "high"): 0}
    )
    with pytest.raises(PublishError, match=r"expected 2 in tier high \(history\), found 1"):
        published(config, JANUARY, graded(SOUND), expected_counts={("history", "high"): 2})


def test_a_failed_run_stays_on_record_with_its_reason(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded(SOUND))
    with pytest.raises(TableError), publish.month(config, FEBRUARY):
        raise TableError("orders: expected some, found none.")
    [(as_of, status, why)] = rows(
        config, "SELECT as_of_date, status, why FROM clv.runs WHERE status = 'failed'"
    )
    assert (as_of, status) == (FEBRUARY, "failed")
    assert json.loads(why) == {"error": "orders: expected some, found none.", "kind": "TableError"}
    assert rows(config, "SELECT as_of_date FROM clv.published") == [(JANUARY,)]


def test_a_failure_before_there_is_a_warehouse_makes_none(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    with pytest.raises(TableError), publish.month(config, FEBRUARY):
        raise TableError("no such file")
    assert list(tmp_path.iterdir()) == []


def test_a_training_run_is_recorded_whether_it_ends_well_or_not(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    with publish.training(config, JANUARY) as said:
        said.mlflow_run_id, said.why = "run1", {"lifetime-value": "promoted"}
    with pytest.raises(TableError), publish.training(config, JANUARY):
        raise TableError("broken")
    found = rows(config, "SELECT kind, status, mlflow_run_id, why FROM clv.runs ORDER BY started_at")
    assert [row[:3] for row in found] == [("train", "trained", "run1"), ("train", "failed", None)]
    assert json.loads(found[0][3]) == {"lifetime-value": "promoted"}


# Months in a row


def test_a_republished_month_makes_the_later_ones_stale_until_they_are_redone(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    for day in (JANUARY, FEBRUARY, MARCH):
        assert published(config, day, graded(SOUND)).stale_months == []
    assert published(config, JANUARY, graded(SOUND, shift=1.0)).stale_months == [FEBRUARY, MARCH]
    # March alone rests on a February that is stale itself.
    assert published(config, MARCH, graded(SOUND)).stale_months == [FEBRUARY, MARCH]
    assert published(config, FEBRUARY, graded(SOUND)).stale_months == [MARCH]
    assert published(config, MARCH, graded(SOUND)).stale_months == []


def test_a_month_is_stale_where_the_month_before_changed_while_it_was_graded(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded(SOUND))
    with publish.month(config, FEBRUARY) as month:
        published(config, JANUARY, graded(SOUND, shift=1.0))
        receipt = publish.publish(
            config, month, graded(SOUND), expected_counts={}, mlflow_run_id=None, why={}
        )
    assert receipt.stale_months == [FEBRUARY]


def test_the_month_before_is_the_newest_published_one_that_is_earlier(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    with publish.month(config, MARCH) as month:
        assert month.previous.empty
        assert (month.previous_run, month.previous_policies) == (None, {})
    january = published(config, JANUARY, graded(SOUND))
    published(config, MARCH, graded({"a": "low", "b": "high"}))
    with publish.month(config, FEBRUARY) as month:
        assert dict(zip(month.previous["customer_id"], month.previous["tier"], strict=True)) == SOUND
        assert (month.previous_run, month.previous_policies) == (
            january.run_id,
            {"tier_policy": "two halves"},
        )


def test_a_spell_ends_where_the_tier_changes_or_the_customer_is_no_longer_graded(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded({"a": "high", "b": "low", "c": "low"}))
    published(config, FEBRUARY, graded({"a": "high", "b": "high"}))
    published(config, MARCH, graded({"c": "low", "a": "low", "b": "high"}))
    found = rows(
        config,
        "SELECT customer_id, tier, valid_from, valid_to FROM clv.tier_history ORDER BY customer_id, valid_from",
    )
    assert found == [
        ("a", "high", JANUARY, MARCH),
        ("a", "low", MARCH, None),
        ("b", "low", JANUARY, FEBRUARY),
        ("b", "high", FEBRUARY, None),
        ("c", "low", JANUARY, FEBRUARY),
        ("c", "low", MARCH, None),
    ]
    runs = rows(config, "SELECT count(*) FROM clv.tier_history JOIN clv.published USING (as_of_date, run_id)")
    assert runs == [(6,)]


def test_migrations_count_who_came_from_where(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded(SOUND))
    published(config, FEBRUARY, graded({"b": "high", "a": "low", "c": "low", "d": "low"}, previous=SOUND))
    found = rows(
        config,
        "SELECT from_tier, to_tier, customers, contribution_margin::DOUBLE FROM clv.migrations ORDER BY ALL",
    )
    assert found == [("high", "low", 1, 10.0), ("low", "high", 1, 10.0), ("low", "low", 1, 10.0)]


# Others, and death


@contextmanager
def child(code: str, *arguments: object) -> Any:
    """Another process running `code`, which says `ready` when it is."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


HOLD_MONTH = """
import fcntl, sys, time
handle = open(sys.argv[1], "w")
fcntl.flock(handle, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(60)
"""

HOLD_FILE = """
import duckdb, sys, time
connection = duckdb.connect(sys.argv[1])
print("ready", flush=True)
time.sleep(60)
"""


def test_a_month_held_by_another_process_is_busy_and_other_months_are_not(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    with child(HOLD_MONTH, tmp_path / f".tiny-{JANUARY}.lock"):
        with pytest.raises(BusyError, match="another run"), publish.month(config, JANUARY):
            pass
        published(config, FEBRUARY, graded(SOUND))
    published(config, JANUARY, graded(SOUND))


def test_a_file_held_by_another_process_is_busy(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded(SOUND))
    with child(HOLD_FILE, config.warehouse_path), pytest.raises(BusyError):
        published(config, FEBRUARY, graded(SOUND))
    assert published(config, FEBRUARY, graded(SOUND)).status == "published"


def test_a_month_is_let_go_of_with_nothing_left_behind(tmp_path: Path) -> None:
    config, lock = config_at(tmp_path), tmp_path / f".tiny-{JANUARY}.lock"
    with publish.month(config, JANUARY):
        assert lock.exists()
        with pytest.raises(BusyError), publish.month(config, JANUARY):
            pass
        assert lock.exists()
    assert not lock.exists()


def test_a_lock_file_that_was_replaced_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened while another run held it, locked after that one had removed it and a third had made a new one."""
    lock, third, flock = tmp_path / f".tiny-{JANUARY}.lock", [], fcntl.flock

    def late(handle: Any, operation: int) -> None:
        if not third:
            lock.unlink()
            third.append(lock.open("w"))
            flock(third[0], fcntl.LOCK_EX)
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BusyError), publish.month(config_at(tmp_path), JANUARY):
        pass
    third[0].close()


# Forks a process per line read: it publishes, and dies right before (or after) the statement named.
DIE_PUBLISHING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_publish import JANUARY, config_at, graded, published
from clv.warehouse import Engine

class Mortal:
    def __init__(self, connection, moment):
        connection.execute("SET python_scan_all_frames = true")
        self.connection, self.moment = connection, moment
    def execute(self, sql, parameters=None):
        when, statement = self.moment.split(" ", 1)
        hit = sql.strip().startswith(statement)
        if hit and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = self.connection.execute(sql, parameters)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

print("ready", flush=True)
for line in sys.stdin:
    if os.fork() == 0:
        Engine.__init__ = lambda self, connection: setattr(self, "_connection", Mortal(connection, line.strip()))
        published(config_at(Path(sys.argv[1])), JANUARY, graded({f"c{i}": "low" for i in range(3000)}))
        os._exit(0)
    print(os.WTERMSIG(os.wait()[1]), flush=True)
"""


def test_death_at_any_moment_leaves_the_old_month_or_the_new(tmp_path: Path) -> None:
    config, old, new = config_at(tmp_path), (3, 1), (3000, 1)
    published(config, JANUARY, graded(SOUND))
    moments = {
        "before INSERT INTO clv_rows.grades": old,
        "after INSERT INTO clv_rows.reasons": old,
        "after DELETE FROM clv.published": old,
        "after INSERT INTO clv.published": old,
        "before COMMIT": old,
        "after COMMIT": new,
    }
    with child(DIE_PUBLISHING, tmp_path, Path(__file__).parent) as process:
        for moment, expected in moments.items():
            process.stdin.write(f"{moment}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{int(signal.SIGKILL)}\n", moment
            for name in ("grades", "criteria", "reasons"):
                found = rows(config, f"SELECT count(*), count(DISTINCT run_id) FROM clv.{name}")
                assert found == [expected], (moment, name)
            found = rows(config, "SELECT status FROM clv.runs JOIN clv.published USING (run_id)")
            assert found == [("published",)]
    # And whoever comes next can go on.
    assert published(config, JANUARY, graded(SOUND)).status == "published"


def test_a_warehouse_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    published(config, JANUARY, graded(SOUND))
    with duckdb.connect(str(config.warehouse_path)) as connection:
        connection.execute("DROP VIEW clv.paths")
        connection.execute("ALTER TABLE clv_rows.paths DROP COLUMN target_tier")
    with pytest.raises(PublishError, match=r"clv_rows.paths.*target_tier.*DROP SCHEMA clv CASCADE"):
        published(config, FEBRUARY, graded(SOUND))
    with duckdb.connect(str(config.warehouse_path)) as connection:
        connection.execute("DROP SCHEMA clv CASCADE")
    assert published(config, FEBRUARY, graded(SOUND)).status == "published"
