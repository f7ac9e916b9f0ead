"""Criteria -> scores from 0 to 100 on one learned scale -> their weighted composite.

`fit` learns one `Scale` per criterion over the customers graded at the training date; the `Grading` that holds
them travels with the models, so a customer scores the same alone as among a million.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from clv.drift import Population
from clv.errors import ModelError
from clv.firmness import Calibration, Changes, read_calibration, read_changes
from clv.scales import MIDDLE, Scale, fit_scale, read_scale

Floats = NDArray[np.float64]

_FILE = "grading.json"


@dataclass(frozen=True)
class Grading:
    """What grading learned at `trained_as_of`: one scale per criterion, all made by the same `method`.

    `changes`: how each score usually moves in a month, empty where no earlier months could be measured; `calibration`:
    how often customers then kept their tiers.
    `reference_costs`: what the reference customer costs in the economic composite, by the name of the cost.
    `segment_references`: of criteria graded by rule, and of those costs: segment -> its reference customer's value.
    `prospects`: those that the prospect model learned from, against whom a month's are compared.
    """

    scales: Mapping[str, Scale]
    trained_as_of: date
    method: str = "log_z"
    changes: Mapping[str, Changes] = field(default_factory=dict)
    reference_costs: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    segment_references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    prospects: Population = field(default_factory=lambda: Population(0, {}))

    def seen_from(self, segment: str | None, references: Mapping[str, Mapping[str, float]]) -> Grading:
        """The same scales held against the reference customer of a segment, where `references` has it.

        `references`: criterion (or cost) -> segment -> the value of its reference customer.
        """
        if segment is None:
            return self
        own = {name: values[segment] for name, values in references.items() if segment in values}
        scales = {
            name: replace(scale, reference=own[name]) if name in own else scale
            for name, scale in self.scales.items()
        }
        costs = {name: own.get(name, cost) for name, cost in self.reference_costs.items()}
        return replace(self, scales=scales, reference_costs=costs)

    @property
    def baselines(self) -> dict[str, float]:
        """Score of the reference customer by criterion."""
        return {name: scale.baseline for name, scale in self.scales.items()}

    def score(self, values: pd.DataFrame) -> pd.DataFrame:
        """Scores 0-100, one row per row of `values` and one column per column of it (criteria).

        Missing values stay missing. Raises ModelError for a criterion that was not there at training.
        """
        unknown = sorted(set(values.columns) - set(self.scales))
        if unknown:
            raise ModelError(
                f"expected criteria among {', '.join(self.scales)}, found {', '.join(unknown)} "
                f"(grading trained as of {self.trained_as_of}). Train again with the criterion switched on."
            )
        scored = {name: self.scales[name].score(_floats(values[name])) for name in values.columns}
        return pd.DataFrame(scored, index=values.index, columns=values.columns, dtype="float64")

    def to_files(self) -> dict[str, str]:
        """The grading as text: file name -> JSON. Numbers come back exactly."""
        content = {
            "trained_as_of": self.trained_as_of.isoformat(),
            "method": self.method,
            "scales": [asdict(scale) for scale in self.scales.values()],
            "changes": {name: asdict(changes) for name, changes in self.changes.items()},
            "reference_costs": dict(self.reference_costs),
            "calibration": asdict(self.calibration),
            "segment_references": {name: dict(values) for name, values in self.segment_references.items()},
            "prospects": self.prospects.to_dict(),
        }
        return {_FILE: json.dumps(content, indent=2, allow_nan=False) + "\n"}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Grading:
        """The grading written by `to_files`. Raises ModelError where the text is not one."""
        try:
            content = json.loads(files[_FILE])
            scales = [read_scale(entry) for entry in content["scales"]]
            changes = {name: read_changes(entry) for name, entry in content["changes"].items()}
            calibration = read_calibration(content["calibration"])
            costs = {name: float(cost) for name, cost in content["reference_costs"].items()}
            of_segments = {
                name: {segment: float(value) for segment, value in values.items()}
                for name, values in content.get(
                    "segment_references", {}
                ).items()  # none in gradings of before
            }
            method = str(content["method"])
            prospects = Population.from_dict(content["prospects"])
            trained_as_of = date.fromisoformat(content["trained_as_of"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"expected the scales of a grading in {_FILE}, found something else "
                f"({type(error).__name__}: {error}). Train again."
            ) from error
        by_name = {scale.criterion: scale for scale in scales}
        return cls(by_name, trained_as_of, method, changes, costs, calibration, of_segments, prospects)


def fit(
    values: Mapping[str, ArrayLike],
    kinds: Mapping[str, str],
    references: Mapping[str, float],
    *,
    trained_as_of: date,
    method: str = "log_z",
    directions: Mapping[str, int] | None = None,
) -> Grading:
    """Scales of the criteria in `kinds`, learned from `values`: criterion -> one value per customer graded.

    A frame with one column per criterion will do; columns may differ in length (prospects). NaN = not measured.
    Kind `log` turns to `asinh` as soon as a value is negative. `references` holds the reference customer's
    values; where it has none the median of the measured ones stands in. A criterion with nothing measured, or a
    single distinct value, scores 50 for everybody. `method`: `log_z`, or `log_percentile` for −log(1 − percentile);
    `directions`: -1 for a criterion of which less is better. Raises ModelError for infinite values or unknown kinds.

    Units: `log` the 1st percentile of positive values; `asinh` the median absolute value and `log1p` the median
    (negative counts as 0), of those other than 0 where that is 0.
    """
    scales = {
        name: fit_scale(
            name,
            kind,
            _floats(values[name]),
            references.get(name, math.nan),
            method=method,
            direction=(directions or {}).get(name, 1),
        )
        for name, kind in kinds.items()
    }
    return Grading(scales, trained_as_of, method)


def compose(
    scores: pd.DataFrame,
    weights: Mapping[str, float],
    switched_on: Collection[str],
    baselines: Mapping[str, float | Floats],
    minimum_coverage_ratio: float,
) -> pd.DataFrame:
    """Composite of each customer: one row per row of `scores` (criteria, 0-100, NaN = not measured), its index.

    Weights of what was not measured go to the rest in proportion, never to a zero. Columns: `composite_score`
    and `composite_baseline` (the reference customer over the same criteria; `baselines` has one for all rows, or one
    for each), both NaN where nothing with weight was measured; `coverage_ratio` = weight measured ÷ weight of
    `switched_on`; `is_provisional` where that is below the minimum; `weight_<criterion>` for each column of `scores`,
    together 1, or all 0 if nothing was measured. Criteria with weight 0 or switched off are shown by the caller and
    count for nothing here.
    """
    # Summed one column after the other by name, so a row is the same alone, and whatever the order of columns.
    given = {name: float(weights.get(name, 0.0)) for name in sorted(set(switched_on))}
    weighed = [name for name in sorted(scores.columns) if given.get(name, 0.0) > 0]
    score = {name: _floats(scores[name]) for name in weighed}
    got = np.zeros(len(scores))
    for name in weighed:
        got += np.where(np.isnan(score[name]), 0.0, given[name])
    measured = got > 0
    composite = np.where(measured, 0.0, math.nan)
    baseline = composite.copy()
    share = {name: np.zeros(len(scores)) for name in scores.columns}
    for name in weighed:
        present = ~np.isnan(score[name])
        np.divide(given[name], got, out=share[name], where=present)
        composite[present] += share[name][present] * score[name][present]
        baseline[present] += share[name][present] * np.broadcast_to(baselines[name], len(scores))[present]
    on = math.fsum(given.values())
    coverage = np.round(got / on, 12) if on > 0 else got
    return pd.DataFrame(
        {
            "composite_score": np.clip(composite, 0.0, 100.0),
            "composite_baseline": np.clip(baseline, 0.0, 100.0),
            "coverage_ratio": coverage,
            "is_provisional": coverage < minimum_coverage_ratio,
            **{f"weight_{name}": share[name] for name in scores.columns},
        },
        index=scores.index,
    )


def effective_weights(scores: pd.DataFrame, weights: Mapping[str, float]) -> dict[str, float]:
    """What each criterion really decides: w·cov(score, composite) ÷ var(composite), together 1.

    A criterion that says the same as others weighs more than its weight, one that hardly moves weighs less.
    Where a score is missing its row counts with that customer's own weights. NaN when all composites are equal.
    """
    names = [name for name in scores.columns if weights.get(name, 0.0) > 0]
    graded = compose(scores, weights, names, dict.fromkeys(names, MIDDLE), 0.0)
    part = {
        name: graded[f"weight_{name}"].to_numpy() * np.nan_to_num(_floats(scores[name]) - MIDDLE)
        for name in names
    }
    composite = np.sum(list(part.values()), axis=0) if part else np.zeros(len(scores))
    variance = _covariance(composite, composite)
    if not variance > 1e-18:
        return dict.fromkeys(scores.columns, math.nan)
    return {
        name: _covariance(part[name], composite) / variance if name in part else 0.0
        for name in scores.columns
    }


def correlated_pairs(scores: pd.DataFrame, threshold: float = 0.8) -> list[tuple[str, str, float]]:
    """Pairs of criteria whose scores correlate (Pearson) above `threshold`, strongest first.

    Each pair over the rows where both are measured; a constant score correlates with nothing.
    """
    pairs = []
    for one, other in combinations(scores.columns, 2):
        a, b = _floats(scores[one]), _floats(scores[other])
        both = ~(np.isnan(a) | np.isnan(b))
        spread = math.sqrt(_covariance(a[both], a[both]) * _covariance(b[both], b[both]))
        correlation = _covariance(a[both], b[both]) / spread if spread > 0 else 0.0
        if correlation > threshold:
            pairs.append((one, other, correlation))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _covariance(a: Floats, b: Floats) -> float:
    """Population covariance, the same in any order of the rows; 0 without rows."""
    if len(a) == 0:
        return 0.0
    mean_a, mean_b = (math.fsum(x.tolist()) / len(x) for x in (a, b))
    return math.fsum(((a - mean_a) * (b - mean_b)).tolist()) / len(a)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
