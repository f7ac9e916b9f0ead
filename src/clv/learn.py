"""Fitted models with their evidence: each is tested on a later period than it was trained on, and gated.

Where the gate refuses a model, the fallback stands in its place, with the reason: value of the last period, the
payment record, segment means.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import metrics, prospects, receivables
from clv.customers import customer_frame
from clv.errors import ModelError
from clv.evaluation import Forecast, Report, payment_report, prospect_report, value_report
from clv.features import customer_features
from clv.models.lifetime_value import LifetimeValue
from clv.models.payment_delay import PaymentDelay
from clv.models.payment_delay import baselines as payment_baselines
from clv.models.payment_record import PaymentRecord
from clv.models.prospect_value import ProspectValue
from clv.models.prospect_value import baselines as prospect_baselines
from clv.outcomes import level_forecast, realised_value
from clv.period import Horizon, see, training_snapshots

if TYPE_CHECKING:
    from clv.config import Config
    from clv.warehouse import Engine

Floats = NDArray[np.float64]
Model = TypeVar("Model")

# Invoices issued this long ago are due, and then late or not, by now: 90 days of issue, terms, 30 days beyond.
PAYMENT_TRIAL_DAYS, PAYMENT_TRIAL_WINDOW_DAYS = 180, 90


@dataclass(frozen=True)
class Learned(Generic[Model]):
    """A model that may be promoted, and what speaks for it.

    `passed`: the model itself passed its gate; otherwise `model` is the fallback and `why` says what was missing.
    `report`: figures of the model and its baselines on `tested_from`; `outcome` and `predicted` are its rows.
    """

    model: Model
    passed: bool
    why: str
    report: Report = field(default_factory=dict)
    tested_from: date | None = None
    outcome: Floats = field(default_factory=lambda: np.empty(0))
    predicted: Floats = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class ValueTrial:
    """Forecasts of customers' value made at a date, beside what they then brought."""

    frame: (
        pd.DataFrame
    )  # customer_frame at the date with realised_value, realised_contribution, realised_orders
    model: LifetimeValue
    forecasts: dict[str, Forecast]

    @property
    def realised(self) -> Floats:
        return self.frame["realised_contribution"].to_numpy(np.float64)

    def calibrate(self, model: LifetimeValue) -> LifetimeValue:
        """`model` with intervals learned from this trial."""
        before_cost = self.forecasts["model"].value + self.model.expected_cost_to_serve(self.frame)
        return model.calibrated(before_cost, self.frame["realised_value"].to_numpy(np.float64))


def horizon_of(config: Config) -> Horizon:
    return Horizon(months=config.lifetime_value.horizon_months)


def fit_lifetime_value(
    db: Engine, as_of: date, config: Config, *, basis: str, horizon: Horizon
) -> tuple[LifetimeValue, pd.DataFrame]:
    """The model of mature snapshots before `as_of`, and customer_frame at `as_of`; no gate.

    Raises ModelError where history is too short or nobody bought in it.
    """
    settings = config.lifetime_value
    days = horizon.length_days(as_of)
    present = customer_frame(db, as_of, config, basis=basis, horizon_days=days)
    [(first,)] = db.rows("SELECT min(order_date) FROM past.order_lines")
    if first is None:
        raise ModelError(f"No orders before {as_of}: a lifetime value cannot be learned.")
    last_actual = level_forecast(db, as_of, horizon)
    snapshots = training_snapshots(
        as_of,
        horizon,
        first,
        count=settings.snapshots,
        step_days=settings.snapshot_step_days,
        min_history_days=settings.min_history_days,
    )
    training = []
    for day in snapshots:
        features = customer_features(db, day, config, days)
        training.append(_with_outcome(db, features, day, horizon, config, basis).assign(snapshot_date=day))
    model = LifetimeValue.fit(
        pd.concat(training, ignore_index=True),
        present,
        config,
        basis=basis,
        horizon_days=days,
        last_actual=last_actual,
    )
    return model, present


def try_lifetime_value(
    db: Engine,
    as_of: date,
    config: Config,
    *,
    basis: str,
    horizon: Horizon,
    future: Engine | None = None,
    with_interval: bool = False,
) -> ValueTrial:
    """What would have been predicted at `as_of`, beside what then happened.

    `future` holds facts beyond `as_of` where `db` was loaded as of it; by default `db` itself knows them.
    `with_interval`: calibrate the interval on the horizon before, where history allows it.
    """
    model, frame = fit_lifetime_value(db, as_of, config, basis=basis, horizon=horizon)
    if with_interval:
        with suppress(ModelError):
            before = try_lifetime_value(db, horizon.before(as_of), config, basis=basis, horizon=horizon)
            model = before.calibrate(model)
    predicted = model.predict(frame)
    low, high = (predicted[name].to_numpy(np.float64) for name in ("clv_low", "clv_high"))
    forecasts = {
        "model": Forecast(predicted["clv"].to_numpy(np.float64), low, high),
        "last_period": Forecast(frame["value_365"].to_numpy(np.float64)),
    }
    alone = model.btyd_value(frame)
    if alone is not None:
        forecasts["btyd"] = Forecast(alone)
    frame = _with_outcome(future or db, frame, as_of, horizon, config, basis)
    return ValueTrial(frame, model, forecasts)


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
        trial = try_lifetime_value(db, tested_from, config, basis=basis, horizon=horizon)
        model, present = fit_lifetime_value(db, as_of, config, basis=basis, horizon=horizon)
    except ModelError as error:
        present = customer_frame(db, as_of, config, basis=basis, horizon_days=days)
        fallback = LifetimeValue.last_period(present, basis=basis, horizon_days=days, why=str(error))
        return Learned(fallback, False, str(error)), present
    report = value_report(trial.realised, trial.forecasts, config.seed)
    why = _value_gate(trial, report, config.seed)
    if why is not None:
        model = LifetimeValue.last_period(present, basis=basis, horizon_days=days, why=why)
    else:
        model = trial.calibrate(model)
    learned = Learned(
        model,
        why is None,
        why or f"normalised Gini {report['model']['normalised_gini']:.3f} on {tested_from}",
        report,
        tested_from,
        trial.realised,
        trial.forecasts["model"].value,
    )
    return learned, present


def _value_gate(trial: ValueTrial, report: Report, seed: int) -> str | None:
    """Why the model must not grade, or None."""
    low, high = report["model"]["normalised_gini_low"], report["model"]["normalised_gini_high"]
    if low is None or low <= 0:
        shown = "unknown" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        return (
            f"no skill: normalised Gini of the last horizon is {shown} (95 %), an interval above 0 is needed"
        )
    below, above = metrics.paired_bootstrap_difference(
        metrics.normalised_gini,
        trial.realised,
        trial.forecasts["model"].value,
        trial.forecasts["last_period"].value,
        seed=seed,
    )
    if above < 0:
        return (
            "no skill beyond the last period: normalised Gini is below that of last-period spend by "
            f"{-above:.3f} to {-below:.3f} (95 %)"
        )
    return None


def learn_payment_delay(
    db: Engine, as_of: date, config: Config, active_ids: pd.Series
) -> Learned[PaymentDelay | PaymentRecord] | None:
    """The gated payment model; None where no invoice has fallen due. Leaves `past` showing `as_of`.

    The gate: on the invoices issued within 90 days from half a year ago, whose lateness is known by now, the Brier
    score is not significantly worse than the segment's rate. `active_ids`: customers behind the reference row.
    """
    settings, segment = config.payment, config.segment
    see(db, as_of)
    [(due,)] = db.rows(f"SELECT count(*) FROM past.invoices WHERE due_date < DATE '{as_of}'")
    if not due:
        return None
    tested_from = as_of - timedelta(days=PAYMENT_TRIAL_DAYS)
    try:
        trial = try_payment_delay(
            db, tested_from, config, known_at=as_of, horizon_days=PAYMENT_TRIAL_WINDOW_DAYS
        )
        rows = receivables.training_rows(db, as_of, settings, segment)
        reference = receivables.customer_view(db, as_of, settings, segment)
        reference = reference[reference["customer_id"].isin(active_ids)]
        model = PaymentDelay.fit(rows, settings, config.seed, config.engine.threads, reference=reference)
    except ModelError as error:
        see(db, as_of)
        return Learned(PaymentRecord(str(error)), False, str(error))
    late = trial.rows["is_late"].to_numpy(np.float64)
    if not 0 < late.sum() < len(late):
        why = f"no later period to test on: {len(late)} invoices since {tested_from}, {int(late.sum())} late"
        return Learned(PaymentRecord(why), False, why)
    report = trial.report()
    worse, _ = metrics.paired_bootstrap_difference(
        metrics.brier,
        late,
        trial.probabilities["model"],
        trial.probabilities["segment_rate"],
        seed=config.seed,
    )
    if worse > 0:
        why = f"no skill: the Brier score exceeds that of the segment's rate by at least {worse:.4f} (95 %)"
        return Learned(
            PaymentRecord(why), False, why, report, tested_from, late, trial.probabilities["model"]
        )
    why = f"AUC {report['model']['auc']:.3f} on {len(late)} invoices from {tested_from}"
    return Learned(model, True, why, report, tested_from, late, trial.probabilities["model"])


@dataclass(frozen=True)
class PaymentTrial:
    """Forecasts of invoices issued after a date, beside what became of them."""

    rows: pd.DataFrame  # receivables.labels of new invoices whose lateness is known
    probabilities: dict[str, Floats]
    expected_days: dict[str, Floats]

    def report(self) -> Report:
        late = self.rows["is_late"].to_numpy(np.float64)
        return payment_report(
            late, self.probabilities, self.rows["days_late"].to_numpy(np.float64), self.expected_days
        )


def try_payment_delay(
    db: Engine,
    as_of: date,
    config: Config,
    *,
    known_at: date,
    horizon_days: int,
    future: Engine | None = None,
) -> PaymentTrial:
    """What would have been predicted at `as_of` for invoices issued in the `horizon_days` after it.

    Judged are those whose lateness is certain at `known_at`. `future` holds the later facts where `db` ends at `as_of`.
    """
    settings, segment = config.payment, config.segment
    training = receivables.training_rows(db, as_of, settings, segment)
    reference = receivables.customer_view(db, as_of, settings, segment)
    model = PaymentDelay.fit(training, settings, config.seed, config.engine.threads, reference=reference)
    later = future or db
    rows = receivables.observations(later, as_of, settings, segment, window_days=horizon_days)
    rows = receivables.labels(later, rows[~rows["is_open"].astype(bool)], known_at, settings)
    rows = rows[rows["is_late"].notna()].reset_index(drop=True)
    if rows.empty:
        raise ModelError(f"No invoice issued from {as_of} on has a known outcome by {known_at}.")
    predicted = model.predict(rows, config.engine.threads)
    probabilities = {"model": predicted["late_payment_probability"].to_numpy(np.float64)}
    probabilities |= payment_baselines(training, rows)
    return PaymentTrial(rows, probabilities, {"model": predicted["expected_days_late"].to_numpy(np.float64)})


def learn_prospect_value(db: Engine, as_of: date, config: Config) -> Learned[ProspectValue] | None:
    """The gated prospect model; None where nobody's conversion is on record. Leaves `past` showing `as_of`.

    The gate: on the prospects of conversion_days ago the Brier score is not significantly worse than the
    segment's rate; below it, and below the least counts, segment means stand in.
    """
    settings = config.prospect
    see(db, as_of)
    if not config.known_at_first_contact:
        return None
    prospects.audit_fields(db, config.attributes)
    try:
        rows, values = _prospect_training(db, as_of, config)
        fallback = ProspectValue.segment_means(rows, values, config)
    except ModelError:
        see(db, as_of)
        return None
    tested_from = as_of - timedelta(days=settings.conversion_days)
    try:
        trial = try_prospect_value(db, tested_from, config, known_at=as_of)
        current = prospects.prospect_rows(db, as_of)
        model = ProspectValue.fit(rows, values, config, config.engine.threads, current)
    except ModelError as error:
        see(db, as_of)
        return Learned(fallback, False, str(error))
    converted, forecasts = trial
    report = prospect_report(converted, forecasts)
    if not 0 < converted.sum() < len(converted):
        found = f"{len(converted)} prospects on {tested_from}, {int(converted.sum())} converted"
        why = f"no later period to test on: {found}"
        return Learned(fallback, False, why, report, tested_from)
    worse, _ = metrics.paired_bootstrap_difference(
        metrics.brier, converted, forecasts["model"], forecasts["segment_rate"], seed=config.seed
    )
    if worse > 0:
        why = f"no skill: the Brier score exceeds that of the segment's rate by at least {worse:.4f} (95 %)"
        return Learned(fallback, False, why, report, tested_from, converted, forecasts["model"])
    why = f"AUC {report['model']['auc']:.3f} on {len(converted)} prospects of {tested_from}"
    return Learned(model, True, why, report, tested_from, converted, forecasts["model"])


def try_prospect_value(
    db: Engine, as_of: date, config: Config, *, known_at: date, future: Engine | None = None
) -> tuple[Floats, dict[str, Floats]]:
    """Who of the prospects at `as_of` then converted (1/0), and each forecast of it."""
    settings = config.prospect
    see(db, as_of)
    rows, values = _prospect_training(db, as_of, config)
    current = prospects.prospect_rows(db, as_of)
    model = ProspectValue.fit(rows, values, config, config.engine.threads, current)
    test = prospects.prospect_outcomes(future or db, as_of, settings.conversion_days, known_at)
    test = test[test["converted"].notna()].reset_index(drop=True)
    if test.empty:
        raise ModelError(f"No prospect of {as_of} has a known outcome by {known_at}.")
    forecasts = {"model": model.predict(test)["conversion_probability"].to_numpy(np.float64)}
    for name, frame in prospect_baselines(rows, values, config, test).items():
        forecasts[name] = frame["conversion_probability"].to_numpy(np.float64)
    return test["converted"].to_numpy(np.float64), forecasts


def _prospect_training(db: Engine, as_of: date, config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    training = prospects.training_rows(db, as_of, config)
    values = prospects.conversion_values(
        db,
        as_of,
        config.prospect.value_months,
        config.lifetime_value.discount_rate_annual_ratio,
        training.observable_from,
    )
    return training.rows, values


def _with_outcome(
    db: Engine, frame: pd.DataFrame, start: date, horizon: Horizon, config: Config, basis: str
) -> pd.DataFrame:
    outcome = realised_value(db, start, horizon, config, basis=basis)
    joined = frame.merge(outcome, on="customer_id", how="left", validate="1:1")
    names = ["realised_value", "realised_contribution", "realised_orders"]
    joined[names] = joined[names].astype("float64").fillna(0.0)
    return joined
