"""The two parts of the prospect model: what goes in, and how each is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from clv.features import Feature
from clv.models.attributes import AttributeEncoder
from clv.models.boosting import train_trees
from clv.models.level_effects import LevelEffects, log_mean, log_odds, out_of_fold
from clv.models.links import TWEEDIE_POWER, Floats, Link, logistic, logit_shift, tweedie_regression

if TYPE_CHECKING:
    from clv.config import Attribute

AGE = Feature("days_since_first_contact", "contact_age", 0, "days")
SMALL_PROSPECTS = 1000
FOLDS = 5
QUANTILES = np.linspace(0.0, 1.0, 101)
MAX_LOG_VALUE = 30.0  # keeps exp finite whatever the inputs
CONVERSION = {"objective": "binary", "learning_rate": 0.05, "min_data_in_leaf": 20, "lambda_l2": 5.0}
VALUE = {
    "objective": "tweedie",
    "tweedie_variance_power": TWEEDIE_POWER,
    "learning_rate": 0.05,
    "num_leaves": 4,
    "min_data_in_leaf": 20,
    "lambda_l2": 5.0,
}


@dataclass(frozen=True)
class Inputs:
    """Prospects -> float columns: age of the contact, the encoded attributes, and for each category with more levels
    than flags what its level did, once in conversions and once in value."""

    encoder: AttributeEncoder
    conversion: LevelEffects
    value: LevelEffects

    @property
    def features(self) -> tuple[Feature, ...]:
        """What each column of `frame` is, in order."""
        return (
            AGE,
            *self.encoder.features(),
            *(_effect(name, "conversion") for name in self.conversion.effects),
            *(_effect(name, "value") for name in self.value.effects),
        )

    def frame(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The columns of `features`, float64, with the index of `rows`."""
        columns = np.hstack(
            [_plain(rows, self.encoder), self.conversion.transform(rows), self.value.transform(rows)]
        )
        return pd.DataFrame(columns, index=rows.index, columns=[feature.name for feature in self.features])

    def matrix(self, rows: pd.DataFrame) -> Floats:
        """`frame` as numbers [rows, features]."""
        return np.asarray(self.frame(rows), dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The inputs as JSON types."""
        effects = {
            "conversion": dict(self.conversion.effects),
            "value": dict(self.value.effects),
        }
        return {"encoder": self.encoder.to_dict(), "level_effects": effects}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inputs that `to_dict` wrote."""
        effects = content["level_effects"]
        return cls(
            AttributeEncoder.from_dict(content["encoder"]),
            LevelEffects(effects["conversion"]),
            LevelEffects(effects["value"]),
        )


def learn_inputs(
    rows: pd.DataFrame, values: pd.DataFrame, people: pd.DataFrame, attributes: Mapping[str, Attribute]
) -> Inputs:
    """The encoding of prospects, with the level effects that are stored for scoring; `people`: one row each."""
    encoder = AttributeEncoder.fit(people, attributes)
    names = encoder.crowded(people)
    return Inputs(
        encoder,
        LevelEffects.fit(rows, _converted(rows), names, log_odds),
        LevelEffects.fit(values, _money(values), names, log_mean),
    )


def conversion_link(rows: pd.DataFrame, inputs: Inputs, seed: int, threads: int) -> Link:
    """P(convert), on the logit: the mean of trees (stumps below 1,000 prospects) and ridge logistic regression.

    Shifted so that the training rows' conversions are met. Over 21 origins of three invented companies and the cuts
    of a real one 4, 7 and 11 leaves are within 0.001 of log loss (benchmarks/prospect_shapes.py).
    """
    converted = _converted(rows)
    effects = out_of_fold(rows, converted, list(inputs.conversion.effects), log_odds, seed)
    X = np.hstack([_plain(rows, inputs.encoder), effects, _absent(rows, inputs.value)])
    is_small = rows["customer_id"].nunique() < SMALL_PROSPECTS
    shape = {"num_leaves": 2 if is_small else 4} | _monotone(inputs)
    trees = train_trees(X, converted, CONVERSION | shape, 150 if is_small else 200, seed, threads)
    linear = logistic(X, converted, inputs.features, exposures(rows))
    return Link(trees, linear, logit_shift(Link(trees, linear, 0.0).raw(X), float(converted.mean())))


def value_link(values: pd.DataFrame, inputs: Inputs, seed: int, threads: int) -> Link:
    """Value given conversion, on the log: the mean of trees and ridge regression, both Tweedie; the total is met."""
    money = _money(values)
    effects = out_of_fold(values, money, list(inputs.value.effects), log_mean, seed)
    X = np.hstack([_plain(values, inputs.encoder), _absent(values, inputs.conversion), effects])
    relative = money / money.mean()  # around one, so that regularisation means the same in every currency
    trees = train_trees(X, relative, VALUE | _monotone(inputs), 120, seed, threads)
    linear = tweedie_regression(X, relative, inputs.features)
    predicted = exp_value(Link(trees, linear, 0.0).raw(X))
    return Link(trees, linear, float(np.log(money.mean() / predicted.mean())))


def ratio_quantiles(values: pd.DataFrame, inputs: Inputs, seed: int, threads: int) -> Floats:
    """Percentiles of realised / predicted value, each customer predicted by a model that has not seen it."""
    fold = np.random.default_rng(seed).permutation(len(values)) % FOLDS
    ratios = np.ones(len(values))
    for k in range(FOLDS):
        learned, held = values[fold != k], values[fold == k]
        if len(held) and float(learned["value"].sum()) > 0:
            names = list(inputs.value.effects)
            seen = Inputs(
                inputs.encoder, inputs.conversion, LevelEffects.fit(learned, _money(learned), names, log_mean)
            )
            predicted = exp_value(value_link(learned, seen, seed, threads).raw(seen.matrix(held)))
            ratios[fold == k] = _money(held) / predicted
    return np.asarray(np.quantile(ratios, QUANTILES))


def exp_value(raw: Floats) -> Floats:
    """Money from its logarithm, finite whatever it is."""
    return np.asarray(np.exp(np.minimum(raw, MAX_LOG_VALUE)))


def exposures(rows: pd.DataFrame) -> float:
    """Rows that one customer fills, on average."""
    return float(len(rows) / max(rows["customer_id"].nunique(), 1))


def _effect(name: str, of: str) -> Feature:
    # Begins like the flags of its attribute, so that it is told as they are: by the level's own name.
    return Feature(f"{name}= {of} of the level so far", f"attribute:{name}", 0, "effect")


def _plain(rows: pd.DataFrame, encoder: AttributeEncoder) -> Floats:
    age = rows[AGE.name].to_numpy(dtype=np.float64)
    return np.column_stack([age, encoder.transform(rows).to_numpy(dtype=np.float64)])


def _absent(rows: pd.DataFrame, other: LevelEffects) -> Floats:
    """The columns of the other part: constant while this one learns, so that it never uses them."""
    return np.zeros((len(rows), len(other.effects)))


def _monotone(inputs: Inputs) -> dict[str, Sequence[int]]:
    return {"monotone_constraints": [feature.monotone for feature in inputs.features]}


def _converted(rows: pd.DataFrame) -> Floats:
    return np.asarray(rows["converted"], dtype=np.float64)


def _money(values: pd.DataFrame) -> Floats:
    return np.asarray(values["value"], dtype=np.float64)
