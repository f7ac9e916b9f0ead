"""Reasons are few, true, add up, and read like a sentence."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit

import clv.models
from clv import (
    composite,
    criteria,
    explain,
    features,
    grades,
    ingest,
    invoice_rows,
    outcomes,
    points,
    prospects,
)
from clv.composite import Grading
from clv.config import Config, load
from clv.contribution import price_lines
from clv.customers import customer_frame
from clv.errors import ModelError
from clv.explain.words import Words
from clv.features import Feature
from clv.grades import Graded
from clv.models import payment_delay
from clv.models.lifetime_value import LifetimeValue
from clv.models.payment_delay import PaymentDelay
from clv.models.prospect_value import ProspectValue
from clv.period import Horizon, see
from clv.points import Points
from clv.settings import languages
from clv.simulate import simulate
from clv.tables import CORE
from clv.warehouse import workspace

Floats = NDArray[np.float64]
AS_OF = date(2026, 1, 1)
DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"
NOBODY = pd.DataFrame({"customer_id": [], "tier": [], "value_source": []}, dtype="object")


@dataclass(frozen=True)
class Company:
    config: Config
    measured: criteria.Measured
    models: criteria.Models
    customers: Graded
    prospects: Graded
    of_customers: list[Points]
    of_prospects: list[Points]
    reasons: pd.DataFrame
    prospect_reasons: pd.DataFrame

    @property
    def parts(self) -> list[tuple[Graded, list[Points], pd.DataFrame]]:
        return [
            (self.customers, self.of_customers, self.reasons),
            (self.prospects, self.of_prospects, self.prospect_reasons),
        ]


def explained(
    config: Config,
    measured: criteria.Measured,
    models: criteria.Models,
    grading: Grading,
    overrides: pd.DataFrame,
) -> Company:
    """Everybody graded, and why."""
    customers = grades.grade_customers(measured, grading, config, NOBODY, overrides, policy_reset=False)
    leads = grades.grade_prospects(measured, grading, config, NOBODY, overrides, AS_OF, policy_reset=False)
    of_customers = points.of_customers(measured, models, grading)
    of_prospects = points.of_prospects(measured, models, grading, config)
    return Company(
        config,
        measured,
        models,
        customers,
        leads,
        of_customers,
        of_prospects,
        explain.reasons(customers, of_customers, config),
        explain.reasons(leads, of_prospects, config),
    )


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A small simulated company, measured, graded and explained by models of its own."""
    file = tmp_path_factory.mktemp("explain") / "demo.duckdb"
    simulate(file, customers=700, prospects=250, seed=5, threads=1)
    settings = [f"warehouse.path={file}", "engine.threads=1", "payment.training_months=12"]
    config = load(DEMO, [*settings, "lifetime_value.rounds=100"])
    horizon = Horizon(months=12)
    with workspace(threads=1, memory_limit="1GB") as db:
        ingest.load(db, config, AS_OF)
        pricing = price_lines(db, config)
        days, day = horizon.length_days(AS_OF), horizon.before(AS_OF)
        present = customer_frame(db, AS_OF, config, basis=pricing.basis, horizon_days=days)
        training = features.customer_features(db, day, config, days)
        realised = outcomes.realised_value(db, day, horizon, config, basis=pricing.basis)
        training = training.merge(realised, on="customer_id", how="left").assign(snapshot_date=day)
        training["realised_value"] = training["realised_value"].astype("float64").fillna(0.0)
        value = LifetimeValue.fit(training, present, config, basis=pricing.basis, horizon_days=days)
        see(db, AS_OF)
        view = invoice_rows.customer_view(db, AS_OF, config.payment, config.segment)
        rows = invoice_rows.training_rows(db, AS_OF, config.payment, config.segment)
        payment = PaymentDelay.fit(rows, config.payment, config.seed, 1, reference=view)
        history = prospects.training_rows(db, AS_OF, config)
        worth = prospects.conversion_values(db, AS_OF, 12, 0.1, history.observable_from)
        see(db, AS_OF)
        current = prospects.prospect_rows(db, AS_OF)
        models = criteria.Models(value, payment, ProspectValue.fit(history.rows, worth, config, 1, current))
        measured = criteria.measure(db, AS_OF, config, pricing, models)
        overrides = grades.overrides_valid(db, AS_OF)
    grading = grades.fit_grading(measured, AS_OF)
    return explained(config, measured, models, grading, overrides)


# --- on the simulated company ---------------------------------------------------------------------------------------


def test_reasons_add_up_to_the_score_for_customers_and_prospects_lapsed_ones_too(company: Company) -> None:
    assert not company.customers.frame["is_active"].all()
    for graded, _, reasons in company.parts:
        scored = graded.frame[graded.frame["composite_score"].notna()].set_index("customer_id")
        total = reasons.groupby("customer_id")["points"].sum().reindex(scored.index)
        gap = (scored["composite_baseline"] + total - scored["composite_score"]).abs()
        assert gap.notna().all()
        assert gap.max() < 1e-6
        last = reasons.groupby("customer_id").tail(1)
        assert (last["concept"] == "other").all()
        assert (reasons["concept"] == "other").sum() == len(scored)
        positions = reasons.groupby("customer_id")["position"].agg(list)
        assert all(found == list(range(1, len(found) + 1)) for found in positions)


def test_every_criterion_adds_up_to_its_score(company: Company) -> None:
    for graded, criteria_points, _ in company.parts:
        for part in criteria_points:
            score = graded.scores[part.criterion].to_numpy(np.float64)
            measured = np.isfinite(score)
            assert np.abs(part.baseline + part.points.sum(axis=1) - score)[measured].max() < 1e-6


def test_three_for_and_two_against_at_most_each_a_tenth_and_the_largest_always(company: Company) -> None:
    for graded, criteria_points, reasons in company.parts:
        concepts: dict[tuple[str, str], Floats] = {}
        for part in criteria_points:
            weight = graded.weights[part.criterion].to_numpy(np.float64)
            for i, player in enumerate(part.players):
                key = (part.criterion, player.concept)
                concepts[key] = concepts.get(key, 0.0) + part.points[:, i] * weight
        keys = list(concepts)
        block = pd.DataFrame(concepts).set_axis(graded.frame["customer_id"])
        share = block.abs().div(block.abs().sum(axis=1), axis=0)
        shown = reasons[reasons["concept"] != "other"]
        counts = shown.groupby(["customer_id", "direction"]).size().unstack(fill_value=0)
        assert counts["for"].max() == 3
        assert counts["against"].max() == 2
        shares = [
            share.at[row.customer_id, (row.criterion, row.concept)] for row in shown.itertuples(index=False)
        ]
        assert min(shares) >= 0.10
        largest = block.abs().to_numpy().argmax(axis=1)
        told = set(zip(shown["customer_id"], shown["criterion"], shown["concept"], strict=True))
        scored = reasons["customer_id"].unique()
        of = dict(zip(block.index, largest, strict=True))
        assert all((customer, *keys[of[customer]]) in told for customer in scored)


def test_what_says_the_same_is_one_reason(company: Company) -> None:
    """CORRECTNESS 7: grouped by concept before ranking; a reason's points are those of all its inputs."""
    for graded, criteria_points, reasons in company.parts:
        shown = reasons[reasons["concept"] != "other"]
        assert not shown.duplicated(["customer_id", "criterion", "concept"]).any()
        place = {customer: i for i, customer in enumerate(graded.frame["customer_id"])}
        for part in criteria_points:
            weight = graded.weights[part.criterion].to_numpy(np.float64)
            for row in shown[shown["criterion"] == part.criterion].itertuples(index=False):
                columns = [i for i, player in enumerate(part.players) if player.concept == row.concept]
                i = place[row.customer_id]
                assert row.points == pytest.approx(part.points[i, columns].sum() * weight[i], abs=1e-9)


def test_no_fact_contradicts_its_points(company: Company) -> None:
    checked = {"payment": 0, "lifetime_value": 0, "contribution": 0, "prospect": 0}
    for _, criteria_points, reasons in company.parts:
        players = {
            (part.criterion, player.name): player for part in criteria_points for player in part.players
        }
        for row in reasons[reasons["peer_fact"].notna()].itertuples(index=False):
            name = row.template_id.rpartition(".")[0]
            player = players[row.criterion, name]
            direction = -1 if row.criterion == "payment" else 1  # what raises the risk lowers the score
            content = json.loads(row.values)
            if player.monotone and content["peer"] is not None:
                step = np.sign(content["own"] - content["peer"]) * player.monotone * direction
                assert step == np.sign(row.points), row.sentence
                checked[row.criterion] += 1
    assert sum(checked.values()) > 1000
    assert min(checked.values()) > 5


def test_a_told_fact_is_shown_to_differ_from_its_comparison(company: Company) -> None:
    for _, _, reasons in company.parts:
        for row in reasons[reasons["peer_fact"].notna()].itertuples(index=False):
            peer = row.peer_fact.partition(": ")[2]
            assert not re.search(rf"(^|[ :]){re.escape(peer)}($| )", row.fact.split(" (")[0]), row.sentence


def in_language(config: Config, language: str) -> Config:
    return config.model_copy(update={"language": language})


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_sentence_names_a_feature_or_a_model(company: Company, language: str) -> None:
    """CORRECTNESS 7: never a raw feature name, never the method."""
    config = in_language(company.config, language)
    names = {player.name for part in company.of_customers for player in part.players}
    names |= {part.criterion for part in company.of_customers}
    names = {name for name in names if "_" in name and "=" not in name}
    forbidden = r"BG/NBD|SHAP|Shapley|LightGBM|Pareto|Gamma|\bmodel|模型|算法|特征|\bnan\b|None|[{}]|  |-\d"
    for graded, criteria_points, _ in company.parts:
        told = explain.reasons(graded, criteria_points, config)["sentence"]
        for sentence in told:
            assert not re.search(forbidden, sentence), sentence
            assert not names & set(re.findall(r"[A-Za-z_0-9]+", sentence)), sentence


def test_chinese_sentences_are_chinese(company: Company) -> None:
    """Beside what the company's data hold, no Latin letter, and the marks of Chinese."""
    config = in_language(company.config, "zh")
    for graded, criteria_points, _ in company.parts:
        told = explain.reasons(graded, criteria_points, config)
        is_data = told["concept"].str.startswith("attribute:")
        for sentence in told.loc[~is_data, "sentence"]:
            assert not re.search(r"[A-Za-z]", sentence), sentence
            assert re.search(r"[\u4e00-\u9fff].*[−+]?[\d,.]+ 分(（[\u4e00-\u9fff]+）)?。$", sentence), (
                sentence
            )
            assert not re.search(r"[;:!?]|,(?!\d{3})|\.(?!\d)|。。|[ ][，。；：]", sentence), sentence


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_was_published_is_told_again_in_any_language(company: Company, language: str) -> None:
    """Template and values are enough: no sentence is kept that could not be made again."""
    config = in_language(company.config, language)
    for graded, criteria_points, reasons in company.parts:
        direct = explain.reasons(graded, criteria_points, config)
        again = explain.retell(
            reasons, config, basis="contribution", are_prospects=graded is company.prospects
        )
        pd.testing.assert_frame_equal(again.astype(object).fillna(""), direct.astype(object).fillna(""))


def test_which_reasons_are_told_does_not_depend_on_the_language(company: Company) -> None:
    for graded, criteria_points, reasons in company.parts:
        other = explain.reasons(graded, criteria_points, in_language(company.config, "zh"))
        words = ["fact", "peer_fact", "sentence"]
        pd.testing.assert_frame_equal(other.drop(columns=words), reasons.drop(columns=words))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_input_of_every_criterion_of_this_company_has_words(company: Company, language: str) -> None:
    words = Words.of(in_language(company.config, language))
    for part in [*company.of_customers, *company.of_prospects]:
        for player in part.players:
            figure = words.figures(np.array([2.0]), words.unit(player))
            assert not re.search(r"[{}]|  ", words.fact(player, part.basis, figure)[0])
            assert words.concept_name(player.concept)
            assert words.preference(player) >= 0


def test_percentiles_told_are_true_of_the_peers(company: Company) -> None:
    """At least so many of the peers have less (more) than the customer, counted one by one."""
    checked = 0
    for graded, criteria_points, reasons in company.parts:
        players = {
            (part.criterion, player.name): (part, i)
            for part in criteria_points
            for i, player in enumerate(part.players)
        }
        frame = graded.frame.set_index("customer_id")
        is_peer = frame["is_active"].to_numpy(bool) if "is_active" in frame else np.ones(len(frame), bool)
        told = reasons[reasons["template_id"].str.endswith((".peers", ".everyone"))]
        for row in told.iloc[::7].itertuples(index=False):
            content = json.loads(row.values)
            part, i = players[row.criterion, row.template_id.rpartition(".")[0]]
            who = is_peer.copy()
            if row.template_id.endswith(".peers"):
                who &= (frame["segment"] == frame.at[row.customer_id, "segment"]).to_numpy(bool)
            facts = part.facts[who, i]
            facts = facts[np.isfinite(facts)]
            own = part.facts[frame.index.get_loc(row.customer_id), i]
            assert len(facts) == content["peers"] >= 20
            half = 0.5 + 1e-9 if content["unit"] in ("money", "count", "days") else 0.06  # as shown
            assert (facts < own + half).mean() >= content["lower_ratio"] - 1e-9
            assert (facts > own - half).mean() >= content["higher_ratio"] - 1e-9
            assert (facts < own).mean() <= content["lower_ratio"] + 0.011 + (
                np.abs(facts - own) <= 2 * half
            ).mean()
            checked += 1
    assert checked > 100


def test_nearly_all_peers_on_the_other_side_are_said_beside_their_median(config: Config) -> None:
    value = one_fact(VALUE, [1.0] * 30, [500.0, 40.0, *[100.0] * 28], 10.0)
    first, second, third = sentences([value], config)[:3]
    assert "similar customers: 100 EUR (96 % of them less). " in first
    assert "a typical customer: 10 EUR. " in second
    assert "% of them" not in third
    low = one_fact(VALUE, [-1.0] * 30, [50.0, *[100.0] * 29], 300.0)
    assert "similar customers: 100 EUR (96 % of them more). " in sentences([low], config)[0]


def test_sentences_hold_no_name_of_the_machinery(company: Company) -> None:
    names = {feature.name for feature in all_features() if "_" in feature.name}
    categories = {"cold_call"} | set(company.measured.prospects["lead_source"].dropna())
    for _, _, reasons in company.parts:
        for sentence in reasons["sentence"]:
            words = re.findall(r"[A-Za-z_]+", sentence)
            assert not names & set(words), sentence
            assert not [w for w in words if "_" in w and w not in categories], sentence
            assert not re.search(r"BG/NBD|SHAP|Shapley|LightGBM|\bnan\b|None|[{}]|  |-\d|\.\.", sentence), (
                sentence
            )
            assert re.fullmatch(r"[A-Z0-9].*\.", sentence), sentence


def test_same_input_same_text_in_any_order_of_rows(company: Company) -> None:
    for graded, criteria_points, reasons in company.parts:
        pd.testing.assert_frame_equal(explain.reasons(graded, criteria_points, company.config), reasons)
        order = np.random.default_rng(3).permutation(len(graded.frame))
        again = explain.reasons(
            rows_of(graded, order), [points_of(p, order) for p in criteria_points], company.config
        )
        keys = ["customer_id", "position"]
        pd.testing.assert_frame_equal(
            again.sort_values(keys, ignore_index=True), reasons.sort_values(keys, ignore_index=True)
        )


def test_a_customer_alone_beside_the_same_peers_has_the_same_reasons(company: Company) -> None:
    for graded, criteria_points, reasons in company.parts:
        peers = explain.peers_of(graded, criteria_points, company.config)
        for i in (0, 17, len(graded.frame) - 1):
            one = np.array([i])
            alone = explain.reasons(
                rows_of(graded, one), [points_of(p, one) for p in criteria_points], company.config, peers
            )
            batch = reasons[reasons["customer_id"] == graded.frame["customer_id"].iloc[i]]
            pd.testing.assert_frame_equal(alone, batch.reset_index(drop=True))


def test_blocks_of_customers_have_the_points_of_all_at_once(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    grading = grades.fit_grading(company.measured, AS_OF)
    monkeypatch.setattr(points, "BLOCK_ROWS", 150)
    for whole, part in zip(
        company.of_customers, points.of_customers(company.measured, company.models, grading), strict=True
    ):
        for name in ("points", "facts", "reference"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name))
    monkeypatch.setattr(explain, "BLOCK_ROWS", 150)
    again = explain.reasons(company.customers, company.of_customers, company.config)
    pd.testing.assert_frame_equal(again, company.reasons)


def test_taking_a_reasons_facts_to_the_reference_customers_moves_the_score_as_said(company: Company) -> None:
    """Faithful in at least 99.9 % of reasons (measured: all 2,535 of this company); inputs may interact."""
    right: list[bool] = []
    for graded, criteria_points, reasons in company.parts:
        place = {customer: i for i, customer in enumerate(graded.frame["customer_id"])}
        by_name = {part.criterion: part for part in criteria_points}
        shown = reasons[reasons["concept"] != "other"]
        for (criterion, concept), told in shown.groupby(["criterion", "concept"]):
            part = by_name[str(criterion)]
            columns = [i for i, player in enumerate(part.players) if player.concept == concept]
            moved = scored_without(company, part, columns)
            rows = told["customer_id"].map(place).to_numpy(np.intp)
            score = part.baseline + part.points[rows].sum(axis=1)
            right += (np.sign(score - moved[rows]) == np.sign(told["points"].to_numpy())).tolist()
    assert len(right) > 1500
    assert np.mean(right) >= 0.999


def scored_without(company: Company, part: Points, columns: list[int]) -> Floats:
    """Scores of a criterion with the facts of `columns` moved to the reference customer's."""
    measured, models = company.measured, company.models
    grading = grades.fit_grading(measured, AS_OF)
    scale = grading.scales[part.criterion]
    if part.criterion == "lifetime_value":
        value, facts = models.lifetime_value, part.facts.copy()
        facts[:, columns] = part.reference[:, columns]
        return scale.score(value.money(value.part.raw(facts[:, :-1])) - facts[:, -1])
    if part.criterion == "payment":
        model, rows = models.payment_delay, measured.payment_rows
        assert isinstance(model, PaymentDelay)
        X = payment_delay.design(rows, model.shrinkages).to_numpy(np.float64)
        X[:, columns] = model.reference[columns]
        raw = model.late.predict(X, raw_score=True) + model.logit_shift
        overdue = X[:, payment_delay.NAMES.index("overdue_days")]
        chance = np.where(overdue > model.late_after_days, 1.0, expit(raw)) * rows["weight"].to_numpy(float)
        by_customer = pd.Series(chance).groupby(rows["customer_id"].to_numpy()).sum()
        return scale.score(by_customer.reindex(measured.customers["customer_id"]).to_numpy())
    if part.criterion == "prospect":
        prospect = models.prospect_value
        assert prospect is not None
        facts = part.facts.copy()
        facts[:, columns] = part.reference[:, columns]
        X = facts[:, :-1]
        score = scale.score(expit(prospect.conversion.raw(X)) * np.exp(prospect.value.raw(X)))
        judgement = np.where(
            np.isnan(part.facts[:, -1]) | (len(part.players) - 1 in columns), score, facts[:, -1]
        )
        return score + company.config.prospect.judgement_weight_ratio * (judgement - score)
    return np.full(len(part.facts), scale.baseline)


# --- against the segment's reference customer -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_segment(company: Company) -> Company:
    """The same company explained against each segment's typical customer; the chemists are too few to have one."""
    config = company.config.model_copy(
        update={"explain": company.config.explain.model_copy(update={"reference": "segment"})}
    )
    known = criteria.segment_references(company.models, config)
    few = {name: {k: v for k, v in of.items() if k != "chemicals"} for name, of in known.items()}
    measured = replace(company.measured, segment_references=few)
    grading = grades.fit_grading(company.measured, AS_OF)
    grading = replace(
        grading,
        segment_references={
            name: {segment: value for segment, value in of.items() if segment != "chemicals"}
            for name, of in grading.segment_references.items()
        },
    )
    value, payment, prospect = (
        replace(
            model,
            segment_references={
                name: row for name, row in model.segment_references.items() if name != "chemicals"
            },
        )
        for model in (
            company.models.lifetime_value,
            company.models.payment_delay,
            company.models.prospect_value,
        )
    )
    models = criteria.Models(value, payment, prospect)
    overrides = pd.DataFrame({"customer_id": [], "tier": []}, dtype="object")
    return explained(config, measured, models, grading, overrides)


def test_against_the_segment_scores_stay_and_reasons_still_add_up(
    company: Company, by_segment: Company
) -> None:
    for (graded, _, _), (other, criteria_points, reasons) in zip(
        company.parts, by_segment.parts, strict=True
    ):
        score = other.frame.set_index("customer_id")["composite_score"]
        np.testing.assert_array_equal(score, graded.frame["composite_score"])
        baseline = other.frame.set_index("customer_id")["composite_baseline"]
        total = reasons.groupby("customer_id")["points"].sum().reindex(score.index)
        assert (baseline + total - score).abs().max() < 1e-6
        for part in criteria_points:
            found = other.scores[part.criterion].to_numpy(np.float64)
            assert np.nanmax(np.abs(part.baseline + part.points.sum(axis=1) - found)) < 1e-6
        assert other.frame.groupby("segment")["composite_baseline"].nunique().min() >= 1
        assert other.frame["composite_baseline"].nunique() > graded.frame["composite_baseline"].nunique()


def test_the_segments_reference_is_the_median_of_its_active_customers(by_segment: Company) -> None:
    customers = by_segment.measured.customers
    model = by_segment.models.lifetime_value
    segment = "machinery"
    mine = ((customers["segment"] == segment) & customers["is_active"]).to_numpy(bool)
    assert mine.sum() >= 20
    design = model.design(customers[mine])
    by_hand = [float(x.median()) if x.notna().mean() > 0.5 else None for _, x in design.items()]
    assert list(model.segment_references[segment]) == by_hand
    row = np.array([[np.nan if value is None else value for value in by_hand]])
    cost = float(np.median(model.expected_cost_to_serve(customers[mine])))
    value = float(model.money(model.part.raw(row))[0]) - cost
    scale = grades.fit_grading(by_segment.measured, AS_OF).scales["lifetime_value"]
    part = next(part for part in by_segment.of_customers if part.criterion == "lifetime_value")
    np.testing.assert_allclose(np.asarray(part.baseline)[mine], float(scale.score(value)), atol=1e-9)
    contribution = next(part for part in by_segment.of_customers if part.criterion == "contribution")
    typical = customers.loc[mine, "contribution_margin"].median()
    assert contribution.reference[mine, 0] == pytest.approx(float(typical))


def test_a_segment_too_small_for_a_reference_is_held_against_the_companys_and_says_so(
    company: Company, by_segment: Company
) -> None:
    words = by_segment.reasons["template_id"].str.rpartition(".")[2]
    segment = by_segment.reasons["customer_id"].map(
        by_segment.customers.frame.set_index("customer_id")["segment"]
    )
    assert not (words[segment == "chemicals"] == "kindred").any()
    assert not (words[segment != "chemicals"] == "typical").any()
    few = (by_segment.customers.frame["segment"] == "chemicals").to_numpy(bool)
    np.testing.assert_allclose(
        by_segment.customers.frame.loc[few, "composite_baseline"],
        company.customers.frame.loc[few, "composite_baseline"],
        atol=1e-12,
    )
    whole = by_segment.reasons[by_segment.reasons["concept"] == "other"].set_index("customer_id")["values"]
    held = whole.map(lambda text: json.loads(text)["of_segment"])
    assert (held[segment[by_segment.reasons["concept"] == "other"].to_numpy() == "chemicals"] == 0).all()


def test_the_segments_references_travel_with_the_models(company: Company) -> None:
    value, payment, prospect = (
        company.models.lifetime_value, company.models.payment_delay, company.models.prospect_value,
    )  # fmt: skip
    assert isinstance(payment, PaymentDelay)
    assert prospect is not None
    again = LifetimeValue.from_files(value.to_files())
    assert again.segment_references == value.segment_references
    assert again.segment_costs == value.segment_costs
    for one, other in (
        (payment, PaymentDelay.from_files(payment.to_files())),
        (prospect, ProspectValue.from_files(prospect.to_files())),
    ):
        assert one.segment_references.keys() == other.segment_references.keys()
        for name, row in one.segment_references.items():
            np.testing.assert_array_equal(row, other.segment_references[name])
    grading = grades.fit_grading(company.measured, AS_OF)
    assert composite.Grading.from_files(grading.to_files()) == grading
    assert value.seen_from("nowhere") is value


def test_facts_taken_to_the_segments_reference_move_the_score_as_said(by_segment: Company) -> None:
    part = next(part for part in by_segment.of_customers if part.criterion == "lifetime_value")
    place = {customer: i for i, customer in enumerate(by_segment.customers.frame["customer_id"])}
    told = by_segment.reasons[by_segment.reasons["criterion"] == "lifetime_value"]
    right = []
    for concept, rows in told.groupby("concept"):
        columns = [i for i, player in enumerate(part.players) if player.concept == concept]
        at = rows["customer_id"].map(place).to_numpy(np.intp)
        moved = scored_without(by_segment, part, columns)[at]
        score = (part.baseline + part.points.sum(axis=1))[at]
        right += (np.sign(score - moved) == np.sign(rows["points"].to_numpy())).tolist()
    assert len(right) > 500
    assert np.mean(right) >= 0.99


# --- by hand --------------------------------------------------------------------------------------------------------


def rows_of(graded: Graded, rows: NDArray[np.intp]) -> Graded:
    parts = {
        name: getattr(graded, name).iloc[rows].reset_index(drop=True)
        for name in ("frame", "values", "scores", "weights")
    }
    return replace(graded, **parts)


def points_of(part: Points, rows: NDArray[np.intp]) -> Points:
    support = None if part.support is None else part.support[rows]
    return replace(
        part,
        points=part.points[rows],
        facts=part.facts[rows],
        reference=part.reference[rows],
        support=support,
    )


@pytest.fixture(scope="module")
def config() -> Config:
    return load(DEMO)


def graded_by_hand(parts: list[Points], **columns: Any) -> Graded:
    """Customers whose composite is the mean of the criteria, all of one segment."""
    n, weight = len(parts[0].points), 1 / len(parts)
    score = sum(weight * (part.baseline + part.points.sum(axis=1)) for part in parts)
    frame = pd.DataFrame(
        {
            "customer_id": [f"C{i}" for i in range(n)],
            "segment": "chemicals",
            **dict.fromkeys(("industry", "region", "lead_source"), "north"),
            "composite_score": score,
            "composite_baseline": sum(weight * part.baseline for part in parts),
            "is_active": True,
            **columns,
        }
    )
    weights = pd.DataFrame({part.criterion: np.full(n, weight) for part in parts})
    return Graded(frame, weights, weights, weights, (), (), {})


def one_fact(
    feature: Feature, effects: list[float], facts: list[float], reference: float, **settings: Any
) -> Points:
    n = len(effects)
    return Points(
        settings.pop("criterion", "lifetime_value"),
        (feature,),
        50.0,
        np.array(effects)[:, None],
        np.array(facts)[:, None],
        np.full((n, 1), reference),
        **settings,
    )


def sentences(parts: list[Points], config: Config, **columns: Any) -> list[str]:
    """The first reason of each customer."""
    found = explain.reasons(graded_by_hand(parts, **columns), parts, config)
    return found.loc[found["position"] == 1, "sentence"].tolist()


DAYS = Feature("days_since_last_purchase", "still_active", -1, "days")
VALUE = Feature("value_365", "recent_value", 1, "money")
PAYS = Feature("mean_days_beyond_terms", "past_lateness", 1, "days")


def test_units_are_written_for_people(config: Config) -> None:
    value = one_fact(VALUE, [1.0, -2.04, 1234.0], [1234567.4, -1234.0, 400.0], 100.0)
    assert sentences([value], config) == [
        "Contribution of orders in the last 12 months: 1,234,567 EUR; all customers: 400 EUR. +1.0 point.",
        "Contribution of orders in the last 12 months: −1,234 EUR; all customers: 400 EUR. −2.0 points.",
        "Contribution of orders in the last 12 months: 400 EUR; a typical customer: 100 EUR. +1,234.0 points.",
    ]
    days = one_fact(DAYS, [3.0, -3.0], [1.0, 1500.0], 90.0)
    assert sentences([days], config) == [
        "Last order 1 day ago; all customers: 750 days. +3.0 points.",
        "Last order 1,500 days ago; all customers: 750 days. −3.0 points.",
    ]
    pays = one_fact(
        PAYS, [-6, 2, 1], [12, -1, 0], 4.0, criterion="payment", direction=-1, support=np.array([34, 1, 2])
    )
    assert sentences([pays], config) == [
        "Pays 12 days after due on average (34 invoices, last 12 months); "
        "all customers: on the due date. −6.0 points.",
        "Pays 1 day before due on average (1 invoice, last 12 months); "
        "all customers: on the due date. +2.0 points.",
        "Pays on the due date on average (2 invoices, last 12 months); "
        "a typical customer: 4 days after due. +1.0 point.",
    ]


def test_money_without_known_margin_is_called_net_sales(config: Config) -> None:
    value = one_fact(VALUE, [1.0, -1.0], [300.0, 100.0], 150.0, basis="revenue")
    assert sentences([value], config)[0].startswith("Net sales of the last 12 months: 300 EUR; ")


def test_orders_counted_in_pieces_are_no_money() -> None:
    config = load(DEMO, ["order_amount.measure=quantity", "order_amount.months=24"])
    amount = one_fact(points.RULES["order_amount"], [1, -1], [3000, 10.5], 5, criterion="order_amount")
    assert sentences([amount], config) == [
        "Quantity ordered in the last 24 months: 3,000; all customers: 1,505.2. +1.0 point.",
        "Quantity ordered in the last 24 months: 10.5; all customers: 1,505.2. −1.0 point.",
    ]


def test_points_say_what_they_are_about_where_several_criteria_count(config: Config) -> None:
    value = one_fact(VALUE, [4.0, -4.0], [300.0, 100.0], 150.0)
    profit = one_fact(points.RULES["contribution"], [2, -2], [30, 10], 15, criterion="contribution")
    found = explain.reasons(graded_by_hand([value, profit]), [value, profit], config)
    effects = found.loc[found["customer_id"] == "C0", "sentence"].str.rpartition(". ")[2].tolist()
    assert effects == [
        "+2.0 points (future value).",
        "+1.0 point (profit).",
        "Nothing else counts: 0.0 points.",
    ]


def test_a_small_segment_is_widened_to_everyone_and_the_sentence_says_so(config: Config) -> None:
    n = 45
    value = one_fact(VALUE, [1.0] * n, [500.0, *[100.0] * 24, *[50.0] * 20], 10.0)
    segment = ["a"] * 25 + ["b"] * 20
    assert "similar customers: 100 EUR" in sentences([value], config, segment=segment)[0]
    segment = ["a"] * 19 + ["b"] * 26
    assert "all customers: 100 EUR" in sentences([value], config, segment=segment)[0]
    without = load(DEMO, ["segment=[]"])
    assert "all customers: 100 EUR" in sentences([value], without, segment="all")[0]


def test_peers_are_active_and_counted_where_they_have_the_fact(config: Config) -> None:
    facts = [500.0, *[100.0] * 20, *[np.nan] * 5, *[1e6] * 30]
    value = one_fact(VALUE, [1.0] * 56, facts, 10.0)
    active = np.arange(56) < 26
    found = explain.reasons(graded_by_hand([value], is_active=active), [value], config)
    content = json.loads(found["values"].iloc[0])
    beyond = {"lower_ratio": 0.95, "higher_ratio": 0}
    assert content == {"own": 500, "unit": "money", "peer": 100, "peers": 21, **beyond, "points": 1}


def test_where_peers_do_not_agree_the_typical_customer_is_compared_with(config: Config) -> None:
    facts = [300.0, *[1000.0] * 30]
    value = one_fact(VALUE, [1.0] * 31, facts, 100.0)
    assert "a typical customer: 100 EUR" in sentences([value], config)[0]
    nobody = one_fact(VALUE, [1.0] * 31, facts, np.nan)
    assert "a typical customer: unknown" in sentences([nobody], config)[0]


def test_the_reference_customer_of_the_segment_is_called_so(config: Config) -> None:
    facts = [300.0, 300.0, *[1000.0] * 30]
    value = replace(one_fact(VALUE, [1.0] * 32, facts, 100.0), of_segment=np.arange(32) != 1)
    found = explain.reasons(graded_by_hand([value]), [value], config)
    first = found[found["position"] == 1]
    assert "; a typical customer of its kind: 100 EUR. " in first["sentence"].iloc[0]
    assert "; a typical customer: 100 EUR. " in first["sentence"].iloc[1]
    whole = found[found["concept"] == "other"]["values"].map(json.loads)
    assert [content["of_segment"] for content in whole][:3] == [1, 0, 1]


def test_missing_data_is_never_good_news(config: Config) -> None:
    value = one_fact(VALUE, [5.0, -5.0, 1.0], [np.nan, np.nan, 100.0], 50.0)
    for sentence in sentences([value], config)[:2]:
        assert sentence.startswith(
            "Too little on record about recent business, so rated like others of whom it is unknown. "
        )
    # Beside a reason with a fact it is told only as the largest of all.
    days = one_fact(DAYS, [9.0, -9.0, 1.0], [3.0, 400.0, 30.0], 90.0, criterion="other")
    found = explain.reasons(graded_by_hand([value, days]), [value, days], config)
    assert not found["sentence"].str.contains("Too little").any()


def test_a_largest_reason_whose_figures_hardly_differ_is_told_without_them(config: Config) -> None:
    value = one_fact(VALUE, [5.0, 5.0], [100.2, 100.2], 100.1)
    assert sentences([value], config)[0] == "Small differences in recent business. +5.0 points."


def test_a_category_that_is_not_on_record_is_missing_data(config: Config) -> None:
    levels = tuple(Feature(f"industry={x}", "attribute:industry", 0, "flag") for x in ("steel", "logistics"))
    flags = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    effects = np.array([[3.0, 0.0], [2.0, 1.0], [-2.0, 1.0]])
    part = Points("lifetime_value", levels, 50.0, effects, flags, np.zeros((3, 2)))
    texts = pd.Series(["steel", "rare", None], dtype="object")
    assert sentences([part], config, industry=texts) == [
        "Industry: steel. +3.0 points.",
        "Industry: rare. +3.0 points.",
        "Too little on record about industry, so rated like others of whom it is unknown. −1.0 point.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "'; DROP TABLE clv.reasons; --",
        '=HYPERLINK("http://x","y")',
        "{own} {points} {0}",
        "%s \\n",
        "東京 🏭",
    ],
)
def test_what_data_hold_appears_literally(text: str) -> None:
    label = json.dumps(f"The {text}", ensure_ascii=False)
    config = load(DEMO, [f"attributes.industry.label={label}"])
    level = Feature(f"industry={text}", "attribute:industry", 0, "flag")
    part = Points("prospect", (level,), 50.0, np.array([[2.0]]), np.array([[1.0]]), np.zeros((1, 1)))
    graded = graded_by_hand([part], industry=text)
    found = explain.reasons(graded, [part], config)
    assert found["sentence"].iloc[0] == f"The {text}: {text}. +2.0 points."
    assert json.loads(found["values"].iloc[0])["own"] == text


def test_segment_means_are_told_by_the_segment(config: Config) -> None:
    level = Feature("segment=chemicals", "attribute:segment", 0, "flag")
    part = Points("prospect", (level,), 50.0, np.array([[2.0]]), np.array([[1.0]]), np.zeros((1, 1)))
    assert sentences([part], config) == ["Group: chemicals. +2.0 points."]


def test_a_judgement_is_held_against_the_score_without_it(config: Config) -> None:
    part = one_fact(points.JUDGEMENT, [-2.0], [52.0], 60.0, criterion="prospect")
    assert sentences([part], config) == ["Judged by sales at 52 of 100; score without it: 60. −2.0 points."]
    alone = points.judgement_points(np.array([70.0, np.nan]))
    graded = graded_by_hand([alone], composite_score=[70.0, np.nan])
    found = explain.reasons(graded, [alone], config)
    assert found["sentence"].tolist() == [
        "Judged by sales at 70 of 100; the middle of the scale: 50. +20.0 points.",
        "Nothing else counts: 0.0 points.",
    ]


def test_a_fact_speaks_only_in_the_direction_of_its_own_points(config: Config) -> None:
    """Peers may differ from the reference: a fact above theirs that costs points is no reason for the customer."""
    players = (VALUE, Feature("value_180", "recent_value", 1, "money"))
    effects = np.tile([[-1.0, 4.0]], (30, 1))
    facts = np.tile([[100.0, 90.0]], (30, 1))
    facts[0] = [400.0, 300.0]
    part = Points("lifetime_value", players, 50.0, effects, facts, np.tile([[500.0, 20.0]], (30, 1)))
    assert sentences([part], config)[0].startswith("Contribution of orders in the last 6 months: 300 EUR; ")


def test_points_that_miss_the_score_are_refused(config: Config) -> None:
    value = one_fact(VALUE, [1.0, 2.0], [3.0, 4.0], 1.0)
    graded = graded_by_hand([value], composite_score=[51.0, 52.1])
    with pytest.raises(ModelError, match=r"found 1 customers off by up to 0\.1"):
        explain.reasons(graded, [value], config)


def test_nobody_has_no_reasons(config: Config) -> None:
    part = one_fact(VALUE, [0.0], [3.0], 3.0)
    graded = graded_by_hand([part], composite_score=np.nan)
    assert explain.reasons(graded, [part], config).columns.tolist() == list(explain.COLUMNS)
    level = explain.reasons(graded_by_hand([part]), [part], config)
    assert level["sentence"].tolist() == ["Nothing else counts: 0.0 points."]


# --- words ----------------------------------------------------------------------------------------------------------


def all_features() -> list[Feature]:
    """Every Feature that a module of the models, features or points declares, alone, in a tuple or a table."""

    def walk(value: object) -> Iterator[Feature]:
        if isinstance(value, Feature):
            yield value
        elif isinstance(value, tuple | list):
            for item in value:
                yield from walk(item)
        elif isinstance(value, dict):
            yield from walk(list(value.values()))

    names = [info.name for info in pkgutil.iter_modules(clv.models.__path__)]
    modules = [features, points, *(importlib.import_module(f"clv.models.{name}") for name in names)]
    return sorted({feature for module in modules for feature in walk(list(vars(module).values()))}, key=str)


@pytest.mark.parametrize("language", languages.built_in())
def test_every_feature_of_every_model_has_words(language: str) -> None:
    found = all_features()
    assert len(found) > 70
    for basis in ("contribution", "revenue"):
        for measure in ("amount", "quantity"):
            words = Words.of(load(DEMO, [f"order_amount.measure={measure}", f"language={language}"]))
            for feature in found:
                text = words.fact(feature, basis, words.figures(np.array([2.0]), words.unit(feature)))[0]
                assert feature.name not in text
                assert not re.search(r"[{}]|  ", text), text
                assert words.preference(feature) >= 0
                assert words.concept_name(feature.concept)


def test_a_feature_without_words_is_refused_by_name(config: Config) -> None:
    words = Words.of(config)
    for feature in (Feature("shoe_size", "still_active", 0, "count"), Feature("x", "horoscope", 0, "count")):
        with pytest.raises(ModelError, match=f"expected words for '{feature.name}'"):
            words.fact(feature, "contribution", words.figures(np.array([2.0]), "count"))


def test_no_words_are_left_of_features_that_are_gone(config: Config) -> None:
    known = {(feature.concept, feature.name) for feature in all_features()}
    known |= {
        ("attribute", "attribute"),
        ("standard", "standard"),
    }  # one form for all that a company declares
    told = {
        (concept, name)
        for language in languages.built_in()
        for concept, content in languages.content(language)["concepts"].items()
        for variant in ("facts", "revenue", "quantity")
        for name in content.get(variant, {})
    }
    assert told <= known


def test_an_attribute_never_takes_the_name_of_a_column_of_the_grades(company: Company) -> None:
    declared = set(company.config.attributes)
    for graded in (company.customers, company.prospects):
        taken = features.taken_names() | set(CORE["customers"].names)
        assert set(graded.frame.columns) - declared <= taken
    for frame in (company.measured.customers, company.measured.prospects):
        assert set(frame.columns) - declared <= features.taken_names() | set(CORE["customers"].names)
