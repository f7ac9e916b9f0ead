"""The engine: exact sums, spilling, one writer per file, and the fingerprint of content."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from clv.config import Config
from clv.errors import BusyError, TableError
from clv.warehouse import STORAGE_VERSION, Engine, attached, content_hash, quote, workspace, workspace_of

HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A DuckDB file that another process has open for writing."""
    path = tmp_path / "held.duckdb"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield path
        process.stdin.close()


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_held_by_another_process_is_busy(engine: Engine, held: Path, read_only: bool) -> None:
    with (
        pytest.raises(BusyError, match=r"held\.duckdb, found it held by another run"),
        attached(engine, held, "other", read_only=read_only),
    ):
        pass


def test_a_file_held_by_another_engine_of_this_process_is_busy(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    with (
        workspace(threads=1, memory_limit="1GB") as other,
        attached(other, path, "first", read_only=False),
        pytest.raises(BusyError),
        attached(engine, path, "second", read_only=False),
    ):
        pass


def test_a_file_that_is_absent_or_no_database_is_named(engine: Engine, tmp_path: Path) -> None:
    with (
        pytest.raises(TableError, match=r"none\.duckdb, found none"),
        attached(engine, tmp_path / "none.duckdb", "other", read_only=True),
    ):
        pass
    path = tmp_path / "Could not lock.duckdb"
    path.write_text("text, and no database at all" * 100)
    with (
        pytest.raises(TableError, match="not a valid DuckDB"),
        attached(engine, path, "other", read_only=False),
    ):
        pass


def test_a_file_is_released_after_an_error(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "it's here" / "a.duckdb"  # the folder is made
    with suppress(ZeroDivisionError), attached(engine, path, "other", read_only=False):
        engine.run("CREATE TABLE other.t AS SELECT 1 AS a")
        raise ZeroDivisionError
    with attached(engine, path, "other", read_only=True):
        assert engine.rows("SELECT a FROM other.t") == [(1,)]
        with pytest.raises(duckdb.InvalidInputException):
            engine.run("CREATE TABLE other.u AS SELECT 1 AS a")


def test_files_are_written_for_duckdb_1_5_and_later(engine: Engine, tmp_path: Path) -> None:
    with attached(engine, tmp_path / "a.duckdb", "other", read_only=False):
        engine.run("CREATE TABLE other.t AS SELECT 1 AS a")
        [(tags,)] = engine.rows("SELECT tags FROM duckdb_databases() WHERE database_name = 'other'")
    assert STORAGE_VERSION == "v1.5.0"
    assert tags["storage_version"].removesuffix("+") == STORAGE_VERSION


def test_a_failed_transaction_leaves_nothing(engine: Engine) -> None:
    engine.run("CREATE TABLE t (a INTEGER)")
    with suppress(duckdb.ConversionException), engine.transaction():
        engine.run("INSERT INTO t VALUES (1)")
        engine.run("INSERT INTO t VALUES ('word')")
    assert engine.rows("SELECT * FROM t") == []
    with engine.transaction():
        engine.append("t", pd.DataFrame({"a": [2, 3]}))
    assert engine.rows("SELECT * FROM t") == [(2,), (3,)]


def test_load_replaces_and_keeps_identifiers_as_text(engine: Engine) -> None:
    engine.load("t", pd.DataFrame({"a": [1]}))
    engine.load("t", pd.DataFrame({"customer_id": ["007", "1e5"]}))
    assert engine.frame("SELECT * FROM t")["customer_id"].to_list() == ["007", "1e5"]


def test_decimal_sums_are_the_same_on_one_and_four_threads() -> None:
    sums = []
    for threads in (1, 4):
        with workspace(threads=threads, memory_limit="1GB") as db:
            db.run("""
                CREATE TABLE t AS SELECT i % 10 AS k, CAST(hash(i) % 1000000007 AS DOUBLE) / 7e3 AS amount
                FROM range(500000) AS numbers(i)""")
            sums.append(db.rows("SELECT k, sum(CAST(amount AS DECIMAL(38,6))) FROM t GROUP BY k ORDER BY k"))
    assert sums[0] == sums[1]
    assert isinstance(sums[0][0][1], Decimal)


def test_what_does_not_fit_in_memory_spills_to_the_folder_given(tmp_path: Path) -> None:
    sort = """
        CREATE TABLE t AS SELECT i, md5(CAST(i AS VARCHAR)) AS a, md5(CAST(i + 1 AS VARCHAR)) AS b
        FROM range(1000000) AS numbers(i) ORDER BY a, b"""
    with workspace(threads=1, memory_limit="60MB", temp_directory=tmp_path / "spill") as db:
        db.run(sort)
        assert list((tmp_path / "spill").iterdir())
        assert db.rows("SELECT count(*), min(a) FROM t")[0][0] == 1_000_000
    assert not list((tmp_path / "spill").glob("*"))


def test_the_engine_takes_the_settings_of_the_company(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "company": "x",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"path": "l.csv"}},
            "engine": {"threads": 3, "memory_limit": "123MiB", "temp_directory": str(tmp_path)},
        }
    )
    with workspace_of(config) as db:
        names = ("threads", "memory_limit", "temp_directory", "autoinstall_known_extensions")
        found = [db.rows(f"SELECT current_setting('{name}')")[0][0] for name in names]
    assert found == [3, "123.0 MiB", str(tmp_path), False]


def test_quoted_names_hold_any_character(engine: Engine) -> None:
    assert quote("a.b") == '"a"."b"'
    name = 'se"lect, from'
    engine.run(f"CREATE TABLE {quote(name)} AS SELECT 1 AS a")
    assert engine.rows("SELECT table_name FROM duckdb_tables()") == [(name,)]


ROWS = (
    "SELECT * FROM (VALUES (1, 'a', 12345678901234.5678::DECIMAL(18,4), DATE '2025-01-01', 0.1e0), "
    "(2, NULL, 2.5, NULL, 0.2e0), (2, NULL, 2.5, NULL, 0.2e0)) AS t(id, word, amount, day, ratio)"
)


def test_the_fingerprint_is_blind_to_the_order_of_rows(engine: Engine) -> None:
    found = {
        content_hash(engine, f"{ROWS} ORDER BY {order}")
        for order in ("id", "id DESC", "amount", "hash(word)")
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    "changed",
    [
        ("'a'", "'A'"),
        ("'a'", "''"),
        ("NULL, 2.5", "'', 2.5"),
        ("NULL, 2.5", "'null', 2.5"),
        ("1234.5678", "1234.5679"),
        ("12345678901234.5678", "12345678901234.5677"),
        ("2025-01-01", "2025-01-02"),
        ("0.1e0", "0.10000000000000002e0"),
        (", (2, NULL, 2.5, NULL, 0.2e0)) AS", ") AS"),
        ("(2, NULL, 2.5, NULL, 0.2e0))", "(3, NULL, 2.5, NULL, 0.2e0))"),
        ("t(id, word,", "t(id, name,"),
    ],
)
def test_the_fingerprint_sees_any_change_of_one_value(engine: Engine, changed: tuple[str, str]) -> None:
    other = ROWS.replace(*changed, 1)
    assert other != ROWS
    assert content_hash(engine, other) != content_hash(engine, ROWS)


def test_the_fingerprint_sees_values_that_swap_rows_or_columns(engine: Engine) -> None:
    pairs = ["VALUES (1, 2), (3, 4)", "VALUES (1, 4), (3, 2)", "VALUES (2, 1), (4, 3)"]
    assert len({content_hash(engine, f"SELECT * FROM ({rows}) AS t(a, b)") for rows in pairs}) == 3


def test_the_fingerprint_covers_the_row_whatever_its_columns_are_called(engine: Engine) -> None:
    found = {content_hash(engine, f"SELECT 1 AS content, {number} AS number") for number in (1, 2)}
    assert len(found) == 2


def test_no_rows_have_a_fingerprint_and_parameters_reach_the_query(engine: Engine) -> None:
    assert content_hash(engine, f"{ROWS} WHERE id > $1", [9]).startswith("0:")
    assert content_hash(engine, f"{ROWS} WHERE id > $1", [0]) == content_hash(engine, ROWS)


def test_the_fingerprint_is_the_same_on_any_number_of_threads() -> None:
    found = set()
    for threads in (1, 4):
        with workspace(threads=threads, memory_limit="1GB") as db:
            db.run("CREATE TABLE t AS SELECT i, i / 3e0 AS third FROM range(300000) AS numbers(i)")
            found.add(content_hash(db, "SELECT * FROM t"))
    assert len(found) == 1
