"""The payment model, tried on the invoices of half a year ago before it may grade."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import invoice_rows
from clv.errors import ModelError
from clv.evaluation import (
    Report,
    calibration_in_the_large,
    deciles,
    payment_report,
    probability_figures,
)
from clv.learn.learned import Learned, probability_gate
from clv.models.payment_baselines import baselines
from clv.models.payment_delay import PaymentDelay
from clv.models.payment_record import PaymentRecord
from clv.period import see

if TYPE_CHECKING:
    from clv.config import Config
    from clv.warehouse import Engine

Floats = NDArray[np.float64]

TRIAL_WINDOW_DAYS, TRIAL_TERMS_DAYS = 90, 60


@dataclass(frozen=True)
class PaymentTrial:
    """Forecasts of invoices issued after a date, beside what became of them.

    `rows`: invoice_rows.labels of new invoices whose lateness is known; the forecasts have a figure per row, and
    `exceedance` a column per threshold (PaymentDelay.exceedance).
    """

    model: PaymentDelay
    rows: pd.DataFrame
    probabilities: dict[str, Floats]
    expected_days: dict[str, Floats]
    exceedance: pd.DataFrame

    @property
    def late(self) -> Floats:
        return np.asarray(self.rows["is_late"], dtype=np.float64)

    def report(self) -> Report:
        """Figures per forecast, over all rows."""
        return self._report(np.ones(len(self.rows), dtype=bool))

    def groups(self) -> dict[str, Report | None]:
        """Figures per forecast apart for `known` customers and `unseen` ones, of whom no invoice had fallen due."""
        unseen = self.rows["long_due_invoices"].to_numpy(np.float64) == 0
        return {
            name: self._report(chosen) if chosen.any() else None
            for name, chosen in (("known", ~unseen), ("unseen", unseen))
        }

    def thresholds(self) -> dict[str, dict[str, float | str | None]]:
        """Figures per threshold, over the invoices of which it is known; counts and why where it has no forecast."""
        found: dict[str, dict[str, float | str | None]] = {}
        days = self.rows["days_beyond_terms"].to_numpy(np.float64)
        for support in self.model.support:
            known = self.rows["known_days"].to_numpy(np.float64) > support.days
            late = (days[known] > support.days).astype(np.float64)
            figures: dict[str, float | str | None] = {"invoices": len(late), "late_invoices": int(late.sum())}
            if not support.is_enough:
                figures |= {"why": str(support)}
            elif len(late):
                probability = self.exceedance.loc[known, support.days].to_numpy(np.float64)
                figures |= probability_figures(late, probability)
            found[str(support.days)] = figures
        return found

    def tables(self) -> dict[str, pd.DataFrame]:
        """Calibration of the model by decile, by month of issue and by segment, and the figures per threshold."""
        probability = self.probabilities["model"]
        issued = self.rows["due_date"] - pd.to_timedelta(self.rows["terms_days"], unit="D")
        by = {
            "decile": deciles(probability),
            "month": issued.dt.strftime("%Y-%m"),
            "segment": self.rows["segment"],
        }
        found = {
            f"calibration_by_{name}": calibration_in_the_large(self.late, probability, group, name)
            for name, group in by.items()
        }
        thresholds = pd.DataFrame.from_dict(self.thresholds(), orient="index").reset_index(
            names="more_than_days"
        )
        return found | {"thresholds": thresholds}

    def _report(self, chosen: NDArray[np.bool_]) -> Report:
        days = self.rows["days_late"].to_numpy(np.float64)
        return payment_report(
            self.late[chosen],
            {name: probability[chosen] for name, probability in self.probabilities.items()},
            days[chosen],
            {name: expected[chosen] for name, expected in self.expected_days.items()},
        )


def learn_payment_delay(
    db: Engine, as_of: date, config: Config, active_ids: pd.Series
) -> Learned[PaymentDelay | PaymentRecord] | None:
    """The gated payment model; None where no invoice has fallen due. Leaves `past` showing `as_of`.

    The gate: on the newest 90 days of invoices whose lateness is known by now (half a year ago by default) the Brier
    score is not significantly worse than the segment's rate. `active_ids`: customers behind the reference row.
    """
    see(db, as_of)
    [(due,)] = db.rows(f"SELECT count(*) FROM past.invoices WHERE due_date < DATE '{as_of}'")
    if not due:
        return None
    tested_from = _tested_from(as_of, config)
    snapshots: invoice_rows.Snapshots = {}  # the trial's are the model's, but for the last half year
    try:
        trial = try_payment_delay(
            db,
            tested_from,
            config,
            known_at=as_of,
            horizon_days=TRIAL_WINDOW_DAYS,
            snapshots=snapshots,
        )
        model = _fit(db, as_of, config, snapshots, active_ids)[0]
    except ModelError as error:
        see(db, as_of)
        return Learned(PaymentRecord(str(error)), False, str(error))
    report, late = trial.report(), trial.late
    refused = probability_gate(
        late, trial.probabilities, f"invoices from {tested_from} are late", config.seed
    )
    return Learned(
        model if refused is None else PaymentRecord(refused),
        refused is None,
        refused or f"AUC {report['model']['auc']:.3f} on {len(late)} invoices from {tested_from}",
        report,
        tested_from,
        late,
        trial.probabilities,
        tables=trial.tables(),
    )


def try_payment_delay(
    db: Engine,
    as_of: date,
    config: Config,
    *,
    known_at: date,
    horizon_days: int,
    future: Engine | None = None,
    snapshots: invoice_rows.Snapshots | None = None,
) -> PaymentTrial:
    """What would have been predicted at `as_of` for invoices issued in the `horizon_days` after it.

    Judged are those whose lateness is certain at `known_at`. `future` holds the later facts where `db` ends at
    `as_of`; `snapshots` see invoice_rows.training_rows. Raises ModelError where no invoice can be judged, or too few
    can be learned from.
    """
    settings, segment = config.payment, config.segment
    model, training = _fit(db, as_of, config, snapshots)
    later = future or db
    rows = invoice_rows.observations(later, as_of, settings, segment, window_days=horizon_days)
    rows = invoice_rows.labels(later, rows[~rows["is_open"].astype(bool)], known_at, settings)
    rows = rows[rows["is_late"].notna()].reset_index(drop=True)
    if rows.empty:
        raise ModelError(f"No invoice issued from {as_of} on has a known outcome by {known_at}.")
    predicted = model.predict(rows, config.engine.threads)
    probabilities = {"model": predicted["late_payment_probability"].to_numpy(np.float64)}
    probabilities |= baselines(training, rows, settings, config.seed)
    days = {"model": predicted["expected_days_late"].to_numpy(np.float64)}
    return PaymentTrial(model, rows, probabilities, days, model.exceedance(rows, config.engine.threads))


def _tested_from(as_of: date, config: Config) -> date:
    """Start of the newest window of which every invoice, due within 60 days, is late or not by `as_of`.

    A whole number of snapshots back, so that the trial learns from the model's own.
    """
    step = invoice_rows.SNAPSHOT_STEP_DAYS
    needed = TRIAL_WINDOW_DAYS + TRIAL_TERMS_DAYS + config.payment.late_after_days
    return as_of - timedelta(days=step * -(-needed // step))


def _fit(
    db: Engine,
    as_of: date,
    config: Config,
    snapshots: invoice_rows.Snapshots | None,
    active_ids: pd.Series | None = None,
) -> tuple[PaymentDelay, pd.DataFrame]:
    """The model as of a date, and the rows it learned from; the reference row is of `active_ids`, or of all."""
    settings, segment = config.payment, config.segment
    rows = invoice_rows.training_rows(db, as_of, settings, segment, snapshots=snapshots)
    reference = invoice_rows.customer_view(db, as_of, settings, segment)
    if active_ids is not None:
        reference = reference[reference["customer_id"].isin(active_ids)]
    model = PaymentDelay.fit(rows, settings, config.seed, config.engine.threads, reference=reference)
    return model, rows
