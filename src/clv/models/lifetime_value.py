"""Expected discounted value of each customer over the horizon: one small Tweedie model on top of a BTYD model.

The booster predicts max(0, value of orders); a constant sets its level; expected cost to serve is taken off by
rule, so a customer who costs more than it brings has a negative `clv`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.features import Feature
from clv.models import btyd
from clv.models.attributes import AttributeEncoder
from clv.models.references import by_segment
from clv.models.shapley import Attribution
from clv.models.value_interval import QUANTILE_Z, Interval, total_log_sd
from clv.models.value_outlook import Outlook, learn_outlooks, shares
from clv.models.value_parts import Blend, BuyTillYouDie, LastPeriod, Part, Trees
from clv.models.value_training import fit_btyd, fit_level, fit_part, out_of_fold

if TYPE_CHECKING:
    from clv.config import Config

Floats = NDArray[np.float64]


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
    discount_rate_annual_ratio: float
    reference: tuple[float | None, ...]  # of each player; null where most active customers have none
    reference_cost: float
    level: float
    level_parts: Mapping[str, float]  # the forecasts of the total that set the level
    interval: Interval | None  # of one customer; None for the last period
    outlooks: tuple[Outlook, ...]  # further horizons, shortest first
    total_log_sd: float | None  # of the logarithm of what all customers together bring, over its forecast
    verdict: str  # how the BTYD model fared, or why the last period grades
    segment_references: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    segment_costs: Mapping[str, float] = field(default_factory=dict)  # expected, of their reference customers

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
        outlooks: Mapping[int, int] | None = None,
    ) -> LifetimeValue:
        """Learn from `training`: rows of customer_features stacked over mature snapshots, with `realised_value`.

        `present` is customer_features at the training as_of with `cost_to_serve_12m` and `is_active`: it fits BTYD,
        the level and the reference customer. `last_actual` is outcomes.level_forecast where history allows it.
        `outlooks`: further horizons, months -> days; of the shorter ones `training` has `realised_value_<months>`.
        Raises ModelError where there is nothing to learn from, naming what is missing.
        """
        training = training.sort_values(["snapshot_date", "customer_id"], ignore_index=True)
        realised = training["realised_value"].to_numpy(np.float64)
        if not (realised > 0).any() or not realised.sum() > 0:
            raise ModelError(
                f"Nobody bought anything in the label windows of {len(training)} customer snapshots: "
                "a lifetime value cannot be learned. Grade by last-period value instead."
            )
        newest = (training["snapshot_date"] == training["snapshot_date"].max()).to_numpy(bool)
        purchases, verdict = fit_btyd(present, horizon_days, config, float(realised[newest].sum()))
        part = fit_part(training, present, purchases, config)
        level, totals = fit_level(part, purchases, present, last_actual)
        # what single customers leave open, apart from the level
        predicted = np.exp(out_of_fold(part, training, config))
        predicted *= realised.sum() / predicted.sum()
        rate = config.lifetime_value.discount_rate_annual_ratio
        model = cls._around(part, purchases, present, basis, horizon_days, rate, level, totals, verdict)
        return replace(
            model,
            interval=Interval.fit(predicted, realised),
            outlooks=learn_outlooks(outlooks or {}, horizon_days, purchases, training, predicted, rate),
            total_log_sd=total_log_sd(predicted[newest], realised[newest], list(totals.values())),
        )

    @classmethod
    def last_period(cls, present: pd.DataFrame, *, basis: str, horizon_days: int, why: str) -> LifetimeValue:
        """The fallback that grades by the value of the last 365 days; `why` is kept as its verdict."""
        return cls._around(LastPeriod(), None, present, basis, horizon_days, 0.0, 1.0, {}, why)

    @classmethod
    def _around(
        cls,
        part: Part,
        purchases: BuyTillYouDie | None,
        present: pd.DataFrame,
        basis: str,
        horizon_days: int,
        rate: float,
        level: float,
        level_parts: Mapping[str, float],
        verdict: str,
    ) -> Self:
        """The model with its reference customer: the median of every input over the active customers."""
        active = present[present["is_active"].to_numpy(bool)]
        active = active if len(active) else present
        inputs = part.inputs(active)
        segments = active["segment"].to_numpy(str) if "segment" in active else np.array([], dtype=str)
        model = cls(
            part=part,
            purchases=purchases,
            basis=basis,
            horizon_days=horizon_days,
            discount_rate_annual_ratio=rate,
            reference=_medians(inputs),
            reference_cost=0.0,
            level=level,
            level_parts=level_parts,
            interval=None,
            outlooks=(),
            total_log_sd=None,
            verdict=verdict,
            segment_references=by_segment(inputs, segments, _medians),
        )
        cost = model.expected_cost_to_serve(active)
        return replace(
            model,
            reference_cost=float(np.median(cost)),
            segment_costs=by_segment(cost, segments, lambda costs: float(np.median(costs))),
        )

    def seen_from(self, segment: str | None) -> Self:
        """The same model held against the reference customer of a segment; itself where that has none."""
        if segment is None or segment not in self.segment_references:
            return self
        return replace(
            self, reference=self.segment_references[segment], reference_cost=self.segment_costs[segment]
        )

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
        trees = self.trees
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

    def outlook(self, frame: pd.DataFrame) -> pd.DataFrame:
        """`clv` over other horizons: one row per row of `frame` and outlook; none in mode `last_period`.

        Columns: `customer_id`, `horizon_months`, `clv`, `clv_low`, `clv_high` (80 %) and `is_extrapolation`, beyond
        the horizon the model was judged on. Each is a share of the model's `clv` that never falls as the horizon
        grows, so neither does a `clv` of 0 and more.
        """
        money, cost = self.money(self.part.raw(self.part.inputs(frame))), self.expected_cost_to_serve(frame)
        rate = self.discount_rate_annual_ratio
        share = shares(self.outlooks, self.horizon_days, self.purchases, frame, rate)
        rows = []
        for i, outlook in enumerate(self.outlooks):
            value = money * share[:, i]
            interval = outlook.interval or self.interval
            assert interval is not None  # what has outlooks has an interval
            low, high = interval.around(value)
            columns = {"clv": value, "clv_low": low, "clv_high": high}
            rows.append(
                pd.DataFrame(
                    {
                        "customer_id": frame["customer_id"].to_numpy(),
                        "horizon_months": outlook.months,
                        **{name: column - cost * share[:, i] for name, column in columns.items()},
                        "is_extrapolation": outlook.horizon_days > self.horizon_days,
                    }
                )
            )
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()

    def total_interval(self, clv: Floats, expected_cost_to_serve: Floats) -> tuple[float, float] | None:
        """80 % interval of what customers with these forecasts bring together; None without a model.

        Log-normal around the total before cost to serve: chance of single customers, and the level that all share.
        """
        if self.total_log_sd is None:
            return None
        cost = math.fsum(expected_cost_to_serve)
        money = math.fsum(clv) + cost
        spread = math.exp(QUANTILE_Z * self.total_log_sd)
        return money / spread - cost, money * spread - cost

    def attribute(self, frame: pd.DataFrame, inputs: Floats | None = None) -> Attribution:
        """Shapley values of the log value (before level and cost; of the value itself in mode `last_period`).

        Columns as `players`; exact against the reference customer. `inputs`: the values of `design`, where at hand.
        """
        rows = self.part.inputs(frame) if inputs is None else inputs
        return self.part.attribute(rows, self._reference_row())

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

    def to_files(self) -> dict[str, str]:
        """The whole model as text: JSON, and LightGBM's text where there are trees."""
        trees = self.trees
        state = {
            "mode": self.mode,
            "trees": {"log_unit": trees.log_unit, "encoder": trees.encoder.to_dict()} if trees else None,
            "purchases": asdict(self.purchases) if self.purchases else None,
            "interval": asdict(self.interval) if self.interval else None,
            "outlooks": [asdict(outlook) for outlook in self.outlooks],
            **{name: getattr(self, name) for name in (*_PLAIN, "segment_references", "segment_costs")},
        }
        files = {_STATE: json.dumps(state, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)}
        return files | ({_TREES: trees.booster} if trees else {})

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> LifetimeValue:
        """The model that `to_files` wrote; hand in verified files only. ModelError for one of other features."""
        state = json.loads(files[_STATE])
        stored, learned = state["purchases"], state["trees"]
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
        kept = state.get("segment_references", {})  # none in models of before
        plain["segment_references"] = {name: tuple(reference) for name, reference in kept.items()}
        plain["segment_costs"] = state.get("segment_costs", {})
        if part.mode != state["mode"] or len(part.players) != len(plain["reference"]):
            raise ModelError(
                f"expected a lifetime-value model of {len(part.players)} inputs, found "
                f"{len(plain['reference'])}. Train again with this version."
            )
        outlooks = tuple(
            Outlook(**(outlook | {"interval": _read_interval(outlook["interval"])}))
            for outlook in state["outlooks"]
        )
        interval = _read_interval(state["interval"])
        return cls(part=part, purchases=purchases, interval=interval, outlooks=outlooks, **plain)

    @property
    def trees(self) -> Trees | None:
        """The booster and what it reads; its inputs come first among the players. None in modes without."""
        part = self.part.trees if isinstance(self.part, Blend) else self.part
        return part if isinstance(part, Trees) else None

    def _reference_row(self) -> Floats:
        return np.array([np.nan if value is None else value for value in self.reference])


def _medians(inputs: Floats) -> tuple[float | None, ...]:
    """Of every input; null where most rows have none."""
    known = np.isfinite(inputs)
    return tuple(
        float(np.median(inputs[known[:, i], i])) if known[:, i].mean() > 0.5 else None
        for i in range(inputs.shape[1])
    )


_STATE, _TREES = "lifetime_value.json", "lifetime_value.txt"
_PLAIN = (
    "basis", "horizon_days", "discount_rate_annual_ratio", "reference", "reference_cost", "level", "level_parts",
    "total_log_sd", "verdict",
)  # fmt: skip


def _read_interval(stored: dict[str, list[float]] | None) -> Interval | None:
    return Interval(**{name: tuple(values) for name, values in stored.items()}) if stored else None
