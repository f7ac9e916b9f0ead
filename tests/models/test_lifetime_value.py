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
from clv.models.lifetime_value import LifetimeValue
from clv.models.value_interval import Interval, total_log_sd
from clv.models.value_parts import BTYD_INPUTS, Blend, BuyTillYouDie, LastPeriod, Trees
from clv.models.value_training import fit_part, out_of_fold
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
                shorter = realised_value(db, day, Horizon(months=3), self.config, basis=basis)
                rows["realised_value_3"] = (
                    rows["customer_id"].map(shorter.set_index("customer_id")["realised_value"]).fillna(0.0)
                )
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
            outlooks={3: 90, 12: 365, 120: 3652},
        )

    def learn(self, training: pd.DataFrame, present: pd.DataFrame) -> LifetimeValue:
        """The model of other frames."""
        return LifetimeValue.fit(
            training,
            present,
            self.config,
            basis="revenue",
            horizon_days=DAYS,
            outlooks={3: 90, 12: 365, 120: 3652},
        )

    def some(self, frame: pd.DataFrame, customers: int, scale: float = 1.0) -> pd.DataFrame:
        """The first customers alone, all money times `scale`."""
        kept = frame[frame["customer_id"] < f"K{customers:04d}"].reset_index(drop=True)
        names = (*MONEY, "realised_value", "realised_value_3", "cost_to_serve_12m")
        money = [name for name in names if name in kept.columns]
        kept[money] = kept[money].astype("float64") * scale
        return kept


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Company:
    return Company(orders_of(700, seed=3), tmp_path_factory.mktemp("company"))


@pytest.fixture(scope="module")
def models(company: Company) -> dict[str, LifetimeValue]:
    """One model of each mode, with an interval; and the fallback."""
    found = {mode: company.fit(customers) for mode, customers in MODES.items()}
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


@pytest.mark.parametrize("buying", [1.0, 0.95, 0.85, 0.5])
def test_interval_covers_eighty_percent_of_further_customers_however_many_buy_nothing(buying: float) -> None:
    rng = np.random.default_rng(0)
    predicted = rng.lognormal(3, 1, 20_000)
    # the mean of the factor is 1, and its spread differs with the size of the customer
    factor = np.exp(rng.normal(0, 0.3 + 0.3 * (predicted > 20), 20_000)) * (rng.random(20_000) < buying)
    realised = predicted * factor
    low, high = Interval.fit(predicted[:10_000], realised[:10_000]).around(predicted[10_000:])
    top = predicted[10_000:] > np.quantile(predicted, 0.8)
    inside = (low <= realised[10_000:]) & (realised[10_000:] <= high)
    floor = (
        0.8 if buying >= 0.8 else 0.79
    )  # where most buy nothing the point itself lies above a fifth of them
    assert floor - 0.02 < inside.mean() < (0.82 if buying >= 0.8 else 0.9)
    assert inside[top].mean() == pytest.approx(0.8, abs=0.03 if buying >= 0.8 else 0.1)


def test_interval_of_a_handful_of_customers_is_one_bin() -> None:
    interval = Interval.fit(np.arange(1.0, 20.0), np.arange(1.0, 20.0) * 2)
    assert interval.edges == ()
    assert interval.low == interval.high == (2.0,)


def test_interval_by_hand() -> None:
    """Nine ratios have ten places between them: a tenth lies below the first, a tenth above the ninth."""
    predicted, realised = np.full(9, 10.0), np.array([5.0, 6, 7, 8, 9, 10, 11, 12, 40])
    assert Interval.fit(predicted, realised) == Interval((), (0.5,), (4.0,))
    # With one of nothing the lower end takes no tenth away, so two lie above: the eighth of nine.
    realised[0] = 0
    assert Interval.fit(predicted, realised) == Interval((), (0.0,), (1.2,))


def test_a_total_is_as_sure_as_its_customers_and_its_level() -> None:
    predicted, realised = np.full(10_000, 5.0), np.tile([0.0, 10.0], 5_000)
    # chance: sqrt(10,000 x 25) / 50,000 = 0.01; the level: at least 0.12
    assert total_log_sd(predicted, realised, [50_000.0]) == pytest.approx(np.hypot(0.01, 0.12))
    apart = [50_000.0, 50_000.0 * np.exp(0.5)]
    assert total_log_sd(predicted, realised, apart) == pytest.approx(np.hypot(0.01, 0.5 / np.sqrt(2)))


@LEARNED_MODES
def test_value_never_falls_as_the_horizon_grows(
    company: Company, models: dict[str, LifetimeValue], mode: str
) -> None:
    model, frame = models[mode], company.present
    own = model.predict(frame)[["customer_id", "clv", "clv_low", "clv_high"]].assign(horizon_months=6)
    found = pd.concat([model.outlook(frame), own], ignore_index=True)
    assert sorted(found["horizon_months"].unique()) == [3, 6, 12, 120]
    assert np.isfinite(found[["clv", "clv_low", "clv_high"]]).all(axis=None)
    assert (found["clv_low"] <= found["clv"]).all()
    assert (found["clv"] <= found["clv_high"]).all()
    by_horizon = found.pivot(index="customer_id", columns="horizon_months", values="clv")
    positive = (by_horizon[6] >= 0).to_numpy()
    assert (~positive).any()
    steps = np.diff(by_horizon.to_numpy(), axis=1)
    assert (steps[positive] >= 0).all()
    assert (steps[~positive] <= 0).all()
    beyond = found[found["is_extrapolation"].eq(True)]
    assert set(beyond["horizon_months"]) == {12, 120}


@LEARNED_MODES
def test_a_shorter_horizon_holds_what_it_brought(
    company: Company, models: dict[str, LifetimeValue], mode: str
) -> None:
    """Half of the horizon, on the rows learned from: as much in total as then came."""
    model = models[mode]
    rows = company.some(company.training, MODES[mode]).assign(cost_to_serve_12m=0.0)
    forecast, whole = model.outlook(rows), model.predict(rows)["clv"].sum() / model.level
    half = forecast.loc[forecast["horizon_months"] == 3, "clv"].sum() / model.level
    realised = rows[["realised_value_3", "realised_value"]].sum()
    assert half / whole == pytest.approx(realised["realised_value_3"] / realised["realised_value"], rel=0.1)


def test_without_a_purchase_model_value_comes_evenly(company: Company) -> None:
    once = company.present.assign(frequency=0, recency_days=0, order_count=1)
    model = company.learn(company.training, once)
    assert model.purchases is None
    found = model.outlook(once).set_index("horizon_months")
    later = found.loc[120, "clv"].to_numpy() / model.predict(once)["clv"].to_numpy()
    days, factor = 3652, 1.1 ** (-1 / 365)
    worth = np.cumsum(factor ** (np.arange(days) + 0.5))
    np.testing.assert_allclose(later, worth[-1] / worth[DAYS - 1], rtol=1e-9)


@LEARNED_MODES
def test_the_total_has_an_interval_around_it(
    company: Company, models: dict[str, LifetimeValue], mode: str
) -> None:
    predicted = models[mode].predict(company.present)
    clv, cost = (predicted[name].to_numpy() for name in ("clv", "expected_cost_to_serve"))
    found = models[mode].total_interval(clv, cost)
    assert found is not None
    assert found[0] < clv.sum() < found[1]
    assert models["last_period"].total_interval(clv, cost) is None


def test_no_customer_is_forecast_by_trees_that_saw_what_it_did(company: Company) -> None:
    """Trees that learn by heart are right on their own rows only: out of fold they must not be."""
    rng = np.random.default_rng(5)
    luck = company.training.assign(realised_value=rng.lognormal(4, 1, len(company.training)))
    settings = company.config.lifetime_value.model_copy(update={"rounds": 600, "learning_rate": 0.3})
    config = company.config.model_copy(update={"lifetime_value": settings})
    part = fit_part(luck, company.present, None, config)
    own = part.raw(part.inputs(luck))
    realised = np.log(luck["realised_value"].to_numpy())
    assert np.corrcoef(own, realised)[0, 1] > 0.3
    assert abs(np.corrcoef(out_of_fold(part, luck, config), realised)[0, 1]) < 0.1


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
    assert models["last_period"].interval is None
    assert models["last_period"].outlook(company.present).empty


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
        company.learn(silent, company.present)


@pytest.mark.parametrize("times", [0.1, 10.0])
def test_a_btyd_total_far_from_the_last_horizon_is_left_out_and_said(company: Company, times: float) -> None:
    moved = company.training.assign(realised_value=company.training["realised_value"] * times)
    model = company.learn(moved, company.present)
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
    model = company.learn(company.training, once)
    assert model.mode == "tweedie"
    assert "no repeat buyers" in model.verdict


def test_gamma_gamma_reads_all_orders(company: Company, models: dict[str, LifetimeValue]) -> None:
    bought = company.present[company.present["order_count"] >= 1]
    names = ("frequency", "recency_days", "T_days", "order_count", "mean_order_value")
    columns = (bought[name].to_numpy(np.float64) for name in names)
    fitted = btyd.fit(*columns, purchase_model="pareto_nbd")  # the default of the configuration
    purchases = models["tweedie"].purchases
    assert purchases is not None
    assert purchases.fitted == fitted
    # and over all orders gives back their money
    outputs, orders = purchases.outputs(bought), bought["order_count"]
    expected = (outputs["expected_order_value"].to_numpy() * orders.to_numpy()).sum()
    assert expected == pytest.approx((bought["mean_order_value"] * orders).sum())


# From prospect to customer


def test_what_was_known_at_first_contact_keeps_working_once_a_prospect_has_ordered(company: Company) -> None:
    kinds = {"firm_size": "first_contact", "sales_status": "after_contact"}
    attributes = {name: {"type": "number", "known_at": moment} for name, moment in kinds.items()}
    attributes["nationality"] = {"type": "category", "known_at": "first_contact", "for_reporting": True}
    sources = company.config.model_dump()["sources"] | {"customers": {"path": "people.csv"}}
    changed = company.config.model_dump() | {"attributes": attributes, "sources": sources}
    config = Config.model_validate(changed)
    rng = np.random.default_rng(3)
    size = dict(zip(company.present["customer_id"], rng.normal(0, 1, len(company.present)), strict=True))

    def with_attributes(frame: pd.DataFrame) -> pd.DataFrame:
        known = frame["customer_id"].map(size)
        return frame.assign(firm_size=known, sales_status=frame["order_count"], nationality="any")

    training, present = with_attributes(company.training), with_attributes(company.present)
    bigger = np.exp(training["firm_size"].to_numpy(np.float64))
    part = fit_part(
        training.assign(realised_value=training["realised_value"] * bigger), present, None, config
    )
    assert isinstance(part, Trees)
    assert [column.name for column in part.encoder.columns] == ["firm_size"]
    twins = present.head(50)
    large, small = (part.raw(part.inputs(twins.assign(firm_size=level))) for level in (2.0, -2.0))
    assert (large >= small).mean() > 0.9
