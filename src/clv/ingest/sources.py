"""Where a company's tables are: files, packages, DuckDB tables and queries, as something to SELECT from."""

from __future__ import annotations

import csv
import difflib
import glob
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from clv.config import Config, Source
from clv.errors import TableError
from clv.warehouse import Engine, attached, quote

_ALIAS = "_source"
_NO_DELIMITER = "\x01"  # makes a line one column
_PACKAGE = "package://"
_REFUSED_LINES = (
    "SELECT concat(parse_filename(file_path), ':', line) AS row_key, "
    "concat(min(error_message), ' ', min(csv_line)) AS detail "
    "FROM reject_errors JOIN reject_scans USING (scan_id, file_id) GROUP BY file_path, line"
)


@dataclass(frozen=True)
class Relation:
    """A source opened for reading: SQL for its rows, its columns, and SQL for the lines it cannot split."""

    label: str  # "sources.order_lines (orders.csv)"
    sql: str
    columns: tuple[str, ...]
    ragged_sql: str | None = None  # columns row_key, detail; to be run after `sql`

    def types_of(self, db: Engine, expressions: Mapping[str, str]) -> dict[str, str]:
        """DuckDB type of each named expression over the source. Raises TableError with the nearest known column."""
        try:
            return self._types(db, expressions)
        except duckdb.Error:
            for name, expression in expressions.items():
                try:
                    self._types(db, {name: expression})
                except duckdb.Error as error:
                    raise TableError(self._unbound(name, expression, str(error))) from error
            raise

    def _types(self, db: Engine, expressions: Mapping[str, str]) -> dict[str, str]:
        columns = ", ".join(f'({sql}\n) AS "{name}"' for name, sql in expressions.items())
        return {row[0]: row[1] for row in db.rows(f"DESCRIBE SELECT {columns} FROM {self.sql}")}

    def _unbound(self, core: str, expression: str, message: str) -> str:
        missing = re.search(r'Referenced column "(.+?)" not found', message)
        where = f"{self.label}, columns.{core}"
        if missing is None:
            return f"{where}: {expression!r} is no SQL expression over the source: {_first_line(message)}."
        known = ", ".join(self.columns)
        nearest = _nearest(missing[1], self.columns)
        hint = f"did you mean {nearest!r}? " if nearest else ""
        return (
            f"{where}: expected a column {missing[1]!r}, found none; {hint}The source has {known}. "
            "Correct the mapping in the configuration."
        )


@contextmanager
def opened(db: Engine, name: str, source: Source, config: Config) -> Iterator[Relation]:
    """The source of core table `name`, readable inside the block.

    Raises TableError where the file, table or query is not there or cannot be read at all.
    """
    if source.path is not None:
        yield _file(db, name, source, source.path)
        return
    path = Path(source.database) if source.database else config.warehouse_path
    label = f"sources.{name} ({source.table or 'query'} in {path})"
    workspace = db.rows("SELECT current_database()")[0][0]
    with attached(db, path, _ALIAS, read_only=True):
        db.run(f"USE {_ALIAS}")  # so that a query finds its own tables
        try:
            if source.query is not None:
                sql = "(" + source.query.rstrip("; \n") + "\n)"
            else:
                sql = quote(f"{_ALIAS}.{source.table}")
            yield Relation(label, sql, _described(db, label, sql))
        finally:
            db.run(f"USE {quote(workspace)}")


def _file(db: Engine, name: str, source: Source, path: str) -> Relation:
    label = f"sources.{name} ({path})"
    found = _in_package(label, path) if path.startswith(_PACKAGE) else _expanded(label, path)
    first = Path(next(iter(sorted(glob.glob(found))), found))
    if not first.is_file():
        raise TableError(f"{label}: expected a file, found none. Check sources.{name}.path.")
    kind = source.format or ("parquet" if first.suffix == ".parquet" else "csv")
    if kind == "parquet":
        sql = f"read_parquet({_text(found)})"
        return Relation(label, sql, _described(db, label, sql))
    if kind == "csv":
        return _delimited(label, found, _header(label, first, source.delimiter), source.delimiter)
    return _whitespace(label, found, tuple(_first_text_line(label, first).split()))


def _expanded(label: str, path: str) -> str:
    """`path` with ${NAME} replaced by the environment's NAME."""

    def value(match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            raise TableError(
                f"{label}: expected the environment variable {match[1]}, found none. Set it, or name the path."
            ) from None

    return re.sub(r"\$\{(\w+)\}", value, path)


def _delimited(label: str, path: str, header: tuple[str, ...], delimiter: str) -> Relation:
    sql = _read_csv(path, header, delimiter, '"')
    return Relation(label, sql, header, _REFUSED_LINES)


def _whitespace(label: str, path: str, header: tuple[str, ...]) -> Relation:
    lines = f"(SELECT line, row_number() OVER () + 1 AS number FROM {_read_csv(path, ('line',), _NO_DELIMITER, '')})"
    fields = r"regexp_split_to_array(trim(line), '\s+')"
    columns = ", ".join(f"field[{i}] AS {_name(name)}" for i, name in enumerate(header, start=1))
    sql = (
        f"(SELECT {columns} FROM (SELECT {fields} AS field FROM {lines} WHERE trim(line) <> '') "
        f"WHERE len(field) = {len(header)})"
    )
    ragged = (
        f"{_REFUSED_LINES} UNION ALL SELECT concat({_text(Path(path).name)}, ':', number) AS row_key, "
        f"concat('Expected {len(header)} fields: ', line) AS detail "
        f"FROM {lines} WHERE trim(line) <> '' AND len({fields}) <> {len(header)}"
    )
    return Relation(label, sql, header, ragged)


def _read_csv(path: str, header: tuple[str, ...], delimiter: str, quotes: str) -> str:
    """Every column as text, nothing guessed, lines that do not fit kept apart."""
    columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in header)
    return (
        f"read_csv({_text(path)}, columns = {{{columns}}}, auto_detect = false, header = true, "
        f"delim = {_text(delimiter)}, quote = '{quotes}', escape = '{quotes}', nullstr = '', "
        "null_padding = false, store_rejects = true, rejects_limit = 0)"
    )


def _header(label: str, path: Path, delimiter: str) -> tuple[str, ...]:
    header = tuple(next(csv.reader([_first_text_line(label, path)], delimiter=delimiter)))
    lowered = [name.lower() for name in header]
    repeated = sorted({name for name in lowered if lowered.count(name) > 1})
    if repeated or "" in lowered:
        raise TableError(
            f"{label}: expected a header line with a different name for every column, found "
            f"{', '.join(repeated) or 'an empty name'}. Name the columns in the first line."
        )
    return header


def _first_text_line(label: str, path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        line = lines.readline().rstrip("\r\n")
    if not line.strip():
        raise TableError(f"{label}: expected a header line, found an empty one. Name the columns there.")
    return line


def _in_package(label: str, path: str) -> str:
    """File of an installed package, which is not imported for it."""
    module, _, inside = path.removeprefix(_PACKAGE).partition("/")
    if ".." in inside.split("/") or not inside or not module.isidentifier():
        raise TableError(f"{label}: expected package://module/path/inside, without '..'.")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise TableError(f"{label}: expected the package {module}, found none installed. Install it.")
    return str(Path(spec.submodule_search_locations[0]) / inside)


def _described(db: Engine, label: str, sql: str) -> tuple[str, ...]:
    try:
        return tuple(row[0] for row in db.rows(f"DESCRIBE SELECT * FROM {sql}"))
    except duckdb.Error as error:
        raise TableError(
            f"{label}: expected a readable table, found: {_first_line(str(error))}. Check the source."
        ) from error


def _nearest(name: str, known: Sequence[str]) -> str | None:
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return by_lower[matches[0]] if matches else None


def _first_line(message: str) -> str:
    return message.splitlines()[0].rstrip(".") if message else "unknown"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
