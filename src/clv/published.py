"""The published schema in a company's warehouse file: tables of rows by run, and the views that people read.

Rows of every run lie in the schema `clv_rows`, those of the published runs show in the schema `clv`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clv import __version__
from clv.errors import PublishError
from clv.tables import PUBLISHED
from clv.warehouse import Engine, attached

if TYPE_CHECKING:
    from clv.config import Config

# These keep every run; all others are views over the published ones.
KEEP_EVERY_RUN = ("runs", "rejected_rows")


@contextmanager
def warehouse(db: Engine, config: Config, *, read_only: bool = False) -> Iterator[bool]:
    """Names without a catalog are those of the company's warehouse file, for the block.

    To write, the published schema is created where it is missing; to read, False says that it is.
    """
    with attached(db, config.warehouse_path, "warehouse", read_only=read_only):
        db.run("USE warehouse")
        try:
            has_schema = _check_schema(db, config)
            if not has_schema and not read_only:
                _create_schema(db)
            yield has_schema or not read_only
        finally:
            db.run("USE memory")


def rows_of(name: str) -> str:
    return f"clv.{name}" if name in KEEP_EVERY_RUN else f"clv_rows.{name}"


def _check_schema(db: Engine, config: Config) -> bool:
    """Whether the published schema is there; PublishError where another version of the program wrote it."""
    rows = db.rows(
        "SELECT schema_name || '.' || table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE database_name = 'warehouse' AND schema_name IN ('clv', 'clv_rows')"
    )
    if not any(name.startswith("clv.") for name, _, _ in rows):
        return False
    for table in PUBLISHED.values():
        place = rows_of(table.name)
        found = {column: kind for name, column, kind in rows if name == place}
        expected = {column.name: column.type for column in table.columns}
        if found != expected:
            differing = sorted(name for name, _ in found.items() ^ expected.items())
            raise PublishError(
                f"{config.warehouse_path}: expected the columns of {place} as this version ({__version__}) writes "
                f"them, found others: {', '.join(dict.fromkeys(differing))}. Nothing was published. Drop the old "
                "months (DROP SCHEMA clv CASCADE) and grade them again: "
                "score.py --as-of FIRST --through LAST."
            )
    return True


def _create_schema(db: Engine) -> None:
    with db.transaction():
        db.run("CREATE SCHEMA IF NOT EXISTS clv")
        db.run("DROP SCHEMA IF EXISTS clv_rows CASCADE")  # left over where somebody dropped `clv` alone
        db.run("CREATE SCHEMA clv_rows")
        db.run("CREATE TABLE clv.published (as_of_date DATE, run_id VARCHAR, is_stale BOOLEAN)")
        for table in PUBLISHED.values():
            # No keys: on millions of rows an index makes a month 50 times slower; audits check uniqueness.
            db.run(f"CREATE TABLE {rows_of(table.name)} ({table.ddl()})")
        create_views(db)


def create_views(db: Engine) -> None:
    """What readers see of the rows: those of the published runs. No catalog is named: a file may be renamed."""
    for table in PUBLISHED.values():
        if table.name not in KEEP_EVERY_RUN:
            columns = ", ".join(f'r."{name}"' for name in table.names)
            db.run(f"""
                CREATE OR REPLACE VIEW clv.{table.name} AS SELECT {columns} FROM clv_rows.{table.name} AS r
                JOIN clv.published AS p ON p.as_of_date = r.as_of_date AND p.run_id = r.run_id
            """)
    db.run(TIER_HISTORY_SQL)
    db.run(MIGRATIONS_SQL)


# A spell ends with the month in which the tier is another one, or the customer is no longer graded at all.
TIER_HISTORY_SQL = """
    CREATE OR REPLACE VIEW clv.tier_history AS
    WITH months AS (
        SELECT as_of_date, run_id, row_number() OVER (ORDER BY as_of_date) AS month FROM clv.published
    ), graded AS (
        SELECT customer_id, tier, month,
            lag(tier) OVER (PARTITION BY customer_id ORDER BY month) AS tier_before,
            lag(month) OVER (PARTITION BY customer_id ORDER BY month) AS month_before
        FROM clv.grades JOIN months USING (as_of_date)
    ), numbered AS (
        SELECT customer_id, tier, month, sum(CASE WHEN tier = tier_before AND month_before = month - 1
            THEN 0 ELSE 1 END) OVER (PARTITION BY customer_id ORDER BY month) AS spell
        FROM graded
    ), spells AS (
        SELECT customer_id, tier, spell, min(month) AS first_month, max(month) AS last_month
        FROM numbered GROUP BY customer_id, tier, spell
    )
    SELECT opened.as_of_date, opened.run_id, customer_id, tier,
        opened.as_of_date AS valid_from, ended.as_of_date AS valid_to
    FROM spells
    JOIN months AS opened ON opened.month = first_month
    LEFT JOIN months AS ended ON ended.month = last_month + 1
"""

MIGRATIONS_SQL = """
    CREATE OR REPLACE VIEW clv.migrations AS
    SELECT as_of_date, run_id, previous_tier AS from_tier, tier AS to_tier, count(*) AS customers,
        sum(contribution_margin) AS contribution_margin
    FROM clv.grades WHERE previous_tier IS NOT NULL
    GROUP BY as_of_date, run_id, previous_tier, tier
"""
