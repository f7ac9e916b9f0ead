"""The prospect model, tried on the prospects of a conversion window ago before it may grade."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import prospects
from clv.errors import ModelError
from clv.evaluation import Report, prospect_report
from clv.field_audit import audit_fields
from clv.learn.learned import Learned, probability_gate
from clv.models.prospect_value import ProspectValue, baselines
from clv.period import see

if TYPE_CHECKING:
    from clv.config import Config
    from clv.warehouse import Engine

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ProspectTrial:
    """Forecasts of the prospects of a date beside who then converted (1/0): `rows` are prospect_outcomes."""

    rows: pd.DataFrame
    predictions: dict[str, pd.DataFrame]  # NAME -> ProspectValue.predict of the rows

    @property
    def converted(self) -> Floats:
        return np.asarray(self.rows["converted"], dtype=np.float64)

    @property
    def probabilities(self) -> dict[str, Floats]:
        """NAME -> conversion probability of each row."""
        return {
            name: predicted["conversion_probability"].to_numpy(np.float64)
            for name, predicted in self.predictions.items()
        }

    def report(self) -> Report:
        """Figures per forecast."""
        return prospect_report(self.converted, self.probabilities)


def learn_prospect_value(db: Engine, as_of: date, config: Config) -> Learned[ProspectValue] | None:
    """The gated prospect model; None where nobody's conversion is on record. Leaves `past` showing `as_of`.

    The gate: on the prospects of conversion_days ago the Brier score is not significantly worse than the
    segment's rate; below it, and below the least counts, segment means stand in.
    """
    see(db, as_of)
    if not config.known_at_first_contact:
        return None
    audit_fields(db, config.attributes, config.seed)
    try:
        rows, values = training_tables(db, as_of, config)
        if not rows["converted"].any():
            raise ModelError(f"Of {len(rows)} exposures of prospects none ended with an order.")
        fallback = ProspectValue.segment_means(rows, values, config)
    except ModelError:
        see(db, as_of)
        return None
    tested_from = as_of - timedelta(days=config.prospect.conversion_days)
    try:
        trial = try_prospect_value(db, tested_from, config, known_at=as_of)
        see(db, as_of)
        current = prospects.prospect_rows(db, as_of)
        model = ProspectValue.fit(rows, values, config, config.engine.threads, current)
    except ModelError as error:
        see(db, as_of)
        return Learned(fallback, False, str(error))
    report, converted = trial.report(), trial.converted
    refused = probability_gate(
        converted, trial.probabilities, f"prospects of {tested_from} converted", config.seed
    )
    return Learned(
        model if refused is None else fallback,
        refused is None,
        refused or f"AUC {report['model']['auc']:.3f} on {len(converted)} prospects of {tested_from}",
        report,
        tested_from,
        converted,
        trial.probabilities,
    )


def try_prospect_value(
    db: Engine, as_of: date, config: Config, *, known_at: date, future: Engine | None = None
) -> ProspectTrial:
    """What would have been predicted at `as_of` of its prospects, beside who then converted by `known_at`.

    `future` holds the later facts where `db` ends at `as_of`. Raises ModelError where no outcome is known by then,
    or there is too little to learn from.
    """
    see(db, as_of)
    rows, values = training_tables(db, as_of, config)
    current = prospects.prospect_rows(db, as_of)
    model = ProspectValue.fit(rows, values, config, config.engine.threads, current)
    test = prospects.prospect_outcomes(future or db, as_of, config.prospect.conversion_days, known_at)
    test = test[test["converted"].notna()].reset_index(drop=True)
    if test.empty:
        raise ModelError(f"No prospect of {as_of} has a known outcome by {known_at}.")
    return ProspectTrial(test, {"model": model.predict(test)} | baselines(rows, values, config, test))


def training_tables(db: Engine, as_of: date, config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the model learns from at `as_of`, which `past` must show: prospects.training_rows and conversion_values."""
    training = prospects.training_rows(db, as_of, config)
    values = prospects.conversion_values(
        db,
        as_of,
        config.prospect.value_months,
        config.lifetime_value.discount_rate_annual_ratio,
        training.observable_from,
    )
    return training.rows, values
