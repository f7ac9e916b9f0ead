"""What the simulator knows of an invented company, beside what was forecast. For back-tests only: no model or grade
may read it, and a real company has none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from clv import metrics
from clv.errors import ModelError
from clv.evaluation import truth_figures
from clv.invoice_rows import customer_view
from clv.models.payment_delay import customer_figures
from clv.warehouse import attached

if TYPE_CHECKING:
    from clv.config import Config
    from clv.learn import PaymentTrial, ProspectTrial, ValueForecasts
    from clv.warehouse import Engine

YEAR_DAYS = range(365, 367)  # true values are of the 12 months after the date

Figures = dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """True expectations as of a date.

    `customers`: a row per customer with `expected_net_revenue_12m`, `expected_contribution_12m` (both discounted, the
    latter after product cost, freight and handling) and
    `late_payment_probability` (of the next three months); `invoices`: `late_payment_probability` of each, at its
    issue; `prospects`: `conversion_probability_90d`, and the two expectations of the 12 months from a first order
    within 90 days, times its probability.
    """

    customers: pd.DataFrame
    invoices: pd.DataFrame
    prospects: pd.DataFrame


def read(db: Engine, config: Config, as_of: date) -> Truth:
    """The truth in the company's warehouse; ModelError where it has none, or none of this date."""
    path = config.warehouse_path
    if not path.exists():
        raise ModelError("Only an invented company has a known truth (schema truth of its warehouse).")
    with attached(db, path, "simulated", read_only=True):
        found = db.rows(
            "SELECT count(*) FROM duckdb_tables() WHERE database_name = 'simulated' AND schema_name = 'truth'"
        )
        if not found[0][0]:
            raise ModelError("Only an invented company has a known truth (schema truth of its warehouse).")
        days = [row[0] for row in db.rows("SELECT DISTINCT as_of_date FROM simulated.truth.customer_months")]
        if as_of not in days:
            listed = ", ".join(str(day) for day in sorted(days))
            raise ModelError(f"The truth of {as_of} was not written; it is known for {listed}.")
        of_day = f"WHERE as_of_date = DATE '{as_of}'"
        customers = db.frame(f"SELECT * FROM simulated.truth.customer_months {of_day} ORDER BY customer_id")
        # The simulator knows product cost alone: freight and handling at the rate of the sales on record.
        [(rate,)] = db.rows(
            "SELECT CAST(sum(variable_cost) / sum(net_amount) AS DOUBLE) FROM main.order_lines"
        )
        prospects = db.frame(f"SELECT * FROM simulated.truth.prospects {of_day} ORDER BY customer_id")
        for expected in (customers, prospects):
            expected["expected_contribution_12m"] -= rate * expected["expected_net_revenue_12m"]
        return Truth(
            customers, db.frame("SELECT * FROM simulated.truth.invoices ORDER BY invoice_id"), prospects
        )


def of_value(truth: Truth, made: ValueForecasts) -> Figures:
    """Figures per forecast against the true expected value of the next 12 months.

    The true value is before cost to serve, which nobody knows beforehand: `model_before_cost` is its counterpart,
    `model` is `clv` as published. Level and slope are null over any other horizon; ranks are compared all the same.
    """
    name = "expected_contribution_12m" if made.basis == "contribution" else "expected_net_revenue_12m"
    true, chosen = _matched(made.frame["customer_id"], truth.customers, "customer_id", name)
    forecasts = {forecast: values.value for forecast, values in made.forecasts.items()}
    forecasts["model_before_cost"] = made.before_cost
    report = {forecast: truth_figures(true, value[chosen]) for forecast, value in forecasts.items()}
    if made.horizon.length_days(made.as_of) not in YEAR_DAYS:
        for figures in report.values():
            figures |= {"bias_ratio": None, "slope": None}
    return {"customers": len(true)} | report


def of_payment(truth: Truth, trial: PaymentTrial) -> Figures:
    """Figures per forecast of new invoices against the true probability, and the AUC that the truth itself has."""
    true, chosen = _matched(
        trial.rows["invoice_id"], truth.invoices, "invoice_id", "late_payment_probability"
    )
    late = trial.late[chosen]
    report: Figures = {"invoices": len(true), "true_auc": _number(metrics.auc(late, true))}
    for name, probability in trial.probabilities.items():
        figures = truth_figures(true, probability[chosen])
        report[name] = figures | {"auc": _number(metrics.auc(late, probability[chosen]))}
    return report


def of_payers(truth: Truth, db: Engine, trial: PaymentTrial, as_of: date, config: Config) -> Figures:
    """Figures of the customers' `late_payment_probability` against that of their next three months' invoices.

    Only customers without an open invoice beyond terms: what is late already is known, not expected.
    """
    rows = customer_view(db, as_of, config.payment, config.segment)
    found = customer_figures(rows, trial.model.predict(rows, config.engine.threads))
    overdue = rows.loc[rows["is_open"].astype(bool) & (rows["overdue_days"] > 0), "customer_id"]
    found = found[~found["customer_id"].isin(overdue)].reset_index(drop=True)
    true, chosen = _matched(found["customer_id"], truth.customers, "customer_id", "late_payment_probability")
    predicted = found["late_payment_probability"].to_numpy(np.float64)[chosen]
    return {"customers": len(true), "model": truth_figures(true, predicted)}


def of_prospects(truth: Truth, trial: ProspectTrial) -> Figures | None:
    """Figures per forecast of conversion and of value, each against its truth; None where none is known."""
    if truth.prospects.empty:
        return None
    report: Figures = {}
    for name, true_name, figure in (
        ("conversion_probability", "conversion_probability_90d", "conversion"),
        ("prospect_value", "expected_contribution_12m", "value"),
    ):
        true, chosen = _matched(trial.rows["customer_id"], truth.prospects, "customer_id", true_name)
        report["prospects"] = len(true)
        report[figure] = {
            forecast: truth_figures(true, predicted[name].to_numpy(np.float64)[chosen])
            for forecast, predicted in trial.predictions.items()
        }
    return report


def _matched(keys: pd.Series, truth: pd.DataFrame, key: str, name: str) -> tuple[Any, Any]:
    """True values of the `keys` that have one, and which of them do (mask)."""
    true = keys.map(truth.set_index(key)[name]).to_numpy(np.float64, na_value=np.nan)
    chosen = np.isfinite(true)
    return true[chosen], chosen


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
