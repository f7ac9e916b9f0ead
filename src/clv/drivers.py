"""What drives the models and the grades, for data scientists: the numbers behind the reasons, as `shap` shows them.

Pictures of every model that grades, waterfalls of customers and a table of points; and the check of our Shapley
values against those of the package. Customers appear under keyed pseudonyms, with points and without facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import plots, points
from clv.errors import ModelError
from clv.exhibits import Exhibits
from clv.explain.choice import SMALLEST_POINTS, concepts_of
from clv.explain.words import Words
from clv.features import Feature
from clv.models.payment_delay import PaymentDelay
from clv.models.payment_features import FEATURES as PAYMENT_FEATURES
from clv.models.payment_features import design as payment_design
from clv.models.shapley import TreeShapley
from clv.plots.drivers import evenly, load_shap
from clv.pseudonyms import pseudonyms
from clv.settings.grading import INACTIVE

if TYPE_CHECKING:
    from clv.composite import Grading
    from clv.config import Config
    from clv.criteria import Measured, Models
    from clv.grades import Graded
    from clv.points import Points

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

SHOWN_ROWS = 2000  # of a model's rows in its pictures, and of customers (of prospects) in the table of points
SHOWN_OF_A_TIER = 5
CHECKED_ROWS = 200
TOLERANCE = 1e-5  # on a link; shap's own sums miss the prediction by up to 5e-7
SINGLE = 1e-6  # relative: what single precision may take for equal, with room to spare


@dataclass(frozen=True)
class Driven:
    """One output of a model that grades: contributions [rows, features] of a sample of rows to it.

    `title`: what is moved, and against whom; `unit`: of the contributions.
    """

    phi: Floats
    inputs: pd.DataFrame
    features: Sequence[Feature]
    title: str
    unit: str


def of_models(models: Models, measured: Measured, config: Config) -> Exhibits:
    """Per output of a model that grades: beeswarm and dependence by feature, and the mean size by concept, in words.

    On at most 2,000 rows of those that it grades; fallbacks have none.
    """
    words, shown = Words.of(config), Exhibits()
    for path, driven in _driven(models, measured, config.reporting_currency):
        title, unit = driven.title, driven.unit
        concepts = sorted({feature.concept for feature in driven.features})
        summed = np.column_stack(
            [
                driven.phi[:, [i for i, f in enumerate(driven.features) if f.concept == concept]].sum(axis=1)
                for concept in concepts
            ]
        )
        names = [words.concept_name(concept) for concept in concepts]
        shown.figures[f"{path}_beeswarm"] = plots.shap_summary(
            driven.phi, driven.inputs, title=title, unit=unit
        )
        shown.figures[f"{path}_concepts"] = plots.shap_bar(
            summed, names, title=f"{title}, by concept", unit=f"mean size of the {unit}"
        )
        shown.figures[f"{path}_dependence"] = plots.shap_dependence(
            driven.phi, driven.inputs, title=f"{title}, by value", unit=unit
        )
    return shown


def of_grades(
    customers: Graded, prospects: Graded, measured: Measured, models: Models, grading: Grading, config: Config
) -> Exhibits:
    """From the reference customer's score to a customer's own: five of each tier as waterfalls, up to 2,000 as a table.

    `points`: pseudonym, value_source, tier, criterion, concept and points of the composite; per customer the points
    sum to its score, the first row being the baseline and the last all concepts of less than 0.05 points together.
    """
    customers_too, prospects_too = _some(customers, prospects, measured)
    of_customers = points.of_customers(customers_too.measured, models, grading, config.standards)
    of_prospects = points.of_prospects(prospects_too.measured, models, grading, config)
    shown, tables = Exhibits(), []
    for some, criteria in ((customers_too, of_customers), (prospects_too, of_prospects)):
        if not len(some.graded.frame):
            continue
        told = _by_concept(some.graded, criteria, config)
        tables.append(_table(told))
        names = [told.name(k) for k in range(len(told.concepts))]
        kind = told.kind
        shown.figures[f"explanations/{kind}_concepts"] = plots.shap_bar(
            told.points,
            names,
            title=f"What moves the grades of {kind}s, by concept",
            unit="mean size in points",
        )
        for tier in dict.fromkeys(told.tier):
            rows = np.flatnonzero(told.tier == tier)
            rows = rows[np.argsort(-told.score[rows], kind="stable")]
            picked = rows[evenly(len(rows), SHOWN_OF_A_TIER)]
            shown.figures[f"explanations/{kind}_{tier}"] = plots.shap_waterfalls(
                [
                    plots.Waterfall(told.pseudonym[i], float(told.baseline[i]), told.points[i], names)
                    for i in picked
                ],
                title=f"From the typical {kind} to {len(picked)} in the tier {tier}",
                unit="points",
            )
    if tables:
        shown.tables["explanations/points"] = pd.concat(tables, ignore_index=True)
    return shown


def differences(models: Models, measured: Measured) -> dict[str, float]:
    """Model -> largest difference between our Shapley values and those of `shap` on its boosters, on the link.

    On at most 200 rows like the customers', made such that the package can be right: it is off with missing values,
    which are filled with the reference row's (0 where that has none either), and compares in single precision, so
    values that it cannot tell from a threshold are moved off it. Raises ModelError above 1e-5.
    """
    found: dict[str, float] = {}
    for name, booster, reference, inputs in boosters(models, measured):
        if len(inputs):
            thresholds = TreeShapley(booster, reference).thresholds
            filled = _off(thresholds, np.nan_to_num(reference)[None, :])
            X = np.where(np.isnan(inputs), filled, inputs)[evenly(len(inputs), CHECKED_ROWS)]
            found[name] = max(found.get(name, 0.0), _difference(booster, filled[0], _off(thresholds, X)))
    off = {name: difference for name, difference in found.items() if not difference <= TOLERANCE}
    if off:
        raise ModelError(
            f"Shapley values must agree with shap.TreeExplainer within {TOLERANCE:g}, found differences of "
            f"{', '.join(f'{difference:.3g} ({name})' for name, difference in off.items())}. Check the versions of "
            "lightgbm and shap against requirements.lock before anything is explained with these."
        )
    return found


def _off(thresholds: Mapping[int, Floats], X: Floats) -> Floats:
    """`X` with values that single precision cannot tell from a threshold moved up until it can."""
    X = X.copy()
    for feature, limits in thresholds.items():
        values = X[:, feature]
        for _ in range(len(limits) + 1):
            after = np.searchsorted(limits, values)
            below, above = limits[np.maximum(after - 1, 0)], limits[np.minimum(after, len(limits) - 1)]
            near = np.minimum(np.abs(values - below), np.abs(values - above)) <= SINGLE * np.abs(values)
            values[near] += 4 * SINGLE * np.abs(values[near])
    return X


def _difference(booster: lgb.Booster, reference: Floats, X: Floats) -> float:
    explainer = load_shap().TreeExplainer(
        booster, data=reference[None, :], feature_perturbation="interventional"
    )
    theirs = np.asarray(explainer.shap_values(X, check_additivity=False))
    return float(np.abs(theirs - TreeShapley(booster, reference).attribute(X).phi).max())


def _driven(models: Models, measured: Measured, currency: str) -> Iterator[tuple[str, Driven]]:
    """Path of its pictures -> each output of the models that grade, on a sample of the rows that they grade."""
    value, payment, prospect = models.lifetime_value, models.payment_delay, models.prospect_value
    customers = _sample(measured.customers[measured.customers["is_active"].to_numpy(bool)])
    if value.mode != "last_period" and len(customers):
        yield (
            "lifetime-value/shap",
            Driven(
                value.attribute(customers).phi,
                value.design(customers),
                value.players,
                "What moves the lifetime value, against the reference customer",
                f"contribution to the logarithm of the value in {currency}",
            ),
        )
    if isinstance(payment, PaymentDelay):
        # What is that late already is certain, whatever else is known of it.
        rows = measured.payment_rows
        invoices = _sample(rows[rows["overdue_days"].to_numpy(np.float64) <= payment.late_after_days])
        if len(invoices):
            yield (
                "payment-delay/shap",
                Driven(
                    payment.attribute(invoices).phi,
                    payment_design(invoices, payment.shrinkages),
                    PAYMENT_FEATURES,
                    "What moves late payment, against the typical invoice",
                    "contribution to the logit of the probability",
                ),
            )
    prospects = _sample(measured.prospects)
    if prospect is not None and prospect.features and len(prospects):
        found, design = prospect.attribute(prospects), prospect.design(prospects)
        for part, title, unit in (
            ("conversion", "What moves the conversion", "contribution to the logit of the probability"),
            ("value", "What moves the value given conversion", "contribution to the logarithm of the value"),
        ):
            yield (
                f"prospect-value/shap_{part}",
                Driven(
                    found[part].phi,
                    design,
                    prospect.features,
                    f"{title}, against the reference prospect",
                    unit,
                ),
            )


def boosters(models: Models, measured: Measured) -> Iterator[tuple[str, lgb.Booster, Floats, Floats]]:
    """Model, booster, its reference row and rows that it reads, of every booster whose values are explained."""
    value, payment, prospect = models.lifetime_value, models.payment_delay, models.prospect_value
    if value.trees is not None:
        customers = _sample(measured.customers)
        width = len(value.trees.players)
        yield (
            "lifetime-value",
            lgb.Booster(model_str=value.trees.booster),
            np.array([np.nan if x is None else x for x in value.reference[:width]]),
            value.design(customers).to_numpy(np.float64)[:, :width],
        )
    if isinstance(payment, PaymentDelay):
        rows = payment_design(_sample(measured.payment_rows), payment.shrinkages)
        yield "payment-delay", payment.late, payment.reference, rows.to_numpy(np.float64)
    if prospect is not None and len(measured.prospects):
        rows = prospect.design(_sample(measured.prospects)).to_numpy(np.float64)
        for link in (prospect.conversion, prospect.value):
            if link.booster is not None:
                yield "prospect-value", link.booster, prospect.reference, rows


@dataclass(frozen=True)
class _Some:
    """Some of those graded, and what was measured of them: the same rows."""

    graded: Graded
    measured: Measured


def _some(customers: Graded, prospects: Graded, measured: Measured) -> tuple[_Some, _Some]:
    """At most SHOWN_ROWS of each that have a score, evenly spaced, and five of every tier however small it is."""
    one, other = _picked(customers.frame), _picked(prospects.frame)
    who = measured.customers["customer_id"].iloc[one]
    of_them = replace(
        measured,
        customers=measured.customers.iloc[one],
        values=measured.values.iloc[one],
        payment_rows=measured.payment_rows[measured.payment_rows["customer_id"].isin(who)],
        costs=measured.costs.iloc[one],
    )
    leads = replace(
        measured,
        prospects=measured.prospects.iloc[other],
        prospect_values=measured.prospect_values.iloc[other],
    )
    return _Some(_rows_of(customers, one), of_them), _Some(_rows_of(prospects, other), leads)


def _picked(frame: pd.DataFrame) -> Rows:
    scored = np.flatnonzero((frame["tier"] != INACTIVE) & frame["composite_score"].notna())
    picked = [scored[evenly(len(scored), SHOWN_ROWS)]]
    tier = frame["tier"].to_numpy(object)[scored]
    for each in dict.fromkeys(tier):
        of_tier = scored[tier == each]
        picked.append(of_tier[evenly(len(of_tier), SHOWN_OF_A_TIER)])
    return np.unique(np.concatenate(picked))


def _rows_of(graded: Graded, rows: Rows) -> Graded:
    parts = {name: getattr(graded, name).iloc[rows] for name in ("frame", "values", "scores", "weights")}
    return replace(graded, **parts)


@dataclass(frozen=True)
class _ByConcept:
    """Points of the composite, a row per customer and a column per concept of a criterion."""

    kind: str
    pseudonym: list[str]
    tier: NDArray[np.object_]
    score: Floats
    baseline: Floats
    points: Floats
    concepts: Sequence[tuple[str, str]]
    names: Mapping[tuple[str, str], str]

    def name(self, k: int) -> str:
        return self.names[self.concepts[k]]


def _by_concept(graded: Graded, criteria: Sequence[Points], config: Config) -> _ByConcept:
    words, frame, columns, names = Words.of(config), graded.frame, [], {}
    everyone = np.arange(len(frame))
    for each in criteria:
        weights = graded.weights[each.criterion].to_numpy(np.float64)
        if not (weights > 0).any():
            continue
        criterion = words.criterion_name(each.criterion) if len(criteria) > 1 else None
        for concept in concepts_of(each, words):
            key = (each.criterion, concept.name)
            name = words.concept_name(concept.name)
            names[key] = f"{name} ({criterion})" if criterion and criterion != name else name
            columns.append((key, concept.points(each, weights, everyone)))
    return _ByConcept(
        kind="customer" if graded.are_customers else "prospect",
        pseudonym=pseudonyms(config.company, frame["customer_id"]),
        tier=frame["tier"].to_numpy(object),
        score=frame["composite_score"].to_numpy(np.float64),
        baseline=frame["composite_baseline"].to_numpy(np.float64),
        points=np.column_stack([column for _, column in columns]),
        concepts=[key for key, _ in columns],
        names=names,
    )


def _table(told: _ByConcept) -> pd.DataFrame:
    """Rows of `points`: per customer the baseline, its concepts in their order, and the small ones together."""
    n = len(told.points)
    small = np.abs(told.points) < SMALLEST_POINTS
    other = np.where(small, told.points, 0.0).sum(axis=1)
    values = np.column_stack([told.baseline, told.points, other])
    keep = np.column_stack([np.ones(n, dtype=bool), ~small, np.ones(n, dtype=bool)])
    row, column = np.nonzero(keep)
    labels = [(None, "baseline"), *told.concepts, (None, "other")]
    return pd.DataFrame(
        {
            "pseudonym": np.array(told.pseudonym, dtype=object)[row],
            "value_source": "history" if told.kind == "customer" else "prospect",
            "tier": told.tier[row],
            "criterion": [labels[j][0] for j in column],
            "concept": [labels[j][1] for j in column],
            "points": values[row, column],
        }
    )


def _sample(frame: pd.DataFrame) -> pd.DataFrame:
    """At most SHOWN_ROWS rows, evenly spaced."""
    return frame.iloc[evenly(len(frame), SHOWN_ROWS)].reset_index(drop=True)
