"""The lifetime-value model, tried on the last whole horizon before it may grade."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.customers import customer_frame
from clv.errors import ModelError
from clv.evaluation import Forecast, Report, value_report
from clv.features import customer_features
from clv.learn.course import course
from clv.learn.learned import Learned
from clv.models import btyd
from clv.models.lifetime_value import LifetimeValue
from clv.models.value_parts import BuyTillYouDie
from clv.outcomes import level_forecast, realised_value
from clv.period import UNEQUAL_MONTHS_DAYS, Horizon, training_snapshots

if TYPE_CHECKING:
    from clv.config import Config
    from clv.warehouse import Engine

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ValueForecasts:
    """Forecasts of customers' value made at `as_of`: a row of each per row of `frame` (customer_frame there).

    NAMEs: `model`; `last_period`, value of the last 365 days; `btyd`, the BTYD model alone, its order values from all
    orders; `bgnbd`, the same by the textbook, from repeat orders. The last two are absent where they cannot be fitted.
    """

    as_of: date
    horizon: Horizon
    basis: str
    frame: pd.DataFrame
    model: LifetimeValue
    forecasts: dict[str, Forecast]

    @property
    def before_cost(self) -> Floats:
        """The model's forecast before the expected cost to serve."""
        return self.forecasts["model"].value + self.model.expected_cost_to_serve(self.frame)

    def judged(self, db: Engine, config: Config) -> ValueTrial:
        """These forecasts beside what then happened, which `db` knows."""
        frame = with_outcome(db, self.frame, self.as_of, self.horizon, config, self.basis)
        return ValueTrial(self.forecasts, frame["realised_contribution"].to_numpy(np.float64))

    def course(self, db: Engine, config: Config) -> pd.DataFrame:
        """What then came week by week, which `db` knows, beside what was forecast: see clv.learn.course."""
        return course(db, self, config)


@dataclass(frozen=True)
class ValueTrial:
    """Forecasts of value beside `realised`, what customers then brought after their cost to serve."""

    forecasts: dict[str, Forecast]
    realised: Floats

    def report(self, seed: int) -> Report:
        """Figures per forecast."""
        return value_report(self.realised, self.forecasts, seed)

    def groups(self, seed: int) -> dict[str, Report]:
        """Figures per forecast `without_biggest_miss`: without the customer of whom the model erred most.

        Where few customers hold most of the value, one of them can decide every figure.
        """
        miss = np.abs(self.forecasts["model"].value - self.realised)
        kept = np.arange(len(miss)) != np.argmax(miss)
        forecasts = {name: forecast.of(kept) for name, forecast in self.forecasts.items()}
        return {"without_biggest_miss": value_report(self.realised[kept], forecasts, seed)}


def horizon_of(config: Config) -> Horizon:
    """The horizon of `clv` as configured."""
    return Horizon(months=config.lifetime_value.horizon_months)


def learn_lifetime_value(
    db: Engine, as_of: date, config: Config, *, basis: str, horizon: Horizon
) -> tuple[Learned[LifetimeValue], pd.DataFrame]:
    """The gated lifetime-value model, and customer_frame at `as_of`.

    The gate: on the last whole horizon before `as_of` the 95 % interval of the normalised Gini lies above 0, and
    the model is not significantly below the value of the last 365 days.
    """
    days = horizon.length_days(as_of)
    tested_from = horizon.before(as_of)
    try:
        made = forecast_lifetime_value(db, tested_from, config, basis=basis, horizon=horizon)
        trial = made.judged(db, config)
        model, present = _fit(db, as_of, config, basis=basis, horizon=horizon)
    except ModelError as error:
        present = customer_frame(db, as_of, config, basis=basis, horizon_days=days)
        fallback = LifetimeValue.last_period(present, basis=basis, horizon_days=days, why=str(error))
        return Learned(fallback, False, str(error)), present
    report = trial.report(config.seed)
    refused = _gate(report)
    if refused is not None:
        model = LifetimeValue.last_period(present, basis=basis, horizon_days=days, why=refused)
    learned = Learned(
        model,
        refused is None,
        refused or f"normalised Gini {report['model']['normalised_gini']:.3f} on {tested_from}",
        report,
        tested_from,
        trial.realised,
        {name: forecast.value for name, forecast in trial.forecasts.items()},
        made.course(db, config),
        customer_ids=made.frame["customer_id"].to_numpy(object),
    )
    return learned, present


def forecast_lifetime_value(
    db: Engine, as_of: date, config: Config, *, basis: str, horizon: Horizon
) -> ValueForecasts:
    """What is predicted at `as_of`, by the model without its gate and by the baselines.

    Raises ModelError where history is too short or nobody bought in it.
    """
    model, frame = _fit(db, as_of, config, basis=basis, horizon=horizon)
    predicted = model.predict(frame)
    value, low, high = (predicted[name].to_numpy(np.float64) for name in ("clv", "clv_low", "clv_high"))
    forecasts = {
        "model": Forecast(value, low, high),
        "last_period": Forecast(frame["value_365"].to_numpy(np.float64)),
    }
    if model.purchases is not None:
        forecasts["btyd"] = Forecast(model.purchases.value(frame))
        with suppress(ModelError):
            forecasts["bgnbd"] = Forecast(_textbook_value(frame, model.purchases))
    return ValueForecasts(as_of, horizon, basis, frame, model, forecasts)


@dataclass(frozen=True)
class Histories:
    """What a lifetime-value model of a date learns from: see LifetimeValue.fit."""

    training: pd.DataFrame
    present: pd.DataFrame
    last_actual: float | None
    outlooks: dict[int, int]


def histories(db: Engine, as_of: date, config: Config, *, basis: str, horizon: Horizon) -> Histories:
    """The mature snapshots before `as_of`, and customer_frame at `as_of`; ModelError where there are none."""
    settings = config.lifetime_value
    days = horizon.length_days(as_of)
    present = customer_frame(db, as_of, config, basis=basis, horizon_days=days)
    [(first,)] = db.rows("SELECT min(order_date) FROM past.order_lines")
    if first is None:
        raise ModelError(
            f"History too short to learn from: there is no order before {as_of}, and a model needs "
            f"{settings.min_history_days} days and a whole horizon before that. Grade by last-period value instead."
        )
    last_actual = level_forecast(db, as_of, horizon)
    snapshots = training_snapshots(
        as_of,
        horizon,
        first,
        count=settings.snapshots,
        step_days=settings.snapshot_step_days,
        min_history_days=settings.min_history_days,
    )
    outlooks = _outlooks(as_of, horizon, config)
    shorter = {months: Horizon(months=months) for months, length in outlooks.items() if length < days}
    training = []
    for day in snapshots:
        rows = with_outcome(db, customer_features(db, day, config, days), day, horizon, config, basis)
        for months, short in shorter.items():
            outcome = realised_value(db, day, short, config, basis=basis).set_index("customer_id")
            realised = rows["customer_id"].map(outcome["realised_value"])
            rows[f"realised_value_{months}"] = realised.astype("float64").fillna(0.0)
        training.append(rows.assign(snapshot_date=day))
    return Histories(pd.concat(training, ignore_index=True), present, last_actual, outlooks)


def _fit(
    db: Engine, as_of: date, config: Config, *, basis: str, horizon: Horizon
) -> tuple[LifetimeValue, pd.DataFrame]:
    """The model of mature snapshots before `as_of`, and customer_frame at `as_of`."""
    found = histories(db, as_of, config, basis=basis, horizon=horizon)
    model = LifetimeValue.fit(
        found.training,
        found.present,
        config,
        basis=basis,
        horizon_days=horizon.length_days(as_of),
        last_actual=found.last_actual,
        outlooks=found.outlooks,
    )
    return model, found.present


def _outlooks(as_of: date, horizon: Horizon, config: Config) -> dict[int, int]:
    """Months -> days of the further horizons, without those that are the model's own."""
    own = horizon.length_days(as_of)
    days = {
        months: Horizon(months=months).length_days(as_of) for months in config.lifetime_value.outlook_months
    }
    return {months: length for months, length in days.items() if abs(length - own) > UNEQUAL_MONTHS_DAYS}


def _textbook_value(frame: pd.DataFrame, purchases: BuyTillYouDie) -> Floats:
    """BTYD by the book: Gamma-Gamma on repeat orders only; who has none is given the population's mean."""
    bought = frame[frame["order_count"].to_numpy(np.float64) >= 1]
    repeats = bought["frequency"].to_numpy(np.float64)
    total = (bought["mean_order_value"] * bought["order_count"] - bought["order_value_first"]).to_numpy(
        np.float64, na_value=np.nan
    )
    mean = np.divide(total, repeats, out=np.zeros(len(bought)), where=repeats > 0)
    recency, tenure = (bought[name].to_numpy(np.float64) for name in ("recency_days", "T_days"))
    fitted = btyd.fit(repeats, recency, tenure, repeats, mean)
    orders = fitted.discounted_purchases(
        repeats, recency, tenure, purchases.horizon_days, purchases.discount_rate_annual_ratio
    )
    value = np.zeros(len(frame))
    value[frame["order_count"].to_numpy(np.float64) >= 1] = orders * fitted.expected_order_value(
        repeats, mean
    )
    return value


def _gate(report: Report) -> str | None:
    """Why the model must not grade, or None."""
    low, high = report["model"]["normalised_gini_low"], report["model"]["normalised_gini_high"]
    if low is None or low <= 0:
        shown = "unknown" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        return (
            f"no skill: normalised Gini of the last horizon is {shown} (95 %), an interval above 0 is needed"
        )
    below = report["model"]["gain_over_last_period_low"]
    above = report["model"]["gain_over_last_period_high"]
    if below is not None and above is not None and above < 0:
        return (
            "no skill beyond the last period: normalised Gini is below that of last-period spend by "
            f"{-above:.3f} to {-below:.3f} (95 %)"
        )
    return None


def with_outcome(
    db: Engine, frame: pd.DataFrame, start: date, horizon: Horizon, config: Config, basis: str
) -> pd.DataFrame:
    """`frame` of a date beside outcomes.realised_value of the horizon begun then; who did nothing has zeros."""
    outcome = realised_value(db, start, horizon, config, basis=basis)
    joined = frame.merge(outcome, on="customer_id", how="left", validate="1:1")
    names = ["realised_value", "realised_contribution", "realised_orders"]
    joined[names] = joined[names].astype("float64").fillna(0.0)
    return joined
