"""What the prospect model said before it could know, and what then happened: the past that has matured by now.

Models are trained again as of earlier dates, each from what was known then. So neither a judge nor a group of
prospects is held against a model that has seen the outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clv import disparity, first_order, judges, prospects
from clv.drift import Population
from clv.errors import ModelError
from clv.evaluation import calibration_in_the_large
from clv.learn.first_order import pairs, value_forecasts
from clv.models.prospect_parts import AGE
from clv.models.prospect_value import ProspectValue, combine
from clv.period import see
from clv.scales import Scale, fit_scale

if TYPE_CHECKING:
    from clv.config import Config
    from clv.learn.learned import Learned
    from clv.models.lifetime_value import LifetimeValue
    from clv.warehouse import Engine

Fact = tuple[str, float | None, str]

ORIGINS = 5
AGE_BANDS = (0, 15, 43, 90, 180)  # days since first contact
WINDOWS_APART = 2  # conversion windows from one origin to the next: about two years with windows of 90 days


@dataclass(frozen=True)
class PastModel:
    """A prospect model trained as of `trained_as_of`, and the scale of its prospects then."""

    trained_as_of: date
    model: ProspectValue
    scale: Scale

    def said(self, rows: pd.DataFrame) -> pd.DataFrame:
        """`rows` with conversion_probability, value_given_conversion, prospect_value and model_score (0-100)."""
        forecast = self.model.predict(rows).drop(columns="customer_id").set_axis(rows.index)
        return rows.join(forecast).assign(
            model_score=self.scale.score(forecast["prospect_value"].to_numpy(np.float64)),
            trained_as_of=pd.Timestamp(self.trained_as_of),
        )


def past_models(db: Engine, as_of: date, config: Config) -> list[PastModel]:
    """The models of up to five origins before `as_of`, newest first; the newest a conversion window before it.

    An origin with too little to learn from ends the list. Leaves `past` showing `as_of`.
    """
    found = []
    for place in range(ORIGINS):
        day = as_of - timedelta(days=config.prospect.conversion_days * (1 + WINDOWS_APART * place))
        past = past_model(db, day, config)
        if past is None:
            break
        found.append(past)
    see(db, as_of)
    return found


def past_model(db: Engine, day: date, config: Config) -> PastModel | None:
    """The prospect model of what was known before `day`, without its gate; None where that is too little.

    Its snapshots are a conversion window apart, so that each exposure is counted once: a third of the rows that the
    month's own model has, and of their cost. Leaves `past` showing `day`.
    """
    see(db, day)
    apart = config.prospect.model_copy(update={"snapshot_step_days": config.prospect.conversion_days})
    config = config.model_copy(update={"prospect": apart})
    try:
        training = prospects.training_rows(db, day, config)
        discount = config.lifetime_value.discount_rate_annual_ratio
        values = prospects.conversion_values(
            db, day, config.prospect.value_months, discount, training.observable_from
        )
        current = prospects.prospect_rows(db, day)
        model = ProspectValue.fit(training.rows, values, config, config.engine.threads, current)
    except ModelError:
        see(db, day)
        return None
    value = model.predict(current)["prospect_value"].to_numpy(np.float64)
    scale = fit_scale("prospect", "log", value, model.reference_value, method=config.composite.scale)
    return PastModel(day, model, scale)


def matured_judgements(db: Engine, as_of: date, config: Config, models: list[PastModel]) -> pd.DataFrame:
    """prospects.judged_outcomes, each beside what the newest model of then said, and both combined.

    Columns beside those of PastModel.said: combined_score, as the month combines the two. Judgements from before the
    oldest model are left out. Leaves `past` showing `as_of`.
    """
    see(db, as_of)
    oldest = models[-1].trained_as_of if models else as_of
    judged = prospects.judged_outcomes(db, as_of, config.prospect.conversion_days, oldest)
    parts, until = [judged.iloc[:0]], pd.Timestamp.max
    for past in models:
        since = pd.Timestamp(past.trained_as_of)
        of_it = judged[((judged["judged_date"] >= since) & (judged["judged_date"] < until)).to_numpy(bool)]
        until = since
        if len(of_it):
            said = past.said(of_it)
            score = said["judgement"].to_numpy(np.float64)
            model_score = said["model_score"].to_numpy(np.float64)
            weight = config.prospect.judgement_weight_ratio
            parts.append(said.assign(combined_score=combine(model_score, score, weight)))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def matured_prospects(db: Engine, as_of: date, config: Config, models: list[PastModel]) -> pd.DataFrame:
    """The prospects of each origin: what its model said of them, and whether they ordered within conversion_days.

    One row per prospect and origin; windows do not overlap, so nobody's order counts twice. Columns: those of
    prospects.prospect_outcomes and PastModel.said. Leaves `past` showing `as_of`.
    """
    parts = []
    for past in models:
        rows = prospects.prospect_outcomes(db, past.trained_as_of, config.prospect.conversion_days, as_of)
        if len(rows):
            parts.append(past.said(rows))
    see(db, as_of)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@dataclass(frozen=True)
class ProspectRecord:
    """What the past says about prospects as of a training date.

    `tables`: by name, for MLflow: no person is named in them. `facts`: rows of `month_facts` for the months that this
    training grades, judges named as the company names them. `population`: the training rows of the date, in bins.
    """

    tables: Mapping[str, pd.DataFrame]
    facts: Sequence[Fact]
    population: Population


def prospect_record(
    db: Engine, as_of: date, config: Config, value: Learned[LifetimeValue], model: ProspectValue | None
) -> ProspectRecord:
    """Judges, groups and the step at the first order, each held against what happened by `as_of`.

    `value`: the tested lifetime-value model; `model`: the prospect model that will grade, whose training population
    is kept. Without one there is no record. Leaves `past` showing `as_of`.
    """
    if model is None:
        return ProspectRecord({}, (), Population(0, {}))
    models = past_models(db, as_of, config)
    judged = matured_judgements(db, as_of, config, models)
    matured = matured_prospects(db, as_of, config, models)
    top = sum(config.tiers.prospect_shares_ratio[name] for name in config.tiers.prospect_key)
    of_groups = disparity.of_outcomes(matured, config.fairness.groups, top)
    tables = {"disparity_outcomes": of_groups}
    if len(matured):
        age = np.searchsorted(AGE_BANDS, matured[AGE.name].to_numpy(np.float64), side="right") - 1
        tables["calibration_by_age"] = calibration_in_the_large(
            matured["converted"].to_numpy(np.float64),
            matured["conversion_probability"].to_numpy(np.float64),
            pd.Series(np.array(AGE_BANDS)[age]),
            "days_since_first_contact_from",
        )
    facts: list[Fact] = []
    if len(judged):
        hidden = judged.assign(judged_by=judged["judged_by"].map(judges.pseudonyms(judged)))
        tables["judges"] = judges.record(hidden, config.seed)
        tables["judges_calibration"] = judges.calibration(hidden)
        since = f"judged since {models[-1].trained_as_of}, as of {as_of}"
        found = judges.record(judged, config.seed)
        facts += judges.facts(found, config.prospect.judgement_weight_ratio, since)
    what = "Of the prospects who then ordered, those the model had picked"
    facts += disparity.facts(of_groups, "conversion_disparity", "true_positive_ratio", what)
    if config.fairness.worked_attribute is not None:
        tables["worked"] = disparity.worked(matured, config.fairness.worked_attribute, top)
        facts += _worked(tables["worked"], config.prospect.conversion_days)
    stepped = _first_orders(db, as_of, config, value)
    if stepped is not None:
        tables["first_order"] = first_order.step(stepped)
        tables["first_order_blends"] = first_order.blends(stepped, config.seed)
        assert value.tested_from is not None
        since_day = value.tested_from - timedelta(days=config.prospect.conversion_days)
        facts += first_order.facts(stepped, since_day, value.tested_from)
    kept = {name: table for name, table in tables.items() if len(table)}
    return ProspectRecord(kept, facts, _population(db, as_of, config, model))


def _first_orders(
    db: Engine, as_of: date, config: Config, value: Learned[LifetimeValue]
) -> pd.DataFrame | None:
    """learn.first_order.pairs before the date on which the lifetime value was tested; None without such a test."""
    if value.tested_from is None or value.customer_ids is None:
        return None
    past = past_model(db, value.tested_from - timedelta(days=config.prospect.conversion_days), config)
    if past is None:
        see(db, as_of)
        return None
    made = value_forecasts(db, value.tested_from, value.customer_ids, value.forecasts["model"], value.outcome)
    return pairs(db, as_of, config, past, made)


def _population(db: Engine, as_of: date, config: Config, model: ProspectValue) -> Population:
    """The training rows of `as_of` in bins: attributes, age of the contact, and what the model says of them."""
    try:
        rows = prospects.training_rows(db, as_of, config).rows
    except ModelError:
        see(db, as_of)
        return Population(0, {})
    kinds = {name: attribute.type for name, attribute in config.known_at_first_contact.items()}
    if len(rows):
        rows = rows.assign(prospect_value=model.predict(rows)["prospect_value"].to_numpy(np.float64))
    return Population.fit(rows, {AGE.name: "number", "prospect_value": "number", **kinds})


def _worked(found: pd.DataFrame, conversion_days: int) -> Iterator[Fact]:
    if found.empty:
        return
    total = found["prospects"].sum()
    counted = found.assign(converted=found["converted_ratio"] * found["prospects"])
    by = counted.groupby("is_worked")[["prospects", "converted"]].sum()
    rate = (by["converted"] / by["prospects"]).to_dict()
    said = ", ".join(f"{name} {rate[name]:.0%}" for name in sorted(rate, reverse=True))
    share = float(by["prospects"].get("yes", 0) / total)
    yield (
        "prospects_worked_ratio",
        share,
        f"share of {int(total):,} past prospects whom sales worked; converted within {conversion_days} days, by "
        f"worked: {said}. Sales chose whom to work, so this is no effect of their work, and those not worked are no "
        "sample",
    )
