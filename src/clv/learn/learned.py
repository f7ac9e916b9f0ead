"""A model that may be promoted, with what speaks for it, and the gate of those that forecast a probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import metrics
from clv.evaluation import Report

Floats = NDArray[np.float64]
Model = TypeVar("Model")


@dataclass(frozen=True)
class Learned(Generic[Model]):
    """A model that may be promoted, and what speaks for it.

    `passed`: the model itself passed its gate; otherwise `model` is the fallback and `why` says what was missing.
    `report`: figures of the model and its baselines on a later period, begun on `tested_from`; `outcome` is what
    happened in it and `forecasts` what each forecast had said, row by row; `course`, of the lifetime value, both
    week by week (clv.learn.course). `tables`: what else the test says, by name. `customer_ids`, of the lifetime value:
    whose the rows are.
    Empty or None where there was no test.
    """

    model: Model
    passed: bool
    why: str
    report: Report = field(default_factory=dict)
    tested_from: date | None = None
    outcome: Floats = field(default_factory=lambda: np.empty(0))
    forecasts: Mapping[str, Floats] = field(default_factory=dict)
    course: pd.DataFrame | None = None
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    customer_ids: NDArray[np.object_] | None = None


def probability_gate(outcome: Floats, forecasts: Mapping[str, Floats], what: str, seed: int) -> str | None:
    """Why a model of probabilities must not grade, or None.

    Refused where the test has no outcome of both kinds, or where the Brier score of `model` is above that of
    `segment_rate` with 95 % confidence.
    """
    happened = int(outcome.sum())
    if not 0 < happened < len(outcome):
        return f"no later period to test on: {happened} of {len(outcome)} {what}"
    worse, _ = metrics.paired_bootstrap_difference(
        metrics.brier, outcome, forecasts["model"], forecasts["segment_rate"], seed=seed
    )
    if worse > 0:
        return f"no skill: the Brier score exceeds that of the segment's rate by at least {worse:.4f} (95 %)"
    return None
