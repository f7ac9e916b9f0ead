"""What a published month holds about one customer or prospect."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pandas as pd

from clv import first_order, ingest
from clv.errors import ConfigError
from clv.month_facts import override_name
from clv.published import warehouse
from clv.warehouse import workspace_of

if TYPE_CHECKING:
    from clv.config import Config

NAMED = 5
NEAR_EDITS = 3  # an id this many letters away may have been meant

Read = Callable[..., pd.DataFrame]


@dataclass(frozen=True)
class Facts:
    """The rows of one customer in the newest month published on or before the date asked for.

    `grade`: its row of `grades`, nulls as None; `ranked`: how many customers (or prospects) have a rank; `members`:
    active customers in its account group; `decision`: who set its tier, until when and why; `step`: what the first
    order changed of who was a prospect last month (first_order.of_customer); the tables are its rows of those names, in
    the order in which they are read.
    """

    as_of: date
    grade: Mapping[str, Any]
    name: str | None
    ranked: int
    members: int
    decision: Mapping[str, str] | None
    step: Mapping[str, float | None] | None
    criteria: pd.DataFrame
    value_outlook: pd.DataFrame
    reasons: pd.DataFrame
    changes: pd.DataFrame
    paths: pd.DataFrame
    tier_history: pd.DataFrame


_ORDERS = {
    "criteria": "weight DESC NULLS LAST, criterion",
    "value_outlook": "horizon_months",
    "reasons": "position",
    "changes": "abs(points) DESC, block",
    "paths": "lever",
}


def read_facts(config: Config, as_of: date, customer_id: str) -> Facts:
    """Of `customer_id`, from the newest month published on or before `as_of`.

    Raises ConfigError where nothing is published by then, or nobody has this id: with the nearest ones.
    """
    if not config.warehouse_path.exists():
        raise _nothing_published(config, as_of, "no warehouse file")
    with workspace_of(config) as db, warehouse(db, config, read_only=True) as has_schema:
        month = None
        if has_schema:
            [(month,)] = db.rows("SELECT max(as_of_date) FROM clv.published WHERE as_of_date <= ?", [as_of])
        if month is None:
            raise _nothing_published(config, as_of, "none")
        day: date = month

        def read(sql: str, *parameters: Any) -> pd.DataFrame:
            return db.frame(sql, list(parameters))

        found = read("SELECT * FROM clv.grades WHERE as_of_date = ? AND customer_id = ?", day, customer_id)
        if found.empty:
            raise ConfigError(_unknown(read, day, customer_id))
        grade = _row(found)
        tables = {
            name: read(
                f"SELECT * FROM clv.{name} WHERE as_of_date = ? AND customer_id = ? ORDER BY {order}",
                day,
                customer_id,
            )
            for name, order in _ORDERS.items()
        }
        source, group = grade["value_source"], grade["account_group_id"]
        counts = read(
            """SELECT count(composite_rank) FILTER (WHERE value_source = ?) AS ranked,
                count(*) FILTER (WHERE account_group_id = ? AND tier <> 'inactive') AS members
            FROM clv.grades WHERE as_of_date = ?""",
            *(source, group, day),
        )
        decided = read(
            "SELECT detail FROM clv.month_facts WHERE as_of_date = ? AND name = ?",
            *(day, override_name(customer_id, grade["tier"])),
        )
        spells = read(
            "SELECT tier, valid_from, valid_to FROM clv.tier_history WHERE customer_id = ? AND valid_from <= ? "
            "ORDER BY valid_from DESC",
            *(customer_id, day),
        )
        step = first_order.of_customer(read, customer_id, day)
    ahead = spells["valid_to"] > pd.Timestamp(day)  # as of the month, what ended later had not ended yet
    return Facts(
        as_of=day,
        grade=grade,
        name=ingest.customer_names(config, day, [customer_id]).get(customer_id),
        ranked=int(counts["ranked"].iloc[0]),
        members=int(counts["members"].iloc[0]),
        decision=json.loads(decided["detail"].iloc[0]) if len(decided) else None,
        step=step,
        tier_history=spells.assign(valid_to=spells["valid_to"].mask(ahead)),
        **tables,
    )


def _row(frame: pd.DataFrame) -> dict[str, Any]:
    """The only row, whatever is null as None."""
    return {str(name): None if pd.isna(value) else value for name, value in frame.iloc[0].items()}


def _nothing_published(config: Config, as_of: date, found: str) -> ConfigError:
    return ConfigError(
        f"Expected a month of {config.company} published on or before {as_of} in {config.warehouse_path}, found "
        f"{found}. Grade one first: score.py --as-of {as_of}."
    )


def _unknown(read: Read, as_of: date, customer_id: str) -> str:
    """That nobody has this id, and who may have been meant."""
    near = read(
        """SELECT customer_id FROM clv.grades WHERE as_of_date = ?
            AND (levenshtein(lower(customer_id), lower(?)) <= ? OR contains(lower(customer_id), lower(?)))
        ORDER BY levenshtein(lower(customer_id), lower(?)), customer_id LIMIT ?""",
        *(as_of, customer_id, NEAR_EDITS, customer_id, customer_id, NAMED),
    )["customer_id"].tolist()
    examples = read(
        "SELECT customer_id FROM clv.grades WHERE as_of_date = ? ORDER BY value_source, composite_rank LIMIT 3",
        as_of,
    )["customer_id"].tolist()
    hint = (
        f"near it are {', '.join(map(repr, near))}"
        if near
        else f"ids look like {', '.join(map(repr, examples))}"
    )
    return (
        f"--customer: expected the id of a customer or prospect graded as of {as_of}, found {customer_id!r}; {hint}. "
        "Ids are those of the company's tables, letter by letter."
    )
