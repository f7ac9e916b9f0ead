"""Expected discounted value of each customer over the horizon: one small Tweedie model on top of a BTYD model.

The booster predicts max(0, value of orders); a constant sets its level; expected cost to serve is taken off by
rule, so a customer who costs more than it brings has a negative `clv`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.features import FEATURES, Feature
from clv.models import btyd
from clv.models.attributes import AttributeEncoder
from clv.models.shapley import Attribution, TreeShapley, coalition_shapley

if TYPE_CHECKING:
    from clv.config import Config

Floats = NDArray[np.float64]

# Below SMALL customers the model is averaged with BTYD, below TINY it is left out: too few rows for trees.
SMALL_CUSTOMERS, TINY_CUSTOMERS = 500, 250
LEVEL_BOUNDS = (0.5, 2.0)
COST_QUANTILES = (0.1, 0.9)
MINIMUM_ROWS_PER_BIN = 30

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
        bins = int(np.clip(len(predicted) // MINIMUM_ROWS_PER_BIN, 1, 10))
        edges = np.unique(np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1]))
        index = np.searchsorted(edges, predicted, side="right")
        ratio = np.maximum(realised, 0) / np.maximum(predicted, 1e-9)
        groups = [ratio[index == b] for b in range(len(edges) + 1)]
        quantiles = [np.quantile(group if len(group) else ratio, COST_QUANTILES) for group in groups]
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

    mode: str
    basis: str
    horizon_days: int
    discount_rate_annual_ratio: float
    btyd: btyd.Btyd | None
    btyd_note: str
    encoder: AttributeEncoder
    booster: str
    log_unit: float  # log of the money unit the booster was trained in: the mean label
    reference: tuple[float | None, ...]  # of each player; null where most active customers have none
    reference_cost: float
    level: float
    level_parts: Mapping[str, float]
    interval: Interval | None
    verdict: str

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
        settings = config.lifetime_value
        engine, note = _fit_btyd(present)
        realised = training["realised_value"].to_numpy(np.float64)
        if not (realised > 0).any():
            raise ModelError(
                f"Nobody bought anything in the label windows of {len(training)} customer snapshots: "
                "a lifetime value cannot be learned. Grade by last-period value instead."
            )
        encoder = AttributeEncoder.fit(present, config.known_at_first_contact)
        customers = present["customer_id"].nunique()
        mode = "tweedie"
        if engine is not None and customers < SMALL_CUSTOMERS:
            mode = "btyd" if customers < TINY_CUSTOMERS else "blend"
        model = cls(
            mode=mode,
            basis=basis,
            horizon_days=horizon_days,
            discount_rate_annual_ratio=settings.discount_rate_annual_ratio,
            btyd=engine,
            btyd_note=note,
            encoder=encoder,
            booster="",
            log_unit=0.0,
            reference=(),
            reference_cost=0.0,
            level=1.0,
            level_parts={},
            interval=None,
            verdict=note,
        )
        if mode != "btyd":
            model = replace(model, **_train_booster(model, training, realised, customers, config))
        return model._with_reference(present)._with_level(present, last_actual)

    @classmethod
    def last_period(cls, present: pd.DataFrame, *, basis: str, horizon_days: int, why: str) -> LifetimeValue:
        """The fallback that grades by the value of the last 365 days; `why` is kept as its verdict."""
        model = cls(
            mode="last_period",
            basis=basis,
            horizon_days=horizon_days,
            discount_rate_annual_ratio=0.0,
            btyd=None,
            btyd_note="",
            encoder=AttributeEncoder(()),
            booster="",
            log_unit=0.0,
            reference=(),
            reference_cost=0.0,
            level=1.0,
            level_parts={},
            interval=None,
            verdict=why,
        )
        return model._with_reference(present)

    @property
    def players(self) -> tuple[Feature, ...]:
        """Inputs in the order of the columns of `attribute`."""
        if self.mode == "last_period":
            return (LAST_PERIOD,)
        if self.mode == "btyd":
            return BTYD_INPUTS
        inputs = (*FEATURES, *BTYD_FEATURES, *self.encoder.features())
        return (*inputs, *BTYD_INPUTS) if self.mode == "blend" else inputs

    @property
    def reference_value(self) -> float:
        """The criterion's value of the reference customer, after its expected cost to serve."""
        raw = self._raw_of(self._reference_matrix())[0]
        return float(raw) if self.mode == "last_period" else float(self._money(raw) - self.reference_cost)

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One row per row of `frame` (customer_features), in its order.

        `value` (what the criterion is scored by), `clv`, `clv_low`, `clv_high` (80 %), `probability_active` (0-1),
        `expected_orders`, `expected_cost_to_serve`; all but `value` null in mode `last_period`.
        """
        raw = self._raw_of(self._matrix(frame))
        result = pd.DataFrame({"customer_id": frame["customer_id"].to_numpy(), "value": raw})
        if self.mode == "last_period":
            return result.assign(
                clv=np.nan, clv_low=np.nan, clv_high=np.nan, probability_active=np.nan, expected_orders=np.nan,
                expected_cost_to_serve=0.0,
            )  # fmt: skip
        money = self._money(raw)
        cost = self.expected_cost_to_serve(frame)
        low, high = self.interval.around(money) if self.interval else (np.full_like(money, np.nan),) * 2
        outputs = self._btyd_outputs(frame)
        return result.assign(
            value=money - cost,
            clv=money - cost,
            clv_low=low - cost,
            clv_high=high - cost,
            probability_active=outputs["probability_active"].to_numpy(),
            expected_orders=outputs["expected_purchases"].to_numpy(),
            expected_cost_to_serve=cost,
        )

    def attribute(self, frame: pd.DataFrame) -> Attribution:
        """Shapley values of the log value (before level and cost; of the value itself in mode `last_period`).

        Columns as `players`; exact against the reference customer.
        """
        matrix, reference = self._matrix(frame), self._reference_matrix()
        if self.mode == "last_period":
            return Attribution(matrix[:, 0], float(reference[0, 0]), matrix - reference)
        if self.mode == "btyd":
            return coalition_shapley(self._log_btyd, matrix, reference[0])
        width = len(self.players) - (len(BTYD_INPUTS) if self.mode == "blend" else 0)
        trees = TreeShapley(self._booster(), reference[0, :width]).attribute(matrix[:, :width])
        trees = Attribution(trees.raw + self.log_unit, trees.raw_reference + self.log_unit, trees.phi)
        if self.mode == "tweedie":
            return trees
        other = coalition_shapley(self._log_btyd, matrix[:, width:], reference[0, width:])
        return Attribution(
            (trees.raw + other.raw) / 2,
            (trees.raw_reference + other.raw_reference) / 2,
            np.hstack([trees.phi, other.phi]) / 2,
        )

    def money(self, raw: Floats) -> Floats:
        """Value before cost to serve of a raw output: strictly increasing."""
        return raw if self.mode == "last_period" else self._money(raw)

    def expected_cost_to_serve(self, frame: pd.DataFrame) -> Floats:
        """Cost to serve of the last 12 months, carried over the horizon while the customer stays active."""
        if self.basis == "revenue" or self.mode == "last_period" or "cost_to_serve_12m" not in frame.columns:
            return np.zeros(len(frame))
        active = self._btyd_outputs(frame)["probability_active"].fillna(1.0).to_numpy()
        return frame["cost_to_serve_12m"].to_numpy(np.float64) * active * self.horizon_days / 365

    def btyd_value(self, frame: pd.DataFrame) -> Floats | None:
        """Discounted value of the horizon by the BTYD model alone, 0 for customers without a purchase."""
        if self.btyd is None:
            return None
        inputs = _numbers(frame, [feature.name for feature in BTYD_INPUTS])
        return np.where(inputs[:, 0] >= 0, np.exp(self._log_btyd(inputs)), 0.0)

    def design(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The inputs of `attribute`, one column per player, float64."""
        return pd.DataFrame(self._matrix(frame), columns=[player.name for player in self.players])

    def calibrated(self, predicted: Floats, realised: Floats) -> LifetimeValue:
        """This model with intervals learned from an out-of-time test, both before cost to serve."""
        return (
            self if self.mode == "last_period" else replace(self, interval=Interval.fit(predicted, realised))
        )

    def to_files(self) -> dict[str, str]:
        state = {
            key: value
            for key, value in vars(self).items()
            if key not in ("btyd", "encoder", "booster", "interval")
        }
        state["btyd"] = self.btyd.to_dict() if self.btyd else None
        state["encoder"] = self.encoder.to_dict()
        state["interval"] = asdict(self.interval) if self.interval else None
        return {
            "lifetime_value.json": json.dumps(state, indent=1, sort_keys=True),
            "lifetime_value.txt": self.booster,
        }

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> LifetimeValue:
        state = json.loads(files["lifetime_value.json"])
        state["btyd"] = btyd.Btyd.from_dict(state["btyd"]) if state["btyd"] else None
        state["encoder"] = AttributeEncoder.from_dict(state["encoder"])
        state["reference"] = tuple(state["reference"])
        interval = state["interval"]
        state["interval"] = Interval(**{k: tuple(v) for k, v in interval.items()}) if interval else None
        return cls(booster=files["lifetime_value.txt"], **state)

    def _money(self, raw: Floats) -> Floats:
        return self.level * np.exp(raw)

    def _booster(self) -> lgb.Booster:
        return lgb.Booster(model_str=self.booster)

    def _raw_of(self, matrix: Floats) -> Floats:
        if self.mode == "last_period":
            return matrix[:, 0]
        if self.mode == "btyd":
            return self._log_btyd(matrix)
        width = len(self.players) - (len(BTYD_INPUTS) if self.mode == "blend" else 0)
        raw: Floats = (
            self._booster().predict(matrix[:, :width], raw_score=True, num_threads=1) + self.log_unit
        )
        return (raw + self._log_btyd(matrix[:, width:])) / 2 if self.mode == "blend" else raw

    def _log_btyd(self, inputs: Floats) -> Floats:
        """Log of the BTYD value of rows (frequency, recency_days, T_days, mean_order_value)."""
        assert self.btyd is not None
        # A customer who has only returned goods has no purchase: one of the mean value is assumed.
        frequency = np.nan_to_num(np.maximum(inputs[:, 0], 0))
        recency = np.nan_to_num(inputs[:, 1])
        tenure = np.maximum(inputs[:, 2], recency)
        purchases = self.btyd.discounted_purchases(
            frequency, recency, tenure, self.horizon_days, self.discount_rate_annual_ratio
        )
        count = np.where(np.nan_to_num(inputs[:, 3]) > 0, frequency + 1, 0)
        value = self.btyd.expected_order_value(count, np.nan_to_num(inputs[:, 3]))
        return np.log(np.maximum(purchases * value, 1e-9))

    def _btyd_outputs(self, frame: pd.DataFrame) -> pd.DataFrame:
        """BTYD_FEATURES of each row; null without a fit and for customers who have only returned goods."""
        names = [feature.name for feature in BTYD_FEATURES]
        outputs = pd.DataFrame(np.nan, index=range(len(frame)), columns=names)
        if self.btyd is None:
            return outputs
        inputs = _numbers(frame, [feature.name for feature in BTYD_INPUTS])
        bought = inputs[:, 0] >= 0
        frequency, recency, tenure, mean_value = inputs[bought].T
        outputs.loc[bought, names[0]] = self.btyd.probability_active(frequency, recency, tenure)
        outputs.loc[bought, names[1]] = self.btyd.expected_purchases(
            frequency, recency, tenure, self.horizon_days
        )
        count = np.where(mean_value > 0, frequency + 1, 0)
        outputs.loc[bought, names[2]] = self.btyd.expected_order_value(count, np.maximum(mean_value, 0))
        return outputs

    def _matrix(self, frame: pd.DataFrame) -> Floats:
        if self.mode == "last_period":
            return _numbers(frame, [LAST_PERIOD.name])
        inputs = _numbers(frame, [feature.name for feature in BTYD_INPUTS])
        if self.mode == "btyd":
            return inputs
        parts = [
            _numbers(frame, [feature.name for feature in FEATURES]),
            self._btyd_outputs(frame).to_numpy(np.float64),
            self.encoder.transform(frame).to_numpy(np.float64),
        ]
        return np.hstack([*parts, inputs] if self.mode == "blend" else parts)

    def _reference_matrix(self) -> Floats:
        return np.array([[np.nan if value is None else value for value in self.reference]])

    def _with_reference(self, present: pd.DataFrame) -> LifetimeValue:
        """Median of every input over the active customers; null where most of them have none."""
        active = present[present["is_active"].to_numpy(bool)]
        active = active if len(active) else present
        matrix = self._matrix(active)
        known = np.isfinite(matrix)
        reference = tuple(
            float(np.median(matrix[known[:, i], i])) if known[:, i].mean() > 0.5 else None
            for i in range(matrix.shape[1])
        )
        cost = float(np.median(self.expected_cost_to_serve(active)))
        return replace(self, reference=reference, reference_cost=cost)

    def _with_level(self, present: pd.DataFrame, last_actual: float | None) -> LifetimeValue:
        """One constant: the geometric mean of independent forecasts of the total, over the model's own."""
        totals = {"model": float(np.exp(self._raw_of(self._matrix(present))).sum())}
        if self.btyd is not None:
            inputs = _numbers(present, [feature.name for feature in BTYD_INPUTS])
            totals["btyd"] = float(np.exp(self._log_btyd(inputs[inputs[:, 0] >= 0])).sum())
        if last_actual is not None and last_actual > 0:
            totals["last_actual"] = last_actual
        level = np.exp(np.mean(np.log(list(totals.values())))) / totals["model"]
        return replace(self, level=float(np.clip(level, *LEVEL_BOUNDS)), level_parts=totals)


def _numbers(frame: pd.DataFrame, names: Sequence[str]) -> Floats:
    return np.column_stack([frame[name].to_numpy(np.float64, na_value=np.nan) for name in names])


def _fit_btyd(present: pd.DataFrame) -> tuple[btyd.Btyd | None, str]:
    """The BTYD model of the present customers, or why there is none."""
    bought = present[present["order_count"].to_numpy(np.float64) >= 1]
    names = ("frequency", "recency_days", "T_days", "order_count", "mean_order_value")
    try:
        fitted = btyd.fit(*(bought[name].to_numpy(np.float64, na_value=np.nan) for name in names))
    except ModelError as error:
        return None, f"no buy-till-you-die model: {error}"
    return fitted, fitted.verdict


def _train_booster(
    model: LifetimeValue, training: pd.DataFrame, realised: Floats, customers: int, config: Config
) -> dict[str, Any]:
    settings = config.lifetime_value
    small = customers < SMALL_CUSTOMERS
    label = np.maximum(realised, 0)
    unit = float(label.mean())  # regularisation must not depend on the currency
    tweedie = replace(model, mode="tweedie")
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
        "monotone_constraints": [player.monotone for player in tweedie.players],
        "deterministic": True,
        "force_row_wise": True,
        "seed": config.seed,
        "num_threads": config.engine.threads,
        "verbose": -1,
    }
    # Rows in one order, whatever order they came in: bagging draws by position.
    order = np.lexsort((training["customer_id"].to_numpy(str), training["snapshot_date"].to_numpy()))
    data = lgb.Dataset(tweedie._matrix(training)[order], label=(label / unit)[order])
    booster = lgb.train(parameters, data, num_boost_round=settings.rounds)
    return {"booster": booster.model_to_string(), "log_unit": float(np.log(unit))}
