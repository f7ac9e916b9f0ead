"""Arrow columns from positions, numbers, cents and days."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clv.simulate.timeline import Flags, Ints, Timeline


def strings(choices: tuple[str, ...], positions: Ints, missing: Flags | None = None) -> pa.Array:
    """The words at the given positions, null where `missing`."""
    return pa.array(choices, pa.string()).take(pa.array(positions, mask=missing))


def keys(prefix: str, numbers: Ints, width: int) -> pa.Array:
    """`prefix` and the number, padded with zeros to at least `width` digits."""
    digits = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), width=width, padding="0")
    return pc.binary_join_element_wise(prefix, digits, "")


def money(cents: Ints) -> pa.Array:
    """Amounts that the warehouse's cast to DECIMAL(18,4) makes exact again."""
    return pa.array(cents / 100)


def dates(timeline: Timeline, day: Ints, missing: Flags | None = None) -> pa.Array:
    """Calendar dates of simulated days, null where `missing`."""
    known = day if missing is None else np.where(missing, 0, day)
    return pa.array((known + timeline.epoch_day).astype(np.int32), mask=missing).view(pa.date32())
