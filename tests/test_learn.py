"""Training with its gates, on companies made to pass them or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clv import ingest, invoice_rows, learn
from clv.config import Config
from clv.contribution import price_lines
from clv.learn.learned import Learned, probability_gate
from clv.models.lifetime_value import LifetimeValue
from clv.models.payment_delay import PaymentDelay
from clv.models.payment_record import PaymentRecord
from clv.models.prospect_value import ProspectValue
from clv.period import Horizon, see
from clv.simulate import simulate
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 1, 1)
QUARTER = Horizon(months=3)
VALUE_FORECASTS = ["model", "last_period", "btyd", "bgnbd"]


def orders(customers: int, first: date, days: int, rate: Any, value: Any, seed: int = 0) -> pd.DataFrame:
    """Poisson orders of each customer over `days`; `rate` per day and `value` per order, one each or one for all."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(np.broadcast_to(rate, customers) * days)
    owner = np.repeat(np.arange(customers), counts)
    day = pd.Timestamp(first) + pd.to_timedelta(rng.integers(0, days, len(owner)), unit="D")
    frame = pd.DataFrame(
        {
            "customer_id": [f"K{i:04d}" for i in owner],
            "order_date": day,
            "net_amount": np.broadcast_to(value, customers)[owner],
        }
    )
    return frame.assign(order_id=[f"O{i}" for i in range(len(frame))])


def learned_from(frame: pd.DataFrame, folder: Path) -> tuple[Learned[LifetimeValue], pd.DataFrame]:
    """The lifetime-value model of an order history, through ingest and pricing."""
    frame.to_csv(folder / "orders.csv", index=False)
    config = Config.model_validate(
        {
            "company": "invented",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"path": str(folder / "orders.csv")}},
            "engine": {"threads": 1},
        }
    )
    with workspace(threads=1, memory_limit="1GB") as db:
        ingest.load(db, config, AS_OF)
        basis = price_lines(db, config).basis
        return learn.learn_lifetime_value(db, AS_OF, config, basis=basis, horizon=QUARTER)


def refused(found: tuple[Learned[LifetimeValue], pd.DataFrame], why: str) -> None:
    """The last period stands in, without a clv, and says why."""
    learned, present = found
    assert not learned.passed
    assert why in learned.why
    assert learned.model.mode == "last_period"
    assert learned.model.verdict == learned.why
    predicted = learned.model.predict(present)
    assert predicted["clv"].isna().all()
    np.testing.assert_array_equal(predicted["value"], present["value_365"])


def test_random_purchases_have_no_skill(tmp_path: Path) -> None:
    alike = orders(400, date(2023, 1, 1), 731, rate=1 / 60, value=100.0)
    found = learned_from(alike, tmp_path)
    refused(found, "no skill")
    assert list(found[0].report) == VALUE_FORECASTS  # the figures are kept all the same
    assert found[0].tested_from == date(2024, 10, 1)


def test_too_short_a_history_is_named(tmp_path: Path) -> None:
    short = orders(100, date(2024, 6, 1), 214, rate=1 / 20, value=100.0)
    refused(learned_from(short, tmp_path), "History too short to learn from")


def test_where_nobody_buys_again_nothing_is_promised(tmp_path: Path) -> None:
    once = pd.DataFrame(
        {
            "customer_id": [f"K{i}" for i in range(200)],
            "order_id": [f"O{i}" for i in range(200)],
            "order_date": [date(2023, 1, 1) + timedelta(days=i) for i in range(200)],
            "net_amount": 50.0,
        }
    )
    refused(learned_from(once, tmp_path), "Nobody bought anything in the label windows")


def test_customers_who_differ_are_told_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rate, value = rng.gamma(1, 1 / 40, 600), rng.lognormal(4, 1, 600)
    learned, present = learned_from(orders(600, date(2023, 1, 1), 731, rate, value), tmp_path)
    assert learned.passed
    assert learned.model.mode == "tweedie"
    assert learned.model.interval is not None
    assert learned.report["model"]["normalised_gini_low"] > 0.5  # type: ignore[operator]
    assert list(learned.forecasts) == VALUE_FORECASTS
    assert {len(forecast) for forecast in learned.forecasts.values()} == {len(learned.outcome)}
    assert learned.course is not None
    assert learned.course["realised_value"].iloc[-1] == pytest.approx(learned.outcome.sum())
    assert learned.model.predict(present)["clv"].notna().all()


def test_a_model_below_last_period_spend_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's ranks are turned round in the trial: only the comparison can catch it, its Gini stays positive."""
    from clv.learn import value

    judged = value.ValueForecasts.judged

    def blunted(self: Any, db: Engine, config: Config) -> Any:
        trial = judged(self, db, config)
        rng = np.random.default_rng(1)
        noise = rng.permutation(trial.forecasts["model"].value)
        worse = value.Forecast(trial.forecasts["model"].value + 3 * noise)
        return value.ValueTrial(trial.forecasts | {"model": worse}, trial.realised)

    monkeypatch.setattr(value.ValueForecasts, "judged", blunted)
    rng = np.random.default_rng(5)
    rate, size = rng.gamma(1, 1 / 40, 600), rng.lognormal(4, 1, 600)
    found = learned_from(orders(600, date(2023, 1, 1), 731, rate, size), tmp_path)
    refused(found, "no skill beyond the last period")


# --- payment and prospects, on an invented company with everything ------------------------------------------------

GRADED = date(2026, 1, 1)


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Config]]:
    path = tmp_path_factory.mktemp("invented") / "invented.duckdb"
    simulate(path, customers=400, prospects=200, seed=11, history_months=30, threads=1)
    tables = (
        "customers",
        "products",
        "order_lines",
        "invoices",
        "payments",
        "service_events",
        "exchange_rates",
    )
    category = {"type": "category", "known_at": "first_contact"}
    config = Config.model_validate(
        {
            "company": "invented",
            "reporting_currency": "EUR",
            "sources": {name: {"table": f"company.{name}"} for name in tables},
            "attributes": {
                "industry": category,
                "lead_source": category,
                "employee_count": {"type": "number", "known_at": "first_contact"},
            },
            "segment": ["industry"],
            "payment": {"training_months": 12},
            "engine": {"threads": 1},
            "warehouse": {"path": str(path)},
        }
    )
    with workspace(threads=1, memory_limit="2GB") as db:
        ingest.load(db, config, GRADED)
        price_lines(db, config)
        yield db, config


def changed(config: Config, section: str, **settings: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=settings)})


def everybody(db: Engine) -> pd.Series:
    return db.frame("SELECT DISTINCT customer_id FROM main.order_lines")["customer_id"]


def test_rule_10_a_payment_model_passes_its_gate_with_its_baselines_beside_it(
    invented: tuple[Engine, Config],
) -> None:
    db, config = invented
    found = learn.learn_payment_delay(db, GRADED, config, everybody(db))
    assert found is not None
    assert found.passed
    assert isinstance(found.model, PaymentDelay)
    others = (
        "segment_rate",
        "shrunk_ratio",
        "last_three",
        "logistic",
        "hazard",
        "customer_level",
        "paid_only",
    )
    assert list(found.report) == ["model", *others]
    assert found.tested_from == GRADED - timedelta(days=180)
    assert found.tables["thresholds"]["more_than_days"].to_list() == ["0", "30", "60", "90"]
    for by in ("decile", "month", "segment"):
        table = found.tables[f"calibration_by_{by}"]
        assert table["rows"].sum() == found.report["model"]["invoices"]
        np.testing.assert_allclose(table["error"], table["mean_predicted"] - table["mean_realised"])
    assert found.report["model"]["brier"] < found.report["segment_rate"]["brier"]  # type: ignore[operator]


def test_an_unsupportable_threshold_leaves_the_payment_record(invented: tuple[Engine, Config]) -> None:
    db, config = invented
    rare = changed(config, "payment", late_after_days=170)
    found = learn.learn_payment_delay(db, GRADED, rare, everybody(db))
    assert found is not None
    assert not found.passed
    assert isinstance(found.model, PaymentRecord)
    assert found.why == found.model.why
    assert found.why.startswith("unsupportable threshold: expected at least 500 invoices")


def test_before_any_invoice_is_due_there_is_no_payment_model(invented: tuple[Engine, Config]) -> None:
    db, config = invented
    assert learn.learn_payment_delay(db, date(2023, 7, 2), config, everybody(db)) is None


def test_a_prospect_model_passes_its_gate(invented: tuple[Engine, Config]) -> None:
    db, config = invented
    found = learn.learn_prospect_value(db, GRADED, config)
    assert found is not None
    assert found.passed
    assert found.model.segment is None
    assert list(found.forecasts) == ["model", "mean_rate", "segment_rate", "logistic"]


def test_too_few_prospects_leave_segment_means(invented: tuple[Engine, Config]) -> None:
    db, config = invented
    found = learn.learn_prospect_value(db, GRADED, changed(config, "prospect", minimum_prospects=10**6))
    assert found is not None
    assert not found.passed
    assert isinstance(found.model, ProspectValue)
    assert found.model.segment == ("industry",)
    assert found.why.startswith("Too little to learn a prospect model")


def test_without_attributes_known_at_first_contact_there_is_no_prospect_model(
    invented: tuple[Engine, Config],
) -> None:
    db, config = invented
    assert learn.learn_prospect_value(db, GRADED, config.model_copy(update={"attributes": {}})) is None


def test_learning_leaves_the_past_at_the_training_date(invented: tuple[Engine, Config]) -> None:
    db, config = invented
    rare = changed(config, "payment", minimum_late_invoices=10**6)
    for run in (
        lambda: learn.learn_payment_delay(db, GRADED, rare, everybody(db)),
        lambda: learn.learn_prospect_value(db, GRADED, config),
    ):
        run()
        seen = db.rows("SELECT max(order_date) FROM past.order_lines")
        see(db, GRADED)
        assert seen == db.rows("SELECT max(order_date) FROM past.order_lines")


def test_snapshots_handed_on_are_those_observed_anew(invented: tuple[Engine, Config]) -> None:
    db, config = invented
    short = changed(config, "payment", training_months=7)
    earlier = GRADED - timedelta(days=180)
    shared: invoice_rows.Snapshots = {}
    for as_of in (earlier, GRADED):
        handed = invoice_rows.training_rows(db, as_of, short.payment, ["industry"], snapshots=shared)
        anew = invoice_rows.training_rows(db, as_of, short.payment, ["industry"])
        pd.testing.assert_frame_equal(handed, anew)


def test_known_and_unseen_customers_are_judged_apart(invented: tuple[Engine, Config]) -> None:
    db, config = invented
    trial = learn.try_payment_delay(
        db, GRADED - timedelta(days=180), config, known_at=GRADED, horizon_days=90
    )
    whole, groups = trial.report(), trial.groups()
    assert list(groups) == ["known", "unseen"]
    counted = [report["model"]["invoices"] for report in groups.values() if report]
    assert sum(counted) == whole["model"]["invoices"]  # type: ignore[arg-type]
    assert all(set(report) == set(whole) for report in groups.values() if report)


def test_the_course_of_a_horizon_ends_at_what_was_forecast_and_what_came(
    invented: tuple[Engine, Config],
) -> None:
    db, config = invented
    horizon = Horizon(days=100)
    made = learn.forecast_lifetime_value(db, date(2025, 9, 1), config, basis="contribution", horizon=horizon)
    trial = made.judged(db, config)
    course = made.course(db, config)
    assert course["day"].to_list() == [*range(7, 100, 7), 100]
    assert course["date"].iloc[-1] == pd.Timestamp(2025, 12, 10)
    last = course.iloc[-1]
    assert last["realised_value"] == pytest.approx(trial.realised.sum())
    assert last["model_value"] == pytest.approx(trial.forecasts["model"].value.sum())
    assert last["btyd_value"] == pytest.approx(trial.forecasts["btyd"].value.sum(), rel=1e-4)
    assert last["expected_orders"] == pytest.approx(made.model.predict(made.frame)["expected_orders"].sum())
    expected = course[["model_value", "btyd_value", "expected_orders", "realised_orders"]]
    assert (expected.diff().iloc[1:] >= 0).all(axis=None)
    first = db.rows(
        "SELECT count(DISTINCT (customer_id, order_date)) FROM next.order_lines JOIN next.asked USING (customer_id) "
        "WHERE order_date < DATE '2025-09-08' AND net_amount > 0"
    )
    assert course["realised_orders"].iloc[0] == first[0][0]

    alone = replace(made, model=replace(made.model, purchases=None))
    even = alone.course(db, config)
    assert even["expected_orders"].isna().all()
    assert even["btyd_value"].isna().all()
    assert even["model_value"].to_numpy() == pytest.approx(even["day"] / 100 * last["model_value"])


def test_gate_of_probabilities() -> None:
    rng = np.random.default_rng(2)
    chance = rng.uniform(0.05, 0.6, 2000)
    outcome = (rng.random(2000) < chance).astype(np.float64)
    rate = np.full(2000, outcome.mean())
    assert probability_gate(outcome, {"model": chance, "segment_rate": rate}, "rows", seed=1) is None
    worse = probability_gate(outcome, {"model": 1 - chance, "segment_rate": rate}, "rows", seed=1)
    assert worse is not None
    assert worse.startswith("no skill: the Brier score exceeds that of the segment's rate by at least 0.")
    none = probability_gate(
        np.zeros(5), {"model": rate[:5], "segment_rate": rate[:5]}, "rows are late", seed=1
    )
    assert none == "no later period to test on: 0 of 5 rows are late"
