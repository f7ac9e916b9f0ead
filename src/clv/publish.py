"""Results -> warehouse: one month at a time, all of it or nothing.

Rows land in the schema `clv_rows` under their run_id; one row of `clv.published` makes a month visible, and the
tables people read are views over the published runs. So a reader sees the old month or the new one, never a mixture.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from clv import __version__
from clv.errors import BusyError, PublishError
from clv.tables import PUBLISHED, check
from clv.warehouse import Engine, attached, content_hash, workspace_of

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config

# These keep every run; all others are views over the published ones.
KEEP_EVERY_RUN = ("runs", "rejected_rows")
ADDITIVITY_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Month:
    """A month about to be published: its run, and what was published before it."""

    as_of: date
    run_id: str
    started_at: datetime
    previous: pd.DataFrame  # grades of the newest published month before this one; empty for the first
    previous_policy: str | None  # the tier policy of that month


@dataclass(frozen=True)
class Receipt:
    """What publishing did: `published`, or `unchanged` where the same content stood there already."""

    status: str
    run_id: str
    row_counts: Mapping[str, int]
    stale_months: Sequence[date]

    @property
    def rejected(self) -> int:
        """Rows of the company's tables that were set aside."""
        return self.row_counts["rejected_rows"]


@contextmanager
def month(config: Config, as_of: date) -> Iterator[Month]:
    """Hold this company's month for the block; raises BusyError where another run holds it."""
    import pandas as pd

    path = config.warehouse_path
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.stem}-{as_of}.lock")
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"Another run is grading {config.company} as of {as_of} (lock {lock}). Wait for it to end."
            ) from error
        started = datetime.now(UTC).replace(tzinfo=None)
        run_id = f"{as_of:%Y%m%d}-{started:%Y%m%dT%H%M%S%f}"
        previous, policy = pd.DataFrame(columns=list(PUBLISHED["grades"].names)), None
        if path.exists():
            with _warehouse(config) as db:
                before = "as_of_date = (SELECT max(as_of_date) FROM clv.published WHERE as_of_date < ?)"
                previous = db.frame(f"SELECT * FROM clv.grades WHERE {before} ORDER BY customer_id", [as_of])
                facts = db.rows(
                    f"SELECT detail FROM clv.month_facts WHERE name = 'tier_policy' AND {before}", [as_of]
                )
                policy = facts[0][0] if facts else None
        try:
            yield Month(as_of, run_id, started, previous, policy)
        finally:
            lock.unlink(missing_ok=True)


def publish(
    config: Config,
    month: Month,
    tables: Mapping[str, Sequence[pd.DataFrame]],
    *,
    expected_counts: Mapping[str, int],
    mlflow_run_id: str | None,
    why: Mapping[str, Any],
) -> Receipt:
    """Write the month's tables, audit them, and make them visible, in one transaction.

    `tables`: frames by published name, one below the other, without `as_of_date` and `run_id`; absent ones are
    empty. `expected_counts`: customers per tier that the policy asks for. Equal content publishes nothing.
    Raises PublishError where an audit refuses; nothing of the run is kept then.
    """
    frames = {name: _stacked(name, tables.get(name, ()), month) for name in PUBLISHED if name != "runs"}
    counts = {name: len(frame) for name, frame in frames.items()}
    with _warehouse(config) as db, db.transaction():
        for name, frame in frames.items():
            if len(frame):
                db.append(_rows_of(name), frame)
        _audit(db, month, expected_counts)
        content = _content_hash(db, month.run_id)
        [(published_run, published_content)] = db.rows(
            """SELECT max(p.run_id), max(r.content_hash) FROM clv.published AS p
               JOIN clv.runs AS r USING (run_id) WHERE p.as_of_date = ?""",
            [month.as_of],
        )
        unchanged = published_content == content
        if unchanged:
            for name in frames:
                db.run(f"DELETE FROM {_rows_of(name)} WHERE run_id = ?", [month.run_id])
            db.run("UPDATE clv.published SET is_stale = false WHERE as_of_date = ?", [month.as_of])
        status = "unchanged" if unchanged else "published"
        _record(db, config, month, status, counts, content, mlflow_run_id, why)
        stale: list[date] = []
        if not unchanged:
            db.run("DELETE FROM clv.published WHERE as_of_date = ?", [month.as_of])
            db.run("INSERT INTO clv.published VALUES (?, ?, false)", [month.as_of, month.run_id])
            db.run("UPDATE clv.published SET is_stale = true WHERE as_of_date > ?", [month.as_of])
            later = db.rows(
                "SELECT as_of_date FROM clv.published WHERE as_of_date > ? ORDER BY 1", [month.as_of]
            )
            stale = [row[0] for row in later]
    return Receipt(status, published_run if unchanged else month.run_id, counts, stale)


@contextmanager
def reader(config: Config) -> Iterator[Callable[..., pd.DataFrame]]:
    """A function (query, *parameters) -> frame over the published tables (schema `clv`), for the block."""
    with _warehouse(config) as db:
        yield lambda sql, *parameters: db.frame(sql, list(parameters))


@contextmanager
def _warehouse(config: Config) -> Iterator[Engine]:
    """The company's warehouse file, with the published schema in place."""
    with (
        workspace_of(config) as db,
        attached(db, config.warehouse_path, "warehouse", read_only=False),
    ):
        db.run("USE warehouse")
        _create_schema(db)
        yield db
        db.run("USE memory")


def _rows_of(name: str) -> str:
    return f"clv.{name}" if name in KEEP_EVERY_RUN else f"clv_rows.{name}"


def _stacked(name: str, frames: Sequence[pd.DataFrame], month: Month) -> pd.DataFrame:
    import pandas as pd

    table = PUBLISHED[name]
    full = [frame for frame in frames if len(frame)]
    if not full:
        return pd.DataFrame(columns=list(table.names))
    # Frames meet as objects: a column that is null throughout in one must not decide the type of the other.
    wide = [
        frame.reindex(columns=list(dict.fromkeys(c for f in full for c in f))).astype("object")
        for frame in full
    ]
    stacked = pd.concat(wide, ignore_index=True) if len(full) > 1 else full[0]
    return check(stacked.assign(as_of_date=month.as_of, run_id=month.run_id), table)


def _create_schema(db: Engine) -> None:
    if db.rows("SELECT 1 FROM duckdb_tables() WHERE schema_name = 'clv' AND table_name = 'published'"):
        return
    with db.transaction():
        db.run("CREATE SCHEMA IF NOT EXISTS clv")
        db.run("CREATE SCHEMA IF NOT EXISTS clv_rows")
        db.run("CREATE TABLE clv.published (as_of_date DATE, run_id VARCHAR, is_stale BOOLEAN)")
        for table in PUBLISHED.values():
            # No keys: on millions of rows an index makes a month 50 times slower; audits check uniqueness.
            db.run(f"CREATE TABLE {_rows_of(table.name)} ({table.ddl()})")
            if table.name not in KEEP_EVERY_RUN:
                columns = ", ".join(f'r."{name}"' for name in table.names)
                db.run(f"""
                    CREATE VIEW clv.{table.name} AS SELECT {columns} FROM clv_rows.{table.name} AS r
                    JOIN clv.published AS p ON p.as_of_date = r.as_of_date AND p.run_id = r.run_id
                """)
        db.run(TIER_HISTORY_SQL)
        db.run(MIGRATIONS_SQL)


TIER_HISTORY_SQL = """
    CREATE VIEW clv.tier_history AS
    WITH moved AS (
        SELECT as_of_date, run_id, customer_id, tier,
            lag(tier) OVER (PARTITION BY customer_id ORDER BY as_of_date) IS DISTINCT FROM tier AS opens
        FROM clv.grades
    )
    SELECT as_of_date, run_id, customer_id, tier, as_of_date AS valid_from,
        lead(as_of_date) OVER (PARTITION BY customer_id ORDER BY as_of_date) AS valid_to
    FROM moved WHERE opens
"""

MIGRATIONS_SQL = """
    CREATE VIEW clv.migrations AS
    SELECT as_of_date, run_id, previous_tier AS from_tier, tier AS to_tier, count(*) AS customers,
        sum(contribution_margin) AS contribution_margin
    FROM clv.grades WHERE previous_tier IS NOT NULL
    GROUP BY as_of_date, run_id, previous_tier, tier
"""


def _content_hash(db: Engine, run_id: str) -> str:
    """Hash of all rows of the run, whatever their order, without the run's own id."""
    digest = hashlib.sha256()
    for name in sorted(set(PUBLISHED) - {"runs"}):
        select = f"SELECT * EXCLUDE (run_id) FROM {_rows_of(name)} WHERE run_id = ?"
        digest.update(f"{name}:{content_hash(db, select, [run_id])};".encode())
    return digest.hexdigest()


def _record(
    db: Engine,
    config: Config,
    month: Month,
    status: str,
    counts: Mapping[str, int],
    content: str,
    mlflow_run_id: str | None,
    why: Mapping[str, Any],
) -> None:
    db.run(
        f"INSERT INTO clv.runs VALUES ({', '.join('?' * len(PUBLISHED['runs'].names))})",
        [
            month.as_of,
            month.run_id,
            "score",
            status,
            month.started_at,
            datetime.now(UTC).replace(tzinfo=None),
            config.hash,
            __version__,
            mlflow_run_id,
            content,
            json.dumps(dict(counts), sort_keys=True),
            json.dumps(dict(why), sort_keys=True, ensure_ascii=False),
        ],
    )


def _audit(db: Engine, month: Month, expected_counts: Mapping[str, int]) -> None:
    """Refuse a month that contradicts itself, before anybody can see it."""
    run = [month.run_id]
    audits = {
        "customers graded, but without criteria": """
            SELECT count(*) FROM clv_rows.grades AS g WHERE run_id = ?1 AND NOT EXISTS (
                SELECT 1 FROM clv_rows.criteria AS c WHERE c.run_id = ?1 AND c.customer_id = g.customer_id)""",
        "scores outside 0-100": """
            SELECT count(*) FROM clv_rows.grades WHERE run_id = ?1
            AND (composite_score < 0 OR composite_score > 100 OR isnan(composite_score))""",
        "figures that are not finite": """
            SELECT count(*) FROM clv_rows.criteria WHERE run_id = ?1
            AND (NOT isfinite(coalesce(value, 0)) OR NOT isfinite(coalesce(score, 0)))""",
        "probabilities outside 0-1": """
            SELECT count(*) FROM clv_rows.grades WHERE run_id = ?1
            AND (late_payment_probability NOT BETWEEN 0 AND 1 OR probability_active NOT BETWEEN 0 AND 1
                 OR conversion_probability NOT BETWEEN 0 AND 1)""",
        "intervals that miss their own estimate": """
            SELECT count(*) FROM clv_rows.grades WHERE run_id = ?1 AND (clv_low > clv OR clv_high < clv)""",
        "scored customers whose weights do not sum to 1": """
            SELECT count(*) FROM (
                SELECT g.customer_id FROM clv_rows.grades AS g JOIN clv_rows.criteria AS c USING (run_id, customer_id)
                WHERE g.run_id = ?1 AND g.composite_score IS NOT NULL
                GROUP BY g.customer_id HAVING abs(sum(c.weight) - 1) > 1e-9)""",
        "customers whose reasons do not add up to their score": f"""
            SELECT count(*) FROM clv_rows.grades AS g LEFT JOIN (
                SELECT customer_id, sum(points) AS points FROM clv_rows.reasons WHERE run_id = ?1 GROUP BY customer_id
            ) AS r USING (customer_id)
            WHERE g.run_id = ?1 AND g.composite_score IS NOT NULL
            AND NOT coalesce(
                abs(g.composite_baseline + r.points - g.composite_score) <= {ADDITIVITY_TOLERANCE}, false)""",
    }
    for finding, sql in audits.items():
        [(count,)] = db.rows(sql, run)
        if count:
            raise PublishError(
                f"Audit of {month.as_of}: expected none, found {count} {finding}. Nothing was published."
            )
    found = dict(db.rows("SELECT tier, count(*) FROM clv_rows.grades WHERE run_id = ? GROUP BY tier", run))
    for tier, expected in expected_counts.items():
        if found.get(tier, 0) != expected:
            raise PublishError(
                f"Audit of {month.as_of}: expected {expected} in tier {tier}, found {found.get(tier, 0)}. "
                "Nothing was published."
            )
