"""Points add up to the score, whatever model speaks, and share it as Shapley says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from itertools import combinations, permutations
from math import factorial
from pathlib import Path
from types import SimpleNamespace

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from clv import composite
from clv.composite import Grading
from clv.config import Config, load
from clv.criteria import PROSPECT_BASELINE
from clv.features import FEATURES
from clv.models.lifetime_value import LifetimeValue
from clv.models.links import Link
from clv.models.payment_delay import PaymentDelay, customer_figures
from clv.models.payment_features import FEATURES as PAYMENT_FEATURES
from clv.models.payment_features import INPUTS
from clv.models.payment_features import NAMES as PAYMENT_NAMES
from clv.models.payment_features import design as payment_design
from clv.models.prospect_value import ProspectValue, combine
from clv.models.shapley import Attribution
from clv.points import (
    COST_TO_SERVE,
    JUDGEMENT,
    RULES,
    SMALLEST_STEP,
    Points,
    judgement_points,
    lifetime_value_points,
    of_prospects,
    payment_points,
    prospect_points,
    rule_points,
    secants,
)
from clv.scales import Scale

Floats = NDArray[np.float64]
ValueModels = dict[str, tuple[LifetimeValue, pd.DataFrame]]
AS_OF = date(2026, 1, 1)
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def config() -> Config:
    path = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"
    return load(path, ["engine.threads=1", "lifetime_value.rounds=60"])


def scale_of(values: Floats, kind: str, reference: float, criterion: str = "any") -> Scale:
    return composite.fit(
        {criterion: values}, {criterion: kind}, {criterion: reference}, trained_as_of=AS_OF
    ).scales[criterion]


def adds_up(points: Points, score: Floats) -> None:
    measured = np.isfinite(score)
    total = points.baseline + points.points.sum(axis=1)
    assert measured.any()
    assert np.abs(total - score)[measured].max() < TOLERANCE
    assert (points.points[~measured] == 0).all()
    assert np.isfinite(points.points).all()


def attributes(rng: np.random.Generator, n: int) -> dict[str, object]:
    return {
        "industry": rng.choice(["chemicals", "logistics", None], n, p=[0.5, 0.4, 0.1]),
        "region": rng.choice(["north", "south"], n),
        "employee_count": np.where(rng.random(n) < 0.1, np.nan, np.round(rng.lognormal(3, 1, n))),
        "lead_source": rng.choice(["fair", "cold_call"], n),
        "web_visits_before_contact": rng.poisson(2, n).astype(float),
        "requested_quote": rng.random(n) < 0.3,
    }


def value_frame(seed: int, n: int, cost: float = 30.0) -> pd.DataFrame:
    """Rows like customers.customer_frame, with a realised value that its columns explain."""
    rng = np.random.default_rng(seed)
    by_unit = {
        "days": lambda: rng.exponential(60, n).round(),
        "count": lambda: rng.poisson(3, n).astype(float),
        "money": lambda: rng.lognormal(5, 1.2, n),
        "ratio": lambda: rng.random(n),
        "number": lambda: rng.gamma(2, 1, n),
    }
    columns: dict[str, object] = {feature.name: by_unit[feature.unit]() for feature in FEATURES}
    for name in ("gap_mean_days", "gap_sd_days", "gap_last_days", "overdue_ratio", "margin_ratio_365"):
        columns[name] = np.where(rng.random(n) < 0.2, np.nan, columns[name])  # type: ignore[call-overload]
    tenure = rng.uniform(200, 1200, n).round()
    rate = rng.gamma(0.8, 1 / 150, n)
    active = tenure * rng.beta(2, 1, n)
    frequency = rng.poisson(rate * active).astype(float)
    mean = rng.gamma(5, 40, n) * rng.gamma(5, 0.2, n)
    realised = rng.poisson(rate * 365 * (active / tenure > 0.6)) * mean
    return pd.DataFrame(
        {
            "customer_id": [f"C{i:05d}" for i in range(n)],
            **columns,
            **attributes(rng, n),
            "frequency": frequency,
            "recency_days": np.where(frequency > 0, active.round(), 0.0),
            "T_days": tenure,
            "order_count": frequency + 1,
            "mean_order_value": mean,
            "cost_to_serve_12m": rng.gamma(1, cost, n),
            "is_active": rng.random(n) < 0.9,
            "realised_value": realised,
            "snapshot_date": AS_OF - timedelta(days=365),
        }
    )


@pytest.fixture(scope="module")
def value_models(config: Config) -> ValueModels:
    """Mode -> the model fitted on a population of the size that asks for it, and that population."""
    models = {}
    for mode, n in {"tweedie": 700, "blend": 400, "btyd": 200}.items():
        frame = value_frame(11, n)
        models[mode] = LifetimeValue.fit(frame, frame, config, basis="contribution", horizon_days=365), frame
        assert models[mode][0].mode == mode
    frame = value_frame(11, 200)
    rule = LifetimeValue.last_period(frame, basis="contribution", horizon_days=365, why="no skill")
    return models | {"last_period": (rule, frame)}


@pytest.mark.parametrize("mode", ["tweedie", "blend", "btyd", "last_period"])
@pytest.mark.parametrize("cost", [0.0, 30.0, 2000.0])
def test_points_of_lifetime_value_add_up_in_every_mode(
    value_models: ValueModels, mode: str, cost: float
) -> None:
    model, _ = value_models[mode]
    fresh = value_frame(12, 300, cost)
    fresh.loc[:4, ["mean_order_value", "frequency", "recency_days", "order_value_mean"]] = (
        np.nan
    )  # only returns
    value = model.predict(fresh)["value"].to_numpy(np.float64)
    scale = scale_of(value, "log1p" if mode == "last_period" else "log", model.reference_value)
    assert scale.kind != "asinh" or cost > 0
    if mode == "last_period":
        points = rule_points("lifetime_value", RULES["lifetime_value"], value, scale)
    else:
        points = lifetime_value_points(model, fresh, scale)
        assert points.players[-1] == COST_TO_SERVE
    adds_up(points, scale.score(value))


@pytest.mark.parametrize("mode", ["tweedie", "blend", "btyd"])
def test_a_customer_alone_has_the_points_it_has_in_the_batch(value_models: ValueModels, mode: str) -> None:
    model, frame = value_models[mode]
    scale = scale_of(model.predict(frame)["value"].to_numpy(), "log", model.reference_value)
    batch = lifetime_value_points(model, frame, scale)
    for i in (0, 7, 150):
        alone = lifetime_value_points(model, frame.iloc[[i]], scale)
        np.testing.assert_array_equal(alone.points[0], batch.points[i])
        np.testing.assert_array_equal(alone.facts[0], batch.facts[i])


def test_the_cost_to_serve_shares_as_a_brute_force_shapley_says(value_models: ValueModels) -> None:
    """Two players, the model's output and the cost: the mean over both orders in which they may join."""
    model, frame = value_models["tweedie"]
    value = model.predict(frame)["value"].to_numpy(np.float64)
    scale = scale_of(value, "log", model.reference_value)
    points = lifetime_value_points(model, frame, scale)
    attribution = model.attribute(frame)
    cost = model.expected_cost_to_serve(frame)
    assert (cost > 0).any()

    def score(coalition: set[str]) -> Floats:
        raw = (
            attribution.raw
            if "raw" in coalition
            else np.full_like(attribution.raw, attribution.raw_reference)
        )
        return scale.score(model.money(raw) - (cost if "cost" in coalition else model.reference_cost))

    shares = {"raw": np.zeros(len(frame)), "cost": np.zeros(len(frame))}
    for order in permutations(shares):
        joined: set[str] = set()
        for player in order:
            shares[player] += (score(joined | {player}) - score(joined)) / 2
            joined.add(player)
    np.testing.assert_allclose(points.points[:, -1], shares["cost"], atol=1e-9)
    np.testing.assert_allclose(points.points[:, :-1].sum(axis=1), shares["raw"], atol=1e-9)
    inputs = points.points[:, :-1]
    ratio = inputs[:, [0]] * attribution.phi - inputs * attribution.phi[:, [0]]
    assert np.abs(ratio).max() < 1e-9, "inputs share what the model bears as their Shapley values do"


def test_secants_use_the_slope_where_the_output_is_the_references() -> None:
    phi = np.array([[0.4, -0.4], [1.0, 1.0], [SMALLEST_STEP / 4, SMALLEST_STEP / 4]])
    attribution = Attribution(0.3 + phi.sum(axis=1), 0.3, phi)
    points = secants(attribution, expit)
    slope = expit(0.3) * (1 - expit(0.3))
    np.testing.assert_allclose(points[0], phi[0] * slope, rtol=1e-8)
    np.testing.assert_allclose(points[1].sum(), expit(2.3) - expit(0.3), rtol=1e-12)
    np.testing.assert_allclose(points[2], phi[2] * slope, rtol=1e-6)
    assert secants(Attribution(np.empty(0), 0.3, np.empty((0, 2))), expit).shape == (0, 2)


def test_secants_keep_the_sign_of_a_contribution_under_any_rising_function() -> None:
    rng = np.random.default_rng(3)
    phi = rng.normal(0, 1, (500, 6))
    points = secants(Attribution(phi.sum(axis=1) - 1, -1.0, phi), lambda raw: np.clip(50 + 20 * raw, 0, 100))
    assert (points * phi >= 0).all()


def test_the_slope_holds_with_a_cost_of_ones_own(value_models: ValueModels) -> None:
    """A customer whose output is the reference's shows its reasons in full, not halved."""
    model, frame = value_models["tweedie"]
    scale = scale_of(model.predict(frame)["value"].to_numpy(), "log", model.reference_value)
    one = frame.iloc[[0]]
    found = model.attribute(one)
    moved = found.phi - (found.phi.sum() / found.phi.shape[1])

    class AtTheReference:
        """The same model, at a customer whose contributions cancel out."""

        mode, basis = model.mode, model.basis
        players, reference, reference_cost = model.players, model.reference, model.reference_cost
        money = staticmethod(model.money)
        design = staticmethod(model.design)
        expected_cost_to_serve = staticmethod(lambda frame: np.full(len(frame), model.reference_cost))

        @staticmethod
        def attribute(frame: pd.DataFrame, inputs: Floats) -> Attribution:
            raw = np.full(len(frame), found.raw_reference)
            return Attribution(raw, found.raw_reference, moved)

    points = lifetime_value_points(AtTheReference(), one, scale)  # type: ignore[arg-type]

    def g(raw: float) -> float:
        return float(scale.score(model.money(np.array([raw])) - model.reference_cost)[0])

    slope = (g(found.raw_reference + 1e-5) - g(found.raw_reference - 1e-5)) / 2e-5
    np.testing.assert_allclose(points.points[0, :-1], moved[0] * slope, rtol=1e-6)
    assert points.points[0, -1] == 0


def payment_rows(seed: int, customers: int) -> pd.DataFrame:
    """Rows like invoice_rows.training_rows and customer_view at once: some three per customer."""
    rng = np.random.default_rng(seed)
    n = customers * 3
    rows = pd.DataFrame({name: rng.gamma(2, 10, n).round() for name in INPUTS if name != "segment"})
    tendency = np.repeat(rng.random(customers), 3)
    for name in [name for name in INPUTS if name.endswith("_ratio")]:
        rows[name] = np.clip(tendency + rng.normal(0, 0.1, n), 0, 1)
    for name in [name for name in INPUTS if name.endswith("_invoices")]:
        rows[name] = np.repeat(rng.poisson(6, customers), 3).astype(float)
    for counted, part in (("known", "late"), ("long_known", "long_late")):
        rows[f"{part}_invoices"] = (rows[f"{counted}_invoices"] * tendency).round()
    for counted, part in (("due", "beyond_terms"), ("long_due", "long_beyond_terms")):
        rows[f"{part}_invoices"] = (rows[f"{counted}_invoices"] * tendency).round()
    rows["mean_days_beyond_terms"] = np.where(rng.random(n) < 0.1, np.nan, 60 * tendency - 20)
    rows["is_typical"] = np.arange(n) % 3 == 0
    rows["overdue_days"] = np.where(rows["is_typical"], -30.0, rng.integers(-30, 60, n))
    amount = rng.lognormal(6, 1, n)
    owner = np.repeat([f"C{i:05d}" for i in range(customers)], 3)
    days = np.maximum(
        rows["overdue_days"], np.where(rng.random(n) < 0.7 * tendency, rng.integers(31, 200, n), 5)
    )
    return rows.assign(
        customer_id=owner,
        invoice_id=[f"I{i:06d}" for i in range(n)],
        segment=np.repeat(rng.choice(["a", "b"], customers), 3),
        snapshot_date=AS_OF - timedelta(days=400),
        label_date=AS_OF - timedelta(days=300),
        is_open=~rows["is_typical"],
        amount=amount,
        weight=amount / pd.Series(amount).groupby(owner).transform("sum").to_numpy(),
        is_late=(days > 30).astype(float),
        is_settled=True,
        days_beyond_terms=days,
        known_days=300,
    )


def test_points_of_payment_add_up_through_all_invoices_of_a_customer(config: Config) -> None:
    rows = payment_rows(5, 400)
    model = PaymentDelay.fit(rows, config.payment, 7, 1, reference=rows)
    view = payment_rows(6, 200)
    predicted = model.predict(view)
    late = customer_figures(view, predicted)
    ids = pd.Series([*late["customer_id"], "without invoices"])
    probability = np.append(late["late_payment_probability"].to_numpy(np.float64), np.nan)
    assert (predicted["late_payment_probability"] > 0.999).any(), (
        "an invoice that is already late is among them"
    )
    scale = scale_of(probability, "payment", model.reference_probability)
    points = payment_points(model, view, ids, scale)
    adds_up(points, scale.score(probability))
    assert points.players == PAYMENT_FEATURES
    assert np.isnan(points.facts[-1]).all()
    one = view[view["customer_id"] == ids[3]]
    alone = payment_points(model, one, ids[3:4], scale)
    np.testing.assert_array_equal(alone.points[0], points.points[3])
    np.testing.assert_allclose(alone.facts[0], points.facts[3], rtol=1e-12)
    shuffled = payment_points(model, view.sample(frac=1, random_state=1), ids, scale)
    np.testing.assert_allclose(shuffled.points, points.points, atol=1e-9)


def brute_force(worth: Callable[[frozenset[int]], Floats], players: int) -> Floats:
    """Shapley values by their definition, over all coalitions: rows x players."""
    found = []
    everyone = frozenset(range(players))
    for player in range(players):
        value: Floats | float = 0.0
        for size in range(players):
            share = factorial(size) * factorial(players - size - 1) / factorial(players)
            for others in combinations(sorted(everyone - {player}), size):
                value = value + share * (worth(frozenset(others) | {player}) - worth(frozenset(others)))
        found.append(np.asarray(value))
    return np.column_stack(found)


def carried(phi: Floats, start: Floats, end: Floats, g_start: Floats, g_end: Floats) -> Floats:
    """phi times the secant of g between the two ends of each row."""
    return phi * ((g_end - g_start) / (end - start))[:, None]


def used_by(booster: lgb.Booster) -> list[int]:
    return [int(i) for i in np.flatnonzero(booster.feature_importance("split"))]


def mixed(own: Floats, reference: Floats, columns: Iterable[int]) -> Floats:
    """Rows that hold their own values in `columns` and the reference's elsewhere."""
    rows = np.tile(reference, (len(own), 1))
    rows[:, list(columns)] = own[:, list(columns)]
    return rows


def test_points_of_payment_equal_the_chain_over_all_coalitions_with_missing_values_too(
    config: Config,
) -> None:
    """p = Σ aσ(raw): all coalitions for the logit of every invoice, then secants through σ, Σ and the scale."""
    moving = {
        "mean_days_beyond_terms",
        "terms_days",
        "due_weekday",
        "overdue_days",
        "amount_to_typical_ratio",
    }
    rows, view = payment_rows(7, 300), payment_rows(8, 40)
    still = {name: 5.0 for name in INPUTS if name not in moving | {"segment"}}
    rows, view = rows.assign(**still), view.assign(**still)
    model = PaymentDelay.fit(rows, config.payment, 7, 1, reference=rows)
    used, design = used_by(model.late), payment_design(view, model.shrinkages).to_numpy(np.float64)
    assert 3 <= len(used) <= 5
    assert np.isnan(design[:, used]).any()

    def logit(coalition: frozenset[int]) -> Floats:
        X = mixed(design, model.reference, [used[i] for i in coalition])
        return np.asarray(model.late.predict(X, raw_score=True)) + model.logit_shift

    phi = np.zeros_like(design)
    phi[:, used] = brute_force(logit, len(used))
    raw, start = logit(frozenset(range(len(used)))), logit(frozenset())
    is_late = view["overdue_days"].to_numpy(np.float64) > model.late_after_days
    assert is_late.any()
    phi[is_late, PAYMENT_NAMES.index("overdue_days")] += (
        40.0 - raw[is_late]
    )  # late already: certain, by its days
    raw[is_late] = 40.0
    owner, weight = view["customer_id"].to_numpy(), view["weight"].to_numpy(np.float64)
    of_invoices = pd.DataFrame(carried(phi, start, raw, expit(start), expit(raw)) * weight[:, None])
    of_customers = of_invoices.groupby(owner).sum().to_numpy()
    p = pd.Series(expit(raw) * weight).groupby(owner).sum().to_numpy()
    usual = np.full(len(p), expit(start[0]))
    scale = scale_of(p, "payment", float(usual[0]))
    expected = carried(of_customers, usual, p, scale.score(usual), scale.score(p))
    found = payment_points(model, view, pd.Series(sorted(set(owner))), scale)
    np.testing.assert_allclose(found.points, expected, atol=1e-7)


def test_points_of_prospects_equal_the_chain_over_all_coalitions_with_missing_values_too(
    config: Config,
) -> None:
    """log P + log V: all coalitions for the logit and the log value, a secant through log σ, one through the scale."""
    few = config.model_copy(
        update={
            "attributes": {
                name: config.attributes[name] for name in ("employee_count", "requested_quote", "region")
            }
        }
    )
    model = ProspectValue.fit(*prospect_rows(1, 900), few, 1, prospect_rows(1, 900)[0])
    fresh, _ = prospect_rows(2, 60)
    X, reference = model.design(fresh).to_numpy(np.float64), model.reference
    assert X.shape[1] <= 6
    assert np.isnan(X).any()

    def output(link: Link) -> Callable[[frozenset[int]], Floats]:
        return lambda coalition: link.raw(mixed(X, reference, coalition))

    everyone: frozenset[int] = frozenset(range(X.shape[1]))
    logit, log_value = output(model.conversion), output(model.value)
    of_logit, of_value = (brute_force(worth, X.shape[1]) for worth in (logit, log_value))
    a, b = logit(frozenset()), logit(everyone)
    of_log = carried(of_logit, a, b, np.log(expit(a)), np.log(expit(b))) + of_value
    start, raw = np.log(expit(a)) + log_value(frozenset()), np.log(expit(b)) + log_value(everyone)
    scale = scale_of(np.exp(raw), "log", float(np.exp(start[0])))
    expected = carried(of_log, start, raw, scale.score(np.exp(start)), scale.score(np.exp(raw)))
    nobody = np.full(len(fresh), np.nan)
    found = prospect_points(model, fresh, nobody, np.zeros(len(fresh)), scale)
    np.testing.assert_allclose(found.points[:, :-1], expected, atol=1e-7)


@pytest.mark.parametrize("criterion", list(RULES))
@pytest.mark.parametrize("seed", range(3))
def test_points_of_a_rule_add_up(criterion: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random(200) if criterion == "payment" else rng.normal(100, 400, 200)
    values[rng.random(200) < 0.1] = np.nan
    kind = {"payment": "record", "contribution": "asinh"}.get(criterion, "log1p")
    scale = scale_of(values, kind, float(np.nanmedian(values)))
    adds_up(rule_points(criterion, RULES[criterion], values, scale), scale.score(values))
    flat = scale_of(np.full(5, 3.0), kind, 3.0)
    assert (rule_points(criterion, RULES[criterion], np.full(5, 3.0), flat).points == 0).all()


def prospect_rows(seed: int, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "customer_id": [f"P{i:05d}" for i in range(n)],
            "snapshot_date": AS_OF - timedelta(days=200),
            "days_since_first_contact": rng.integers(1, 700, n).astype(float),
            **attributes(rng, n),
        }
    )
    chance = expit(1.5 * rows["requested_quote"].to_numpy(float) - rows["days_since_first_contact"] / 200)
    rows["converted"] = rng.random(n) < chance
    values = rows[rows["converted"]].assign(value=lambda found: rng.gamma(2, 300, len(found)))
    return rows, values


@pytest.fixture(scope="module")
def prospect_model(config: Config) -> ProspectValue:
    rows, values = prospect_rows(1, 900)
    return ProspectValue.fit(rows, values, config, 1, rows)


@pytest.mark.parametrize("kind", ["learned", "segment_means"])
@pytest.mark.parametrize("judged_ratio", [0.0, 0.4, 1.0])
def test_points_of_prospects_add_up(
    config: Config, prospect_model: ProspectValue, kind: str, judged_ratio: float
) -> None:
    model = prospect_model
    if kind == "segment_means":
        model = ProspectValue.segment_means(*prospect_rows(1, 120), config)
    fresh, _ = prospect_rows(2, 250)
    rng = np.random.default_rng(4)
    judgement = np.where(rng.random(250) < judged_ratio, rng.uniform(0, 100, 250).round(), np.nan)
    value = model.predict(fresh)["prospect_value"].to_numpy(np.float64)
    scale = scale_of(value, "log", model.reference_value)
    score = combine(scale.score(value), judgement, 0.3)
    weight = np.where(np.isnan(judgement), 0.0, 0.3)
    points = prospect_points(model, fresh, judgement, weight, scale)
    adds_up(points, score)
    assert points.players[-1] == JUDGEMENT
    np.testing.assert_allclose(points.reference[:, -1], scale.score(value), atol=1e-9)
    judged = np.isfinite(judgement)
    assert (points.points[~judged, -1] == 0).all()
    assert ((points.points * (points.facts - points.reference))[judged, -1] >= 0).all()
    alone = prospect_points(model, fresh.iloc[[9]], judgement[[9]], weight[[9]], scale)
    np.testing.assert_allclose(alone.points[0], points.points[9], atol=1e-12)


def test_points_of_judgement_alone_add_up_to_it() -> None:
    judgement = np.array([80.0, np.nan, 50.0, 0.0])
    points = judgement_points(judgement)
    adds_up(points, judgement)
    assert points.baseline == PROSPECT_BASELINE
    assert points.points[:, 0].tolist() == [30.0, 0.0, 0.0, -50.0]


def test_prospects_without_a_model_are_explained_by_judgement(config: Config) -> None:
    measured = SimpleNamespace(prospects=pd.DataFrame({"judgement": [70.0, np.nan]}))
    models = SimpleNamespace(prospect_value=None)
    [points] = of_prospects(measured, models, Grading({}, AS_OF), config)  # type: ignore[arg-type]
    assert points.points[:, 0].tolist() == [20.0, 0.0]
