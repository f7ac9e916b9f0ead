"""Account groups must form trees: a group may be a customer and belong to another, but not to its own members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clv.errors import TableError

if TYPE_CHECKING:
    from datetime import date

    from clv.warehouse import Engine


def refuse_cycles(db: Engine, as_of: date) -> None:
    """Raises TableError where following the memberships in force on `as_of` leads back to where it began.

    A membership in a group of the customer's own id is none. Of several in force at once the newest counts, as it
    does for the grades.
    """
    parents = dict(
        db.rows(f"""
            SELECT customer_id, account_group_id FROM main.account_links
            WHERE valid_from < DATE '{as_of}' AND (valid_to IS NULL OR valid_to >= DATE '{as_of}')
                AND customer_id <> account_group_id
            QUALIFY row_number() OVER (PARTITION BY customer_id ORDER BY valid_from DESC, account_group_id) = 1
            ORDER BY customer_id
        """)
    )
    cleared: set[str] = set()
    circles: list[list[str]] = []
    for start in parents:
        path: list[str] = []
        node: str = start
        while node in parents and node not in cleared and node not in path:
            path.append(node)
            node = parents[node]
        if node in path:
            circles.append(path[path.index(node) :])
        cleared.update(path)
    if circles:
        shown = "; ".join(" → ".join([*circle, circle[0]]) for circle in circles[:3])
        raise TableError(
            f"account_links: expected groups that do not belong to their own members, found {len(circles)} circles on "
            f"{as_of}, first {shown}. End one membership of each (valid_to), or leave it out by "
            "sources.account_links.where."
        )
