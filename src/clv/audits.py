"""What a month must satisfy before anybody can see it; each audit counts the rows that contradict it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from clv.errors import PublishError
from clv.tables import PUBLISHED
from clv.warehouse import Engine

STAGED = "memory.staged"
PREVIOUS = f"{STAGED}.previous"  # of the grades of the month before, what the changes are held against
PREVIOUS_COLUMNS = (
    "customer_id VARCHAR, value_source VARCHAR, tier VARCHAR, tier_rule VARCHAR, composite_score DOUBLE, "
    "tier_edge_score DOUBLE"
)
ADDITIVITY_TOLERANCE = 1e-6
WEIGHT_TOLERANCE = 1e-9


def refuse(db: Engine, as_of: date, expected_counts: Mapping[tuple[str, str], int]) -> None:
    """Raises PublishError at the first audit that the tables in the schema `staged` do not pass.

    `expected_counts`: (value_source, tier) -> how many the policy asks for.
    """
    for finding, sql in {**_figures(), **_AUDITS}.items():
        [(count,)] = db.rows(sql)
        if count:
            raise PublishError(
                f"Audit of {as_of}: expected none, found {count} {finding}. Nothing was published. "
                "This is a fault of the program or of its models: train again, and report it if it stays."
            )
    found = {
        (source, tier): count
        for source, tier, count in db.rows(
            f"SELECT value_source, tier, count(*) FROM {STAGED}.grades GROUP BY ALL"
        )
    }
    for (source, tier), expected in expected_counts.items():
        if found.get((source, tier), 0) != expected:
            raise PublishError(
                f"Audit of {as_of}: expected {expected} in tier {tier} ({source}), found "
                f"{found.get((source, tier), 0)}. Nothing was published. This is a fault of the program: report it."
            )


def _figures() -> dict[str, str]:
    """Per table with floating figures: rows in which one is not finite (a missing figure is null, never NaN)."""
    audits = {}
    for table in PUBLISHED.values():
        doubles = [column.name for column in table.columns if column.type == "DOUBLE"]
        if doubles:
            broken = " OR ".join(f'NOT isfinite("{name}")' for name in doubles)
            audits[f"rows of {table.name} with a figure that is not finite"] = (
                f"SELECT count(*) FROM {STAGED}.{table.name} WHERE {broken}"
            )
    return audits


def _strangers(name: str) -> str:
    return f"SELECT count(*) FROM {STAGED}.{name} WHERE customer_id NOT IN (SELECT customer_id FROM {STAGED}.grades)"


_AUDITS = {
    **{
        f"rows of {name} about somebody who is not graded": _strangers(name)
        for name in ("criteria", "reasons", "value_outlook", "changes", "paths")
    },
    "graded without criteria": f"""
        SELECT count(*) FROM {STAGED}.grades
        WHERE customer_id NOT IN (SELECT customer_id FROM {STAGED}.criteria)""",
    "scores outside 0-100": f"""
        SELECT (SELECT count(*) FROM {STAGED}.grades WHERE composite_score NOT BETWEEN 0 AND 100)
            + (SELECT count(*) FROM {STAGED}.criteria WHERE score NOT BETWEEN 0 AND 100)""",
    "probabilities and ratios outside 0-1": f"""
        SELECT count(*) FROM {STAGED}.grades
        WHERE late_payment_probability NOT BETWEEN 0 AND 1 OR probability_active NOT BETWEEN 0 AND 1
            OR conversion_probability NOT BETWEEN 0 AND 1 OR coverage_ratio NOT BETWEEN 0 AND 1
            OR on_time_share_ratio NOT BETWEEN 0 AND 1 OR composite_percentile NOT BETWEEN 0 AND 1""",
    "open invoices with a probability outside 0-1, or expected to be paid in the past": f"""
        SELECT count(*) FROM {STAGED}.invoice_outlook
        WHERE late_payment_probability NOT BETWEEN 0 AND 1 OR expected_payment_date < as_of_date""",
    "intervals that miss their own estimate": f"""
        SELECT (SELECT count(*) FROM {STAGED}.grades WHERE clv NOT BETWEEN clv_low AND clv_high
                OR prospect_value NOT BETWEEN prospect_value_low AND prospect_value_high)
            + (SELECT count(*) FROM {STAGED}.value_outlook WHERE clv NOT BETWEEN clv_low AND clv_high)""",
    "values that fall as the horizon grows": f"""
        SELECT count(*) FROM (
            SELECT clv, lag(clv) OVER (PARTITION BY customer_id ORDER BY horizon_months) AS shorter
            FROM {STAGED}.value_outlook)
        WHERE shorter >= 0 AND clv < shorter""",
    "ranks held by more than one": f"""
        SELECT count(*) FROM (
            SELECT 1 FROM {STAGED}.grades WHERE composite_rank IS NOT NULL
            GROUP BY value_source, composite_rank HAVING count(*) > 1)""",
    "scored whose weights do not sum to 1": f"""
        SELECT count(*) FROM (
            SELECT customer_id FROM {STAGED}.grades JOIN {STAGED}.criteria USING (customer_id)
            WHERE composite_score IS NOT NULL
            GROUP BY customer_id HAVING abs(sum(coalesce(weight, 0)) - 1) > {WEIGHT_TOLERANCE})""",
    "whose reasons do not add up to their score": f"""
        SELECT count(*) FROM {STAGED}.grades LEFT JOIN (
            SELECT customer_id, sum(points) AS points FROM {STAGED}.reasons GROUP BY customer_id
        ) USING (customer_id)
        WHERE composite_score IS NOT NULL AND NOT coalesce(
            abs(composite_baseline + points - composite_score) <= {ADDITIVITY_TOLERANCE}, false)""",
    "whose changes do not add up to what happened to their distance to the edge of their tier": f"""
        SELECT count(*) FROM {STAGED}.grades AS g JOIN {PREVIOUS} AS p USING (customer_id, value_source)
        JOIN (SELECT customer_id, sum(points) AS points FROM {STAGED}.changes GROUP BY customer_id)
            USING (customer_id)
        WHERE g.tier = p.tier AND g.tier_edge_score IS NOT NULL AND p.tier_edge_score IS NOT NULL AND NOT coalesce(
            abs(points - (g.composite_score - g.tier_edge_score) + (p.composite_score - p.tier_edge_score))
                <= {ADDITIVITY_TOLERANCE}, false)""",
    "changes of somebody who was not graded the month before": f"""
        SELECT count(*) FROM {STAGED}.changes WHERE customer_id NOT IN (SELECT customer_id FROM {PREVIOUS})""",
    "tiers whose summary does not count who is in them": f"""
        SELECT count(*) FROM (
            SELECT value_source, tier, count(*) AS held FROM {STAGED}.grades GROUP BY ALL
        ) FULL JOIN {STAGED}.tier_summary USING (value_source, tier)
        WHERE coalesce(held, 0) <> coalesce(customers, 0)""",
}
