"""What can forecast a customer's value: the last period, buy-till-you-die, trees, or the mean of the last two.

Each part has a `mode`, the `players` (its inputs as explanations name them), `inputs` (frame -> matrix, one column
per player), `raw` (matrix -> output) and `attribute` (exact Shapley values of `raw` against a reference row).
`raw` is the logarithm of money; of `LastPeriod` it is the money itself, which may be negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.features import FEATURES, Feature
from clv.models.attributes import AttributeEncoder
from clv.models.btyd import Btyd
from clv.models.shapley import Attribution, coalition_shapley, explainer
from clv.period import day_factor

Floats = NDArray[np.float64]

BTYD_FEATURES = (
    Feature("probability_active", "still_active", 1, "probability"),
    Feature("expected_purchases", "order_rhythm", 1, "number"),
    Feature("expected_order_value", "order_value", 1, "money"),
)
BTYD_INPUTS = (
    Feature("frequency", "order_rhythm", 0, "count"),
    Feature("recency_days", "still_active", 0, "days"),
    Feature("T_days", "order_rhythm", 0, "days"),
    Feature("mean_order_value", "order_value", 0, "money"),
)
LAST_PERIOD = Feature("value_365", "recent_value", 1, "money")
SMALLEST_ORDERS = 1e-9  # of the mean value: the logarithm of next to nothing stays finite


@dataclass(frozen=True)
class LastPeriod:
    """Value of the last 365 days: a rule, nothing learned."""

    mode: ClassVar[str] = "last_period"
    players: ClassVar[tuple[Feature, ...]] = (LAST_PERIOD,)

    def inputs(self, frame: pd.DataFrame) -> Floats:
        return numbers(frame, self.players)

    def raw(self, inputs: Floats) -> Floats:
        return inputs[:, 0]

    def attribute(self, inputs: Floats, reference: Floats) -> Attribution:
        return Attribution(inputs[:, 0], float(reference[0]), inputs - reference)


@dataclass(frozen=True)
class BuyTillYouDie:
    """Discounted purchases of the horizon times expected order value, by a fitted BTYD model.

    `order_value_ratio` scales the expected order value, so that over all orders on record it gives back their money.
    """

    fitted: Btyd
    horizon_days: int
    discount_rate_annual_ratio: float
    order_value_ratio: float = 1.0
    mode: ClassVar[str] = "btyd"
    players: ClassVar[tuple[Feature, ...]] = BTYD_INPUTS

    def inputs(self, frame: pd.DataFrame) -> Floats:
        return numbers(frame, self.players)

    def raw(self, inputs: Floats) -> Floats:
        # A customer who has only returned goods has no purchase: one of the mean value is assumed.
        frequency = np.nan_to_num(np.maximum(inputs[:, 0], 0))
        recency = np.nan_to_num(inputs[:, 1])
        tenure = np.maximum(inputs[:, 2], recency)
        purchases = self.fitted.discounted_purchases(
            frequency, recency, tenure, self.horizon_days, self.discount_rate_annual_ratio
        )
        value = self._order_value(frequency, inputs[:, 3])
        floor = SMALLEST_ORDERS * self._order_value(np.zeros(1), np.full(1, np.nan))
        return np.log(np.maximum(purchases * value, floor))

    def attribute(self, inputs: Floats, reference: Floats) -> Attribution:
        return coalition_shapley(self.raw, inputs, reference)

    def value(self, frame: pd.DataFrame) -> Floats:
        """Discounted value of the horizon; 0 for customers without a purchase."""
        inputs = self.inputs(frame)
        return np.where(inputs[:, 0] >= 0, np.exp(self.raw(inputs)), 0.0)

    def course(self, frame: pd.DataFrame, days: Sequence[int]) -> tuple[Floats, Floats]:
        """Purchases, and their discounted value, expected of all rows together within each of `days` (rising)."""
        inputs = self.inputs(frame)
        frequency, recency, tenure, mean = inputs[inputs[:, 0] >= 0].T
        order_value = self._order_value(frequency, mean)
        purchases, value = (
            self.fitted.cumulative_purchases(frequency, recency, tenure, days, worth)
            for worth in (1.0, order_value)
        )
        ends = np.append(0.0, days)
        factor = day_factor(self.discount_rate_annual_ratio) ** ((ends[1:] + ends[:-1]) / 2)
        return purchases, np.cumsum(np.diff(value, prepend=0.0) * factor)

    def outputs(self, frame: pd.DataFrame) -> pd.DataFrame:
        """BTYD_FEATURES of each row; null for customers who have only returned goods."""
        inputs = self.inputs(frame)
        bought = inputs[:, 0] >= 0
        frequency, recency, tenure, mean = inputs[bought].T
        outputs = np.full((len(frame), len(BTYD_FEATURES)), np.nan)
        outputs[bought, 0] = self.fitted.probability_active(frequency, recency, tenure)
        outputs[bought, 1] = self.fitted.expected_purchases(frequency, recency, tenure, self.horizon_days)
        outputs[bought, 2] = self._order_value(frequency, mean)
        return pd.DataFrame(outputs, columns=[feature.name for feature in BTYD_FEATURES])

    def pace(self, frame: pd.DataFrame, horizon_days: int) -> Floats:
        """Discounted purchases in the `horizon_days` ahead of a customer like each row that is still active."""
        inputs = self.inputs(frame)
        frequency, tenure = np.nan_to_num(np.maximum(inputs[:, 0], 0)), inputs[:, 2]
        recency = np.where(frequency > 0, tenure, 0.0)
        purchases = self.fitted.discounted_purchases(
            frequency, recency, tenure, horizon_days, self.discount_rate_annual_ratio
        )
        return purchases / self.fitted.probability_active(frequency, recency, tenure)

    def _order_value(self, frequency: Floats, mean: Floats) -> Floats:
        """Expected value of an order; of customers without any (null mean) the population's."""
        count = np.where(np.isnan(mean), 0, frequency + 1)
        return self.order_value_ratio * self.fitted.expected_order_value(count, np.nan_to_num(mean))


@dataclass(frozen=True)
class Trees:
    """A small Tweedie booster on the features, the outputs of a BTYD model and the attributes."""

    booster: str  # LightGBM's text format
    log_unit: float  # log of the money unit it was trained in: the mean label
    encoder: AttributeEncoder
    purchases: BuyTillYouDie | None
    mode: ClassVar[str] = "tweedie"

    @property
    def players(self) -> tuple[Feature, ...]:
        return (*FEATURES, *BTYD_FEATURES, *self.encoder.features())

    def inputs(self, frame: pd.DataFrame) -> Floats:
        return tree_inputs(frame, self.encoder, self.purchases)

    def raw(self, inputs: Floats) -> Floats:
        raw: Floats = _parsed(self.booster).predict(inputs, raw_score=True, num_threads=1)
        return raw + self.log_unit

    def attribute(self, inputs: Floats, reference: Floats) -> Attribution:
        found = explainer(_parsed(self.booster), reference).attribute(inputs)
        return Attribution(found.raw + self.log_unit, found.raw_reference + self.log_unit, found.phi)


@lru_cache(maxsize=4)
def _parsed(booster: str) -> lgb.Booster:
    return lgb.Booster(model_str=booster)


@dataclass(frozen=True)
class Blend:
    """Geometric mean of trees and BTYD, for few customers."""

    trees: Trees
    purchases: BuyTillYouDie
    mode: ClassVar[str] = "blend"

    @property
    def players(self) -> tuple[Feature, ...]:
        return (*self.trees.players, *self.purchases.players)

    def inputs(self, frame: pd.DataFrame) -> Floats:
        return np.hstack([self.trees.inputs(frame), self.purchases.inputs(frame)])

    def raw(self, inputs: Floats) -> Floats:
        of_trees, of_purchases = self._split(inputs)
        return (self.trees.raw(of_trees) + self.purchases.raw(of_purchases)) / 2

    def attribute(self, inputs: Floats, reference: Floats) -> Attribution:
        of_trees, of_purchases = self._split(inputs)
        first, second = self._split(reference)
        a, b = self.trees.attribute(of_trees, first), self.purchases.attribute(of_purchases, second)
        return Attribution(
            (a.raw + b.raw) / 2,
            (a.raw_reference + b.raw_reference) / 2,
            np.hstack([a.phi, b.phi]) / 2,
        )

    def _split(self, inputs: Floats) -> tuple[Floats, Floats]:
        width = len(self.trees.players)
        return inputs[..., :width], inputs[..., width:]


Part = LastPeriod | BuyTillYouDie | Trees | Blend


def tree_inputs(frame: pd.DataFrame, encoder: AttributeEncoder, purchases: BuyTillYouDie | None) -> Floats:
    """The matrix that `Trees` reads, in the order of its players."""
    outputs = np.full((len(frame), len(BTYD_FEATURES)), np.nan)
    if purchases is not None:
        outputs = purchases.outputs(frame).to_numpy(np.float64)
    return np.hstack([numbers(frame, FEATURES), outputs, encoder.transform(frame).to_numpy(np.float64)])


def numbers(frame: pd.DataFrame, features: Sequence[Feature]) -> Floats:
    """The columns of `features`, one per feature, nulls as NaN."""
    return np.column_stack([frame[f.name].to_numpy(np.float64, na_value=np.nan) for f in features])
