"""Whom scores are held against: the reference customer of the company, or of each segment (`explain.reference`).

A segment of fewer than 20 customers at training has no reference of its own; the company's stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clv.models.references import by_segment
from clv.settings.grading import ECONOMIC

if TYPE_CHECKING:
    import pandas as pd

    from clv.composite import Grading
    from clv.criteria import Measured

Floats = NDArray[np.float64]
References = Mapping[
    str, Mapping[str, float]
]  # criterion (or cost) -> segment -> value of its reference customer


def learn(measured: Measured, values: Mapping[str, Floats], active: NDArray[np.bool_]) -> References:
    """Of criteria graded by rule, and of costs: the medians of the active customers of each segment.

    `values`: criterion -> one value per active customer. What a model grades has its reference in the model.
    """
    segments = measured.customers.loc[active, "segment"].to_numpy(str)
    by_rule = {name: values[name] for name in measured.switched_on if name not in measured.references}
    by_rule |= {name: measured.costs[name].to_numpy(np.float64)[active] for name in measured.costs}
    found = {}
    for name, figures in by_rule.items():
        known = np.isfinite(figures)
        found[name] = by_segment(figures[known], segments[known], lambda some: float(np.median(some)))
    return found


def of_segments(measured: Measured, grading: Grading) -> References:
    """What is held against segments' own reference customers; empty where explain.reference is the company."""
    if not measured.segment_references:
        return {}
    found = {name: dict(values) for name, values in grading.segment_references.items()}
    found |= {name: dict(values) for name, values in measured.segment_references.items()}
    for segment in found.get(ECONOMIC, {}):
        found[ECONOMIC][segment] -= sum(
            found.get(name, {}).get(segment, cost) for name, cost in grading.reference_costs.items()
        )
    return found


def baselines(measured: Measured, grading: Grading, segments: pd.Series) -> dict[str, float | Floats]:
    """Criterion -> score of the reference customer: one for all, or one for each row where segments have their own."""
    references = of_segments(measured, grading)
    if not references:
        return dict(grading.baselines)
    names, rows = np.unique(segments.to_numpy(str), return_inverse=True)
    seen = [grading.seen_from(str(name), references).baselines for name in names]
    return {name: np.array([one[name] for one in seen])[rows] for name in grading.scales}
