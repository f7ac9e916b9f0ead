"""The reference customers of segments: whom explanations may compare with in the place of the company's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
T = TypeVar("T")

MINIMUM_CUSTOMERS = 20  # a segment of fewer has no reference of its own: the company's stands in


def by_segment(inputs: Floats, segments: NDArray[Any], reference: Callable[[Floats], T]) -> dict[str, T]:
    """`reference` of the rows of each segment that has enough of them, in the order of their names."""
    names, counts = np.unique(np.asarray(segments, dtype=str), return_counts=True)
    enough = names[counts >= MINIMUM_CUSTOMERS]
    return {str(name): reference(inputs[np.asarray(segments, dtype=str) == name]) for name in enough}


def medians(inputs: Floats) -> Floats:
    """Of every column over its known values; NaN where there are none."""
    import pandas as pd

    return np.asarray(pd.DataFrame(inputs).median().to_numpy(np.float64), dtype=np.float64)


def listed(row: Floats) -> list[float | None]:
    """A reference as JSON types."""
    return [None if np.isnan(value) else float(value) for value in row]
