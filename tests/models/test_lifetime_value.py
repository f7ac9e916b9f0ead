"""The lifetime-value model on invented order histories: its modes, its level, and what may not move it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clv import ingest
from clv.config import Config
from clv.contribution import price_lines
from clv.customers import customer_frame
from clv.errors import ModelError
from clv.features import FEATURES, customer_features
from clv.models import boosting, btyd
from clv.models.lifetime_value import Interval, LifetimeValue
from clv.models.value_parts import BTYD_INPUTS, Blend, BuyTillYouDie, LastPeriod, Trees
from clv.outcomes import realised_value
from clv.period import Horizon
from clv.warehouse import workspace

AS_OF = date(2025, 1, 1)
HORIZON = Horizon(months=6)
DAYS = HORIZON.length_days(AS_OF)
MONEY = [feature.name for feature in (*FEATURES, *BTYD_INPUTS) if feature.unit == "money"]
MODES = {"btyd": 200, "blend": 400, "tweedie": 700}  # customers


def orders_of(customers: int, seed: int) -> pd.DataFrame:
    """Two years of orders; rates and values differ between customers, some stop."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.2, 1 / 60, customers)  # per day
    stop = rng.exponential(900, customers)
    size = rng.lognormal(4, 0.8, customers)
    rows = []
    for i in range(customers):
        day = rng.uniform(0, 500)
        while day < min(730, 500 + stop[i]):
            net = round(size[i] * rng.lognormal(0, 0.3), 2)
            rows.append((f"K{i:04d}", pd.Timestamp("2023-01-01") + pd.Timedelta(days=int(day)), net))
            day += rng.exponential(1 / rate[i])
    orders = pd.DataFrame(rows, columns=["customer_id", "order_date", "net_amount"])
    return orders.assign(order_id=[f"O{i}" for i in range(len(orders))])


class Company:
    """Frames of an order history: `training` (snapshots with what then happened) and `present`."""

    def __init__(self, orders: pd.DataFrame, folder: Path) -> None:
        orders.to_csv(folder / "orders.csv", index=False)
        self.config = Config.model_validate(
            {
                "company": "invented",
                "reporting_currency": "EUR",
                "sources": {"order_lines": {"path": str(folder / "orders.csv")}},
                "engine": {"threads": 1},
                "lifetime_value": {"horizon_months": 6},
            }
        )
        with workspace(threads=1, memory_limit="1GB") as db:
            ingest.load(db, self.config, AS_OF)
            basis = price_lines(db, self.config).basis
            self.present = customer_frame(db, AS_OF, self.config, basis=basis, horizon_days=DAYS)
            snapshots = []
            for day in (date(2024, 7, 1), date(2024, 6, 1), date(2024, 5, 2)):
                features = customer_features(db, day, self.config, DAYS)
                outcome = realised_value(db, day, HORIZON, self.config, basis=basis)
                rows = features.merge(outcome, on="customer_id", how="left").assign(snapshot_date=day)
                rows["realised_value"] = rows["realised_value"].astype("float64").fillna(0.0)
                snapshots.append(rows)
            self.training = pd.concat(snapshots, ignore_index=True)
        rng = np.random.default_rng(1)
        self.present["cost_to_serve_12m"] = rng.choice([0.0, 0.0, 20.0, 5000.0], len(self.present))

    def fit(
        self, customers: int = 700, threads: int = 1, last_actual: float | None = None, scale: float = 1.0
    ) -> LifetimeValue:
        engine = self.config.engine.model_copy(update={"threads": threads})
        return LifetimeValue.fit(
            self.some(self.training, customers, scale).sample(frac=1, random_state=threads),
            self.some(self.present, customers, scale),
            self.config.model_copy(update={"engine": engine}),
            basis="contribution",
            horizon_days=DAYS,
            last_actual=last_actual,
        )

    def some(self, frame: pd.DataFrame, customers: int, scale: float = 1.0) -> pd.DataFrame:
        """The first customers alone, all money times `scale`."""
        kept = frame[frame["customer_id"] < f"K{customers:04d}"].reset_index(drop=True)
        money = [name for name in (*MONEY, "realised_value", "cost_to_serve_12m") if name in kept.columns]
        kept[money] = kept[money].astype("float64") * scale
        return kept


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Company:
    return Company(orders_of(700, seed=3), tmp_path_factory.mktemp("company"))


@pytest.fixture(scope="module")
def models(company: Company) -> dict[str, LifetimeValue]:
    """One model of each mode, with an interval; and the fallback."""
    fitted = {mode: company.fit(customers) for mode, customers in MODES.items()}
    interval = Interval(edges=(100.0, 500.0), low=(0.0, 0.3, 0.6), high=(3.0, 2.0, 1.5))
    found = {mode: model.calibrated(interval) for mode, model in fitted.items()}
    last = LifetimeValue.last_period(company.present, basis="contribution", horizon_days=DAYS, why="no skill")
    return found | {"last_period": last}


ALL_MODES = pytest.mark.parametrize("mode", [*MODES, "last_period"])
LEARNED_MODES = pytest.mark.parametrize("mode", list(MODES))


@LEARNED_MODES
def test_the_size_of_the_population_decides_the_mode(models: dict[str, LifetimeValue], mode: str) -> None:
    assert models[mode].mode == mode
    kinds = {"btyd": BuyTillYouDie, "blend": Blend, "tweedie": Trees}
    assert isinstance(models[mode].part, kinds[mode])


def test_a_blend_is_the_geometric_mean_of_trees_and_btyd(
    company: Company, models: dict[str, LifetimeValue]
) -> None:
    part = models["blend"].part
    assert isinstance(part, Blend)
    inputs = part.inputs(company.present)
    trees = part.trees.raw(part.trees.inputs(company.present))
    purchases = part.purchases.raw(part.purchases.inputs(company.present))
    np.testing.assert_allclose(np.exp(part.raw(inputs)), np.sqrt(np.exp(trees) * np.exp(purchases)))


@LEARNED_MODES
def test_who_costs_more_to_serve_than_it_brings_has_a_negative_value(
    company: Company, models: dict[str, LifetimeValue], mode: str
) -> None:
    predicted = models[mode].predict(company.present)
    negative = predicted["clv"] < 0
    assert negative.any()
    assert (company.present.loc[negative, "cost_to_serve_12m"] > 0).all()
    free = models[mode].predict(company.present.assign(cost_to_serve_12m=0.0))
    assert (free["clv"] > 0).all()
    np.testing.assert_allclose(free["clv"] - predicted["clv"], predicted["expected_cost_to_serve"], atol=1e-9)


@LEARNED_MODES
def test_cost_to_serve_goes_on_while_the_customer_is_active(
    company: Company, models: dict[str, LifetimeValue], mode: str
) -> None:
    predicted = models[mode].predict(company.present)
    expected = company.present["cost_to_serve_12m"] * predicted["probability_active"] * DAYS / 365
    np.testing.assert_allclose(predicted["expected_cost_to_serve"], expected)


@LEARNED_MODES
def test_the_interval_holds_the_point(company: Company, models: dict[str, LifetimeValue], mode: str) -> None:
    predicted = models[mode].predict(company.present)
    assert (predicted["clv_low"] <= predicted["clv"]).all()
    assert (predicted["clv"] <= predicted["clv_high"]).all()
    assert (predicted["clv_low"] < predicted["clv_high"]).all()


def test_interval_covers_eighty_percent_of_what_it_was_learned_on() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.lognormal(3, 1, 5000)
    realised = predicted * rng.lognormal(0, 0.5, 5000) * (rng.random(5000) < 0.9)
    low, high = Interval.fit(predicted, realised).around(predicted)
    assert np.mean((low <= realised) & (realised <= high)) == pytest.approx(0.8, abs=0.06)


def test_interval_of_a_handful_of_customers_is_one_bin() -> None:
    interval = Interval.fit(np.arange(1.0, 20.0), np.arange(1.0, 20.0) * 2)
    assert interval.edges == ()
    assert interval.low == interval.high == (2.0,)


@ALL_MODES
def test_one_customer_alone_scores_as_in_the_batch(
    company: Company, models: dict[str, LifetimeValue], mode: str
) -> None:
    batch = models[mode].predict(company.present)
    phi = models[mode].attribute(company.present).phi
    for i in (0, 17, len(batch) - 1):
        alone = company.present.iloc[[i]].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            models[mode].predict(alone), batch.iloc[[i]].reset_index(drop=True), rtol=1e-12, atol=1e-12
        )
        np.testing.assert_allclose(models[mode].attribute(alone).phi[0], phi[i], rtol=1e-9, atol=1e-12)


@LEARNED_MODES
def test_neither_order_of_rows_nor_threads_matter(
    company: Company, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosting, "ROWS_WORTH_THREADS", 1)
    first, second = company.fit(MODES[mode], threads=1), company.fit(MODES[mode], threads=2)
    assert first.to_files() == second.to_files()


@LEARNED_MODES
def test_a_hundredfold_currency_makes_a_hundredfold_value(company: Company, mode: str) -> None:
    euros, cents = company.fit(MODES[mode]), company.fit(MODES[mode], scale=100.0)
    frame = company.some(company.present, MODES[mode])
    expected = euros.predict(frame)
    found = cents.predict(company.some(company.present, MODES[mode], scale=100.0))
    money = ["value", "clv", "expected_cost_to_serve"]
    np.testing.assert_allclose(found[money], expected[money] * 100, rtol=1e-6)


@ALL_MODES
def test_a_model_read_from_its_files_is_the_model(
    company: Company, models: dict[str, LifetimeValue], mode: str
) -> None:
    read = LifetimeValue.from_files(models[mode].to_files())
    assert read == models[mode]
    pd.testing.assert_frame_equal(read.predict(company.present), models[mode].predict(company.present))
    assert ("lifetime_value.txt" in models[mode].to_files()) == (mode in ("blend", "tweedie"))


def test_a_model_of_other_inputs_is_refused(models: dict[str, LifetimeValue]) -> None:
    shorter = replace(models["tweedie"], reference=models["tweedie"].reference[:-1])
    with pytest.raises(ModelError, match="Train again"):
        LifetimeValue.from_files(shorter.to_files())


@ALL_MODES
def test_contributions_add_up_to_the_output(
    company: Company, models: dict[str, LifetimeValue], mode: str
) -> None:
    found = models[mode].attribute(company.present)
    np.testing.assert_allclose(found.raw_reference + found.phi.sum(axis=1), found.raw, atol=1e-8)
    predicted = models[mode].predict(company.present)
    cost = models[mode].expected_cost_to_serve(company.present)
    np.testing.assert_allclose(models[mode].money(found.raw) - cost, predicted["value"])


def test_the_fallback_is_the_last_period_and_promises_nothing(
    company: Company, models: dict[str, LifetimeValue]
) -> None:
    predicted = models["last_period"].predict(company.present)
    np.testing.assert_array_equal(predicted["value"], company.present["value_365"])
    assert (
        predicted[["clv", "clv_low", "clv_high", "probability_active", "expected_orders"]]
        .isna()
        .all(axis=None)
    )
    assert isinstance(models["last_period"].part, LastPeriod)
    assert models["last_period"].verdict == "no skill"
    assert models["last_period"].calibrated(Interval((), (0.0,), (1.0,))).interval is None


def odd_customers(company: Company) -> pd.DataFrame:
    """A customer who only returned goods, one with a single purchase, one of orders beyond all measure."""
    frame = company.present.head(3).copy()
    nothing = dict.fromkeys([f.name for f in FEATURES if f.unit != "count"], np.nan)
    returned: dict[str, Any] = nothing | {
        "frequency": -1, "order_count": 0, "orders_total": 0, "recency_days": np.nan, "T_days": 100,
        "mean_order_value": np.nan, "value_365": -80.0, "value_decayed_90": -40.0, "cost_to_serve_12m": 10.0,
    }  # fmt: skip
    once = {
        "frequency": 0, "order_count": 1, "orders_total": 1, "recency_days": 0, "T_days": 5,
        "gap_mean_days": np.nan, "gap_sd_days": np.nan, "gap_last_days": np.nan, "overdue_ratio": np.nan,
    }  # fmt: skip
    for i, values in enumerate((returned, once, dict.fromkeys(MONEY, 1e12))):
        for name, value in values.items():
            frame[name] = frame[name].astype("float64")
            frame.loc[i, name] = value
    return frame


@LEARNED_MODES
def test_a_value_is_a_number_whatever_the_customer(
    company: Company, models: dict[str, LifetimeValue], mode: str
) -> None:
    predicted = models[mode].predict(odd_customers(company))
    money = ["value", "clv", "clv_low", "clv_high", "expected_cost_to_serve"]
    assert np.isfinite(predicted[money].to_numpy()).all()
    assert np.isfinite(models[mode].attribute(odd_customers(company)).phi).all()
    # Whether somebody who never bought is still active cannot be known.
    assert predicted["probability_active"].isna().tolist() == [True, False, False]
    assert predicted["expected_orders"].isna().tolist() == [True, False, False]


@LEARNED_MODES
def test_the_level_is_the_geometric_mean_of_independent_totals(company: Company, mode: str) -> None:
    customers = MODES[mode]
    present = company.some(company.present, customers)
    free = company.fit(customers)
    raw = np.exp(free.part.raw(free.part.inputs(present))).sum()
    actual = float(raw) * 1.3
    model = company.fit(customers, last_actual=actual)
    assert model.purchases is not None
    totals = [raw, model.purchases.value(present).sum(), actual]
    assert list(model.level_parts) == ["model", "btyd", "last_actual"]
    assert model.level == pytest.approx(np.prod(totals) ** (1 / 3) / raw)
    np.testing.assert_allclose(
        model.predict(present.assign(cost_to_serve_12m=0.0))["clv"].sum(), raw * model.level
    )


def test_the_level_moves_no_rank_and_is_bounded(company: Company) -> None:
    low, high = company.fit(last_actual=1e-3), company.fit(last_actual=1e15)
    assert (low.level, high.level) == (0.5, 2.0)
    free = company.present.assign(cost_to_serve_12m=0.0)
    np.testing.assert_allclose(high.predict(free)["clv"], low.predict(free)["clv"] * 4)


def test_nobody_buying_in_the_label_windows_is_refused_by_name(company: Company) -> None:
    silent = company.training.assign(realised_value=0.0)
    with pytest.raises(ModelError, match="Nobody bought anything in the label windows"):
        LifetimeValue.fit(silent, company.present, company.config, basis="revenue", horizon_days=DAYS)


@pytest.mark.parametrize("times", [0.1, 10.0])
def test_a_btyd_total_far_from_the_last_horizon_is_left_out_and_said(company: Company, times: float) -> None:
    moved = company.training.assign(realised_value=company.training["realised_value"] * times)
    model = LifetimeValue.fit(moved, company.present, company.config, basis="revenue", horizon_days=DAYS)
    assert model.purchases is None
    assert "between 1/5 and 5 times is plausible" in model.verdict
    assert model.mode == "tweedie"
    predicted = model.predict(company.present)
    assert np.isfinite(predicted["clv"]).all()
    assert predicted["probability_active"].isna().all()
    assert "btyd" not in model.level_parts
    assert LifetimeValue.from_files(model.to_files()) == model


def test_without_repeat_buyers_the_trees_speak_alone(company: Company) -> None:
    once = company.present.assign(frequency=0, recency_days=0, order_count=1)
    model = LifetimeValue.fit(company.training, once, company.config, basis="revenue", horizon_days=DAYS)
    assert model.mode == "tweedie"
    assert "no repeat buyers" in model.verdict


def test_gamma_gamma_reads_all_orders(company: Company, models: dict[str, LifetimeValue]) -> None:
    bought = company.present[company.present["order_count"] >= 1]
    names = ("frequency", "recency_days", "T_days", "order_count", "mean_order_value")
    fitted = btyd.fit(*(bought[name].to_numpy(np.float64) for name in names))
    purchases = models["tweedie"].purchases
    assert purchases is not None
    assert purchases.fitted == fitted
