"""What the lifetime-value model is fitted from: the BTYD model, the trees, their level, and forecasts out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.features import Feature
from clv.models import btyd
from clv.models.attributes import AttributeEncoder
from clv.models.boosting import train_trees
from clv.models.value_parts import Blend, BuyTillYouDie, Part, Trees

if TYPE_CHECKING:
    from clv.config import Config

Floats = NDArray[np.float64]

# Below SMALL customers the trees are averaged with BTYD, below TINY they are left out: too few rows for them.
SMALL_CUSTOMERS, TINY_CUSTOMERS = 500, 250
PLAUSIBLE_TOTAL = (1 / 5, 5.0)  # of a BTYD forecast, over what the last horizon brought
LEVEL_BOUNDS = (0.5, 2.0)
LABEL_DECIMALS = 9  # of the mean label: what a change of currency rounds differently is not learned
FOLDS = 3


def fit_btyd(
    present: pd.DataFrame, horizon_days: int, config: Config, last_horizon: float
) -> tuple[BuyTillYouDie | None, str]:
    """The BTYD model of the present customers, or None; and how it fared.

    Its order values are scaled so that over all orders on record they give back the money on record: Gamma-Gamma knows
    no order below 0, and is too high by a tenth where many are. Left out where its total is not within
    PLAUSIBLE_TOTAL of `last_horizon`, what known customers brought in the last whole horizon.
    """
    bought = present[present["order_count"].to_numpy(np.float64) >= 1]
    settings = config.lifetime_value
    names = ("frequency", "recency_days", "T_days", "order_count", "mean_order_value")
    columns = [bought[name].to_numpy(np.float64, na_value=np.nan) for name in names]
    try:
        fitted = btyd.fit(*columns, purchase_model=settings.purchase_model)
    except ModelError as error:
        return None, f"no buy-till-you-die model: {error}"
    count, mean = columns[3], columns[4]
    given_back = float((count * fitted.expected_order_value(count, mean)).sum())
    ratio = float((count * mean).sum()) / given_back
    if not ratio > 0:
        return None, "no buy-till-you-die model: the orders on record brought nothing, all in all"
    purchases = BuyTillYouDie(fitted, horizon_days, settings.discount_rate_annual_ratio, ratio)
    total = float(purchases.value(bought).sum())
    low, high = PLAUSIBLE_TOTAL
    if last_horizon > 0 and not low <= total / last_horizon <= high:
        return None, (
            f"no buy-till-you-die model: it expects {total / last_horizon:.3g} times the value of the last horizon "
            f"({total:,.0f} against {last_horizon:,.0f}), between 1/5 and 5 times is plausible"
        )
    return purchases, fitted.verdict


def fit_part(
    training: pd.DataFrame, present: pd.DataFrame, purchases: BuyTillYouDie | None, config: Config
) -> Part:
    """What forecasts the value before cost to serve, by the size of the population; `training` has `realised_value`."""
    customers = present["customer_id"].nunique()
    if purchases is not None and customers < TINY_CUSTOMERS:
        return purchases
    label = np.maximum(training["realised_value"].to_numpy(np.float64), 0)
    encoder = AttributeEncoder.fit(present, config.known_at_first_contact)
    # in units of the mean label: regularisation must not depend on the currency
    trees = Trees("", float(np.log(label.mean())), encoder, purchases)
    small = customers < SMALL_CUSTOMERS
    trees = _grown(trees, trees.inputs(training), label, config, small)
    return Blend(trees, purchases) if purchases is not None and small else trees


def out_of_fold(part: Part, training: pd.DataFrame, config: Config) -> Floats:
    """Raw forecasts of the rows of `training`, each by trees that saw none of its customer's outcomes.

    A part without trees learns a few numbers from everybody; its forecasts are its own.
    """
    trees = part.trees if isinstance(part, Blend) else part
    if not isinstance(trees, Trees):
        return part.raw(part.inputs(training))
    inputs = trees.inputs(training)
    label = np.maximum(training["realised_value"].to_numpy(np.float64), 0)
    raw = np.zeros(len(label))
    fold = _folds(training["customer_id"], config.seed)
    for k in range(FOLDS):
        mine = fold == k
        if not mine.any():
            continue
        others = trees
        if (label[~mine] > 0).any():  # else there is nothing to learn from but its own
            others = _grown(trees, inputs[~mine], label[~mine], config, isinstance(part, Blend))
        raw[mine] = others.raw(inputs[mine])
    if isinstance(part, Blend):
        return (raw + part.purchases.raw(part.purchases.inputs(training))) / 2
    return raw


def _grown(trees: Trees, inputs: Floats, label: Floats, config: Config, small: bool) -> Trees:
    """`trees` with a booster learned from these rows."""
    booster = train_trees(
        inputs,
        np.round(label / np.exp(trees.log_unit), LABEL_DECIMALS),
        parameters(config, trees.players, small),
        config.lifetime_value.rounds,
        config.seed,
        config.engine.threads,
    )
    return replace(trees, booster=booster.model_to_string())


def parameters(config: Config, players: Sequence[Feature], small: bool) -> dict[str, Any]:
    """LightGBM's, of the trees of a population that is `small` or not."""
    settings = config.lifetime_value
    return {
        "objective": "tweedie",
        "tweedie_variance_power": settings.tweedie_variance_power,
        "learning_rate": settings.learning_rate,
        "num_leaves": min(settings.num_leaves, 4) if small else settings.num_leaves,
        "min_data_in_leaf": 20 if small else 50,
        "extra_trees": True,  # random thresholds: smoother, and better on every company with few snapshots
        "feature_fraction": 0.6,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5,
        "monotone_constraints": [player.monotone for player in players],
    }


def _folds(customers: pd.Series, seed: int) -> NDArray[np.intp]:
    """The fold of each row: that of its customer, drawn once per customer in the order of the ids."""
    ids, place = np.unique(customers.to_numpy(dtype=object).astype(str), return_inverse=True)
    return np.random.default_rng(seed).permutation(len(ids))[place] % FOLDS


def fit_level(
    part: Part, purchases: BuyTillYouDie | None, present: pd.DataFrame, last_actual: float | None
) -> tuple[float, dict[str, float]]:
    """One constant: the geometric mean of independent forecasts of the total, over the model's own."""
    totals = {"model": float(np.exp(part.raw(part.inputs(present))).sum())}
    if purchases is not None:
        totals["btyd"] = float(purchases.value(present).sum())
    if last_actual is not None and last_actual > 0:
        totals["last_actual"] = last_actual
    level = np.exp(np.mean(np.log(list(totals.values())))) / totals["model"]
    return float(np.clip(level, *LEVEL_BOUNDS)), totals
