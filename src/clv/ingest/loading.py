"""Loading one company as of a date: each source in turn, then what takes several tables. Set-based SQL only."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING

import duckdb

from clv.config import Attribute, Config, Source
from clv.errors import BusyError, ConfigError, TableError
from clv.ingest.contract import ROW_RULES, bound_rules
from clv.ingest.links import refuse_cycles
from clv.ingest.sources import Relation, opened
from clv.ingest.staging import FILTERED, LATER, STAGED, Staging, rate_sql, row_key
from clv.tables import CORE, PUBLISHED, Column, Table
from clv.warehouse import Engine, quote, workspace_of

if TYPE_CHECKING:
    import pandas as pd

# What others refer to comes first.
_FIRST = ("exchange_rates", "customers", "products", "order_lines", "invoices", "payments")
_ATTRIBUTE_TYPES = {"category": "VARCHAR", "number": "DOUBLE", "flag": "BOOLEAN"}


LOG = logging.getLogger("clv")


@dataclass(frozen=True)
class Account:
    """What became of the rows of one source: read = filtered + later + set aside + left_truncated + kept."""

    read: int
    filtered: int  # by the source's `where`
    later: int  # dated, posted or first contacted on or after as_of
    set_aside: Mapping[str, int]  # by rule
    kept: int
    left_truncated: int = 0

    def __str__(self) -> str:
        parts = [
            f"{self.read} read",
            f"{self.filtered} left out by `where`",
            f"{self.later} later",
            *(f"{rows} set aside by {rule}" for rule, rows in self.set_aside.items()),
            f"{self.left_truncated} left-truncated",
        ]
        return ", ".join(part for part in parts if not part.startswith("0 ") or part == "0 read")


@dataclass(frozen=True)
class Loaded:
    """What ingest says about itself."""

    row_counts: dict[str, int]  # per core table: rows visible
    rejected: int  # rows set aside; main.rejected_rows has them
    notes: list[str]  # what was kept, replaced or dropped, with counts
    absent: frozenset[str]  # core tables without a source
    accounts: dict[str, Account] = field(default_factory=dict)  # per core table with a source


def load(db: Engine, config: Config, as_of: date) -> Loaded:
    """Every core table in the schema `main` of `db`, as the company knew it at the start of `as_of`.

    Tables without a source are empty, customers without one are those of the order lines. `customers` has the
    declared attributes as further columns (category VARCHAR, number DOUBLE, flag BOOLEAN). Money is in the
    reporting currency at the rate of the fact's day, payments at the rate of their invoice's day. Rows that
    break a row rule of the contract are in main.rejected_rows. Raises TableError where a rule stops the run.
    """
    _check_settings(db, config)
    load = _Load(db, config, as_of)
    for name in (*_FIRST, *(name for name in CORE if name not in _FIRST)):
        load.table(name)
    load.complete_customers()
    load.truncate_left()
    load.refuse_empty()
    refuse_cycles(db, as_of)
    return Loaded(
        row_counts={name: load.count(name) for name in CORE},
        rejected=load.count("rejected_rows"),
        notes=load.notes,
        absent=frozenset(CORE) - frozenset(config.sources),
        accounts=load.accounts,
    )


def customer_names(config: Config, as_of: date, customer_ids: Sequence[str]) -> dict[str, str]:
    """customer_id -> name of those customers and prospects, as known before `as_of`; those without one are absent.

    From the company's own table of customers, as names are not published. Where it cannot be read now, nobody has a
    name, and the log says why.
    """
    if "customers" not in config.sources:
        return {}
    try:
        with workspace_of(config) as db:
            _Load(db, config, as_of).table("customers")
            found = db.rows(
                """SELECT customer_id, name FROM main.customers WHERE list_contains(?, customer_id) AND name IS NOT NULL
                QUALIFY row_number() OVER (PARTITION BY customer_id ORDER BY valid_from DESC NULLS LAST, name) = 1""",
                [list(customer_ids)],
            )
    except (TableError, BusyError) as error:
        LOG.warning("No names are shown: %s", error)
        return {}
    return dict(found)


def _check_settings(db: Engine, config: Config) -> None:
    if not db.rows("SELECT 1 FROM pg_timezone_names() WHERE name = $1", [config.time_zone]):
        raise ConfigError(f"time_zone: expected a name such as Europe/Berlin, found {config.time_zone!r}.")
    words = {
        row[0]
        for row in db.rows("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'")
    }
    for name in config.attributes:
        if name in words:
            raise ConfigError(f"attributes.{name}: is a word of SQL; choose another name, and map it.")
        if name.startswith("given_"):
            raise ConfigError(f"attributes.{name}: is a name that reading needs; choose another, and map it.")


class _Load:
    """One load: what was read, set aside and noted so far."""

    def __init__(self, db: Engine, config: Config, as_of: date) -> None:
        self._db, self._config, self._as_of = db, config, as_of
        self._main = quote(db.rows("SELECT current_database()")[0][0]) + ".main"
        self._mapped: dict[str, frozenset[str]] = {}
        self.accounts: dict[str, Account] = {}
        self.notes: list[str] = []
        rejected = [c for c in PUBLISHED["rejected_rows"].columns if c.name not in ("as_of_date", "run_id")]
        db.run(
            f"CREATE OR REPLACE TABLE main.rejected_rows ({', '.join(f'{c.name} {c.type}' for c in rejected)})"
        )
        db.run("CREATE OR REPLACE TEMP TABLE _known_customers (customer_id VARCHAR)")
        db.run("CREATE OR REPLACE TEMP TABLE _daily_rates (currency VARCHAR, day DATE, rate DOUBLE)")
        db.run(
            "CREATE OR REPLACE TEMP TABLE _known_invoices "
            "(invoice_id VARCHAR, invoice_date DATE, rate DOUBLE, fate VARCHAR)"
        )

    def table(self, name: str) -> None:
        """Load one core table: empty without a source, else every kept row of it."""
        table = CORE[name]
        if name == "customers":
            attributes = (_attribute_column(*item) for item in self._config.attributes.items())
            table = replace(table, columns=(*table.columns, *attributes))
        source = self._config.sources.get(name)
        if name == "invoices" and self._config.lacks_payments:
            self.notes.append("invoices: not read: without payments every one would look unpaid")
            source = None
        if source is None:
            self._db.run(f"CREATE OR REPLACE TABLE main.{name} ({table.ddl()})")
            return
        with opened(self._db, name, source, self._config) as relation:
            self._stage(table, source, relation)
        if name == "customers":
            self._db.run(
                "INSERT INTO _known_customers "
                "SELECT DISTINCT customer_id FROM main.customers WHERE customer_id IS NOT NULL"
            )
        elif name == "invoices":
            self._remember_invoices()
        self._settle(table, source)
        if name == "exchange_rates":
            self._spread_rates()
        if name != "customers":
            self._refuse_repeated_keys(name)

    def count(self, name: str) -> int:
        return int(self._db.rows(f"SELECT count(*) FROM main.{name}")[0][0])

    def _stage(self, table: Table, source: Source, relation: Relation) -> None:
        """All rows of the source as main.{table}, with what becomes of each in the columns of STAGED."""
        mapping = _mapping(table, source, relation, frozenset(self._config.attributes))
        self._mapped[table.name] = frozenset(mapping)
        where = {"where": source.where} if source.where is not None else {}
        types = relation.types_of(self._db, mapping | where)
        staging = Staging(
            table=table,
            source=source,
            mapping=mapping,
            types=types,
            rules=bound_rules(
                table,
                self._config,
                has_currency="currency" in mapping,
                knows_customers="customers" in self._config.sources,
            ),
            config=self._config,
            as_of=self._as_of,
        )
        self._db.run("DROP TABLE IF EXISTS reject_errors")
        self._db.run("DROP TABLE IF EXISTS reject_scans")
        try:
            self._db.run(f"CREATE OR REPLACE TABLE {self._main}.{table.name} AS {staging.sql(relation.sql)}")
            if relation.ragged_sql is not None:
                self._db.run(
                    f"INSERT INTO {self._main}.rejected_rows "
                    f"SELECT '{table.name}', row_key, 'ragged_line', left(detail, 300) "
                    f"FROM ({relation.ragged_sql}) ORDER BY ALL"
                )
        except duckdb.Error as error:
            raise TableError(
                f"{relation.label}: expected rows to which the mapping can be applied, found: "
                f"{str(error).splitlines()[0].rstrip('.')}. Correct the source, or write TRY_CAST for CAST."
            ) from error

    def _settle(self, table: Table, source: Source) -> None:
        """Each row goes where its fate says: cut, set aside with the reason, or kept and perhaps noted."""
        name = table.name
        self._refuse_unknown_currencies(name)
        fates = dict(self._db.rows(f"SELECT _fate, count(*) FROM main.{name} GROUP BY ALL"))
        self._db.run(
            f"INSERT INTO main.rejected_rows SELECT '{name}', _key, _fate, _detail FROM main.{name} "
            f"WHERE _fate NOT IN ('{FILTERED}', '{LATER}') ORDER BY ALL"
        )
        noted = self._db.rows(
            f"SELECT note, count(*) FROM (SELECT unnest(string_split(_noted, ';')) AS note FROM main.{name}) "
            "GROUP BY ALL ORDER BY ALL"
        )
        if name == "order_lines":  # sales that belong to no customer: contribution.unassigned adds them up
            self._db.run(
                "CREATE OR REPLACE TABLE main.unassigned_lines AS SELECT _fate AS rule, order_date, net_amount "
                f"FROM main.order_lines WHERE _fate NOT IN ('{FILTERED}', '{LATER}')"
            )
        self._db.run(f"DELETE FROM main.{name} WHERE _fate IS NOT NULL")
        for column in STAGED:
            self._db.run(f"ALTER TABLE main.{name} DROP COLUMN {column}")
        if source.exact_duplicates == "set_aside":
            self._set_copies_aside(table)
        set_aside = dict(
            self._db.rows(
                "SELECT rule, count(*) FROM main.rejected_rows WHERE table_name = $1 GROUP BY ALL ORDER BY ALL",
                [name],
            )
        )
        self.accounts[name] = Account(
            read=sum(fates.values()) + set_aside.get("ragged_line", 0),
            filtered=fates.get(FILTERED, 0),
            later=fates.get(LATER, 0),
            set_aside=set_aside,
            kept=self.count(name),
        )
        self._note(table, source, noted)
        self._refuse_too_many(name)

    def _note(self, table: Table, source: Source, noted: list[tuple[str, int]]) -> None:
        name = table.name
        if self.accounts[name].filtered:
            self.notes.append(
                f"{name}: {self.accounts[name].filtered} rows left out by where: {source.where}"
            )
        meanings = {rule.name: rule.meaning for rule in ROW_RULES}
        for note, rows in noted:
            rule, _, column = note.partition(":")
            self.notes.append(f"{name}{'.' if column else ''}{column}: {rows} × {rule}: {meanings[rule]}")
        if not table.key or not self._mapped[name].issuperset(table.key):
            columns = ", ".join(sorted(self._mapped[name]))
            rows = self._db.rows(f"SELECT count(*) - count(DISTINCT hash({columns})) FROM main.{name}")[0][0]
            if rows:
                self.notes.append(f"{name}: {rows} × exact_duplicate: equal to an earlier row, kept")
        if name == "customers" and "valid_from" not in self._mapped[name]:
            self.notes.append("customers: undated: as known today")

    def _set_copies_aside(self, table: Table) -> None:
        name = table.name
        self._db.run(f"""
            CREATE OR REPLACE TEMP TABLE _copies AS SELECT rowid AS copy FROM main.{name}
            QUALIFY row_number() OVER (PARTITION BY {", ".join(table.names)}) > 1""")
        copies = f"main.{name} WHERE rowid IN (SELECT copy FROM _copies)"
        self._db.run(
            f"INSERT INTO main.rejected_rows SELECT '{name}', {row_key(table)}, 'exact_duplicate', NULL "
            f"FROM {copies} ORDER BY ALL"
        )
        self._db.run(f"DELETE FROM {copies}")

    # What later tables need of earlier ones

    def _remember_invoices(self) -> None:
        """Every invoice given, for payments: also those that are not visible yet, or were set aside."""
        rate, join = rate_sql("i", CORE["invoices"], self._config)
        self._db.run(f"""
            INSERT INTO _known_invoices
            SELECT invoice_id, invoice_date, {rate} AS rate,
                CASE WHEN _fate IS NULL THEN 'kept' WHEN _fate = '{LATER}' THEN _fate
                    ELSE 'set aside, ' || _fate END AS fate
            FROM main.invoices AS i {join}
            WHERE invoice_id IS NOT NULL
            QUALIFY row_number() OVER (
                PARTITION BY invoice_id ORDER BY fate <> 'kept', fate <> '{LATER}', fate, invoice_date, rate
            ) = 1""")

    def _spread_rates(self) -> None:
        """One rate per currency and day: a missing day takes the latest earlier one."""
        self._db.run(f"""
            INSERT INTO _daily_rates
            SELECT currency, CAST(unnest(generate_series(rate_date, until, INTERVAL 1 DAY)) AS DATE), rate
            FROM (
                SELECT currency, rate_date, rate, coalesce(
                    lead(rate_date) OVER (PARTITION BY currency ORDER BY rate_date) - 1, DATE '{self._as_of}'
                ) AS until
                FROM main.exchange_rates
            )""")

    def complete_customers(self) -> None:
        """First contacts where they are unknown; prospects whom nobody knew yet are cut."""
        if "customers" not in self._config.sources:
            self._db.run(
                "INSERT INTO main.customers BY NAME SELECT customer_id, min(order_date) AS first_contact_date "
                "FROM main.order_lines GROUP BY customer_id ORDER BY customer_id"
            )
            self.notes.append("customers: derived from order_lines, first contact = first order")
            return
        self._db.run("""
            UPDATE main.customers SET first_contact_date = first_order_date
            FROM (
                SELECT customer_id AS buyer, min(order_date) AS first_order_date
                FROM main.order_lines GROUP BY customer_id
            )
            WHERE customer_id = buyer AND first_contact_date IS NULL""")
        self._db.run(f"""
            DELETE FROM main.customers WHERE first_contact_date >= DATE '{self._as_of}'
            AND customer_id NOT IN (SELECT customer_id FROM main.order_lines)""")
        account, left = self.accounts["customers"], self.count("customers")
        self.accounts["customers"] = replace(account, later=account.later + account.kept - left, kept=left)
        self._refuse_repeated_keys("customers")
        unknown = self._db.rows("SELECT count(*) FROM main.customers WHERE first_contact_date IS NULL")[0][0]
        if unknown:
            self.notes.append(
                f"customers: {unknown} with neither first contact nor order: nobody can say since when they are "
                "prospects, so they are not graded"
            )

    def truncate_left(self) -> None:
        """Customers who ordered before the data can be trusted are dropped, with all their facts."""
        limit = self._config.left_truncated_before
        if limit is None:
            return
        self._db.run(f"""
            CREATE OR REPLACE TEMP TABLE _truncated AS SELECT customer_id FROM main.order_lines
            GROUP BY customer_id HAVING min(order_date) < DATE '{limit}'""")
        theirs = "customer_id IN (SELECT customer_id FROM _truncated)"
        self._db.run(
            f"DELETE FROM main.payments WHERE invoice_id IN (SELECT invoice_id FROM main.invoices WHERE {theirs})"
        )
        for name, table in CORE.items():
            if "customer_id" in table.names:
                self._db.run(f"DELETE FROM main.{name} WHERE {theirs}")
        for name, account in self.accounts.items():
            left = self.count(name)
            self.accounts[name] = replace(account, kept=left, left_truncated=account.kept - left)
        dropped = self._db.rows("SELECT count(*) FROM _truncated")[0][0]
        self.notes.append(f"customers: {dropped} dropped with all their facts: first order before {limit}")

    # Rules about whole tables: a breach stops the run

    def _refuse_unknown_currencies(self, name: str) -> None:
        rows, currencies = self._db.rows(
            f"SELECT count(*), list_sort(list(DISTINCT _detail)) FROM main.{name} WHERE _fate = 'unknown_currency'"
        )[0]
        if rows:
            raise TableError(
                f"{name}.currency: expected exchange rates before {self._as_of} for every currency, found none "
                f"for {', '.join(currencies[:3])} ({rows} rows). Add rates to exchange_rates, correct the "
                f"mapping, or leave those rows out by sources.{name}.where."
            )

    def _refuse_too_many(self, name: str) -> None:
        account, contract = self.accounts[name], self._config.contract
        set_aside = sum(account.set_aside.values())
        visible = account.kept + set_aside
        if set_aside <= contract.tolerated_rows:
            return
        empty = self._db.rows(
            "SELECT detail, count(*) FROM main.rejected_rows WHERE table_name = $1 AND rule = 'missing_value' "
            "AND ends_with(detail, '_id') GROUP BY ALL HAVING count(*) > $2 ORDER BY ALL",
            [name, visible / 2],
        )
        for column, rows in empty:
            raise TableError(
                f"{name}.{column}: expected an identifier in every row, found {rows} of {visible} rows without "
                f"one. Correct the mapping of {column}, or leave them out by sources.{name}.where."
            )
        if set_aside > contract.maximum_rejected_ratio * visible:
            first = self._db.rows(
                "SELECT row_key, rule, detail FROM main.rejected_rows WHERE table_name = $1 ORDER BY ALL LIMIT 3",
                [name],
            )
            raise TableError(
                f"{name}: expected at most {contract.maximum_rejected_ratio:.0%} of the rows to break a rule, "
                f"found {set_aside} of {visible} ({account}), first "
                f"{'; '.join(f'{key}: {rule}, {detail}' for key, rule, detail in first)}. Correct the source "
                f"or its mapping, or leave such rows out by sources.{name}.where."
            )

    def _refuse_repeated_keys(self, name: str) -> None:
        key = CORE[name].key
        if name == "customers" and "valid_from" in self._mapped[name]:
            key = (*key, "valid_from")
        if not key or not self._mapped[name].issuperset(key):
            return
        columns = ", ".join(key)
        repeated = (
            f"SELECT {columns} FROM main.{name} WHERE {key[0]} IS NOT NULL GROUP BY ALL HAVING count(*) > 1"
        )
        keys = self._db.rows(f"SELECT count(*) FROM ({repeated})")[0][0]
        if keys:
            first = self._db.rows(f"{repeated} ORDER BY ALL LIMIT 3")
            raise TableError(
                f"{name}: expected one row per {columns}, found {keys} repeated keys, first "
                f"{'; '.join(', '.join(map(str, row)) for row in first)}. Remove the copies, or set "
                f"sources.{name}.exact_duplicates to set_aside where they are equal in every column."
            )

    def refuse_empty(self) -> None:
        for name in ("order_lines", "customers"):
            if name in self.accounts and self.accounts[name].kept == 0:
                raise TableError(
                    f"{name}: expected rows before {self._as_of}, found none ({self.accounts[name]}). Check the "
                    f"date asked for, and sources.{name}."
                )


def rejected_rows(db: Engine) -> pd.DataFrame:
    """Rows set aside by `load`: table_name, row_key, rule, detail."""
    return db.frame("SELECT table_name, row_key, rule, detail FROM main.rejected_rows ORDER BY ALL")


def _attribute_column(name: str, attribute: Attribute) -> Column:
    return Column(name, _ATTRIBUTE_TYPES[attribute.type], False, f"attribute, known at {attribute.known_at}")


def _mapping(table: Table, source: Source, relation: Relation, attributes: frozenset[str]) -> dict[str, str]:
    """Core column -> SQL expression over the source. Raises TableError where a required one is absent.

    Attributes are found under their own names where `columns` does not map them.
    """
    own = {name.lower(): '"' + name.replace('"', '""') + '"' for name in relation.columns}
    found = {name: own[name] for name in table.names if name in own}
    if source.columns:
        found = {name: sql for name, sql in found.items() if name in attributes} | source.columns
    for column in table.columns:
        if column.name in found or not (column.required or column.name in attributes):
            continue
        kind = "attribute" if column.name in attributes else "required column"
        raise TableError(
            f"{relation.label}: expected the {kind} {column.name}, found {', '.join(relation.columns)}. Map it "
            f"under sources.{table.name}.columns{' or remove the attribute' if kind == 'attribute' else ''}."
        )
    return found
