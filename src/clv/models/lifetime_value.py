"""Expected discounted value of each customer over the horizon: one small Tweedie model on top of a BTYD model.

The booster predicts max(0, value of orders); a constant sets its level; expected cost to serve is taken off by
rule, so a customer who costs more than it brings has a negative `clv`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.features import FEATURES, Feature
from clv.models import btyd
from clv.models.attributes import AttributeEncoder
from clv.models.boosting import train_trees
from clv.models.shapley import Attribution
from clv.models.value_parts import (
    BTYD_FEATURES,
    Blend,
    BuyTillYouDie,
    LastPeriod,
    Part,
    Trees,
    tree_inputs,
)

if TYPE_CHECKING:
    from clv.config import Config

Floats = NDArray[np.float64]

# Below SMALL customers the model is averaged with BTYD, below TINY it is left out: too few rows for trees.
SMALL_CUSTOMERS, TINY_CUSTOMERS = 500, 250
PLAUSIBLE_TOTAL = (1 / 5, 5.0)  # of a BTYD forecast, over what the last horizon brought
LEVEL_BOUNDS = (0.5, 2.0)
INTERVAL_QUANTILES = (0.1, 0.9)
MINIMUM_ROWS_PER_BIN = 30
LABEL_DECIMALS = 9  # of the mean label: what a change of currency rounds differently is not learned


@dataclass(frozen=True)
class Interval:
    """Ratios of realised to predicted value by predicted decile, from an out-of-time test (80 %).

    Ratio-conformal by bins of the prediction (Mondrian; Vovk, Lindsay, Nouretdinov & Gammerman 2003): additive
    residuals tie at zero where most customers buy nothing, ratios by decile do not.
    """

    edges: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def fit(cls, predicted: Floats, realised: Floats) -> Interval:
        """Ratios of an out-of-time test, both before cost to serve."""
        bins = int(np.clip(len(predicted) // MINIMUM_ROWS_PER_BIN, 1, 10))
        edges = np.unique(np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1]))
        index = np.searchsorted(edges, predicted, side="right")
        ratio = np.maximum(realised, 0) / np.maximum(predicted, 1e-9)
        groups = [ratio[index == b] for b in range(len(edges) + 1)]
        quantiles = [np.quantile(group if len(group) else ratio, INTERVAL_QUANTILES) for group in groups]
        return cls(
            tuple(map(float, edges)),
            tuple(float(q[0]) for q in quantiles),
            tuple(float(q[1]) for q in quantiles),
        )

    def around(self, predicted: Floats) -> tuple[Floats, Floats]:
        index = np.searchsorted(np.array(self.edges), predicted, side="right")
        low = predicted * np.array(self.low)[index]
        high = predicted * np.array(self.high)[index]
        return np.minimum(low, predicted), np.maximum(high, predicted)


@dataclass(frozen=True)
class LifetimeValue:
    """A fitted lifetime-value model; `mode` says which of its parts speak.

    `tweedie`: the booster; `blend`: geometric mean of booster and BTYD; `btyd`: BTYD alone; `last_period`: value
    of the last 365 days, the fallback where nothing predicts better (`clv` is null then).
    """

    KIND = "lifetime-value"

    part: Part  # what forecasts the value before cost to serve
    purchases: (
        BuyTillYouDie | None
    )  # what says whether a customer is still active; None where it cannot be fitted
    basis: str  # what money means: 'contribution' or 'revenue'
    horizon_days: int
    reference: tuple[float | None, ...]  # of each player; null where most active customers have none
    reference_cost: float
    level: float
    level_parts: Mapping[str, float]  # the forecasts of the total that set the level
    interval: Interval | None
    verdict: str  # how the BTYD model fared, or why the last period grades

    @classmethod
    def fit(
        cls,
        training: pd.DataFrame,
        present: pd.DataFrame,
        config: Config,
        *,
        basis: str,
        horizon_days: int,
        last_actual: float | None = None,
    ) -> LifetimeValue:
        """Learn from `training`: rows of customer_features stacked over mature snapshots, with `realised_value`.

        `present` is customer_features at the training as_of with `cost_to_serve_12m` and `is_active`: it fits BTYD,
        the level and the reference customer. `last_actual` is outcomes.level_forecast where history allows it.
        Raises ModelError where there is nothing to learn from, naming what is missing.
        """
        training = training.sort_values(["snapshot_date", "customer_id"], ignore_index=True)
        realised = training["realised_value"].to_numpy(np.float64)
        if not (realised > 0).any():
            raise ModelError(
                f"Nobody bought anything in the label windows of {len(training)} customer snapshots: "
                "a lifetime value cannot be learned. Grade by last-period value instead."
            )
        newest = training["snapshot_date"] == training["snapshot_date"].max()
        rate = config.lifetime_value.discount_rate_annual_ratio
        last_horizon = float(realised[newest].sum())
        first_choice = config.lifetime_value.purchase_model
        purchases, verdict = _fit_btyd(present, horizon_days, rate, last_horizon, first_choice)
        customers = present["customer_id"].nunique()
        part: Part
        if purchases is not None and customers < TINY_CUSTOMERS:
            part = purchases
        else:
            encoder = AttributeEncoder.fit(present, config.known_at_first_contact)
            part = _fit_trees(training, encoder, purchases, customers, config)
            if purchases is not None and customers < SMALL_CUSTOMERS:
                part = Blend(part, purchases)
        level, totals = _level(part, purchases, present, last_actual)
        return cls._around(part, purchases, present, basis, horizon_days, level, totals, verdict)

    @classmethod
    def last_period(cls, present: pd.DataFrame, *, basis: str, horizon_days: int, why: str) -> LifetimeValue:
        """The fallback that grades by the value of the last 365 days; `why` is kept as its verdict."""
        return cls._around(LastPeriod(), None, present, basis, horizon_days, 1.0, {}, why)

    @classmethod
    def _around(
        cls,
        part: Part,
        purchases: BuyTillYouDie | None,
        present: pd.DataFrame,
        basis: str,
        horizon_days: int,
        level: float,
        level_parts: Mapping[str, float],
        verdict: str,
    ) -> Self:
        """The model with its reference customer: the median of every input over the active customers."""
        active = present[present["is_active"].to_numpy(bool)]
        active = active if len(active) else present
        inputs = part.inputs(active)
        known = np.isfinite(inputs)
        reference = tuple(
            float(np.median(inputs[known[:, i], i])) if known[:, i].mean() > 0.5 else None
            for i in range(inputs.shape[1])
        )
        model = cls(part, purchases, basis, horizon_days, reference, 0.0, level, level_parts, None, verdict)
        return replace(model, reference_cost=float(np.median(model.expected_cost_to_serve(active))))

    @property
    def mode(self) -> str:
        return self.part.mode

    @property
    def players(self) -> tuple[Feature, ...]:
        """Inputs in the order of the columns of `attribute`."""
        return self.part.players

    @property
    def encoder(self) -> AttributeEncoder:
        """The attributes that the trees read; none without trees."""
        trees = self._trees
        return trees.encoder if trees else AttributeEncoder(())

    @property
    def reference_value(self) -> float:
        """The criterion's value of the reference customer, after its expected cost to serve."""
        raw = self.part.raw(self._reference_row()[None, :])
        return float(self.money(raw)[0]) - self.reference_cost

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One row per row of `frame` (customer_features), in its order.

        `value` (what the criterion is scored by), `clv`, `clv_low`, `clv_high` (80 %), `probability_active` (0-1),
        `expected_orders`, `expected_cost_to_serve`; all but `value` null in mode `last_period`.
        """
        money = self.money(self.part.raw(self.part.inputs(frame)))
        cost = self.expected_cost_to_serve(frame)
        empty = np.full(len(frame), np.nan)
        clv = empty if self.mode == "last_period" else money - cost
        low, high = self.interval.around(money) if self.interval else (empty, empty)
        outputs = self.purchases.outputs(frame) if self.purchases else None
        return pd.DataFrame(
            {
                "customer_id": frame["customer_id"].to_numpy(),
                "value": money - cost,
                "clv": clv,
                "clv_low": low - cost,
                "clv_high": high - cost,
                "probability_active": empty if outputs is None else outputs["probability_active"],
                "expected_orders": empty if outputs is None else outputs["expected_purchases"],
                "expected_cost_to_serve": empty if self.mode == "last_period" else cost,
            }
        )

    def attribute(self, frame: pd.DataFrame) -> Attribution:
        """Shapley values of the log value (before level and cost; of the value itself in mode `last_period`).

        Columns as `players`; exact against the reference customer.
        """
        return self.part.attribute(self.part.inputs(frame), self._reference_row())

    def money(self, raw: Floats) -> Floats:
        """Value before cost to serve of a raw output: strictly increasing."""
        return raw if self.mode == "last_period" else self.level * np.exp(raw)

    def expected_cost_to_serve(self, frame: pd.DataFrame) -> Floats:
        """Cost to serve of the last 12 months, carried over the horizon while the customer stays active."""
        if self.basis == "revenue" or self.mode == "last_period" or "cost_to_serve_12m" not in frame.columns:
            return np.zeros(len(frame))
        active = 1.0
        if self.purchases is not None:
            active = self.purchases.outputs(frame)["probability_active"].fillna(1.0).to_numpy()
        yearly = np.asarray(frame["cost_to_serve_12m"], dtype=np.float64)
        return yearly * active * self.horizon_days / 365

    def design(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The inputs of `attribute`, one column per player, float64."""
        return pd.DataFrame(self.part.inputs(frame), columns=[player.name for player in self.players])

    def calibrated(self, interval: Interval) -> LifetimeValue:
        """This model with `interval`; the fallback has none."""
        return self if self.mode == "last_period" else replace(self, interval=interval)

    def to_files(self) -> dict[str, str]:
        """The whole model as text: JSON, and LightGBM's text where there are trees."""
        trees = self._trees
        state = {
            "mode": self.mode,
            "trees": {"log_unit": trees.log_unit, "encoder": trees.encoder.to_dict()} if trees else None,
            "purchases": asdict(self.purchases) if self.purchases else None,
            "interval": asdict(self.interval) if self.interval else None,
            **{name: getattr(self, name) for name in _PLAIN},
        }
        files = {_STATE: json.dumps(state, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)}
        return files | ({_TREES: trees.booster} if trees else {})

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> LifetimeValue:
        """The model that `to_files` wrote; hand in verified files only. ModelError for one of other features."""
        state = json.loads(files[_STATE])
        stored, learned, interval = state["purchases"], state["trees"], state["interval"]
        purchases = None
        if stored:
            fitted = btyd.Btyd.from_dict(stored.pop("fitted"))
            purchases = BuyTillYouDie(fitted, **stored)
        part: Part = LastPeriod()
        if learned:
            encoder = AttributeEncoder.from_dict(learned["encoder"])
            part = Trees(files[_TREES], learned["log_unit"], encoder, purchases)
        if purchases and state["mode"] != "tweedie":
            part = Blend(part, purchases) if isinstance(part, Trees) else purchases
        plain = {name: state[name] for name in _PLAIN} | {"reference": tuple(state["reference"])}
        if part.mode != state["mode"] or len(part.players) != len(plain["reference"]):
            raise ModelError(
                f"expected a lifetime-value model of {len(part.players)} inputs, found "
                f"{len(plain['reference'])}. Train again with this version."
            )
        found = Interval(**{key: tuple(value) for key, value in interval.items()}) if interval else None
        return cls(part=part, purchases=purchases, interval=found, **plain)

    @property
    def _trees(self) -> Trees | None:
        part = self.part.trees if isinstance(self.part, Blend) else self.part
        return part if isinstance(part, Trees) else None

    def _reference_row(self) -> Floats:
        return np.array([np.nan if value is None else value for value in self.reference])


_STATE, _TREES = "lifetime_value.json", "lifetime_value.txt"
_PLAIN = (
    "basis", "horizon_days", "reference", "reference_cost", "level", "level_parts", "verdict",
)  # fmt: skip


def _fit_btyd(
    present: pd.DataFrame,
    horizon_days: int,
    rate: float,
    last_horizon: float,
    purchase_model: btyd.PurchaseModel,
) -> tuple[BuyTillYouDie | None, str]:
    """The BTYD model of the present customers, or None; and how it fared.

    Left out where its total is not within PLAUSIBLE_TOTAL of `last_horizon`, what known customers brought in the
    last whole horizon.
    """
    bought = present[present["order_count"].to_numpy(np.float64) >= 1]
    names = ("frequency", "recency_days", "T_days", "order_count", "mean_order_value")
    try:
        fitted = btyd.fit(
            *(bought[name].to_numpy(np.float64, na_value=np.nan) for name in names),
            purchase_model=purchase_model,
        )
    except ModelError as error:
        return None, f"no buy-till-you-die model: {error}"
    purchases = BuyTillYouDie(fitted, horizon_days, rate)
    total = float(purchases.value(bought).sum())
    low, high = PLAUSIBLE_TOTAL
    if last_horizon > 0 and not low <= total / last_horizon <= high:
        return None, (
            f"no buy-till-you-die model: it expects {total / last_horizon:.3g} times the value of the last horizon "
            f"({total:,.0f} against {last_horizon:,.0f}), between 1/5 and 5 times is plausible"
        )
    return purchases, fitted.verdict


def _fit_trees(
    training: pd.DataFrame,
    encoder: AttributeEncoder,
    purchases: BuyTillYouDie | None,
    customers: int,
    config: Config,
) -> Trees:
    settings = config.lifetime_value
    small = customers < SMALL_CUSTOMERS
    label = np.maximum(training["realised_value"].to_numpy(np.float64), 0)
    unit = float(label.mean())  # regularisation must not depend on the currency
    players = (*FEATURES, *BTYD_FEATURES, *encoder.features())
    parameters = {
        "objective": "tweedie",
        "tweedie_variance_power": settings.tweedie_variance_power,
        "learning_rate": settings.learning_rate,
        "num_leaves": min(settings.num_leaves, 4) if small else settings.num_leaves,
        "min_data_in_leaf": 20 if small else 50,
        "feature_fraction": 0.6,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5,
        "monotone_constraints": [player.monotone for player in players],
    }
    booster = train_trees(
        tree_inputs(training, encoder, purchases),
        np.round(label / unit, LABEL_DECIMALS),
        parameters,
        settings.rounds,
        config.seed,
        config.engine.threads,
    )
    return Trees(booster.model_to_string(), float(np.log(unit)), encoder, purchases)


def _level(
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
