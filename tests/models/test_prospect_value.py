"""The prospect model: what it learns, what it says of one prospect, and how it says so."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from clv.config import Config
from clv.errors import ModelError
from clv.models.prospect_value import ProspectValue, baselines, combine

INDUSTRIES = np.array(["Retail", '[Food]:{"a=b"}\t,', "上海 🚀", "Construction"])
CONVERSION_DAYS = 90
STEP_DAYS = 30


def settings(**sections: object) -> Config:
    return Config.model_validate(
        {
            "company": "invented",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"table": "lines"}, "customers": {"table": "people"}},
            "attributes": {
                "industry": {"type": "category", "known_at": "first_contact"},
                "employees": {"type": "number", "known_at": "first_contact"},
                "quote": {"type": "flag", "known_at": "first_contact"},
                "status": {"type": "category", "known_at": "after_contact"},
            },
            "segment": ["industry"],
            **sections,
        }
    )


@dataclass(frozen=True)
class Leads:
    """A population whose truth is known: a share p(attributes) converts, after a mean of 60 days."""

    rows: pd.DataFrame
    values: pd.DataFrame
    current: pd.DataFrame
    probability: np.ndarray  # of `current`, within CONVERSION_DAYS
    expected_value: np.ndarray  # of `current`, given conversion


@cache
def leads(n: int = 1500, seed: int = 3, base: float = -0.8) -> Leads:
    rng = np.random.default_rng(seed)
    people = pd.DataFrame(
        {
            "customer_id": [f"{i:05d}" for i in range(n)],
            "industry": INDUSTRIES[rng.integers(0, 4, n)],
            "employees": np.where(
                rng.random(n) < 0.1, np.nan, np.exp(3 + rng.standard_normal(n)).round().clip(1)
            ),
            "quote": pd.array(rng.random(n) < 0.4, dtype="boolean"),
        }
    )
    is_retail = (people["industry"] == "Retail").to_numpy()
    size = np.log(people["employees"].fillna(20.0).to_numpy()) - 3
    share = expit(base + 1.2 * people["quote"].to_numpy(bool) + 1.2 * is_retail + 0.3 * size)
    people["status"] = np.where(rng.random(n) < share, "won", "lost")
    contact = rng.uniform(0, 900, n)
    lag = np.where(rng.random(n) < share, rng.exponential(60, n), np.inf)
    mean_value = np.exp(6 + 0.6 * size + 0.5 * is_retail)
    snapshots = np.arange(200, 900 - CONVERSION_DAYS + 1, STEP_DAYS)
    stacked = []
    for day in snapshots:
        present = (contact < day) & (contact + lag >= day)
        stacked.append(
            people[present].assign(
                days_since_first_contact=np.ceil(day - contact[present]).astype(np.int64),
                snapshot_date=pd.Timestamp("2023-01-01") + pd.Timedelta(days=int(day)),
                converted=(contact + lag)[present] < day + CONVERSION_DAYS,
            )
        )
    converted = contact + lag < 540
    values = people[converted].assign(
        days_since_first_contact=np.ceil(lag[converted]).astype(np.int64),
        value=np.where(
            rng.random(converted.sum()) < 0.1,
            0.0,
            mean_value[converted] * rng.gamma(1.0, 1 / 0.9, converted.sum()),
        ),
    )
    present = contact + lag >= 900
    age = np.ceil(900 - contact[present])
    waiting = share[present] * np.exp(-age / 60)
    return Leads(
        rows=pd.concat(stacked, ignore_index=True),
        values=values.reset_index(drop=True),
        current=people[present].assign(days_since_first_contact=age.astype(np.int64)).reset_index(drop=True),
        probability=waiting * -np.expm1(-CONVERSION_DAYS / 60) / (waiting + 1 - share[present]),
        expected_value=mean_value[present],
    )


@cache
def model() -> ProspectValue:
    data = leads()
    return ProspectValue.fit(data.rows, data.values, settings(), 1, data.current)


def test_the_true_probabilities_and_values_are_recovered() -> None:
    data = leads()
    predicted = model().predict(data.current)
    probability = predicted["conversion_probability"]
    assert probability.corr(pd.Series(data.probability), method="spearman") > 0.85
    assert probability.mean() == pytest.approx(data.probability.mean(), rel=0.25)
    value = predicted["value_given_conversion"]
    assert value.corr(pd.Series(data.expected_value), method="spearman") > 0.85
    assert value.mean() == pytest.approx(data.expected_value.mean(), rel=0.2)


def test_aged_prospects_are_not_given_the_fresh_rate() -> None:
    data = leads()
    aged = (data.current["days_since_first_contact"] > 240).to_numpy()
    fresh = (data.current["days_since_first_contact"] < 60).to_numpy()
    probability = model().predict(data.current)["conversion_probability"].to_numpy()
    assert probability[fresh].mean() > 0.25
    assert probability[aged].mean() < 0.05
    assert probability[aged].mean() == pytest.approx(data.probability[aged].mean(), abs=0.02)


def test_trained_at_first_contact_only_aged_prospects_would_be_overstated() -> None:
    data = leads()
    first = data.rows.sort_values("snapshot_date").drop_duplicates("customer_id")
    aged = (data.current["days_since_first_contact"] > 240).to_numpy()
    true = data.probability[aged].mean()
    at_contact = first[first["days_since_first_contact"] <= STEP_DAYS]
    naive = ProspectValue.fit(at_contact, data.values, settings(), 1, data.current).predict(
        data.current[aged]
    )
    assert naive["conversion_probability"].mean() > 5 * true
    own = model().predict(data.current[aged])["conversion_probability"].mean()
    assert own < 2 * true


def test_training_rows_are_met_in_the_large() -> None:
    data = leads()
    learned = model().predict(data.rows)["conversion_probability"].mean()
    assert learned == pytest.approx(data.rows["converted"].mean(), rel=1e-6)
    money = model().predict(data.values)["value_given_conversion"].mean()
    assert money == pytest.approx(data.values["value"].mean(), rel=1e-6)


def test_probability_and_value_stay_apart_and_then_multiply() -> None:
    predicted = model().predict(leads().current)
    product = predicted["conversion_probability"] * predicted["value_given_conversion"]
    np.testing.assert_allclose(predicted["prospect_value"], product, rtol=1e-12)
    # A larger firm is worth more, far beyond what it adds to the chance of an order.
    small, large = (leads().current.head(1).assign(employees=float(n)) for n in (5, 150))
    a, b = model().predict(small).iloc[0], model().predict(large).iloc[0]
    assert b["value_given_conversion"] > 2 * a["value_given_conversion"]


def test_the_interval_holds_the_expected_value_and_covers_what_is_realised() -> None:
    data = leads()
    predicted = model().predict(data.current)
    assert (predicted["prospect_value_low"] <= predicted["prospect_value"]).all()
    assert (predicted["prospect_value_high"] >= predicted["prospect_value"]).all()
    rng = np.random.default_rng(11)
    n = len(data.current)
    value = np.where(rng.random(n) < 0.1, 0.0, data.expected_value * rng.gamma(1.0, 1 / 0.9, n))
    realised = np.where(rng.random(n) < data.probability, value, 0.0)
    inside = (realised >= predicted["prospect_value_low"]) & (realised <= predicted["prospect_value_high"])
    top = predicted["prospect_value"] >= predicted["prospect_value"].quantile(0.8)
    assert inside.mean() >= 0.8
    assert 0.8 <= inside[top].mean() <= 0.98


def test_a_sure_prospect_has_a_lower_end_above_nothing() -> None:
    data = leads()
    rows = data.rows.assign(converted=data.rows["customer_id"].str[-1] != "7")
    predicted = ProspectValue.fit(rows, data.values, settings(), 1, data.current).predict(data.current)
    sure = predicted["conversion_probability"] > 0.93
    assert sure.any()
    assert (predicted.loc[predicted["conversion_probability"] < 0.9, "prospect_value_low"] == 0).all()
    assert (predicted["prospect_value_high"] > predicted["prospect_value_low"]).all()


def test_contributions_add_up_exactly_on_both_links() -> None:
    data = leads()
    predicted = model().predict(data.current)
    parts = model().attribute(data.current)
    for part in parts.values():
        assert part.phi.shape == (len(data.current), len(model().features))
        np.testing.assert_allclose(part.raw_reference + part.phi.sum(axis=1), part.raw, atol=1e-9)
    np.testing.assert_allclose(expit(parts["conversion"].raw), predicted["conversion_probability"], rtol=1e-9)
    np.testing.assert_allclose(np.exp(parts["value"].raw), predicted["value_given_conversion"], rtol=1e-9)


def test_the_reference_is_the_median_of_the_prospects_at_the_training_date() -> None:
    data = leads()
    median = model().design(data.current).median()
    np.testing.assert_array_equal(model().reference, median.to_numpy())
    assert model().reference[0] == data.current["days_since_first_contact"].median()
    parts = model().attribute(data.current)
    expected = expit(parts["conversion"].raw_reference) * np.exp(parts["value"].raw_reference)
    assert model().reference_value == pytest.approx(expected)


def test_the_files_give_the_same_model_back_and_hold_no_pickle() -> None:
    data = leads()
    files = model().to_files()
    assert all(isinstance(text, str) for text in files.values())
    again = ProspectValue.from_files(json.loads(json.dumps(files)))
    pd.testing.assert_frame_equal(
        again.predict(data.current), model().predict(data.current), check_exact=True
    )
    for name, part in again.attribute(data.current).items():
        np.testing.assert_array_equal(part.phi, model().attribute(data.current)[name].phi)
    assert again.features == model().features
    assert again.to_files() == files


def test_level_names_never_reach_the_text_format_of_the_trees() -> None:
    files = model().to_files()
    names = [feature.name for feature in model().features]
    assert f"industry={INDUSTRIES[1]}" in names
    for name in ("conversion.lightgbm.txt", "value.lightgbm.txt"):
        assert "Food" not in files[name]
        assert "feature_names=f0 f1" in files[name]


def test_row_order_and_threads_do_not_matter() -> None:
    data = leads(400)
    rows, values = data.rows.sample(frac=1, random_state=4), data.values.sample(frac=1, random_state=5)
    once = ProspectValue.fit(data.rows, data.values, settings(), 1, data.current)
    again = ProspectValue.fit(rows, values, settings(), 2, data.current.sample(frac=1, random_state=6))
    assert again.to_files() == once.to_files()
    table = ProspectValue.segment_means(data.rows, data.values, settings())
    assert ProspectValue.segment_means(rows, values, settings()).to_files() == table.to_files()


def test_alone_equals_the_batch() -> None:
    current = leads().current.head(40)
    for learned in (model(), ProspectValue.segment_means(leads().rows, leads().values, settings())):
        batch = learned.predict(current)
        for row in range(len(current)):
            alone = learned.predict(current.iloc[[row]]).reset_index(drop=True)
            pd.testing.assert_frame_equal(alone, batch.iloc[[row]].reset_index(drop=True), check_exact=True)


def test_an_unseen_level_and_missing_attributes_are_answered() -> None:
    odd = leads().current.head(3).assign(industry=["Space", None, ""], employees=np.nan, quote=pd.NA)
    odd["days_since_first_contact"] = [1, 5000, 10**6]
    predicted = model().predict(odd)
    assert np.isfinite(predicted.drop(columns="customer_id").to_numpy(dtype=float)).all()
    assert len(model().predict(odd.iloc[:0])) == 0


def test_an_attribute_known_after_contact_is_no_feature() -> None:
    assert {feature.concept for feature in model().features} == {
        "contact_age",
        "attribute:industry",
        "attribute:employees",
        "attribute:quote",
    }


def test_small_data_are_refused_with_verdict_and_counts() -> None:
    data = leads(120)
    with pytest.raises(
        ModelError, match=r"\d+ prospects in \d+ snapshots, \d+ conversions.*needed are 500 pros"
    ):
        ProspectValue.fit(
            data.rows, data.values, settings(prospect={"minimum_prospects": 500}), 1, data.current
        )
    with pytest.raises(ModelError, match=r"5 matured values; needed are .*20 values"):
        ProspectValue.fit(data.rows, data.values.head(5), settings(), 1, data.current)


def test_under_a_thousand_prospects_stumps_are_used_and_the_verdict_says_so() -> None:
    data = leads(400)
    small = ProspectValue.fit(data.rows, data.values, settings(), 1, data.current)
    assert "stumps" in small.verdict
    assert f"{data.rows['customer_id'].nunique()} prospects" in small.verdict
    assert "num_leaves=2" in small.to_files()["conversion.lightgbm.txt"]
    assert "stumps" not in model().verdict


def test_100_prospects_with_20_conversions_give_sane_and_calibrated_output() -> None:
    """Samples of 103 prospects and 20 conversions on average, whose models are asked of 1,200 prospects never seen."""
    asked = leads(1500, 999, base=-1.9)
    true, fresh = asked.probability, (asked.current["days_since_first_contact"] < 90).to_numpy()
    low = settings(
        prospect={"minimum_prospects": 50, "minimum_conversions": 5}
    )  # so that no sample is picked
    counts, probabilities = [], []
    for seed in range(12):
        data = leads(125, seed, base=-1.9)
        learned = ProspectValue.fit(data.rows, data.values, low, 1, data.current)
        predicted = learned.predict(asked.current)
        probability = predicted["conversion_probability"].to_numpy()
        counts.append((learned.detail["prospects"], learned.detail["conversions"]))
        probabilities.append(probability)
        rate = float(data.rows["converted"].mean())
        assert np.mean((probability - true) ** 2) < np.mean((rate - true) ** 2)
        assert probability.min() > 1e-3
        assert probability.max() < 0.6
        assert predicted["value_given_conversion"].max() < 1.5 * asked.expected_value.max()
        assert "stumps" in learned.verdict
    np.testing.assert_allclose(np.mean(counts, axis=0), [100, 20], rtol=0.1)
    mean = np.mean(probabilities, axis=0)
    assert mean.mean() == pytest.approx(true.mean(), abs=0.005)
    # Few data are drawn to the middle: the fresh get less than is true, never more.
    assert 0.55 * true[fresh].mean() < mean[fresh].mean() < true[fresh].mean()


def test_below_the_least_counts_segment_means_stand_in_wide_and_say_so() -> None:
    data = leads(160)
    fresh = data.current.assign(days_since_first_contact=30)
    ids = data.rows["customer_id"].drop_duplicates()
    few, few_values = data.rows[data.rows["customer_id"].isin(ids[::2].head(60))], data.values.head(18)
    with pytest.raises(ModelError, match="Too little to learn a prospect model: 60 prospects"):
        ProspectValue.fit(few, few_values, settings(), 1, data.current)
    table = ProspectValue.segment_means(few, few_values, settings())
    assert table.verdict.startswith("segment means, interval widened; 60 prospects")
    widths = [
        (found["prospect_value_high"] / found["prospect_value"]).median()
        for found in (
            table.predict(fresh),
            ProspectValue.fit(data.rows, data.values, settings(), 1, data.current).predict(fresh),
        )
    ]
    assert widths[0] > widths[1]


@pytest.mark.parametrize("effect", ["raises", "lowers"])
def test_where_the_sign_is_known_no_forecast_goes_against_it(effect: str) -> None:
    """Declared against the truth too: then the attribute is left out, never turned round."""
    data = leads(400)
    number = {"type": "number", "known_at": "first_contact", "effect": effect}
    config = settings(
        attributes={"employees": number, "industry": {"type": "category", "known_at": "first_contact"}}
    )
    learned = ProspectValue.fit(data.rows, data.values, config, 1, data.current)
    sign = {"raises": 1, "lowers": -1}[effect]
    assert {feature.monotone for feature in learned.features if feature.name == "employees"} == {sign}
    steps = np.array(
        [
            learned.predict(data.current.assign(employees=float(n)))[
                ["conversion_probability", "value_given_conversion"]
            ]
            for n in (1, 5, 20, 60, 150, 400)
        ]
    )
    assert (sign * np.diff(steps, axis=0) >= -1e-12).all()
    if effect == "raises":
        assert (np.diff(steps[:, :, 1], axis=0).sum(axis=0) > 0).all()
    again = ProspectValue.from_files(learned.to_files())
    assert again.features == learned.features


def with_areas(data: Leads, of_industry: bool) -> Leads:
    """The same leads in 40 areas: 10 of each industry, or drawn at random."""
    rng = np.random.default_rng(5)
    street, anywhere = rng.integers(0, 10, 10_000), rng.integers(0, 4, 10_000)

    def settled(frame: pd.DataFrame) -> pd.DataFrame:
        ids = frame["customer_id"].astype(int).to_numpy()
        town = frame["industry"].map({name: i for i, name in enumerate(INDUSTRIES)}).to_numpy()
        towns = town if of_industry else anywhere[ids]
        return frame.assign(area=[f"{a}-{b}" for a, b in zip(towns, street[ids], strict=True)])

    return replace(data, rows=settled(data.rows), values=settled(data.values), current=settled(data.current))


def test_a_category_of_many_levels_is_learned_by_its_level_and_one_of_chance_gains_nothing() -> None:
    category = {"type": "category", "known_at": "first_contact"}
    quote = {"type": "flag", "known_at": "first_contact"}

    def errors(data: Leads, attributes: dict[str, object]) -> tuple[float, float]:
        config = settings(attributes=attributes, segment=[])
        predicted = ProspectValue.fit(data.rows, data.values, config, 1, data.current).predict(data.current)
        probability = np.mean((predicted["conversion_probability"] - data.probability) ** 2)
        value = np.mean(np.log(predicted["value_given_conversion"] / data.expected_value) ** 2)
        return float(probability), float(value)

    telling, chance = with_areas(leads(), True), with_areas(leads(), False)
    without = errors(telling, {"quote": quote})
    with_area = errors(telling, {"quote": quote, "area": category})
    assert with_area[0] < 0.8 * without[0]
    by_chance = errors(chance, {"quote": quote, "area": category})
    assert by_chance[0] == pytest.approx(without[0], rel=0.1)
    assert by_chance[1] == pytest.approx(without[1], rel=0.1)


def test_level_effects_add_up_travel_and_are_told_by_the_name_of_the_level() -> None:
    data = with_areas(leads(), True)
    config = settings(attributes={"area": {"type": "category", "known_at": "first_contact"}}, segment=[])
    learned = ProspectValue.fit(data.rows, data.values, config, 1, data.current)
    crowded = [feature for feature in learned.features if feature.unit == "effect"]
    assert len(crowded) == 2
    assert all(feature.concept == "attribute:area" for feature in crowded)
    assert all(feature.name.startswith("area=") for feature in crowded)
    current = data.current.assign(area=data.current["area"].where(data.current.index > 2, "nowhere"))
    parts, predicted = learned.attribute(current), learned.predict(current)
    for part in parts.values():
        np.testing.assert_allclose(part.raw_reference + part.phi.sum(axis=1), part.raw, atol=1e-9)
    np.testing.assert_allclose(expit(parts["conversion"].raw), predicted["conversion_probability"], rtol=1e-9)
    # Neither part uses what the levels did in the other.
    assert not parts["conversion"].phi[:, learned.features.index(crowded[1])].any()
    assert not parts["value"].phi[:, learned.features.index(crowded[0])].any()
    again = ProspectValue.from_files(learned.to_files())
    pd.testing.assert_frame_equal(again.predict(current), predicted, check_exact=True)
    shuffled = ProspectValue.fit(
        data.rows.sample(frac=1, random_state=1), data.values, config, 2, data.current
    )
    assert shuffled.to_files() == learned.to_files()


def test_immature_labels_are_refused() -> None:
    data = leads()
    rows = data.rows.assign(converted=data.rows["converted"].astype("boolean").where(data.rows.index > 9))
    with pytest.raises(ModelError, match="mature labels, found 10"):
        ProspectValue.fit(rows, data.values, settings(), 1, data.current)


def test_no_prospects_today_take_the_newest_snapshot_as_reference() -> None:
    data = leads(400)
    learned = ProspectValue.fit(data.rows, data.values, settings(), 1, data.current.iloc[:0])
    newest = data.rows[data.rows["snapshot_date"] == data.rows["snapshot_date"].max()]
    assert learned.reference[0] == newest["days_since_first_contact"].median()


def test_segment_means_are_shrunk_rates_with_a_wide_interval() -> None:
    data = leads(120)
    table = ProspectValue.segment_means(data.rows, data.values, settings())
    contacted = data.current.assign(days_since_first_contact=90)
    predicted = table.predict(contacted)
    raw = data.rows.groupby("industry")["converted"].mean()
    by_segment = predicted["conversion_probability"].groupby(contacted["industry"]).first()
    assert np.ptp(logit(by_segment)) < np.ptp(logit(raw))
    assert by_segment.idxmax() == raw.idxmax()
    assert "segment means" in table.verdict
    certain = ProspectValue.segment_means(
        pd.concat([data.rows.assign(customer_id=data.rows["customer_id"] + str(i)) for i in range(20)]),
        data.values,
        settings(),
    ).predict(contacted)
    assert (predicted["prospect_value_high"] / predicted["prospect_value"]).mean() > (
        certain["prospect_value_high"] / certain["prospect_value"]
    ).mean()


def test_segment_means_too_know_the_age_of_a_contact() -> None:
    """The rate of a segment alone would give those contacted long ago the chance of the fresh."""
    data = leads(200)
    table = ProspectValue.segment_means(data.rows, data.values, settings())
    probability = table.predict(data.current)["conversion_probability"].to_numpy()
    aged = (data.current["days_since_first_contact"] > 240).to_numpy()
    segments = data.rows.groupby("industry")["converted"].mean()
    assert data.current.loc[aged, "industry"].map(segments).mean() > 3 * data.probability[aged].mean()
    assert probability[aged].mean() == pytest.approx(data.probability[aged].mean(), abs=0.02)
    assert table.predict(data.rows)["conversion_probability"].mean() == pytest.approx(
        data.rows["converted"].mean(), abs=0.01
    )
    assert table.features[0].concept == "contact_age"


def test_segment_means_add_up_and_survive_their_files() -> None:
    data = leads(120)
    for config in (settings(), settings(segment=[]), settings(segment=["industry", "industry"])):
        table = ProspectValue.segment_means(data.rows, data.values, config)
        again = ProspectValue.from_files(table.to_files())
        pd.testing.assert_frame_equal(
            again.predict(data.current), table.predict(data.current), check_exact=True
        )
        predicted, parts = table.predict(data.current), table.attribute(data.current)
        np.testing.assert_allclose(expit(parts["conversion"].raw), predicted["conversion_probability"])
        for part in parts.values():
            np.testing.assert_allclose(part.raw_reference + part.phi.sum(axis=1), part.raw, atol=1e-12)
        unseen = table.predict(
            data.current.assign(industry="Space", days_since_first_contact=table.reference[0])
        )
        assert unseen["prospect_value"].nunique() == 1
        assert unseen["prospect_value"].iloc[0] == pytest.approx(table.reference_value)


def test_without_any_value_nothing_is_said() -> None:
    data = leads(120)
    with pytest.raises(ModelError, match="No prospect value"):
        ProspectValue.segment_means(data.rows, data.values.head(0), settings())
    with pytest.raises(ModelError, match="No prospect value"):
        ProspectValue.segment_means(data.rows.head(0), data.values, settings())


def test_weighting_prospects_equally_instead_of_snapshots_would_overstate_conversion() -> None:
    """Those who convert leave soon, so each of their few snapshots would count more than a waiting one's."""
    rows = leads().rows
    weight = 1 / rows.groupby("customer_id")["customer_id"].transform("size")
    assert np.average(rows["converted"], weights=weight) > 1.5 * rows["converted"].mean()


def test_the_model_beats_its_baselines_on_the_truth() -> None:
    data = leads()
    forecasts = baselines(data.rows, data.values, settings(), data.current)
    assert set(forecasts) == {"mean_rate", "segment_rate", "logistic"}
    truth = data.probability

    def error(frame: pd.DataFrame) -> float:
        return float(np.mean((frame["conversion_probability"].to_numpy() - truth) ** 2))

    own = error(model().predict(data.current))
    assert own < error(forecasts["mean_rate"])
    assert own < error(forecasts["segment_rate"])
    for frame in forecasts.values():
        assert list(frame["customer_id"]) == list(data.current["customer_id"])
        assert np.isfinite(frame["prospect_value"]).all()


def test_a_judgement_is_blended_only_where_there_is_one() -> None:
    blended = combine(np.array([40.0, 40.0]), np.array([90.0, np.nan]), 0.3)
    np.testing.assert_allclose(blended, [0.7 * 40 + 0.3 * 90, 40.0])


def test_bank_leads_rank_later_blocks_of_calls(shared_data: Path) -> None:
    """Real prospects in the order of the calls; `duration` is known only after the call and is left out."""
    calls = pd.read_csv(shared_data / "bank_marketing" / "bank-additional.csv", sep=None, engine="python")
    blocks = [1.1, 1.4, -0.1, -0.2, -1.8, -2.9, -3.4, -3.0, -1.7, -1.1]
    order = calls["emp.var.rate"].map({rate: i for i, rate in enumerate(blocks)})
    frame = pd.DataFrame(
        {
            "customer_id": [f"{i:05d}" for i in range(len(calls))],
            "days_since_first_contact": 1,
            "snapshot_date": pd.Timestamp("2008-05-01") + pd.to_timedelta(order * 30, unit="D"),
            "converted": calls["y"] == "yes",
            "job": calls["job"],
            "contact": calls["contact"],
            "month": calls["month"],
            "previous": calls["previous"].astype("float64"),
            "reached_before": calls["pdays"] != 999,
        }
    )
    category, number = {"type": "category"}, {"type": "number"}
    kinds = {
        "job": category,
        "contact": category,
        "month": category,
        "previous": number,
        "reached_before": {"type": "flag"},
    }
    config = settings(
        attributes={name: {**kind, "known_at": "first_contact"} for name, kind in kinds.items()},
        segment=["contact"],
    )
    train, test = frame[order < 5], frame[order >= 5]
    values = train[train["converted"]].assign(value=1.0)
    learned = ProspectValue.fit(train, values, config, 1, test)
    auc = roc_auc_score(test["converted"], learned.predict(test)["conversion_probability"])
    assert 0.6 < auc < 0.9
