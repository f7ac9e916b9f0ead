"""Small models on a link scale, whose reasons add up: trees and a linear predictor, averaged and levelled.

What a model of probabilities (logit) or of money (log) is made of. Everything learned is LightGBM's text or plain
numbers, so that it travels without pickles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, TweedieRegressor

from clv.features import Feature
from clv.models.boosting import one_thread
from clv.models.shapley import Attribution, explainer, linear_shapley

Floats = NDArray[np.float64]

TWEEDIE_POWER = 1.3
MAX_LOGIT = 20.0
RIDGE_C = 0.3  # of 0.01 to 1 the best log loss on 300 to 2,000 real and invented prospects


@dataclass(frozen=True)
class Linear:
    """A linear predictor on standardised inputs; missing values stand at the median, numbers beyond the training's
    1st and 99th percentile at those, so that nothing is extrapolated."""

    is_logged: NDArray[np.bool_]
    low: Floats
    high: Floats
    median: Floats
    mean: Floats
    scale: Floats
    weights: Floats
    intercept: float

    def inputs(self, X: Floats) -> Floats:
        """`X` [n, features] as the weights meet it: filled, clipped, logged, standardised."""
        Z = np.where(np.isnan(X), self.median, np.clip(X, self.low, self.high))
        Z = np.where(self.is_logged, np.log1p(np.where(self.is_logged, Z, 0.0)), Z)
        return np.ascontiguousarray((Z - self.mean) / self.scale)

    def raw(self, X: Floats) -> Floats:
        """The linear predictor [n]."""
        # Not a matrix product: that rounds differently by the number of rows.
        return np.asarray((self.inputs(X) * self.weights).sum(axis=1) + self.intercept)

    def attribute(self, X: Floats, reference: Floats) -> Attribution:
        """Exact contributions against the row `reference` [features]."""
        return linear_shapley(
            self.weights, self.intercept, self.inputs(X), self.inputs(reference[None, :])[0]
        )

    def to_dict(self) -> dict[str, Any]:
        """The predictor as JSON types."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The predictor that `to_dict` wrote."""
        numbers = {name: np.array(content[name], dtype=np.float64) for name in _NUMBERS}
        is_logged = np.array(content["is_logged"], dtype=np.bool_)
        return cls(is_logged, **numbers, intercept=float(content["intercept"]))


_NUMBERS = ("low", "high", "median", "mean", "scale", "weights")


@dataclass(frozen=True)
class Link:
    """One output on its link scale: the mean of its parts, plus the constant that meets the training total."""

    booster: lgb.Booster | None
    linear: Linear | None
    shift: float

    def raw(self, X: Floats) -> Floats:
        """The output [n] on the link scale."""
        parts = []
        if self.booster is not None:
            parts.append(np.asarray(self.booster.predict(X, raw_score=True, num_threads=1), dtype=np.float64))
        if self.linear is not None:
            parts.append(self.linear.raw(X))
        return np.asarray(sum(parts) / len(parts) + self.shift)

    def attribute(self, X: Floats, reference: Floats) -> Attribution:
        """Exact contributions against the row `reference` [features]: the mean of the parts' own."""
        parts = []
        if self.booster is not None:
            parts.append(explainer(self.booster, reference).attribute(X))
        if self.linear is not None:
            parts.append(self.linear.attribute(X, reference))
        return Attribution(
            raw=np.asarray(sum(part.raw for part in parts) / len(parts) + self.shift),
            raw_reference=sum(part.raw_reference for part in parts) / len(parts) + self.shift,
            phi=np.asarray(sum(part.phi for part in parts) / len(parts)),
        )


def logistic(X: Floats, y: Floats, features: Sequence[Feature], exposures: float) -> Linear:
    """Ridge logistic regression of `y` (0/1) on standardised `X`; `exposures`: rows that one customer fills.

    The rows of one customer say nearly the same thing: they weigh together like one row against the prior.
    Where all `y` are equal it is constant. Monotone features keep their sign (see `_signed`).
    """
    prepared = _standardise(X, features)
    if y.min() == y.max():
        return replace(prepared, intercept=MAX_LOGIT if y.max() else -MAX_LOGIT)
    return _signed(prepared, X, y, features, LogisticRegression(C=RIDGE_C / exposures, max_iter=1000))


def tweedie_regression(X: Floats, y: Floats, features: Sequence[Feature]) -> Linear:
    """Ridge regression of `y` >= 0 on standardised `X`, log link, Tweedie variance (between Poisson and gamma)."""
    prepared = _standardise(X, features)
    model = TweedieRegressor(power=TWEEDIE_POWER, link="log", alpha=0.1, max_iter=1000)
    return _signed(prepared, X, y, features, model)


def _signed(
    prepared: Linear,
    X: Floats,
    y: Floats,
    features: Sequence[Feature],
    model: LogisticRegression | TweedieRegressor,
) -> Linear:
    """`prepared` with the weights that `model` learns; a monotone feature whose weight has the wrong sign is left out
    and the others learned again, until none has."""
    monotone = np.array([feature.monotone for feature in features])
    kept = np.ones(len(features), dtype=np.bool_)
    inputs = prepared.inputs(X)
    while True:
        weights = np.zeros(len(features))
        # scikit-learn refuses a regression on nothing; one constant column stands for it.
        columns = inputs[:, kept] if kept.any() else np.zeros((len(y), 1))
        with one_thread():
            model.fit(columns, y)
        intercept = float(np.ravel(model.intercept_)[0])
        if kept.any():
            weights[kept] = np.ravel(model.coef_)
        wrong = weights * monotone < 0
        if not wrong.any():
            return replace(prepared, weights=weights, intercept=intercept)
        kept &= ~wrong


def _standardise(X: Floats, features: Sequence[Feature]) -> Linear:
    """The preparation of the inputs, with all weights 0: numbers that are never negative enter by their logarithm.

    Days do not: where some convert at a constant rate and the others never, the logit of converting falls by the
    same amount every day.
    """
    frame = pd.DataFrame(X)
    filled = frame.fillna(frame.median()).fillna(0.0)
    is_flag = np.array([feature.unit == "flag" for feature in features], dtype=np.bool_)
    low = np.where(is_flag, 0.0, filled.quantile(0.01).to_numpy(dtype=np.float64))
    high = np.where(is_flag, 1.0, filled.quantile(0.99).to_numpy(dtype=np.float64))
    is_number = np.array([feature.unit == "number" for feature in features], dtype=np.bool_)
    plain = Linear(
        is_logged=is_number & (low >= 0),
        low=low,
        high=high,
        median=filled.median().to_numpy(dtype=np.float64),
        mean=np.zeros(len(low)),
        scale=np.ones(len(low)),
        weights=np.zeros(len(low)),
        intercept=0.0,
    )
    Z = plain.inputs(X)
    deviation = Z.std(axis=0)
    # Flags and effects keep their scale: divided by a small deviation, rare levels would escape the penalty.
    is_scaled = is_flag | np.array([feature.unit == "effect" for feature in features], dtype=np.bool_)
    scale = np.where(is_scaled | (deviation < 1e-9), 1.0, deviation)
    return replace(plain, mean=Z.mean(axis=0), scale=scale)


def effects_table(effects: Floats, intercept: float) -> Linear:
    """One effect per 0/1 column, as a linear predictor."""
    zeros, ones = np.zeros(len(effects)), np.ones(len(effects))
    return Linear(zeros.astype(np.bool_), zeros, ones, zeros, zeros, ones, effects, intercept)


def beside(first: Linear, second: Linear) -> Linear:
    """The sum of two predictors over the inputs of the one, then those of the other."""
    joined = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("is_logged", *_NUMBERS)
    }
    return Linear(**joined, intercept=first.intercept + second.intercept)


def logit_shift(raw: Floats, rate: float) -> float:
    """The constant c, within ±MAX_LOGIT, at which the mean of expit(raw + c) is `rate`."""
    low, high = -MAX_LOGIT, MAX_LOGIT
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(expit(raw + middle).mean()) < rate else (low, middle)
    return (low + high) / 2
