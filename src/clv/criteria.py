"""The five standards measured: one value per customer or prospect and criterion, and why one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.customers import customer_frame
from clv.errors import ModelError
from clv.invoice_rows import customer_view
from clv.models.lifetime_value import LifetimeValue
from clv.models.payment_delay import PaymentDelay, customer_figures
from clv.models.payment_record import PaymentRecord
from clv.models.prospect_value import ProspectValue
from clv.period import DAYS_PER_YEAR, UNEQUAL_MONTHS_DAYS, Horizon
from clv.prospects import judgements_valid, prospect_rows
from clv.settings.grading import ECONOMIC

if TYPE_CHECKING:
    from clv.config import Config
    from clv.contribution import Pricing
    from clv.settings.grading import Standard
    from clv.warehouse import Engine

PROSPECT_BASELINE = 50.0  # of prospects whom judgement alone grades: the middle of the scale
NOTE_LENGTH = 200  # of a judgement's note, as it is published
CUSTOMER_CRITERIA = ("lifetime_value", "payment", "payment_record", "contribution", "order_amount")


@dataclass(frozen=True)
class Models:
    """The models that speak; None where the company's data has nothing for one."""

    lifetime_value: LifetimeValue
    payment_delay: PaymentDelay | PaymentRecord | None
    prospect_value: ProspectValue | None

    def seen_from(self, segment: str | None) -> Models:
        """The same models held against the reference customers of a segment, where they have one."""
        payment, prospect = self.payment_delay, self.prospect_value
        return Models(
            self.lifetime_value.seen_from(segment),
            payment.seen_from(segment) if isinstance(payment, PaymentDelay) else payment,
            prospect.seen_from(segment) if prospect is not None else None,
        )


@dataclass(frozen=True)
class Measured:
    """What was measured as of a date.

    `customers`: customer_frame with the models' outputs, one row per customer; `values`: the criteria's values, the
    same rows, null where not measured; `prospects` and `prospect_values` likewise. `kinds` and `references` are
    what composite.fit needs of each criterion. `off`: criterion -> why it is switched off for this company;
    `fallback`: criterion -> why a rule grades it instead of a model. `payment_rows`: invoice_rows.customer_view.
    `segment_references`: criterion -> segment -> what its model says of the segment's reference customer; empty unless
    explain.reference asks for it. `directions`: -1 for own standards of which less is better. `costs`: what late money
    is expected to cost, a column per kind of cost and the same rows; empty unless the composite is economic.
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
    directions: Mapping[str, int] = field(default_factory=dict)
    segment_references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def switched_on(self) -> list[str]:
        """Criteria of customers that this company's data supports."""
        return [name for name in self.values.columns if name not in self.off]

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
    if "payment" in off:
        off["payment_record"] = off["payment"]
    if pricing.basis == "revenue":
        off["contribution"] = pricing.why or "no product cost is known"
    if models.prospect_value is None:
        off["prospect"] = (
            "no prospect's conversion is on record: first_contact_date or attributes are missing"
        )
    return off


def judged_prospects(db: Engine, as_of: date) -> pd.DataFrame:
    """prospects.prospect_rows with the valid human judgement, null without one.

    `judgement`: its score, 0-100; `judgement_said`: score, who, until when and note, in words.
    """
    judgements = judgements_valid(db, as_of)
    judgements = pd.DataFrame(
        {
            "customer_id": judgements["customer_id"],
            "judgement": judgements["score"],
            "judgement_said": pd.Series(
                [_said(row) for row in judgements.to_dict("records")], index=judgements.index, dtype="str"
            ),
        }
    )
    return prospect_rows(db, as_of).merge(judgements, on="customer_id", how="left", validate="1:1")


@dataclass(frozen=True)
class Known:
    """What was known of everybody before `as_of`, whatever a model makes of it.

    `customers`: customer_frame; `payment_rows`: invoice_rows.customer_view; `own`: the figures of the company's own
    standards, a row per row of `customers`; `prospects`: judged_prospects.
    """

    as_of: date
    customers: pd.DataFrame
    payment_rows: pd.DataFrame
    own: pd.DataFrame
    prospects: pd.DataFrame


def known(db: Engine, as_of: date, config: Config, pricing: Pricing, models: Models) -> Known:
    """What `main` holds of the facts before `as_of`. Leaves `past` showing `as_of`."""
    horizon_days = models.lifetime_value.horizon_days
    customers = customer_frame(db, as_of, config, basis=pricing.basis, horizon_days=horizon_days)
    return Known(
        as_of,
        customers,
        customer_view(db, as_of, config.payment, config.segment),
        pd.DataFrame(
            {
                name: _own_standard(db, as_of, customers, name, standard)
                for name, standard in config.standards.items()
            },
            index=customers.index,
        ),
        judged_prospects(db, as_of),
    )


def _said(judgement: dict[str, Any]) -> str:
    until = judgement["valid_until"]
    words = (
        f"{judgement['score']:g} of 100 by {judgement['judged_by']} on {judgement['judged_date']:%Y-%m-%d}"
    )
    words += "" if pd.isna(until) else f", counts until {until:%Y-%m-%d}"
    note = judgement["note"]
    return f"{words}: {note[:NOTE_LENGTH]}" if isinstance(note, str) and note.strip() else words


def measure(db: Engine, as_of: date, config: Config, pricing: Pricing, models: Models) -> Measured:
    """Every criterion of every customer and prospect known before `as_of`. Leaves `past` showing `as_of`."""
    _refuse_others(as_of, config, pricing, models)
    return judge(known(db, as_of, config, pricing, models), config, pricing, models)


def _refuse_others(as_of: date, config: Config, pricing: Pricing, models: Models) -> None:
    """Raises ModelError for models of another kind of money, or another horizon, than is asked for."""
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


def judge(facts: Known, config: Config, pricing: Pricing, models: Models) -> Measured:
    """What the models and rules make of `facts`. Raises ModelError for models of another money or horizon."""
    _refuse_others(facts.as_of, config, pricing, models)
    value_model = models.lifetime_value
    off = switched_off(config, pricing, models)
    predicted = value_model.predict(facts.customers)
    customers = facts.customers.merge(predicted.drop(columns="value"), on="customer_id", validate="1:1")
    values = pd.DataFrame({"lifetime_value": predicted["value"].to_numpy(np.float64)})
    kinds = {"lifetime_value": "log", "order_amount": "log1p", "contribution": "asinh"}
    kinds["payment_record"] = "record"
    references = {"lifetime_value": value_model.reference_value}
    fallback = {}
    if value_model.mode == "last_period":
        kinds["lifetime_value"] = "log1p"
        fallback["lifetime_value"] = f"graded by value of the last 365 days: {value_model.verdict}"
    elif value_model.mode == "btyd":
        fallback["lifetime_value"] = "too few customers for trees: buy-till-you-die model alone"

    rows = facts.payment_rows
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
    values["payment_record"] = customers["on_time_share_ratio"].to_numpy(np.float64, na_value=np.nan)
    values["contribution"] = customers["contribution_margin"].to_numpy(np.float64)
    values["order_amount"] = customers["order_amount"].to_numpy(np.float64)
    for name, standard in config.standards.items():
        values[name] = facts.own[name].to_numpy(np.float64)
        kinds[name] = "linear" if standard.judgement else "asinh"
        if np.isnan(values[name]).all():
            off[name] = "nobody has this figure" if standard.attribute else "nobody has been judged on it"
    costs = pd.DataFrame(index=customers.index)
    if config.composite.method == "economic":
        costs = expected_costs(customers, rows, config, value_model.horizon_days)
        values[ECONOMIC] = values["lifetime_value"] - costs.sum(axis=1)
        kinds[ECONOMIC] = "log"
        references[ECONOMIC] = value_model.reference_value
    for name in off:
        if name in values:
            values[name] = np.nan

    prospects = facts.prospects.copy()
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
        directions={name: -1 for name, own in config.standards.items() if own.direction == "lower"},
        costs=costs,
        segment_references=segment_references(models, config)
        if config.explain.reference == "segment"
        else {},
    )


def segment_references(models: Models, config: Config) -> dict[str, dict[str, float]]:
    """Criterion -> segment -> the value that its model gives the segment's reference customer."""
    value, payment, prospect = models.lifetime_value, models.payment_delay, models.prospect_value
    of_value = {segment: value.seen_from(segment).reference_value for segment in value.segment_references}
    found = {"lifetime_value": of_value}
    if isinstance(payment, PaymentDelay):
        found["payment"] = {
            segment: payment.seen_from(segment).reference_probability
            for segment in payment.segment_references
        }
    if config.composite.method == "economic":
        found[ECONOMIC] = of_value
    if prospect is not None:
        found["prospect"] = {
            segment: prospect.seen_from(segment).reference_value for segment in prospect.segment_references
        }
    return found


COSTS = ("expected_late_money_cost", "expected_credit_loss")


def expected_costs(
    customers: pd.DataFrame, payment_rows: pd.DataFrame, config: Config, horizon_days: int
) -> pd.DataFrame:
    """What the late money of each customer is expected to cost within the horizon: a row per row of `customers`.

    money = billing of the last 365 days, carried over the horizon while the customer stays active, and what is open;
    `expected_late_money_cost` = money × expected_days_late × capital rate / 365; `expected_credit_loss` = money ×
    P(late) × composite.default_given_late_ratio × loss given default. Where the payment record grades, last year's
    cost of late money is carried over the horizon instead. 0 where nothing is known of a customer's payments.
    """
    rules, share = config.contribution, horizon_days / DAYS_PER_YEAR
    probability = customers["late_payment_probability"].to_numpy(np.float64, na_value=np.nan)
    days = customers["expected_days_late"].to_numpy(np.float64, na_value=np.nan)
    active = customers["probability_active"].to_numpy(np.float64, na_value=np.nan)
    billed = payment_rows.groupby("customer_id")["billed"].first()
    yearly = customers["customer_id"].map(billed).to_numpy(np.float64, na_value=np.nan)
    opened = customers["open_balance"].to_numpy(np.float64, na_value=np.nan)
    money = np.nan_to_num(yearly) * share * np.nan_to_num(active, nan=1.0) + np.nan_to_num(opened)
    capital = money * days * rules.capital_rate_annual_ratio / DAYS_PER_YEAR
    loss = money * probability * config.composite.default_given_late_ratio * rules.loss_given_default_ratio
    if np.isnan(probability).all():
        capital = customers["late_money_cost"].to_numpy(np.float64, na_value=np.nan) * share
    return pd.DataFrame(
        dict(zip(COSTS, (np.nan_to_num(capital), np.nan_to_num(loss)), strict=True)), index=customers.index
    )


def _own_standard(
    db: Engine, as_of: date, customers: pd.DataFrame, name: str, standard: Standard
) -> NDArray[np.float64]:
    """The figure of an own standard for each customer, NaN where there is none."""
    if standard.attribute is not None:
        figure = customers[standard.attribute]
    else:
        judged = judgements_valid(db, as_of, name).set_index("customer_id")["score"]
        figure = customers["customer_id"].map(judged)
    return np.asarray(figure.to_numpy(np.float64, na_value=np.nan), dtype=np.float64)
