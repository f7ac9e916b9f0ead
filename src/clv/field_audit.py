"""Attributes that claim to be known at first contact, held against what the data say of them.

What sales write after the contact gives the conversion away. Refused is a field that is filled for those who ordered
alone, that tells them from the others by itself, that beats everything else together, or that changed while people
were prospects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clv import metrics
from clv.errors import ConfigError
from clv.models.attributes import AttributeEncoder
from clv.models.boosting import train_trees
from clv.models.links import Floats, Link, logistic
from clv.models.prospect_parts import CONVERSION
from clv.warehouse import quote

if TYPE_CHECKING:
    from clv.config import Attribute
    from clv.warehouse import Engine

MIN_ROWS = 20  # of converted and of unconverted, and of a level that may speak for itself
MAX_AUC = 0.95
FILL_RATIO = 0.05  # unconverted filled this rarely, relative to converted
BINS = 20
CHANGED_RATIO = 0.10  # of converted or of unconverted
MIN_CHANGED = 10
EXAMPLES = 3
# The length of a bank's sales calls: 0.82 alone, ten honest fields together 0.74 and none of them above 0.65; the
# shortest fifth of the calls has 6 % of its share of conversions. The invented company's best field reaches 0.64.
SUSPECT_AUC = 0.75
SUSPECT_LEAD_AUC = 0.03
SUSPECT_MIN_OTHERS = 3
SUSPECT_SAMPLE = 20_000
EMPTY_RATIO, EMPTY_END_RATIO = 0.10, 0.2  # conversions relative to their share, in so much of the people
FOLDS, TREES = 5, 100
REMEDY = "Declare it known_at: after_contact, or map what was known at first contact."


def audit_fields(db: Engine, attributes: Mapping[str, Attribute], seed: int) -> None:
    """Refuse an attribute that claims to be known at first contact but betrays who became a customer.

    Four signs, among everybody ever contacted (`past` shows the date):

    - it is filled (almost) only for those who have ordered;
    - by itself it tells them from the others with an AUC of 0.95 or more (levels of at least 20 rows ranked by their
      conversion rate, numbers in up to 20 bins; rarer levels together, nulls a level of their own);
    - of dated customers (`valid_from`): the value known at first contact changed later, up to the first order, for
      one in ten of those who ordered or of those who did not;
    - a number beats all the others: alone it reaches an AUC of 0.75 and 0.03 more than all others together (three at
      least; cross-validated mean of trees and logistic regression), and of the fifth of people with the lowest or
      highest values hardly anybody ordered, less than a tenth of their share: without it no order comes. An honest
      field may be that good: `checked` says that somebody looked.

    Needs 20 converted and 20 unconverted rows to speak. Raises ConfigError naming the attribute and the evidence.
    """
    claimed = {name: a for name, a in attributes.items() if a.known_at == "first_contact"}
    levels = {name: _counts_by_level(db, name, attribute) for name, attribute in claimed.items()}
    aucs = {name: _audit_levels(name, levels[name]) for name in claimed}
    _audit_changes(db, claimed)
    for name, attribute in claimed.items():
        others = {other: a for other, a in claimed.items() if other != name}
        is_suspect = (
            attribute.type == "number"
            and not attribute.checked
            and aucs[name] >= SUSPECT_AUC
            and len(others) >= SUSPECT_MIN_OTHERS
        )
        end = _empty_end(levels[name]) if is_suspect else None
        if end is not None:
            _audit_best(db, name, aucs[name], end, others, seed)


def _counts_by_level(db: Engine, name: str, attribute: Attribute) -> pd.DataFrame:
    """One row per level of an attribute (null = not filled): counts of converted and of unconverted customers."""
    column = quote(name)
    level = f"CAST({column} AS VARCHAR)"
    if attribute.type == "number":
        rank = f"rank() OVER (PARTITION BY {column} IS NULL ORDER BY {column}) - 1"
        filled = f"count({column}) OVER ()"
        bins = f"greatest(1, least({BINS}, {filled} // {MIN_ROWS}))"
        level = f"CASE WHEN {column} IS NOT NULL THEN CAST(({rank}) * {bins} // {filled} AS VARCHAR) END"
    return db.frame(f"""
        WITH people AS (
            SELECT {level} AS level, customer_id IN (SELECT customer_id FROM past.order_lines) AS converted
            FROM past.customers WHERE first_contact_date IS NOT NULL
        )
        SELECT level, count(*) FILTER (converted) AS converted, count(*) FILTER (NOT converted) AS unconverted
        FROM people GROUP BY level ORDER BY level
    """)


def _audit_levels(name: str, levels: pd.DataFrame) -> float:
    """The AUC of the attribute alone, 0.5 where there are too few rows to speak."""
    converted, unconverted = int(levels["converted"].sum()), int(levels["unconverted"].sum())
    if min(converted, unconverted) < MIN_ROWS:
        return 0.5
    filled = levels[levels["level"].notna()]
    filled_converted, filled_unconverted = int(filled["converted"].sum()), int(filled["unconverted"].sum())
    expected = filled_converted / converted * unconverted
    if expected >= MIN_ROWS / 2 and filled_unconverted <= FILL_RATIO * expected:
        raise ConfigError(
            f"attributes.{name}: expected a field known at first contact, found it filled for {filled_converted} "
            f"of {converted} who became customers and {filled_unconverted} of {unconverted} who did not. {REMEDY}"
        )
    rare = levels[["converted", "unconverted"]].sum(axis=1) < MIN_ROWS
    kept = levels.loc[~rare, ["converted", "unconverted"]].astype("float64")
    if rare.any():
        kept.loc[len(levels)] = levels.loc[rare, ["converted", "unconverted"]].sum().astype("float64")
    kept = kept.loc[(kept["converted"] / kept.sum(axis=1)).sort_values(kind="stable").index]
    below = kept["unconverted"].cumsum() - kept["unconverted"] / 2  # ties count one half
    auc = float((kept["converted"] * below).sum() / (converted * unconverted))
    if auc >= MAX_AUC:
        raise ConfigError(
            f"attributes.{name}: expected a field known at first contact, found that alone it tells {converted} who "
            f"became customers from {unconverted} who did not with an AUC of {auc:.3f}. {REMEDY}"
        )
    return auc


def _audit_changes(db: Engine, attributes: Mapping[str, Attribute]) -> None:
    for name in attributes:
        changes = _changes_sql(name)
        counts = {
            bool(converted): (people, changed)
            for converted, people, changed in db.rows(
                f"SELECT converted, count(*), count(later) FROM ({changes}) AS found GROUP BY converted"
            )
        }
        (converted, changed_converted), (others, changed_others) = (
            counts.get(kind, (0, 0)) for kind in (True, False)
        )
        share = max(changed_converted / max(converted, 1), changed_others / max(others, 1))
        if changed_converted + changed_others < MIN_CHANGED or share < CHANGED_RATIO:
            continue
        first = db.rows(
            f"SELECT customer_id, at_contact, later FROM ({changes}) AS found WHERE later IS NOT NULL "
            f"ORDER BY converted DESC, customer_id LIMIT {EXAMPLES}"
        )
        examples = ", ".join(f"{customer} {before} -> {after}" for customer, before, after in first)
        raise ConfigError(
            f"attributes.{name}: expected a field known at first contact, found that it changed between first "
            f"contact and first order for {changed_converted} of {converted} who became customers, and since first "
            f"contact for {changed_others} of {others} who did not (first: {examples}). {REMEDY}"
        )


def _changes_sql(name: str) -> str:
    """One row per dated customer ever contacted: `converted`, the attribute's text `at_contact`, and the first that
    differed from it until the first order, `later` (null where it stayed).

    What changes once somebody is a customer says nothing of prospects, and no snapshot of one shows it.
    """
    value = f"coalesce(CAST({quote(name)} AS VARCHAR), 'null')"
    is_known = "c.valid_from <= c.first_contact_date"
    return f"""
        WITH orders AS (
            SELECT customer_id, min(order_date) AS first_order_date FROM past.order_lines GROUP BY customer_id
        ),
        versions AS (
            SELECT c.customer_id, c.valid_from, {value} AS value, o.first_order_date,
                row_number() OVER (PARTITION BY c.customer_id ORDER BY {is_known} DESC,
                    CASE WHEN {is_known} THEN c.valid_from END DESC NULLS LAST, c.valid_from) AS place
            FROM past.customer_versions AS c LEFT JOIN orders AS o ON o.customer_id = c.customer_id
            WHERE c.valid_from IS NOT NULL AND c.first_contact_date IS NOT NULL
        ),
        contacts AS (SELECT * FROM versions WHERE place = 1),
        changes AS (
            SELECT v.customer_id, v.value AS later
            FROM versions AS v JOIN contacts AS c ON c.customer_id = v.customer_id
            WHERE v.valid_from > c.valid_from AND v.value <> c.value
              AND (v.first_order_date IS NULL OR v.valid_from <= v.first_order_date)
            QUALIFY row_number() OVER (PARTITION BY v.customer_id ORDER BY v.valid_from) = 1
        )
        SELECT c.customer_id, c.first_order_date IS NOT NULL AS converted, c.value AS at_contact, x.later
        FROM contacts AS c LEFT JOIN changes AS x ON x.customer_id = c.customer_id"""


def _empty_end(bins: pd.DataFrame) -> tuple[str, int, float] | None:
    """Which end of a number's bins holds a fifth of the people and hardly any who ordered: its name, how many did,
    and how many would have, had they been like the rest; None where neither does."""
    filled = bins[bins["level"].notna()].astype({"level": "int64"}).sort_values("level")
    counts = filled[["converted", "unconverted"]].to_numpy(np.float64)
    rate = counts[:, 0].sum() / counts.sum()
    for name, ordered in (("lowest", counts), ("highest", counts[::-1])):
        reached = np.cumsum(ordered.sum(axis=1))
        end = ordered[: int(np.searchsorted(reached, EMPTY_END_RATIO * reached[-1] - 0.5)) + 1]
        found, expected = float(end[:, 0].sum()), float(end.sum() * rate)
        if expected >= MIN_ROWS / 2 and found < EMPTY_RATIO * expected:
            return name, int(found), expected
    return None


def _audit_best(
    db: Engine,
    name: str,
    auc: float,
    end: tuple[str, int, float],
    others: Mapping[str, Attribute],
    seed: int,
) -> None:
    columns = ", ".join(quote(other) for other in others)
    people = db.frame(f"""
        SELECT {columns}, customer_id IN (SELECT customer_id FROM past.order_lines) AS converted
        FROM past.customers WHERE first_contact_date IS NOT NULL
        ORDER BY md5(customer_id), customer_id LIMIT {SUSPECT_SAMPLE}
    """)
    together = _joint_auc(people, others, seed)
    if auc >= together + SUSPECT_LEAD_AUC:
        side, found, expected = end
        raise ConfigError(
            f"attributes.{name}: expected a field known at first contact, found that alone it tells who became a "
            f"customer with an AUC of {auc:.3f}, better than the {len(others)} others together ({together:.3f}), and "
            f"that of the fifth with the {side} values {found} ordered where {expected:.0f} would have: so it is with "
            f"what is written down after the contact. {REMEDY} If it is known then, say under checked how."
        )


def _joint_auc(people: pd.DataFrame, attributes: Mapping[str, Attribute], seed: int) -> float:
    """Out-of-fold AUC of `converted` by all `attributes` together."""
    encoder = AttributeEncoder.fit(people, attributes)
    X, converted = encoder.transform(people).to_numpy(np.float64), people["converted"].to_numpy(np.float64)
    fold = np.random.default_rng(seed).permutation(len(people)) % FOLDS
    raw: Floats = np.zeros(len(people))
    if X.shape[1]:
        for k in range(FOLDS):
            learned, held = fold != k, fold == k
            trees = train_trees(
                X[learned], converted[learned], CONVERSION | {"num_leaves": 4}, TREES, seed, 1
            )
            linear = logistic(X[learned], converted[learned], encoder.features(), 1.0)
            raw[held] = Link(trees, linear, 0.0).raw(X[held])
    return metrics.auc(converted, raw)
