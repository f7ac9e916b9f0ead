"""Criteria -> scores from 0 to 100 on one learned scale -> their weighted composite.

`fit` learns one `Scale` per criterion over the customers graded at the training date; the `Grading` that holds
them travels with the models, so a customer scores the same alone as among a million. Scores are standardised
magnitudes, not percentiles: averaged percentiles lose exactly the distances that decide who is in the top 1 %.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from clv.errors import ModelError

Floats = NDArray[np.float64]

KINDS = ("log", "asinh", "log1p", "payment", "record")
MIDDLE = 50.0
CLIP_Z = 6.0  # at ±3 the best 1.2 % of customers tie
# One z is at least a 5 % difference in value, or in the chance of being paid on time: where all customers are
# nearly alike, what is left is noise and must not be blown up to a full scale.
SD_FLOOR = 0.05
CHANCE_FLOOR = 0.05  # of paying on time: below it a customer is simply a bad payer

_FILE = "grading.json"


@dataclass(frozen=True)
class Scale:
    """Scale of one criterion: `score = clip(50 + 50·z/6, 0, 100)`, `z = (L(value) - mean)/sd`.

    L by `kind`, always rising in the better direction:
    `log` log(max(value, unit)); `asinh` asinh(value/unit); `log1p` log(1 + max(value, 0)/unit);
    `payment` log(max(1 - value, unit)) of a probability of being late; `record` log(max(value, unit)) of an
    on-time share. `mean` and `sd` (population, floored at 0.05) are those of L over the training customers; sd 0
    says that they could not be told apart: everybody measured scores 50. `reference` is the value of the
    reference customer.
    """

    criterion: str
    kind: str
    unit: float
    mean: float
    sd: float
    reference: float

    def score(self, value: ArrayLike) -> Floats:
        """0-100 for each value, 50 for the training mean; missing stays missing."""
        values = np.asarray(value, dtype=np.float64)
        if self.sd == 0:
            return np.where(np.isnan(values), math.nan, MIDDLE)
        z = (_transformed(values, self.kind, self.unit) - self.mean) / self.sd
        return np.clip(MIDDLE + MIDDLE * z / CLIP_Z, 0.0, 100.0)

    @property
    def baseline(self) -> float:
        """Score of the reference customer."""
        return float(self.score(self.reference))


@dataclass(frozen=True)
class Grading:
    """What grading learned at `trained_as_of`: one scale per criterion."""

    scales: Mapping[str, Scale]
    trained_as_of: date

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
            "scales": [asdict(scale) for scale in self.scales.values()],
        }
        return {_FILE: json.dumps(content, indent=2, allow_nan=False) + "\n"}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Grading:
        """The grading written by `to_files`. Raises ModelError where the text is not one."""
        try:
            content = json.loads(files[_FILE])
            scales = [_read_scale(entry) for entry in content["scales"]]
            trained_as_of = date.fromisoformat(content["trained_as_of"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"expected the scales of a grading in {_FILE}, found something else "
                f"({type(error).__name__}: {error}). Train again."
            ) from error
        return cls({scale.criterion: scale for scale in scales}, trained_as_of)


def fit(
    values: Mapping[str, ArrayLike],
    kinds: Mapping[str, str],
    references: Mapping[str, float],
    *,
    trained_as_of: date,
) -> Grading:
    """Scales of the criteria in `kinds`, learned from `values`: criterion -> one value per customer graded.

    A frame with one column per criterion will do; columns may differ in length (prospects). NaN = not measured.
    Kind `log` turns to `asinh` as soon as a value is negative. `references` holds the reference customer's
    values; where it has none the median of the measured ones stands in. A criterion with nothing measured, or a
    single distinct value, scores 50 for everybody. Raises ModelError for infinite values or unknown kinds.

    Units: `log` the 1st percentile of positive values; `asinh` the median absolute value and `log1p` the median
    (negative counts as 0), of those other than 0 where that is 0.
    """
    scales = {
        name: _fit_scale(name, kind, _floats(values[name]), references.get(name, math.nan))
        for name, kind in kinds.items()
    }
    return Grading(scales, trained_as_of)


def compose(
    scores: pd.DataFrame,
    weights: Mapping[str, float],
    switched_on: Collection[str],
    baselines: Mapping[str, float],
    minimum_coverage_ratio: float,
) -> pd.DataFrame:
    """Composite of each customer: one row per row of `scores` (criteria, 0-100, NaN = not measured), its index.

    Weights of what was not measured go to the rest in proportion, never to a zero. Columns: `composite_score`
    and `composite_baseline` (the reference customer over the same criteria), both NaN where nothing with weight
    was measured; `coverage_ratio` = weight measured ÷ weight of `switched_on`; `is_provisional` where that is
    below the minimum; `weight_<criterion>` for each column of `scores`, together 1, or all 0 if nothing was
    measured. Criteria with weight 0 or switched off are shown by the caller and count for nothing here.
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
        baseline[present] += share[name][present] * baselines[name]
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


def _transformed(values: Floats, kind: str, unit: float) -> Floats:
    if kind in ("log", "record"):
        return np.log(np.maximum(values, unit))
    if kind == "payment":
        return np.log(np.maximum(1 - values, unit))
    if kind == "log1p":
        return np.log1p(np.maximum(values, 0) / unit)
    return np.arcsinh(values / unit)


def _fit_scale(criterion: str, kind: str, values: Floats, reference: float) -> Scale:
    if kind not in KINDS:
        raise ModelError(f"expected a kind among {', '.join(KINDS)} for {criterion}, found {kind!r}.")
    # Sorted: sums of floats depend on the order of the rows.
    measured = np.sort(values[~np.isnan(values)])
    if np.isinf(measured).any():
        raise ModelError(
            f"expected finite values of {criterion}, found {int(np.isinf(measured).sum())} infinite ones. "
            "Mend the step that measures it."
        )
    if math.isnan(reference):
        reference = float(np.median(measured)) if len(measured) else 0.0
    if kind == "log" and len(measured) and measured[0] < 0:
        kind = "asinh"
    unit = _unit(kind, measured)
    transformed = _transformed(measured, kind, unit)
    if len(measured) == 0 or transformed.max() == transformed.min():
        return Scale(criterion, kind, unit, 0.0, 0.0, reference)
    sd = max(float(transformed.std()), SD_FLOOR)
    return Scale(criterion, kind, unit, float(transformed.mean()), sd, reference)


def _unit(kind: str, measured: Floats) -> float:
    if kind in ("payment", "record"):
        return CHANCE_FLOOR
    positive = measured[measured > 0]
    if kind == "log":
        return float(np.percentile(positive, 1)) if len(positive) else 1.0
    size = np.maximum(measured, 0) if kind == "log1p" else np.abs(measured)
    if len(size) and (median := float(np.median(size))) > 0:
        return median
    other = size[size > 0]
    return float(np.median(other)) if len(other) else 1.0


def _read_scale(entry: Mapping[str, object]) -> Scale:
    scale = Scale(**entry)  # type: ignore[arg-type]
    numbers = [scale.unit, scale.mean, scale.sd, scale.reference]
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
        raise ValueError(f"expected finite numbers in the scale of {scale.criterion}")
    if scale.kind not in KINDS or scale.unit <= 0 or scale.sd < 0 or not isinstance(scale.criterion, str):
        raise ValueError(f"the scale of {scale.criterion} has an unknown kind, or a unit or sd out of range")
    return scale


def _covariance(a: Floats, b: Floats) -> float:
    """Population covariance, the same in any order of the rows; 0 without rows."""
    if len(a) == 0:
        return 0.0
    mean_a, mean_b = (math.fsum(x.tolist()) / len(x) for x in (a, b))
    return math.fsum(((a - mean_a) * (b - mean_b)).tolist()) / len(a)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
