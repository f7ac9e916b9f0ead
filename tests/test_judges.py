"""People who judge prospects are held to account by what then happened, beside a model that could not know it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from clv import judges, period, prospects
from clv.config import Config
from clv.learn import prospect_past
from clv.learn.prospect_past import matured_judgements, past_models
from clv.tables import CORE
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 1, 1)
CONFIG = Config.model_validate(
    {
        "company": "tiny",
        "reporting_currency": "EUR",
        "sources": {"order_lines": {"table": "lines"}, "customers": {"table": "people"}},
        "attributes": {"quote": {"type": "flag", "known_at": "first_contact"}},
        "prospect": {"minimum_prospects": 40, "minimum_conversions": 10},
        "engine": {"threads": 1},
    }
)


def judged(judge: str, judgement: list[float], converted: list[int], model: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "judged_by": judge,
            "judged_date": pd.Timestamp(2024, 1, 1) + pd.to_timedelta(np.arange(len(judgement)), unit="D"),
            "judgement": judgement,
            "model_score": model,
            "combined_score": 0.7 * np.array(model) + 0.3 * np.array(judgement),
            "conversion_probability": np.array(model) / 100,
            "converted": np.array(converted, dtype=bool),
        }
    )


# Of 20: judged 95, 90, ... down to 0; the model says the reverse. Converted: the five judged highest.
KEEN = judged("Ada", list(range(95, -5, -5)), [1] * 5 + [0] * 15, list(range(0, 100, 5)))


def test_hit_rate_lift_and_auc_by_hand() -> None:
    found = judges.record(KEEN, seed=7)
    assert found["judge"].tolist() == ["Ada", judges.ALL]
    ada = found.iloc[0]
    assert (ada["judgements"], ada["converted"]) == (20, 5)
    assert (ada["hit_rate_ratio"], ada["model_hit_rate_ratio"]) == (1.0, 0.0)  # of the four scored highest
    assert ada["lift"] == pytest.approx(4.0)  # all of them, where a quarter converts
    assert (ada["auc"], ada["model_auc"]) == (1.0, 0.0)
    assert ada["combined_auc"] == 0.0  # 0.7 of the model outweighs 0.3 of the judge
    assert ada["verdict"] == "ranks better than the model"


def test_a_judge_who_says_the_same_of_everybody_is_no_better_than_chance() -> None:
    flat = judged("Flat", [60.0] * 40, [1, 0] * 20, list(range(40)))
    [found, _] = judges.record(flat, seed=7).to_dict("records")
    assert found["auc"] == 0.5
    assert found["hit_rate_ratio"] == pytest.approx(0.5)  # ties share their chance
    assert found["lift"] == pytest.approx(1.0)
    assert found["verdict"] == "not shown to rank better than chance"


def test_fewer_than_20_matured_judgements_get_no_verdict() -> None:
    [few, _] = judges.record(KEEN.iloc[:19], seed=7).to_dict("records")
    assert few["verdict"] == "fewer than 20 matured judgements: no verdict"
    assert np.isnan(few["auc_low"])
    assert judges.sentence(pd.Series(few)).endswith("19 matured judgements, 5 converted; " + few["verdict"])
    rare = KEEN.assign(converted=[True] * 4 + [False] * 16)
    assert judges.record(rare, seed=7)["verdict"][0].startswith("fewer than 5 that converted")


def test_the_record_does_not_depend_on_the_order_of_rows() -> None:
    both = pd.concat(
        [KEEN, judged("Bo", [50.0, 70.0] * 12, [0, 1] * 12, [40.0, 60.0] * 12)], ignore_index=True
    )
    shuffled = both.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(judges.record(shuffled, seed=7), judges.record(both, seed=7))
    pd.testing.assert_frame_equal(judges.calibration(shuffled), judges.calibration(both))


def test_calibration_counts_conversions_by_what_was_judged() -> None:
    found = judges.calibration(KEEN).query("judge == 'Ada'").set_index("score_from")
    assert found.index.tolist() == [0, 25, 50, 75]
    assert found["judgements"].tolist() == [5, 5, 5, 5]
    assert found["converted_ratio"].tolist() == [0, 0, 0, 1]
    assert found.loc[75, "mean_score"] == 85
    edge = judges.calibration(judged("Eve", [100.0, 25.0], [1, 0], [0, 0])).query("judge == 'Eve'")
    assert edge["score_from"].tolist() == [25, 75]  # 100 belongs to the highest band, 25 to the second


def test_pseudonyms_hold_nothing_of_a_name_and_stay_as_others_join() -> None:
    bo = judged("Bo", [1.0], [0], [0.0]).assign(judged_date=pd.Timestamp(2024, 6, 1))
    before = judges.pseudonyms(KEEN)
    assert before == {"Ada": "judge 1"}
    assert judges.pseudonyms(pd.concat([bo, KEEN])) == {"Ada": "judge 1", "Bo": "judge 2"}


def test_facts_say_the_record_in_words_and_an_odd_name_is_only_text() -> None:
    odd = "[red]Ω[/red]'; DROP TABLE x --"
    facts = list(judges.facts(judges.record(KEEN.assign(judged_by=odd), 7), 0.3, "since then"))
    assert [name for name, _, _ in facts] == ["judges_all", "judges_combined", "judge_01"]
    assert facts[2][2].startswith(f"{odd}: 20 matured judgements, 5 converted; of the best fifth 100% did")
    assert "ranks better than the model" in facts[2][2]


# Which judgements count, and what the model had said


@pytest.fixture(scope="module")
def company() -> Iterator[Engine]:
    """Two leads a week for three years; who asked for a quote orders three times as often, 40 days after contact.

    Ada judges each after ten days, from what will happen; Bo every other one, at random.
    """
    rng = np.random.default_rng(1)
    n = 312
    contact = np.array([date(2022, 1, 3) + timedelta(days=int(3.5 * i)) for i in range(n)])
    quote = rng.random(n) < 0.4
    buys = rng.random(n) < np.where(quote, 0.6, 0.2)
    ids = np.array([f"lead {i:03d}" for i in range(n)])
    with workspace(threads=1, memory_limit="500MB") as db:
        for name, table in CORE.items():
            db.run(f"CREATE TABLE main.{name} ({table.ddl()})")
        db.run("ALTER TABLE main.customers ADD COLUMN quote BOOLEAN")
        db.run("ALTER TABLE main.order_lines ADD COLUMN value DECIMAL(18,4)")
        people = pd.DataFrame({"customer_id": ids, "first_contact_date": contact, "quote": quote})
        db.append("main.customers", people)
        ordered = contact[buys] + timedelta(days=40)
        lines = pd.DataFrame({"order_id": ids[buys], "customer_id": ids[buys], "order_date": ordered})
        db.append("main.order_lines", lines.assign(net_amount=100, value=rng.integers(20, 60, buys.sum())))
        every = pd.DataFrame(
            {"customer_id": ids, "criterion": "prospect", "judged_date": contact + timedelta(days=10)}
        )
        ada = every.assign(judged_by="Ada", score=np.where(buys, 80, 30))
        bo = every.assign(judged_by="Bo", score=rng.integers(0, 101, n)).iloc[::2]
        db.append("main.judgements", pd.concat([ada, bo]))
        yield db


def test_only_judgements_whose_window_has_ended_count(company: Engine) -> None:
    period.see(company, AS_OF)
    found = prospects.judged_outcomes(company, AS_OF, 90, date(2024, 1, 1))
    assert found["judged_date"].max().date() + timedelta(days=91) <= AS_OF
    later = period.add_months(AS_OF, 1)
    period.see(company, later)
    more = prospects.judged_outcomes(company, later, 90, date(2024, 1, 1))
    assert len(more) > len(found)
    assert found["judged_date"].min().date() >= date(2024, 1, 1)
    ada = found[found["judged_by"] == "Ada"]
    assert (ada["converted"] == (ada["judgement"] == 80)).all()


def test_a_judgement_of_a_customer_is_no_forecast_nor_is_one_given_again(company: Engine) -> None:
    with company.transaction():
        try:
            company.run("""
                INSERT INTO main.judgements BY NAME
                SELECT customer_id, 'prospect' AS criterion, 99 AS score, 'Late' AS judged_by,
                       order_date + unnest([0, 5]) AS judged_date FROM main.order_lines""")
            company.run("""
                INSERT INTO main.judgements BY NAME
                SELECT customer_id, criterion, 1 AS score, judged_by, judged_date + 5 AS judged_date
                FROM main.judgements WHERE judged_by = 'Bo'""")
            period.see(company, AS_OF)
            found = prospects.judged_outcomes(company, AS_OF, 90, date(2024, 1, 1))
            assert set(found["judged_by"]) == {"Ada", "Bo"}
            assert not found.duplicated(["customer_id", "judged_by"]).any()
            assert (found["judgement"] != 1).sum() > 0.9 * len(found)
        finally:
            company.run(
                "DELETE FROM main.judgements WHERE judged_by = 'Late' OR judged_date - 5 IN "
                "(SELECT judged_date FROM main.judgements AS j WHERE j.judged_by = 'Bo') AND score = 1"
            )


def test_the_model_beside_a_judge_was_trained_before_the_judgement(company: Engine) -> None:
    models = past_models(company, AS_OF, CONFIG)
    found = matured_judgements(company, AS_OF, CONFIG, models)
    assert (found["trained_as_of"] <= found["judged_date"]).all()
    assert found["trained_as_of"].nunique() > 1
    record = judges.record(found, 7).set_index("judge")
    assert record.loc["Ada", "verdict"] == "ranks better than the model"
    assert record.loc["Ada", "auc"] == 1.0
    assert record.loc["Bo", "auc"] < 0.65
    assert 0.55 < record.loc["Bo", "model_auc"] < 0.85
    assert record.loc["Ada", "combined_auc"] > record.loc["Ada", "model_auc"]
    weight = CONFIG.prospect.judgement_weight_ratio
    np.testing.assert_allclose(
        found["combined_score"], (1 - weight) * found["model_score"] + weight * found["judgement"]
    )


def test_what_happens_later_moves_no_model_that_a_judge_is_held_against(company: Engine) -> None:
    models = past_models(company, AS_OF, CONFIG)
    said = matured_judgements(company, AS_OF, CONFIG, models)
    company.run("ALTER TABLE main.order_lines RENAME TO kept")
    company.run("CREATE TABLE main.order_lines AS SELECT * FROM main.kept")
    try:
        newest = models[1].trained_as_of
        company.run(f"DELETE FROM main.order_lines WHERE order_date >= DATE '{newest}'")
        [again] = [m for m in past_models(company, AS_OF, CONFIG) if m.trained_as_of == newest]
        assert again.model.to_files() == models[1].model.to_files()
        assert again.scale == models[1].scale
    finally:
        company.run("DROP TABLE main.order_lines")
        company.run("ALTER TABLE main.kept RENAME TO order_lines")
    pd.testing.assert_frame_equal(matured_judgements(company, AS_OF, CONFIG, models), said)


def test_judgements_train_no_model(company: Engine) -> None:
    before = past_models(company, AS_OF, CONFIG)
    assert before
    company.run("CREATE TABLE main.kept AS SELECT * FROM main.judgements")
    try:
        company.run("UPDATE main.judgements SET score = 100 - score")
        turned = past_models(company, AS_OF, CONFIG)
        company.run("DELETE FROM main.judgements")
        none = past_models(company, AS_OF, CONFIG)
    finally:
        company.run("INSERT INTO main.judgements SELECT * FROM main.kept")
        company.run("DROP TABLE main.kept")
    for other in (turned, none):
        assert [m.model.to_files() for m in other] == [m.model.to_files() for m in before]
        assert [m.scale for m in other] == [m.scale for m in before]


def test_without_enough_history_there_is_no_record(company: Engine) -> None:
    early = date(2022, 8, 1)
    assert past_models(company, early, CONFIG) == []
    assert matured_judgements(company, early, CONFIG, []).empty
    assert prospect_past.matured_prospects(company, early, CONFIG, []).empty
    assert judges.record(matured_judgements(company, early, CONFIG, []), 7).empty
    assert list(judges.facts(judges.record(matured_judgements(company, early, CONFIG, []), 7), 0.3, "")) == []


def test_past_forecasts_of_prospects_stand_beside_what_happened_by_age_of_the_contact(
    company: Engine,
) -> None:
    models = past_models(company, AS_OF, CONFIG)
    found = prospect_past.matured_prospects(company, AS_OF, CONFIG, models)
    assert not found.duplicated(["customer_id", "trained_as_of"]).any()
    assert (found["snapshot_date"] == found["trained_as_of"]).all()
    waits = models[0].trained_as_of - models[1].trained_as_of
    assert waits.days == 2 * CONFIG.prospect.conversion_days  # so nobody's order counts twice
    # Whoever buys does so 40 days after the contact.
    assert not found.loc[found["days_since_first_contact"] > 40, "converted"].any()
    assert found["converted"].notna().all()
