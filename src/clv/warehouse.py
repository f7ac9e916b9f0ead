"""The engine in which the heavy queries run, and the file in which the results live (DuckDB)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from clv.errors import BusyError, TableError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from clv.config import Config

STORAGE_VERSION = "v1.5.0"  # files stay readable for DuckDB 1.5 and 2

# What DuckDB says of a file that another process, or another engine of this one, has open.
_HELD = ("Could not set lock on file", "Unique file handle conflict")


class Engine:
    """A DuckDB connection with four doors: run, frame, rows, load. SQL is DuckDB's dialect."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def run(self, sql: str, parameters: list[Any] | None = None) -> None:
        """Execute one statement and drop its result."""
        self._connection.execute(sql, parameters)

    def frame(self, sql: str, parameters: list[Any] | None = None) -> pd.DataFrame:
        """Result as a pandas frame: DECIMAL as float64, DATE as datetime64, text as str."""
        return self._connection.execute(sql, parameters).df()

    def rows(self, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Result as tuples, exact decimals kept; for small results."""
        return self._connection.execute(sql, parameters).fetchall()

    def load(self, name: str, frame: pd.DataFrame) -> None:
        """Make `frame` the table `name`, replacing one of that name."""
        # Named in the query, not registered: a registered frame stays alive until the transaction ends.
        self._connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM frame")

    def append(self, name: str, frame: pd.DataFrame | pa.Table) -> None:
        """Add the rows of `frame` to the table `name`, by column name; casts must succeed."""
        self._connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM frame")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside take effect together, or none does."""
        self._connection.execute("BEGIN TRANSACTION")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


@contextmanager
def workspace(*, threads: int, memory_limit: str, temp_directory: Path | None = None) -> Iterator[Engine]:
    """A fresh engine in memory that spills to `temp_directory` past `memory_limit`; gone afterwards."""
    settings: dict[str, Any] = {
        "threads": threads,
        "memory_limit": memory_limit,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if temp_directory is not None:
        settings["temp_directory"] = str(temp_directory)
    with duckdb.connect(":memory:", config=settings) as connection:
        yield Engine(connection)


def workspace_of(config: Config) -> AbstractContextManager[Engine]:
    """The workspace with the engine settings of a company."""
    engine = config.engine
    spill = Path(engine.temp_directory) if engine.temp_directory else None
    return workspace(threads=engine.threads, memory_limit=engine.memory_limit, temp_directory=spill)


@contextmanager
def attached(db: Engine, path: Path, alias: str, *, read_only: bool) -> Iterator[None]:
    """The DuckDB file at `path` under the name `alias` for the time of the block.

    Raises BusyError where another process holds the file, TableError where it is absent (and only read) or no
    DuckDB file.
    """
    if read_only and not path.exists():
        raise TableError(
            f"Expected a DuckDB file at {path}, found none. Check the path in the configuration."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # A version is asked for when the file is made; one that exists, perhaps the company's own, keeps its.
    made = "READ_WRITE" if path.exists() else f"STORAGE_VERSION '{STORAGE_VERSION}'"
    options = "READ_ONLY" if read_only else made
    quoted = str(path).replace("'", "''")
    try:
        db.run(f"ATTACH '{quoted}' AS {alias} ({options})")
    except duckdb.Error as error:
        if any(words in str(error) for words in _HELD):
            raise BusyError(
                f"Expected to open {path}, found it held by another run: {error}. "
                "Wait for that run to end, then start again."
            ) from error
        raise TableError(
            f"Expected a DuckDB file at {path}, found: {error}. Check the path in the configuration."
        ) from error
    try:
        yield
    finally:
        db.run(f"DETACH {alias}")


def quote(identifier: str) -> str:
    """`identifier` as a quoted SQL name, dots separating schema and table."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in identifier.split("."))


def content_hash(db: Engine, select: str, parameters: list[Any] | None = None) -> str:
    """Fingerprint of the rows of a query, the same whatever their order: their count and a sum of their hashes.

    A column's name, its position, a null in the place of an empty text and the last digit of a decimal all count.
    """
    # JSON tells null from text and keeps every digit; `_row` cannot be mistaken for a column of the query.
    [(count, low, high)] = db.rows(
        f"""SELECT count(*), sum((number & 18446744073709551615)::HUGEINT), sum((number >> 64)::HUGEINT)
            FROM (SELECT md5_number(to_json(_row)::VARCHAR) AS number FROM ({select}) AS _row)""",
        parameters,
    )
    return f"{count}:{low}:{high}"
