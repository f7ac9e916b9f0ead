"""The keys of the invented company's rows; blocks have ranges of their own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clv.simulate.block import Block
from clv.simulate.columns import keys

ROWS_PER_BLOCK = 100_000_000
GROUPS_PER_BLOCK = 100_000


def row_keys(block: Block, prefix: str, rows: int) -> pa.Array:
    """Keys of the block's first `rows` rows of one kind."""
    return keys(prefix, np.arange(1, rows + 1) + block.number * ROWS_PER_BLOCK, 9)


def customer_ids(block: Block) -> pa.Array:
    """'C000123', in the order of first contact; among the first 500 a few are digits with leading zeros."""
    number = np.arange(block.first + 1, block.first + len(block.accounts) + 1)
    odd = (number <= 500) & (number % 83 == 42)
    return pc.if_else(pa.array(odd), keys("", number, 5), keys("C", number, 6))


def order_ids(block: Block) -> pa.Array:
    return row_keys(block, "O", len(block.orders.account))


def invoice_ids(block: Block) -> pa.Array:
    return row_keys(block, "R", len(block.invoices.order))


def group_ids(block: Block) -> pa.Array:
    """Keys of the block's account groups by number; number 0 stands for none and is not used."""
    groups = int(block.group.max(initial=0))
    return keys("G", np.arange(groups + 1) + block.number * GROUPS_PER_BLOCK, 5)
