"""One criterion's value -> its score from 0 to 100, on a scale learned once and stored with the models.

Scores are standardised magnitudes, not percentiles: averaged percentiles lose exactly the distances that decide who
is in the top 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clv.errors import ModelError

Floats = NDArray[np.float64]

KINDS = ("log", "asinh", "log1p", "payment", "record", "linear")
MIDDLE = 50.0
CLIP_Z = 6.0  # at ±3 the best 1.2 % of customers tie
CURVE_CLIP_Z = 12.0  # percentiles on a logarithmic scale have a long tail: at 6 the best 0.1 % would tie
# One z is at least a 5 % difference in value, or in the chance of being paid on time: where all customers are
# nearly alike, what is left is noise and must not be blown up to a full scale.
SD_FLOOR = 0.05
CHANCE_FLOOR = 0.05  # of paying on time: below it a customer is simply a bad payer
KNOTS = 400  # of a curve of percentiles
TAIL_RATIO = 0.1  # of the customers whose spread says how a curve goes on beyond the best of them


@dataclass(frozen=True)
class Curve:
    """−log(1 − percentile) of a magnitude, learned as knots (`at`, `height`), both rising.

    Between knots straight, below the first one flat. Beyond the last it goes on as over the best tenth: the
    logarithm of a Pareto tail is straight, so nobody ties at the top. Percentiles are mid-ranks.
    """

    at: tuple[float, ...]
    height: tuple[float, ...]

    @classmethod
    def fit(cls, magnitudes: Floats) -> Curve:
        """Of the magnitudes given (at least one)."""
        at, counts = np.unique(magnitudes, return_counts=True)
        height = -np.log1p(-(np.cumsum(counts) - counts / 2) / len(magnitudes))
        if len(at) > KNOTS:
            wanted = np.linspace(height[0], height[-1], KNOTS)
            kept = np.unique(
                np.append(np.searchsorted(height, wanted), [0, len(at) - 1]).clip(0, len(at) - 1)
            )
            at, height = at[kept], height[kept]
        return cls(tuple(at.tolist()), tuple(height.tolist()))

    def __call__(self, magnitudes: Floats) -> Floats:
        at, height = np.array(self.at), np.array(self.height)
        tail = min(int(np.searchsorted(height, -math.log(TAIL_RATIO))), len(at) - 2)
        slope = (height[-1] - height[tail]) / (at[-1] - at[tail]) if len(at) > 1 else 0.0
        beyond = np.maximum(magnitudes - at[-1], 0.0)
        return np.asarray(np.interp(magnitudes, at, height) + slope * beyond, dtype=np.float64)


@dataclass(frozen=True)
class Scale:
    """Scale of one criterion: `score = clip(50 + 50·z/6, 0, 100)`, `z = (L(value) - mean)/sd`.

    L by `kind`, always rising in the better direction:
    `log` log(max(value, unit)); `asinh` asinh(value/unit); `log1p` log(1 + max(value, 0)/unit);
    `payment` log(max(1 - value, unit)) of a probability of being late; `record` log(max(value, unit)) of an
    on-time share; `linear` value/unit. `direction` -1: of -value, where less is better. With a `curve` L is its
    height over that: −log(1 − percentile), and 12 stands in the place of 6. `mean` and `sd` (population, floored at
    0.05) are those of L over the training customers; sd 0 says that they could not be told apart: everybody measured
    scores 50. `reference` is the value of the reference customer.
    """

    criterion: str
    kind: str
    unit: float
    mean: float
    sd: float
    reference: float
    direction: int = 1
    curve: Curve | None = None

    def score(self, value: ArrayLike) -> Floats:
        """0-100 for each value, 50 for the training mean; missing stays missing."""
        values = np.asarray(value, dtype=np.float64)
        if self.sd == 0:
            return np.where(np.isnan(values), math.nan, MIDDLE)
        height = _transformed(values * self.direction, self.kind, self.unit)
        if self.curve is not None:
            height = self.curve(height)
        clip_z = CLIP_Z if self.curve is None else CURVE_CLIP_Z
        return np.clip(MIDDLE + MIDDLE * (height - self.mean) / self.sd / clip_z, 0.0, 100.0)

    @property
    def baseline(self) -> float:
        """Score of the reference customer."""
        return float(self.score(self.reference))


def fit_scale(
    criterion: str, kind: str, values: Floats, reference: float, *, method: str = "log_z", direction: int = 1
) -> Scale:
    """The scale of one criterion, learned from one value per customer (NaN = not measured); see `composite.fit`."""
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
    height = _transformed(measured * direction, kind, unit)
    if len(measured) == 0 or height.max() == height.min():
        return Scale(criterion, kind, unit, 0.0, 0.0, reference, direction)
    curve = Curve.fit(height) if method == "log_percentile" else None
    if curve is not None:
        height = curve(height)
    sd = max(float(height.std()), SD_FLOOR)
    return Scale(criterion, kind, unit, float(height.mean()), sd, reference, direction, curve)


def read_scale(entry: Mapping[str, Any]) -> Scale:
    """The scale that `dataclasses.asdict` wrote. Raises ValueError or TypeError where it is none."""
    curve = entry["curve"]
    given = dict(entry) | {
        "curve": None if curve is None else Curve(tuple(curve["at"]), tuple(curve["height"]))
    }
    scale = Scale(**given)
    numbers = [scale.unit, scale.mean, scale.sd, scale.reference]
    numbers += [*scale.curve.at, *scale.curve.height] if scale.curve else []
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
        raise ValueError(f"expected finite numbers in the scale of {scale.criterion}")
    if scale.kind not in KINDS or scale.unit <= 0 or scale.sd < 0 or not isinstance(scale.criterion, str):
        raise ValueError(f"the scale of {scale.criterion} has an unknown kind, or a unit or sd out of range")
    if scale.direction not in (-1, 1) or (scale.curve and sorted(scale.curve.at) != list(scale.curve.at)):
        raise ValueError(f"the scale of {scale.criterion} has no direction, or a curve that turns back")
    return scale


def _transformed(values: Floats, kind: str, unit: float) -> Floats:
    if kind in ("log", "record"):
        return np.log(np.maximum(values, unit))
    if kind == "payment":
        return np.log(np.maximum(1 - values, unit))
    if kind == "log1p":
        return np.log1p(np.maximum(values, 0) / unit)
    return values / unit if kind == "linear" else np.arcsinh(values / unit)


def _unit(kind: str, measured: Floats) -> float:
    if kind in ("payment", "record"):
        return CHANCE_FLOOR
    if kind == "linear":
        return 1.0
    positive = measured[measured > 0]
    if kind == "log":
        return float(np.percentile(positive, 1)) if len(positive) else 1.0
    size = np.maximum(measured, 0) if kind == "log1p" else np.abs(measured)
    if len(size) and (median := float(np.median(size))) > 0:
        return median
    other = size[size > 0]
    return float(np.median(other)) if len(other) else 1.0
