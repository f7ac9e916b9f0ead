"""The facts of some customers apart, as they are or changed: what would be measured then, by the same queries.

For the block, names without a catalog are those of a second database in memory, whose `main` holds the core tables of
the customers asked for. So whatever reads `main` and `past` measures them alone; the workspace itself stays untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd

from clv.tables import CORE

if TYPE_CHECKING:
    from clv.warehouse import Engine

SEPARATOR = "\x1f"  # stands in no identifier: what follows it tells a copy from the customer
# What belongs to a customer beside its own id, and must differ from copy to copy.
_KEYS = ("invoice_id", "credited_invoice_id")


@contextmanager
def facts_of(db: Engine, copies: pd.DataFrame) -> Iterator[None]:
    """`main` holds the facts of some customers, for the block.

    `copies`: `customer_id` and `copy`, one row per customer wanted and copy of it; the copy '' keeps the customer's
    id, another has the id customer_id + SEPARATOR + copy, and so have its invoices. The frame itself is the table
    main.copies, with `copy_id`. Products and exchange rates are everybody's. Customers do not depend on each other, so
    each copy is measured as if it were alone.
    """
    db.run("ATTACH ':memory:' AS scenario")
    try:
        ending = pd.Series([SEPARATOR + copy if copy else "" for copy in copies["copy"]], index=copies.index)
        ids = copies["customer_id"].astype("str")
        db.load("scenario.main.copies", copies.assign(customer_id=ids, ending=ending, copy_id=ids + ending))
        for name, table in CORE.items():
            if "customer_id" in table.names:
                replaced = ", ".join(
                    f"t.{key} || c.ending AS {key}" for key in ("customer_id", *_KEYS) if key in table.names
                )
                source = (
                    f"memory.main.{name} AS t JOIN scenario.main.copies AS c ON c.customer_id = t.customer_id"
                )
                db.run(f"CREATE TABLE scenario.main.{name} AS SELECT t.* REPLACE ({replaced}) FROM {source}")
            elif name == "payments":
                db.run(
                    """CREATE TABLE scenario.main.payments AS
                    SELECT p.* REPLACE (p.invoice_id || c.ending AS invoice_id)
                    FROM memory.main.payments AS p JOIN memory.main.invoices AS i ON i.invoice_id = p.invoice_id
                    JOIN scenario.main.copies AS c ON c.customer_id = i.customer_id"""
                )
            else:
                db.run(f"CREATE VIEW scenario.main.{name} AS SELECT * FROM memory.main.{name}")
        db.run("USE scenario")
        yield
    finally:
        db.run("USE memory")
        db.run("DETACH scenario")
