"""The five standards measured: one value per customer or prospect and criterion, and why one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clv.customers import customer_frame
from clv.errors import ModelError
from clv.invoice_rows import customer_view
from clv.models.lifetime_value import LifetimeValue
from clv.models.payment_delay import PaymentDelay, customer_figures
from clv.models.payment_record import PaymentRecord
from clv.models.prospect_value import ProspectValue
from clv.period import UNEQUAL_MONTHS_DAYS, Horizon
from clv.prospects import judgements_valid, prospect_rows

if TYPE_CHECKING:
    from clv.config import Config
    from clv.contribution import Pricing
    from clv.warehouse import Engine

PROSPECT_BASELINE = 50.0  # of prospects whom judgement alone grades: the middle of the scale
CUSTOMER_CRITERIA = ("lifetime_value", "payment", "contribution", "order_amount")


@dataclass(frozen=True)
class Models:
    """The models that speak; None where the company's data has nothing for one."""

    lifetime_value: LifetimeValue
    payment_delay: PaymentDelay | PaymentRecord | None
    prospect_value: ProspectValue | None


@dataclass(frozen=True)
class Measured:
    """What was measured as of a date.

    `customers`: customer_frame with the models' outputs, one row per customer; `values`: the criteria's values, the
    same rows, null where not measured; `prospects` and `prospect_values` likewise. `kinds` and `references` are
    what composite.fit needs of each criterion. `off`: criterion -> why it is switched off for this company;
    `fallback`: criterion -> why a rule grades it instead of a model. `payment_rows`: invoice_rows.customer_view.
    """

    customers: pd.DataFrame
    values: pd.DataFrame
    prospects: pd.DataFrame
    prospect_values: pd.DataFrame
    kinds: Mapping[str, str]
    references: Mapping[str, float]
    off: Mapping[str, str]
    fallback: Mapping[str, str]
    payment_rows: pd.DataFrame

    @property
    def switched_on(self) -> list[str]:
        """Criteria of customers that this company's data supports."""
        return [name for name in CUSTOMER_CRITERIA if name not in self.off]

    def why(self) -> dict[str, dict[str, str]]:
        """What to tell whoever reads the run: criteria switched off and fallbacks, each with its reason."""
        return {"off": dict(self.off), "fallback": dict(self.fallback)}


def switched_off(config: Config, pricing: Pricing, models: Models) -> dict[str, str]:
    """Criterion -> why this company's data cannot support it."""
    off = {}
    if "invoices" not in config.sources:
        off["payment"] = "no invoices are mapped in sources"
    elif config.lacks_payments:
        off["payment"] = "no payments are mapped in sources: every invoice would look unpaid"
    elif models.payment_delay is None:
        off["payment"] = "no invoice fell due before this date"
    if pricing.basis == "revenue":
        off["contribution"] = pricing.why or "no product cost is known"
    if models.prospect_value is None:
        off["prospect"] = (
            "no prospect's conversion is on record: first_contact_date or attributes are missing"
        )
    return off


def judged_prospects(db: Engine, as_of: date) -> pd.DataFrame:
    """prospects.prospect_rows with `judgement`: the valid human judgement (0-100), null without one."""
    judgements = judgements_valid(db, as_of)[["customer_id", "score"]].rename(columns={"score": "judgement"})
    return prospect_rows(db, as_of).merge(judgements, on="customer_id", how="left", validate="1:1")


def measure(db: Engine, as_of: date, config: Config, pricing: Pricing, models: Models) -> Measured:
    """Every criterion of every customer and prospect known before `as_of`. Leaves `past` showing `as_of`."""
    value_model = models.lifetime_value
    if value_model.basis != pricing.basis:
        raise ModelError(
            f"The lifetime-value model was trained on {value_model.basis}, the facts before {as_of} give "
            f"{pricing.basis} ({pricing.why or 'every line is priced'}). Train again as of {as_of}."
        )
    asked = Horizon(months=config.lifetime_value.horizon_months).length_days(as_of)
    if abs(value_model.horizon_days - asked) > UNEQUAL_MONTHS_DAYS:
        raise ModelError(
            f"The lifetime-value model forecasts {value_model.horizon_days} days, lifetime_value.horizon_months asks "
            f"for {asked}. Train again as of {as_of}."
        )
    off = switched_off(config, pricing, models)
    customers = customer_frame(db, as_of, config, basis=pricing.basis, horizon_days=value_model.horizon_days)
    predicted = value_model.predict(customers)
    customers = customers.merge(predicted.drop(columns="value"), on="customer_id", validate="1:1")
    values = pd.DataFrame({"lifetime_value": predicted["value"].to_numpy(np.float64)})
    kinds = {"lifetime_value": "log", "order_amount": "log1p", "contribution": "asinh"}
    references = {"lifetime_value": value_model.reference_value}
    fallback = {}
    if value_model.mode == "last_period":
        kinds["lifetime_value"] = "log1p"
        fallback["lifetime_value"] = f"graded by value of the last 365 days: {value_model.verdict}"
    elif value_model.mode == "btyd":
        fallback["lifetime_value"] = "too few customers for trees: buy-till-you-die model alone"

    rows = customer_view(db, as_of, config.payment, config.segment)
    figures = ["late_payment_probability", "expected_days_late", "amount_at_risk"]
    if isinstance(models.payment_delay, PaymentDelay):
        found = customer_figures(rows, models.payment_delay.predict(rows, config.engine.threads))
        customers = customers.merge(found, on="customer_id", how="left", validate="1:1")
        values["payment"] = customers["late_payment_probability"].to_numpy(np.float64)
        kinds["payment"] = "payment"
        references["payment"] = models.payment_delay.reference_probability
    else:
        customers[figures] = np.nan
        values["payment"] = customers["on_time_share_ratio"].to_numpy(np.float64, na_value=np.nan)
        kinds["payment"] = "record"
        if models.payment_delay is not None:
            fallback["payment"] = f"graded by the payment record: {models.payment_delay.why}"
    values["contribution"] = customers["contribution_margin"].to_numpy(np.float64)
    values["order_amount"] = customers["order_amount"].to_numpy(np.float64)
    for name in off:
        if name in values:
            values[name] = np.nan

    prospects = judged_prospects(db, as_of)
    if models.prospect_value is not None:
        prospects = prospects.merge(
            models.prospect_value.predict(prospects), on="customer_id", validate="1:1"
        )
        kinds["prospect"] = "log"
        references["prospect"] = models.prospect_value.reference_value
    else:
        for name in ("conversion_probability", "prospect_value", "prospect_value_low", "prospect_value_high"):
            prospects[name] = np.nan
    return Measured(
        customers=customers,
        values=values,
        prospects=prospects,
        prospect_values=pd.DataFrame({"prospect": prospects["prospect_value"].to_numpy(np.float64)}),
        kinds={name: kind for name, kind in kinds.items() if name not in off},
        references=references,
        off=off,
        fallback=fallback,
        payment_rows=rows,
    )
