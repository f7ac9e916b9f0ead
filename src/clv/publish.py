"""Results -> warehouse: one month at a time, all of it or nothing.

Rows are audited in the workspace first. Then they land in the schema `clv_rows` under their run_id, and one row of
`clv.published` makes the month visible; the tables people read are views over the published runs. So a reader sees
the old month or the new one, never a mixture.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, TextIO

import duckdb

from clv import __version__, audits
from clv.errors import BusyError, PublishError
from clv.published import create_views, rows_of, warehouse
from clv.tables import PUBLISHED, check
from clv.warehouse import Engine, content_hash, workspace_of

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from clv.config import Config

LOG = logging.getLogger("clv")

FACTS = "month_facts"  # in `runs.why` of a training: its findings for the months that it grades

STAGED = tuple(name for name in PUBLISHED if name != "runs")

# Columns travel typed: guessing a type from a sample fails where the first values are all null.
_PANDAS_TYPES = {
    "VARCHAR": "str",
    "DOUBLE": "float64",
    "DECIMAL(18,4)": "float64",
    "INTEGER": "Int64",
    "BOOLEAN": "boolean",
    "DATE": "datetime64[s]",
}


@dataclass(frozen=True)
class Month:
    """A month about to be published: its run, and what was published before it."""

    as_of: date
    run_id: str
    started_at: datetime
    previous: pd.DataFrame  # grades of the newest published month before this one; empty for the first
    previous_policies: Mapping[str, str]  # what decided the tiers of that month, as in month_facts
    previous_run: str | None  # its run
    earlier: (
        pd.DataFrame
    )  # customer_id, month, policy_tier and tier_rule of the months on which gates look back


@dataclass(frozen=True)
class Receipt:
    """What publishing did: `published`, or `unchanged` where the same content stood there already.

    `stale_months`: those published before, that rest on a month which has changed since.
    """

    status: str
    run_id: str
    row_counts: Mapping[str, int]
    stale_months: Sequence[date]

    @property
    def rejected(self) -> int:
        """Rows of the company's tables that were set aside."""
        return self.row_counts["rejected_rows"]


@dataclass
class Training:
    """What a training run says about itself when it ends."""

    mlflow_run_id: str | None = None
    why: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def month(config: Config, as_of: date) -> Iterator[Month]:
    """Hold this company's month for the block; an error in it is recorded in `runs`, and goes on.

    Raises BusyError where another run holds the month, or its file.
    """
    with _held(config, as_of):
        started = _now()
        run_id = _run_id(as_of, started)
        try:
            yield Month(as_of, run_id, started, *_month_before(config, as_of), _earlier(config, as_of))
        except Exception as error:
            _record_failure(config, as_of, run_id, "score", started, error)
            raise


def months_before(config: Config, as_of: date) -> Month:
    """What `month` hands out, for who only looks: no run, and nobody is kept out."""
    return Month(as_of, "", _now(), *_month_before(config, as_of), _earlier(config, as_of))


def measured_before(config: Config, month: Month) -> tuple[pd.DataFrame, bool]:
    """The criteria of the month before `month`, as published (customer_id, criterion, score, weight; none for the first
    month), and whether the run that wrote them had the same settings."""
    import pandas as pd

    if month.previous_run is None:
        return pd.DataFrame(columns=["customer_id", "criterion", "score", "weight"]), True
    with workspace_of(config) as db, warehouse(db, config, read_only=True):
        criteria = db.frame(
            """SELECT customer_id, criterion, score, weight FROM clv_rows.criteria
               WHERE run_id = ? ORDER BY criterion, customer_id""",
            [month.previous_run],
        )
        hashes = db.rows("SELECT config_hash FROM clv.runs WHERE run_id = ?", [month.previous_run])
    return criteria, hashes == [(config.hash,)]


@contextmanager
def training(config: Config, as_of: date) -> Iterator[Training]:
    """Record the block in `runs` as a training run: `trained`, with what the block says, or `failed`, with why."""
    started = _now()
    run_id = _run_id(as_of, started)
    said = Training()
    try:
        yield said
    except Exception as error:
        _record_failure(config, as_of, run_id, "train", started, error)
        raise
    try:
        with workspace_of(config) as db, warehouse(db, config), db.transaction():
            _record(
                db,
                config,
                as_of,
                run_id,
                "train",
                "trained",
                started,
                said.why,
                mlflow_run_id=said.mlflow_run_id,
            )
    except BusyError as error:  # the models are registered by now; that nobody may write here undoes nothing
        LOG.warning("The training run is not in clv.runs: %s", error)


def publish(
    config: Config,
    month: Month,
    tables: Mapping[str, Sequence[pd.DataFrame]],
    *,
    expected_counts: Mapping[tuple[str, str], int],
    mlflow_run_id: str | None,
    why: Mapping[str, Any],
) -> Receipt:
    """Audit the month's tables, write them, and make them visible, in one transaction.

    `tables`: frames by published name, one below the other, without `as_of_date` and `run_id`; absent ones are
    empty. `expected_counts`: (value_source, tier) -> how many the policy asks for. Equal content publishes nothing.
    A month that rests on a stale one is stale itself. Raises PublishError where an audit refuses; nothing of the
    run is kept then.
    """
    with workspace_of(config) as db:
        counts = _stage(db, month, tables)
        audits.refuse(db, month.as_of, expected_counts)
        content = _content_hash(db)
        with warehouse(db, config), db.transaction():
            create_views(db)
            standing = db.rows(
                """SELECT p.run_id, r.content_hash FROM clv.published AS p JOIN clv.runs AS r USING (run_id)
                   WHERE p.as_of_date = ?""",
                [month.as_of],
            )
            unchanged = bool(standing) and standing[0][1] == content
            run_id = standing[0][0] if unchanged else month.run_id
            if not unchanged:
                for name in STAGED:
                    db.run(f"INSERT INTO {rows_of(name)} SELECT * FROM {audits.STAGED}.{name}")
                db.run("UPDATE clv.published SET is_stale = true WHERE as_of_date > ?", [month.as_of])
            is_stale = _month_published_before(db, month.as_of) not in (None, (month.previous_run, False))
            db.run("DELETE FROM clv.published WHERE as_of_date = ?", [month.as_of])
            db.run("INSERT INTO clv.published VALUES (?, ?, ?)", [month.as_of, run_id, is_stale])
            stale = db.rows("SELECT as_of_date FROM clv.published WHERE is_stale ORDER BY 1")
            status = "unchanged" if unchanged else "published"
            _record(
                db,
                config,
                month.as_of,
                month.run_id,
                "score",
                status,
                month.started_at,
                why,
                mlflow_run_id=mlflow_run_id,
                content=content,
                counts=counts,
            )
    return Receipt(status, run_id, counts, [row[0] for row in stale])


def facts_of_training(config: Config, mlflow_run_id: str) -> list[tuple[str, float | None, str]]:
    """What the training run found that belongs into the months it grades: rows of `month_facts`; empty where none."""
    if not config.warehouse_path.exists():
        return []
    with workspace_of(config) as db, warehouse(db, config, read_only=True) as has_schema:
        found = (
            db.rows(
                """SELECT why FROM clv.runs WHERE kind = 'train' AND mlflow_run_id = ?
                   ORDER BY finished_at DESC, run_id LIMIT 1""",
                [mlflow_run_id],
            )
            if has_schema
            else []
        )
    return (
        [(name, value, detail) for name, value, detail in json.loads(found[0][0]).get(FACTS, [])]
        if found
        else []
    )


@contextmanager
def reader(config: Config) -> Iterator[Callable[..., pd.DataFrame]]:
    """A function (query, *parameters) -> frame over the published tables (schema `clv`), for the block."""
    with workspace_of(config) as db, warehouse(db, config, read_only=True):
        yield lambda sql, *parameters: db.frame(sql, list(parameters))


@contextmanager
def _held(config: Config, as_of: date) -> Iterator[None]:
    """This company's month belongs to this process for the block; a process that dies lets go of it."""
    lock = config.warehouse_path.with_name(f".{config.warehouse_path.stem}-{as_of}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _locked(lock) as handle:
        if handle is None:
            raise BusyError(
                f"Expected nobody else to grade {config.company} as of {as_of}, found another run that does (lock "
                f"{lock}). Nothing was published. Wait for it to end, then start again."
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[TextIO | None]:
    """The file at `path`, locked; None where another process holds it.

    Who held it removes it before letting go, so what was opened may be locked and yet be no longer the file at
    `path`, which a third process may hold by now: then it is opened again.
    """
    while True:
        with path.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            if path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                yield handle
                return


def _month_before(config: Config, as_of: date) -> tuple[pd.DataFrame, dict[str, str], str | None]:
    """Grades, tier policies and run of the newest month published before `as_of`."""
    import pandas as pd

    if config.warehouse_path.exists():
        with workspace_of(config) as db, warehouse(db, config, read_only=True) as has_schema:
            before = _month_published_before(db, as_of) if has_schema else None
            if before is not None:
                [run_id, _] = before
                grades = db.frame(
                    "SELECT * FROM clv_rows.grades WHERE run_id = ? ORDER BY customer_id", [run_id]
                )
                policies = db.rows(
                    "SELECT name, detail FROM clv_rows.month_facts WHERE run_id = ? AND ends_with(name, 'tier_policy')",
                    [run_id],
                )
                return grades, dict(policies), run_id
    return pd.DataFrame(columns=list(PUBLISHED["grades"].names)), {}, None


def _earlier(config: Config, as_of: date) -> pd.DataFrame:
    """The policy tiers of the newest months published before `as_of`, as many as the settings look back on.

    A row per customer and month, 1 the newest of them.
    """
    import pandas as pd

    months = config.tiers.confirmation_runs - 1
    if months and config.warehouse_path.exists():
        with workspace_of(config) as db, warehouse(db, config, read_only=True) as has_schema:
            if has_schema:
                return db.frame(
                    """WITH months AS (
                        SELECT as_of_date, row_number() OVER (ORDER BY as_of_date DESC) AS month
                        FROM clv.published WHERE as_of_date < ? ORDER BY as_of_date DESC LIMIT ?
                    )
                    SELECT customer_id, month, policy_tier FROM clv.grades JOIN months USING (as_of_date)
                    WHERE value_source = 'history' ORDER BY month, customer_id""",
                    [as_of, months],
                )
    return pd.DataFrame({"customer_id": [], "month": [], "policy_tier": []})


def _month_published_before(db: Engine, as_of: date) -> tuple[str, bool] | None:
    """Run of the newest month published before `as_of`, and whether it is stale."""
    found = db.rows(
        "SELECT run_id, is_stale FROM clv.published WHERE as_of_date < ? ORDER BY as_of_date DESC LIMIT 1",
        [as_of],
    )
    return found[0] if found else None


def _stage(db: Engine, month: Month, tables: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, int]:
    """The month's rows in the workspace, typed as they will be published; returns rows per table."""
    counts = {}
    db.run(f"CREATE SCHEMA {audits.STAGED}")
    for name in STAGED:
        db.run(f"CREATE TABLE {audits.STAGED}.{name} ({PUBLISHED[name].ddl()})")
        frame = _stacked(name, tables.get(name, ()), month)
        try:
            db.append(f"{audits.STAGED}.{name}", frame)
        except duckdb.ConversionException as error:
            raise PublishError(
                f"{name}: expected figures that fit its columns, found: {str(error).splitlines()[0]}. "
                "Nothing was published."
            ) from error
        counts[name] = len(frame)
    db.run(f"CREATE TABLE {audits.PREVIOUS} ({audits.PREVIOUS_COLUMNS})")
    if len(month.previous):
        columns = [column.split()[0] for column in audits.PREVIOUS_COLUMNS.split(", ")]
        db.append(audits.PREVIOUS, month.previous[columns])
    return counts


def _stacked(name: str, frames: Sequence[pd.DataFrame], month: Month) -> pd.DataFrame:
    import pandas as pd

    table = PUBLISHED[name]
    # Frames meet as objects: a column that is null throughout in one must not decide the type of the other.
    full = [frame.astype("object") for frame in frames if len(frame)]
    stacked = pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=list(table.names))
    checked = check(stacked.assign(as_of_date=month.as_of, run_id=month.run_id), table)
    return checked.astype({column.name: _PANDAS_TYPES[column.type] for column in table.columns})


def _content_hash(db: Engine) -> str:
    """Hash of all staged rows, whatever their order, without the run's own id."""
    digest = hashlib.sha256()
    for name in sorted(STAGED):
        select = f"SELECT * EXCLUDE (run_id) FROM {audits.STAGED}.{name}"
        digest.update(f"{name}:{content_hash(db, select)};".encode())
    return digest.hexdigest()


def _record_failure(
    config: Config, as_of: date, run_id: str, kind: str, started: datetime, error: Exception
) -> None:
    """A row of `runs` for a run that ended in `error`, where there is a warehouse that can be written."""
    if not config.warehouse_path.exists():
        return
    why = {"error": str(error), "kind": type(error).__name__}
    try:
        with workspace_of(config) as db, warehouse(db, config), db.transaction():
            _record(db, config, as_of, run_id, kind, "failed", started, why)
    except PublishError as busy:
        LOG.warning("The failed run is not in clv.runs: %s", busy)


def _record(
    db: Engine,
    config: Config,
    as_of: date,
    run_id: str,
    kind: str,
    status: str,
    started: datetime,
    why: Mapping[str, Any],
    *,
    mlflow_run_id: str | None = None,
    content: str | None = None,
    counts: Mapping[str, int] | None = None,
) -> None:
    db.run(
        f"INSERT INTO clv.runs VALUES ({', '.join('?' * len(PUBLISHED['runs'].names))})",
        [
            as_of,
            run_id,
            kind,
            status,
            started,
            _now(),
            config.hash,
            __version__,
            mlflow_run_id,
            content,
            json.dumps(dict(counts or {}), sort_keys=True),
            json.dumps(dict(why), sort_keys=True, ensure_ascii=False),
        ],
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _run_id(as_of: date, started: datetime) -> str:
    return f"{as_of:%Y%m%d}-{started:%Y%m%dT%H%M%S%f}"
