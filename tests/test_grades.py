"""What was measured -> scores, composite, tiers; one row each, and summaries that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clv import grades, month_facts, tiers
from clv.config import Config
from clv.criteria import CUSTOMER_CRITERIA, Measured
from clv.grades import Graded
from clv.models.lifetime_value import LifetimeValue
from clv.tables import PUBLISHED
from clv.warehouse import Engine

AS_OF = date(2026, 1, 1)
NOBODY = pd.DataFrame({"customer_id": [], "tier": []})
NO_LINES = pd.DataFrame({"rule": [], "lines": [], "net_amount": []})
FIRST = pd.DataFrame(columns=["customer_id", "value_source", "tier"])
LEVEL = replace(
    LifetimeValue.last_period(
        pd.DataFrame({"value_365": [1.0], "is_active": [True]}),
        basis="contribution",
        horizon_days=365,
        why="",
    ),
    level=1.25,
    total_log_sd=0.1,
)
VERSIONS = {"lifetime-value": "3", "payment-delay": "2", "prospect-value": "5", "grading": "7"}


def config_of(**more: Any) -> Config:
    sources = {"order_lines": {"path": "orders.csv"}, "invoices": {"path": "invoices.csv"}}
    return Config.model_validate({"company": "tiny", "reporting_currency": "EUR", "sources": sources, **more})


def measured_of(
    n: int,
    prospects: int = 0,
    *,
    value: Any = None,
    model: bool = True,
    judgement: Any = np.nan,
    columns: Mapping[str, Any] | None = None,
    off: Mapping[str, str] | None = None,
) -> Measured:
    """`n` customers, the first the best, and `prospects`, the first the best too."""
    worth = (
        np.linspace(10_000, 10, n) if value is None else np.broadcast_to(np.asarray(value, float), n).copy()
    )
    customers = pd.DataFrame(
        {
            "customer_id": [f"c{i:03}" for i in range(n)],
            "is_active": True,
            "clv": worth,
            "expected_cost_to_serve": 1.0,
            "contribution_margin": worth / 2,
            "order_amount": worth * 5,
            "revenue": worth * 5,
            "late_payment_probability": 0.1,
            "on_time_share_ratio": 0.9,
            "probability_active": 0.9,
            "overdue_balance_ratio": 0.0,
            "segment": "all",
        }
    ).assign(**(columns or {}))
    values = pd.DataFrame(
        {
            "lifetime_value": customers["clv"],
            "payment": customers["late_payment_probability"],
            "payment_record": customers["on_time_share_ratio"],
            "contribution": customers["contribution_margin"],
            "order_amount": customers["order_amount"],
        }
    )
    off = dict(off or {}) | ({} if model else {"prospect": "no prospect's conversion is on record"})
    people = pd.DataFrame({"customer_id": [f"p{i:03}" for i in range(prospects)]})
    people["judgement"] = judgement
    people["prospect_value"] = np.linspace(500, 5, prospects) if model else np.nan
    kinds = {"lifetime_value": "log", "payment": "payment", "contribution": "asinh", "order_amount": "log1p"}
    kinds["payment_record"] = "record"
    return Measured(
        customers=customers,
        values=values,
        prospects=people,
        prospect_values=people[["prospect_value"]].set_axis(["prospect"], axis=1),
        kinds={k: v for k, v in (kinds | {"prospect": "log"}).items() if k not in off},
        references={},
        off=off,
        fallback={"lifetime_value": "too few customers for trees"},
        payment_rows=pd.DataFrame(),
    )


def customers_of(
    measured: Measured,
    config: Config | None = None,
    previous: pd.DataFrame = FIRST,
    overrides: pd.DataFrame = NOBODY,
    *,
    policy_reset: bool = False,
) -> Graded:
    grading = grades.fit_grading(measured, AS_OF)
    return grades.grade_customers(
        measured, grading, config or config_of(), previous, overrides, policy_reset=policy_reset
    )


def prospects_of(
    measured: Measured, previous: pd.DataFrame = FIRST, overrides: pd.DataFrame = NOBODY
) -> Graded:
    grading = grades.fit_grading(measured, AS_OF)
    return grades.grade_prospects(
        measured, grading, config_of(), previous, overrides, AS_OF, policy_reset=False
    )


def sizes(graded: Graded) -> dict[str, int]:
    return graded.frame["tier"].value_counts().to_dict()


def of(graded: Graded, customer: str) -> dict[str, Any]:
    [row] = graded.frame[graded.frame["customer_id"] == customer].to_dict("records")
    return row


@pytest.mark.parametrize("n", [20, 99, 100, 250])
def test_tiers_hold_exactly_what_the_policy_asks_for(n: int) -> None:
    graded = customers_of(measured_of(n))
    expected = tiers.counts(n, config_of().tiers.shares_ratio)
    assert sizes(graded) == {tier: held for tier, held in expected.items() if held}
    assert graded.expected_counts == {("history", tier): held for tier, held in expected.items()}


@pytest.mark.parametrize("n", [1, 2, 19])
def test_under_20_customers_thresholds_rule_and_no_count_is_audited(n: int) -> None:
    graded = customers_of(measured_of(n))
    assert graded.frame["tier"].notna().all()
    assert graded.expected_counts == {}


def test_customers_who_are_all_equal_are_told_apart_by_id_alone() -> None:
    graded = customers_of(measured_of(100, value=50.0))
    assert graded.frame["composite_score"].eq(50).all()
    assert graded.frame["composite_rank"].tolist() == list(range(1, 101))
    assert of(graded, "c000")["tier"] == "important"
    percentiles = grades.criteria_table(graded, measured_of(100, value=50.0))["percentile"]
    assert percentiles.eq(0).all()  # nobody has a lower score


def test_nobody_active_leaves_everybody_inactive() -> None:
    measured = measured_of(30, columns={"is_active": False})
    graded = customers_of(measured)
    assert sizes(graded) == {"inactive": 30}
    assert graded.frame["composite_rank"].isna().all()
    assert graded.expected_counts == {}
    summary = grades.tier_summary(graded).set_index("tier")
    assert summary.loc["inactive", "customers"] == 30
    assert summary.loc["important", "customers"] == 0
    facts = month_facts.month_facts(graded, measured, NO_LINES, LEVEL, config_of()).set_index("name")["value"]
    assert (facts["active_customers"], facts["inactive_customers"]) == (0, 30)


def test_lapsed_customers_are_outside_the_counts_and_unranked() -> None:
    active = np.arange(120) % 6 != 0
    graded = customers_of(measured_of(120, columns={"is_active": active}))
    assert sizes(graded) == {"important": 1, "main": 19, "ordinary": 30, "small": 50, "inactive": 20}
    lapsed = graded.frame[graded.frame["tier"] == "inactive"]
    assert lapsed["composite_score"].notna().all()
    assert lapsed[["composite_rank", "policy_tier", "tier_edge_score"]].isna().all(axis=None)
    assert set(lapsed["tier_rule"]) == {"inactive"}


def test_the_first_month_knows_no_previous_tier() -> None:
    graded = customers_of(measured_of(50))
    assert graded.frame["previous_tier"].isna().all()
    assert set(graded.frame["tier_change"]) == {"new"}


def test_a_prospect_that_ordered_has_no_previous_tier() -> None:
    previous = pd.DataFrame(
        {
            "customer_id": ["c000", "c001", "c002", "c003"],
            "value_source": ["prospect", "history", "history", "history"],
            "tier": ["hot", "important", "small", "inactive"],
        }
    )
    graded = customers_of(measured_of(100), previous=previous)
    assert pd.isna(of(graded, "c000")["previous_tier"])
    found = {
        c: (of(graded, c)["previous_tier"], of(graded, c)["tier_change"]) for c in ("c001", "c002", "c003")
    }
    assert of(graded, "c000")["tier_change"] == "new"
    assert found["c002"] == ("small", "up")
    assert found["c003"] == ("inactive", "up")
    # The band: second by rank, but it was there last month, and the first of the ranking is new.
    assert found["c001"][0] == "important"


def test_a_changed_policy_resets_the_band_of_its_own_pyramid_only() -> None:
    config = config_of()
    policies = month_facts.policies_of(config)
    assert month_facts.policy_resets({}, config) == {"tier_policy": False, "prospect_tier_policy": False}
    assert month_facts.policy_resets(policies, config) == {
        "tier_policy": False,
        "prospect_tier_policy": False,
    }
    other = config_of(tiers={"prospect_shares_ratio": {"a": 0.5, "b": 0.5}, "prospect_key": ["a"]})
    assert month_facts.policy_resets(policies, other) == {"tier_policy": False, "prospect_tier_policy": True}
    band = config_of(tiers={"band_ratio": 0.1})
    assert not any(month_facts.policy_resets(policies, band).values())
    graded = customers_of(measured_of(100), policy_reset=True)
    assert set(graded.frame["tier_rule"]) == {"policy_reset"}


def test_gates_and_decisions_hold_in_the_month() -> None:
    overdue = np.where(np.arange(100) == 0, 0.9, 0.1)
    overrides = pd.DataFrame(
        {"customer_id": ["c099", "c099", "c005"], "tier": ["important", "main", "cold"]}
    )  # the newest decision first; `cold` is a tier of prospects
    graded = customers_of(measured_of(100, columns={"overdue_balance_ratio": overdue}), overrides=overrides)
    assert of(graded, "c000")["tier"] == "ordinary"
    assert of(graded, "c000")["tier_rule"] == "gate:arrears"
    assert (of(graded, "c099")["tier"], of(graded, "c099")["tier_rule"]) == ("important", "override")
    assert of(graded, "c005")["tier"] == "main"
    assert sizes(graded) == {"important": 1, "main": 19, "ordinary": 30, "small": 50}


def test_a_month_of_grace_warns_a_key_customer_once_before_arrears_cost_its_tier() -> None:
    in_arrears = np.where(np.isin(np.arange(100), [0, 50]), 0.9, 0.0)
    clean, late = measured_of(100), measured_of(100, columns={"overdue_balance_ratio": in_arrears})
    config = config_of(gates={"month_of_grace": True})
    new = customers_of(late, config)
    assert of(new, "c000")["tier_rule"] == "gate:arrears"  # who was not key has nothing to lose
    month = customers_of(clean, config)
    seen = []
    for measured in (late, late, late):
        month = customers_of(measured, config, previous=month.frame)
        seen.append((of(month, "c000")["tier"], of(month, "c000")["tier_rule"]))
        assert sizes(month) == {"important": 1, "main": 19, "ordinary": 30, "small": 50}
        assert not of(month, "c050")["tier_rule"].startswith("grace:")
    assert seen == [
        ("important", "grace:arrears"),
        ("ordinary", "gate:arrears"),
        ("ordinary", "gate:arrears"),
    ]
    warned = customers_of(late, config, previous=customers_of(clean, config).frame)
    facts = month_facts.month_facts(warned, late, NO_LINES, LEVEL, config).set_index("name")["value"]
    assert facts["in_grace_arrears"] == 1
    assert "kept_below_key_arrears" not in facts
    back = customers_of(clean, config, previous=warned.frame)
    assert (of(back, "c000")["tier"], of(back, "c000")["tier_rule"]) == ("important", "rank")


def test_what_a_person_or_a_new_policy_moved_is_not_held_there_by_the_band_twice() -> None:
    previous = pd.DataFrame(
        {
            "customer_id": ["c000", "c001", "c002"],
            "value_source": "history",
            "tier": "ordinary",
            "previous_tier": "main",
            "tier_rule": ["override", "policy_reset", "rank"],
        }
    )
    found = customers_of(measured_of(100), previous=previous).frame.set_index("customer_id")
    assert found.loc[["c000", "c001", "c002"], "earlier_tier"].isna().tolist() == [True, True, False]
    assert found.loc["c000", "previous_tier"] == "ordinary"


def test_no_count_is_audited_where_gates_leave_too_few_for_the_key_tiers() -> None:
    graded = customers_of(measured_of(100, columns={"contribution_margin": -1.0}))
    assert sizes(graded) == {"ordinary": 50, "small": 50}
    assert graded.expected_counts == {}


def test_overrides_count_from_the_day_decided_through_their_last_day(engine: Engine) -> None:
    engine.run("CREATE SCHEMA past")
    engine.run("""
        CREATE TABLE past.overrides AS SELECT * FROM (VALUES
            ('a', 'main', 'x', DATE '2025-01-01', DATE '2026-01-01', 'frame contract'),
            ('a', 'small', 'x', DATE '2025-06-01', DATE '2026-06-01', 'contract ended'),
            ('b', 'main', 'x', DATE '2025-01-01', DATE '2025-12-31', 'reference')
        ) AS t(customer_id, tier, decided_by, decided_date, valid_until, reason)""")
    found = grades.overrides_valid(engine, AS_OF)
    assert found[["customer_id", "tier"]].to_numpy().tolist() == [["a", "small"], ["a", "main"]]
    assert found["reason"].tolist() == ["contract ended", "frame contract"]


# Prospects


def test_prospects_have_a_pyramid_of_their_own() -> None:
    measured = measured_of(50, prospects=100)
    graded = prospects_of(measured)
    assert sizes(graded) == {"hot": 1, "warm": 19, "cool": 30, "cold": 50}
    assert graded.expected_counts[("prospect", "warm")] == 19
    assert set(graded.frame["value_source"]) == {"prospect"}
    assert set(graded.frame["prospect_valid_until"]) == {date(2026, 3, 2)}
    assert graded.frame["composite_rank"].tolist() == list(range(1, 101))


def test_a_company_without_prospects_has_no_rows_of_them() -> None:
    measured = measured_of(30)
    graded = prospects_of(measured)
    assert len(grades.grades_table(graded, VERSIONS, "contribution")) == 0
    assert len(grades.criteria_table(graded, measured)) == 0
    assert grades.tier_summary(graded)["customers"].tolist() == [0, 0, 0, 0]


def test_prospects_without_a_model_are_graded_by_judgement_or_not_at_all() -> None:
    judgement = np.where(np.arange(25) < 3, [90.0, 60.0, 10.0] + [np.nan] * 22, np.nan)
    measured = measured_of(30, prospects=25, model=False, judgement=judgement)
    graded = prospects_of(measured)
    assert graded.frame["composite_score"].tolist()[:3] == [90, 60, 10]
    assert graded.frame["composite_rank"].tolist()[:3] == [1, 2, 3]
    assert graded.frame["tier"].notna().all()
    assert graded.frame["is_provisional"].tolist() == [False] * 3 + [True] * 22
    why = grades.criteria_table(graded, measured).set_index("customer_id")["why"]
    assert why["p000"] == "judged by sales alone"
    assert why["p010"] == "no prospect's conversion is on record"


def test_a_decision_about_a_prospect_holds_among_prospects() -> None:
    overrides = pd.DataFrame({"customer_id": ["p099", "p001"], "tier": ["hot", "important"]})
    graded = prospects_of(measured_of(20, prospects=100), overrides=overrides)
    assert (of(graded, "p099")["tier"], of(graded, "p099")["tier_rule"]) == ("hot", "override")
    assert of(graded, "p001")["tier"] == "warm"


# Tables


def test_every_standard_of_everyone_has_a_row_and_one_not_measured_says_why() -> None:
    late = np.where(np.arange(60) < 10, np.nan, 0.1)
    measured = measured_of(
        60, columns={"late_payment_probability": late}, off={"contribution": "no product cost is known"}
    )
    graded = customers_of(measured)
    table = grades.criteria_table(graded, measured)
    assert len(table) == 60 * len(CUSTOMER_CRITERIA)
    missing = table["score"].isna()
    assert table.loc[missing, "why"].notna().all()
    why = table.loc[missing].groupby("criterion")["why"].unique().map(list).to_dict()
    assert why == {
        "contribution": ["no product cost is known"],
        "payment": ["no invoice of the last 12 months and nothing open"],
    }
    value = table[table["criterion"] == "lifetime_value"]
    assert set(value["why"]) == {"too few customers for trees"}
    weights = table.groupby("customer_id")["weight"].sum()
    np.testing.assert_allclose(weights, 1.0, atol=1e-12)
    assert table.loc[missing, "weight"].eq(0).all()


def test_a_percentile_is_the_share_of_the_graded_with_a_lower_score() -> None:
    measured = measured_of(4, value=[40, 30, 30, 10], columns={"is_active": [True, True, True, True]})
    table = grades.criteria_table(customers_of(measured), measured)
    found = table[table["criterion"] == "lifetime_value"]["percentile"].tolist()
    assert found == [0.75, 0.25, 0.25, 0.0]
    ranked = customers_of(measured).frame["composite_percentile"].tolist()
    assert ranked == [0.75, 0.5, 0.25, 0.0]


def test_a_grade_names_the_models_that_spoke() -> None:
    measured = measured_of(30, prospects=25)
    history = grades.grades_table(customers_of(measured), VERSIONS, "contribution")
    assert set(history["lifetime_value_version"]) == {"3"}
    assert set(history["payment_delay_version"]) == {"2"}
    assert "prospect_value_version" not in history
    assert set(history["value_basis"]) == {"contribution"}
    prospects = grades.grades_table(prospects_of(measured), VERSIONS, "contribution")
    assert set(prospects["prospect_value_version"]) == {"5"}
    assert not {"lifetime_value_version", "value_basis"} & set(prospects)
    assert set(history["grading_version"]) | set(prospects["grading_version"]) == {"7"}
    assert set(history) | set(prospects) <= set(PUBLISHED["grades"].names)


def test_the_margin_ratio_is_null_without_revenue() -> None:
    revenue = np.array([100.0, 0.0, -5.0] + [50.0] * 27)
    measured = measured_of(30, columns={"revenue": revenue, "contribution_margin": 10.0})
    ratio = grades.grades_table(customers_of(measured), VERSIONS, "contribution")["contribution_margin_ratio"]
    assert ratio.iloc[0] == pytest.approx(0.1)
    assert ratio.iloc[[1, 2]].isna().all()


def test_the_shares_of_a_summary_add_up_to_one() -> None:
    active = np.arange(130) % 13 != 0
    summary = grades.tier_summary(customers_of(measured_of(130, columns={"is_active": active})))
    shares = [name for name in summary if name.startswith("share_of_")]
    assert len(shares) == 4
    np.testing.assert_allclose(summary[shares].sum(), 1.0, atol=1e-12)
    lapsed = summary[summary["tier"] == "inactive"]
    assert lapsed[shares].isna().all(axis=None)
    assert summary["customers"].sum() == 130
    assert summary["is_key"].tolist() == [True, True, False, False, False]


def test_a_summary_without_contribution_leaves_it_null_and_an_empty_tier_holds_nothing() -> None:
    measured = measured_of(10, columns={"contribution_margin": np.nan}, off={"contribution": "unknown"})
    summary = grades.tier_summary(customers_of(measured)).set_index("tier")
    assert summary["contribution_margin"].isna().all()
    empty = summary[summary["customers"] == 0]
    assert len(empty)
    assert empty["clv"].eq(0).all()


def test_month_facts_name_what_weights_really_decide() -> None:
    measured = measured_of(60, prospects=25)
    unassigned = pd.DataFrame({"rule": ["unknown_customer"], "lines": [2], "net_amount": [120.5]})
    rows = month_facts.month_facts(customers_of(measured), measured, unassigned, LEVEL, config_of())
    facts = rows.set_index("name")["value"]
    assert facts["prospects"] == 25
    assert facts["revenue_unassigned"] == 120.5
    assert facts["clv_level_constant"] == 1.25
    total = measured.customers["clv"].sum()
    assert facts["clv_total"] == pytest.approx(total)
    # 60 customers cost 1 each to serve, which is certain
    assert facts["clv_total_low"] == pytest.approx((total + 60) * np.exp(-0.12816) - 60)
    assert facts["clv_total_high"] == pytest.approx((total + 60) * np.exp(0.12816) - 60)
    effective = [facts[f"effective_weight_{name}"] for name in CUSTOMER_CRITERIA]
    assert sum(effective) == pytest.approx(1.0)
    assert facts["correlation_lifetime_value_contribution"] > 0.8
    assert 0.2 < facts["concentration_top_20"] < 1
