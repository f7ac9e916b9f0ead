"""The one query that turns a source into a core table, and says what becomes of each row.

Its steps: the values as given, typed, blanked at as_of, placed beside rates and invoices, converted, judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from clv.config import Config, Source
from clv.ingest.contract import EARLIEST, LARGEST_AMOUNT, Action, BoundRule
from clv.period import later_values, visible_sql
from clv.tables import MONEY, Column, Table

# Columns behind those of the core table: what becomes of the row (null: kept), why, its key, what was noted.
STAGED = ("_fate", "_detail", "_key", "_noted")

# Where the contract does not let a row through, and no rule is broken.
FILTERED, LATER = "filtered", "later"

_CONVERTED: Mapping[str, tuple[str, ...]] = {
    "order_lines": ("net_amount", "unit_cost"),
    "invoices": ("amount",),
    "payments": ("amount",),
}
_FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_NUMBERS = (*_FRACTIONS, *_INTEGERS, *(f"U{name}" for name in _INTEGERS), "BOOLEAN")
_DATES = ("DATE", "TIMESTAMP")
_WITH_OFFSET = r"\d\d:\d\d.*([zZ]|[+-]\d\d(:?\d\d)?)$"
_LONGEST_DETAIL = 300


@dataclass(frozen=True)
class Staging:
    """How one source becomes one core table: what is mapped, of which type, under which rules."""

    table: Table
    source: Source
    mapping: Mapping[str, str]  # core column -> SQL expression over the source
    types: Mapping[str, str]  # core column -> DuckDB type of that expression
    rules: list[BoundRule]
    config: Config
    as_of: date

    def sql(self, relation_sql: str) -> str:
        """SELECT of the core columns of every row of the source, kept or not, and the columns of STAGED."""
        columns = self.table.columns
        return f"""
            WITH given AS (
                SELECT {self._wanted} AS _wanted, {_list(self._given(c) for c in columns)}
                FROM {relation_sql} AS source
            ),
            typed AS (SELECT *, {_list(self._typed(c) for c in columns)} FROM given),
            blanked AS (SELECT * {self._blanked()} FROM typed),
            placed AS ({self._placed()}),
            converted AS (SELECT * {self._converted()} FROM placed),
            judged AS (SELECT *, {self._fate()} AS _fate FROM converted)
            SELECT {_list(self._final(c) for c in columns)}, _fate, {self._detail()} AS _detail,
                CASE WHEN _fate IS NOT NULL THEN {row_key(self.table)} END AS _key,
                CASE WHEN _fate IS NULL THEN {self._noted()} END AS _noted
            FROM judged"""

    @property
    def _wanted(self) -> str:
        where = self.source.where
        return f"coalesce(CAST(({where}\n) AS BOOLEAN), false)" if where else "true"

    def _given(self, column: Column) -> str:
        """The value as the source gave it, empty text as null; text unless it has a fitting type already."""
        name = f"given_{column.name}"
        if column.name not in self.mapping:
            return f"CAST(NULL AS {column.type}) AS {name}"
        value, kind = f"({self.mapping[column.name]}\n)", self.types[column.name]
        if self.source.where:  # an expression may fail on the very rows that the filter leaves out
            value = f"CASE WHEN {self._wanted} THEN {value} END"
        if column.type == "VARCHAR":
            if kind.startswith(_FRACTIONS):  # an identifier that became a fraction beside empty cells
                whole = f"{value} = trunc({value}) AND abs({value}) < 9007199254740992"
                text = f"CAST(CAST({value} AS BIGINT) AS VARCHAR)"
                return f"CASE WHEN {whole} THEN {text} ELSE CAST({value} AS VARCHAR) END AS {name}"
            return f"nullif(CAST({value} AS VARCHAR), '') AS {name}"
        fitting = _DATES if column.type == "DATE" else _NUMBERS
        return (
            f"{value} AS {name}"
            if kind.startswith(fitting)
            else f"nullif(trim(CAST({value} AS VARCHAR)), '') AS {name}"
        )

    def _typed(self, column: Column) -> str:
        name, given = column.name, f"given_{column.name}"
        if column.name not in self.mapping or column.type == "VARCHAR":
            return f"{given} AS {name}"
        if column.type == "BOOLEAN":
            return f"TRY_CAST({given} AS BOOLEAN) AS {name}"
        if column.type == "DATE":
            value = self._date(given, self.types[name])
            plausible = (
                "isfinite({0})"
                if column.required or name == "posted_date"
                else f"isfinite({{0}}) AND {{0}} >= DATE '{EARLIEST}'"
            )
        else:
            value = f"TRY_CAST({given} AS {column.type})"
            plausible = "isfinite({0})" if column.type == "DOUBLE" else "true"
            if not column.required:
                plausible += f" AND abs({{0}}) <= {LARGEST_AMOUNT}"
        return f"CASE WHEN {plausible.format(value)} THEN {value} END AS {name}"

    def _date(self, given: str, kind: str) -> str:
        zone = f"'{self.config.time_zone}'"
        if kind.startswith("TIMESTAMP WITH TIME ZONE"):
            return f"CAST(timezone({zone}, {given}) AS DATE)"
        if kind.startswith(_DATES):
            return f"CAST({given} AS DATE)"
        date_format = self.source.date_format
        if date_format is not None:
            parsed = f"try_strptime({given}, '{date_format.replace(chr(39), chr(39) * 2)}')"
            return f"CAST({f'timezone({zone}, {parsed})' if '%z' in date_format else parsed} AS DATE)"
        return (
            f"CASE WHEN regexp_matches({given}, '{_WITH_OFFSET}') "
            f"THEN CAST(timezone({zone}, TRY_CAST({given} AS TIMESTAMPTZ)) AS DATE) "
            f"ELSE CAST(TRY_CAST({given} AS TIMESTAMP) AS DATE) END"
        )

    def _blanked(self) -> str:
        """What was not known before as_of on a row that was: null, as if the source had not given it."""
        return _replace(
            {
                shown: f"CASE WHEN {mask} THEN NULL ELSE {shown} END"
                for name, mask in later_values(self.table, self.as_of).items()
                for shown in (name, f"given_{name}")
            }
        )

    def _placed(self) -> str:
        """The rows beside what other tables say about them: the exchange rate, the invoice of a payment."""
        if self.table.name == "payments":
            return """
                SELECT b.*, coalesce(i.rate, 1e0) AS _rate, i.invoice_date AS _invoice_date,
                    coalesce(i.fate, 'not in invoices') AS _invoice_fate
                FROM blanked AS b LEFT JOIN _known_invoices AS i USING (invoice_id)"""
        if "currency" not in self.mapping or self.table.name not in _CONVERTED:
            return "SELECT *, 1e0 AS _rate FROM blanked"
        rate, join = rate_sql("b", self.table, self.config)
        return f"SELECT b.*, {rate} AS _rate FROM blanked AS b {join}"

    def _converted(self) -> str:
        return _replace(
            {
                name: f"CASE WHEN _rate = 1 THEN {name} "
                f"ELSE TRY_CAST(round(CAST({name} AS DOUBLE) * _rate, 4) AS {MONEY}) END"
                for name in _CONVERTED.get(self.table.name, ())
            }
        )

    def _fate(self) -> str:
        cases = [f"WHEN NOT _wanted THEN '{FILTERED}'"]
        if self.table.dated_by:
            cases.append(f"WHEN {visible_sql(self.table)} >= DATE '{self.as_of}' THEN '{LATER}'")
        elif "valid_from" in self.table.names:
            cases.append(f"WHEN valid_from >= DATE '{self.as_of}' THEN '{LATER}'")
        if self.table.name == "payments":
            cases.append(f"WHEN _invoice_fate = '{LATER}' THEN '{LATER}'")
        cases += [f"WHEN {bound.condition} THEN '{bound.rule.name}'" for bound in self._refusing()]
        return f"CASE {' '.join(cases)} END"

    def _detail(self) -> str:
        """What was found: of the first broken rule, as in the fate."""
        cases = [
            f"WHEN _fate = '{b.rule.name}' AND ({b.condition}) THEN {b.detail}" for b in self._refusing()
        ]
        return f"left(CASE {' '.join(cases)} END, {_LONGEST_DETAIL})" if cases else "CAST(NULL AS VARCHAR)"

    def _refusing(self) -> list[BoundRule]:
        return [b for b in self.rules if b.rule.action in (Action.STOP, Action.SET_ASIDE)]

    def _noted(self) -> str:
        """Names of the other rules that a kept row breaks, `rule` or `rule:column`, joined by `;`."""
        noted = [
            f"CASE WHEN {bound.condition} THEN '{bound.rule.name}"
            f"{':' + bound.column if bound.rule.each else ''}' END"
            for bound in self.rules
            if bound.rule.action in (Action.REPLACE, Action.KEEP)
        ]
        return f"nullif(concat_ws(';', {', '.join(noted)}), '')" if noted else "CAST(NULL AS VARCHAR)"

    def _final(self, column: Column) -> str:
        cases = [
            f"WHEN {bound.condition} THEN {bound.instead}"
            for bound in self.rules
            if bound.rule.action is Action.REPLACE and bound.rule.column == column.name
        ]
        value = f"CASE {' '.join(cases)} ELSE {column.name} END" if cases else column.name
        return f"CAST({value} AS {column.type}) AS {column.name}"


def row_key(table: Table) -> str:
    """SQL of the words by which a row can be found again in its source."""
    optional = [name for name in table.key if not table.column(name).required]
    given = [c.name for c in table.columns if c.required and c.type in ("VARCHAR", "DATE")]
    parts = [f"'{name} ' || {name}" for name in (*optional, *given)]
    return f"left(concat_ws(', ', {', '.join(parts)}), {_LONGEST_DETAIL})"


def rate_sql(rows: str, table: Table, config: Config) -> tuple[str, str]:
    """SQL of the rate to the reporting currency on the row's day (null: none), and the join it needs."""
    own = f"{rows}.currency IS NULL OR {rows}.currency = '{config.reporting_currency}'"
    join = f"LEFT JOIN _daily_rates AS r ON r.currency = {rows}.currency AND r.day = {rows}.{table.dated_by}"
    return f"CASE WHEN {own} THEN 1e0 ELSE r.rate END", join


def _list(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _replace(values: Mapping[str, str]) -> str:
    return f"REPLACE ({', '.join(f'{sql} AS {name}' for name, sql in values.items())})" if values else ""
