"""What changed since last month: exact, and in words that are true."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clv import changes, grades, points
from clv.changes import Before
from clv.changes.blocks import BLOCKS, NOW, THEN, Composites, Edges
from clv.changes.blocks import points as points_of
from clv.criteria import judge
from clv.features import FEATURES
from clv.models.payment_features import FEATURES as PAYMENT_FEATURES

Floats = NDArray[np.float64]
RESET = {"tier_policy": False, "prospect_tier_policy": False}


@dataclass(frozen=True)
class Speaking:
    models: Any
    grading: Any


# ---- the mathematics, worked by hand


def row(*scores: float) -> Floats:
    return np.array([scores])


def composites(
    then: Floats,
    now: Floats,
    *,
    weights: tuple[Floats, Floats] | None = None,
    by_models: tuple[Floats, Floats] | None = None,
) -> Composites:
    """One customer, two criteria. `by_models`: facts then by the models of now, facts of now by the models then."""
    half = np.array([0.5, 0.5])
    w = weights or (half, half)
    measured = (np.isfinite(then), np.isfinite(now))
    scores = {(NOW, NOW): now, (THEN, NOW): then}
    if by_models:
        scores = {(THEN, THEN): then, (THEN, NOW): by_models[0], (NOW, THEN): by_models[1], (NOW, NOW): now}
    ends = Composites(scores, np.zeros(then.shape), w, measured, (np.zeros(1), np.zeros(1)))
    model = THEN if by_models else NOW
    return replace(ends, published=(ends.of(THEN, model, THEN, THEN), ends.of(NOW, NOW, NOW, NOW)))


def edges(then: float, now: float, **more: Any) -> Edges:
    return Edges((np.array([then]), np.array([now])), np.array([False]), **more)


def found(composed: Composites, edge: Edges, *players: str) -> dict[str, float]:
    got = points_of(composed, edge, frozenset(players))
    return {block: float(value[0]) for block, value in got.items()}


def test_own_facts_and_others_share_the_change_of_the_distance() -> None:
    """Composite 50 -> 60, edge 45 -> 47: the distance grows from 5 to 13, 10 by own facts, -2 by others."""
    got = found(composites(row(40, 60), row(60, 60)), edges(45, 47), "facts", "peers", "coverage")
    assert got == pytest.approx({"facts": 10, "peers": -2, "model": 0, "policy": 0, "coverage": 0})


def test_weights_and_facts_share_by_both_orders() -> None:
    """a 40 -> 60, weights 0.5/0.5 -> 0.8/0.2: 50, facts alone 60, weights alone 44, both 60.
    Facts (10 + 16)/2, policy (-6 + 0)/2."""
    weights = (np.array([0.5, 0.5]), np.array([0.8, 0.2]))
    got = found(
        composites(row(40, 60), row(60, 60), weights=weights), edges(0, 0), "facts", "coverage", "policy"
    )
    assert got == pytest.approx({"facts": 13, "peers": 0, "model": 0, "policy": -3, "coverage": 0})


def test_a_criterion_that_appears_is_coverage_and_never_a_move_of_its_own() -> None:
    """a 40 -> 50, b appears with 80: 40, facts alone 50, b alone 60, both 65."""
    got = found(composites(row(40, math.nan), row(50, 80)), edges(0, 0), "facts", "peers", "coverage")
    assert got == pytest.approx({"facts": 7.5, "peers": 0, "model": 0, "policy": 0, "coverage": 17.5})
    gone = found(composites(row(50, 80), row(40, math.nan)), edges(0, 0), "facts", "peers", "coverage")
    assert gone == pytest.approx({"facts": -7.5, "peers": 0, "model": 0, "policy": 0, "coverage": -17.5})


def test_models_move_the_customer_and_the_edge() -> None:
    """New models give everybody 5 points more: the customer 50 -> 55, the edge at the second of three 80 -> 85. Others
    are 4 points worse by either: 76, and 81 as published. Own facts did nothing."""
    rankings = {}
    for policy in (THEN, NOW):
        rankings[THEN, THEN, policy] = np.array([90.0, 80, 70])
        rankings[THEN, NOW, policy] = np.array([95.0, 85, 75])
        rankings[NOW, THEN, policy] = np.array([87.0, 76, 70])
        rankings[NOW, NOW, policy] = np.array([92.0, 81, 75])
    composed = composites(row(50, 50), row(55, 55), by_models=(row(55, 55), row(50, 50)))
    got = found(composed, edges(80, 81, rankings=rankings), "facts", "peers", "coverage", "model")
    assert got == pytest.approx({"facts": 0, "peers": 4, "model": 0, "policy": 0, "coverage": 0})


def by_all_orders(value: Callable[[frozenset[str]], Floats]) -> dict[str, Floats]:
    """Shapley values by the definition: the mean over all 120 orders of the five blocks; 32 coalitions."""
    total = {block: np.zeros_like(value(frozenset())) for block in BLOCKS}
    orders = list(permutations(BLOCKS))
    for order in orders:
        before: frozenset[str] = frozenset()
        for block in order:
            total[block] = total[block] + value(before | {block}) - value(before)
            before |= {block}
    return {block: part / len(orders) for block, part in total.items()}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.lists(st.booleans(), min_size=8, max_size=8))
def test_points_are_the_mean_over_all_orders_of_the_32_coalitions(seed: int, missing: list[bool]) -> None:
    rng = np.random.default_rng(seed)
    n = 2
    scores = {key: rng.uniform(20, 80, (n, 2)) for key in product((THEN, NOW), repeat=2)}
    holes = np.array(missing).reshape(2, n, 2)
    holes[:, :, 0] &= ~holes[:, :, 1]  # something is measured in both months
    measured = []
    for facts in (THEN, NOW):
        for model in (THEN, NOW):
            scores[facts, model][holes[facts]] = np.nan
        measured.append(~holes[facts])
    weights = [w / w.sum() for w in rng.uniform(0.1, 1, (2, 2))]
    composed = Composites(
        scores,
        rng.normal(0, 1, (n, 2)),
        (weights[0], weights[1]),
        (measured[0], measured[1]),
        (np.zeros(n),) * 2,
    )
    composed = replace(composed, published=(composed.of(0, 0, 0, 0), composed.of(1, 1, 1, 1)))
    rankings = {key: np.sort(rng.uniform(20, 80, 9))[::-1] for key in product((THEN, NOW), repeat=3)}
    edge = Edges((rankings[0, 0, 0][[3, 5]], rankings[1, 1, 1][[4, 5]]), np.array([False, True]), rankings)

    @cache
    def value(coalition: frozenset[str]) -> Floats:
        on = {block: int(block in coalition) for block in BLOCKS}
        composite = composed.of(on["facts"], on["model"], on["policy"], on["coverage"])
        return composite - edge.of(on["peers"], on["model"], on["policy"])

    assert value(frozenset()) == pytest.approx(composed.published[THEN] - edge.published[THEN])
    assert value(frozenset(BLOCKS)) == pytest.approx(composed.published[NOW] - edge.published[NOW])
    got, expected = points_of(composed, edge, frozenset(BLOCKS)), by_all_orders(value)
    for block in BLOCKS:
        assert got[block] == pytest.approx(expected[block], abs=1e-9), block


# ---- a company, two months


def before_of(company: SimpleNamespace, **more: Any) -> Before:
    month = company.first
    given = {"grades": month.grades, "criteria": month.criteria, "speaking": None, "same_settings": True}
    return Before(**(given | more))


def told(company: SimpleNamespace, before: Before | None, **more: Any) -> pd.DataFrame:
    month, config = company.second, more.get("config", company.config)
    graded = more.get("graded", (month.customers, month.prospects))
    explained = more.get(
        "explained",
        (
            points.of_customers(month.measured, company.models, company.grading, config.standards),
            points.of_prospects(month.measured, company.models, company.grading, config),
        ),
    )
    now = Speaking(company.models, company.grading)
    return changes.changes(
        company.db, before, graded, explained, month.known, now, config, company.pricing, policy_reset=RESET
    )


@pytest.fixture(scope="module")
def table(two_months: SimpleNamespace) -> pd.DataFrame:
    return told(two_months, before_of(two_months))


def distances(company: SimpleNamespace, ids: pd.Series) -> pd.DataFrame:
    """Composite less edge in both months as published, of those who stayed in a tier with an edge."""
    columns = ["customer_id", "composite_score", "tier_edge_score", "tier"]
    both = company.first.grades[columns].merge(company.second.grades[columns], on="customer_id")
    both = both[both["customer_id"].isin(ids) & (both["tier_x"] == both["tier_y"])]
    both = both.dropna(subset=["tier_edge_score_x", "tier_edge_score_y"])
    change = (both["composite_score_y"] - both["tier_edge_score_y"]) - (
        both["composite_score_x"] - both["tier_edge_score_x"]
    )
    return pd.DataFrame({"change": change.astype(float).to_numpy()}, index=both["customer_id"])


def test_changes_add_up_to_what_happened_to_the_published_distance(
    table: pd.DataFrame, two_months: SimpleNamespace
) -> None:
    expected = distances(two_months, table["customer_id"])["change"]
    total = table.groupby("customer_id")["points"].sum()
    assert len(expected) > 5
    assert (total[expected.index] - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("who", ["customers", "prospects"])
def test_blocks_of_everybody_add_up_shown_or_not(who: str, two_months: SimpleNamespace) -> None:
    graded = getattr(two_months.second, who)
    everyone = changes.blocks_of(before_of(two_months), graded, {}, two_months.config, policy_reset=False)
    expected = distances(two_months, everyone["customer_id"])["change"]
    total = everyone.set_index("customer_id")[list(BLOCKS)].sum(axis=1)
    assert (total[expected.index] - expected).abs().max() <= 1e-6
    assert (everyone["model"] == 0).all()


def test_shown_is_who_moved_or_changed_by_three_points(
    table: pd.DataFrame, two_months: SimpleNamespace
) -> None:
    was = two_months.first.grades.set_index(["value_source", "customer_id"])["tier"]
    now = two_months.second.grades.set_index(["value_source", "customer_id"])
    scored = now["composite_score"].notna()
    moved = now.index[(was.reindex(now.index).notna() & (was.reindex(now.index) != now["tier"]) & scored)]
    assert set(moved.get_level_values(1)) <= set(table["customer_id"])
    total = table.groupby("customer_id")["points"].agg(["sum", lambda x: x.abs().max()])
    still = total[~total.index.isin(moved.get_level_values(1))]
    assert ((still.abs() >= changes.SHOWN_POINTS - 1e-9).any(axis=1)).all()
    assert not table.duplicated(["customer_id", "block"]).any()
    large = table[table["points"].abs() >= 0.05]
    assert large["sentence"].notna().all()
    assert large["template_id"].notna().all()
    assert all(isinstance(json.loads(text), dict) for text in table["values"])
    assert set(moved.get_level_values(1)) <= set(table.loc[table["block"] == "facts", "customer_id"])


def test_the_first_month_has_no_changes_and_equal_months_have_none(two_months: SimpleNamespace) -> None:
    assert told(two_months, None).empty
    month = two_months.second
    same = Before(month.grades, month.criteria, None, True)
    for graded in (month.customers, month.prospects):
        blocks = changes.blocks_of(same, graded, {}, two_months.config, policy_reset=False)
        assert (blocks["facts"].abs() < 1e-9).all()
        assert (blocks["coverage"] == 0).all()


def test_a_fact_that_came_late_is_the_customers_own(two_months: SimpleNamespace) -> None:
    """The month before was published with other scores than would be measured of it today."""
    grades_then, criteria_then = two_months.first.grades.copy(), two_months.first.criteria.copy()
    graded = two_months.second.customers
    plain = changes.blocks_of(before_of(two_months), graded, {}, two_months.config, policy_reset=False)
    customer = plain["customer_id"].iloc[0]
    mine = (criteria_then["customer_id"] == customer) & criteria_then["score"].notna()
    criteria_then.loc[mine, "score"] = criteria_then.loc[mine, "score"] - 2.0
    own = (grades_then["customer_id"] == customer).to_numpy()
    grades_then.loc[own, "composite_score"] = grades_then.loc[own, "composite_score"].astype(float) - 2.0
    late = changes.blocks_of(
        before_of(two_months, grades=grades_then, criteria=criteria_then),
        graded,
        {},
        two_months.config,
        policy_reset=False,
    )
    gained = late.iloc[0][list(BLOCKS)] - plain.iloc[0][list(BLOCKS)]
    assert gained["facts"] == pytest.approx(2.0)
    assert gained.drop("facts").abs().max() < 1e-9


def test_other_models_then_are_a_block_of_their_own_and_all_still_adds_up(
    two_months: SimpleNamespace,
) -> None:
    """The month before as another level of the value model would have graded it: only the model has changed of it."""
    company, models = two_months, two_months.models
    older = replace(
        models, lifetime_value=replace(models.lifetime_value, level=models.lifetime_value.level * 1.5)
    )
    month = company.first
    measured = judge(month.known, company.config, company.pricing, older)
    nobody = pd.DataFrame({"customer_id": [], "value_source": [], "tier": []}, dtype="str")
    overridden = grades.overrides_valid(company.db, month.as_of)
    graded = grades.grade_customers(
        measured, company.grading, company.config, nobody, overridden, policy_reset=False
    )
    table_then = pd.concat(
        [
            grades.grades_table(graded, {}, company.pricing.basis).astype("object"),
            month.grades[month.grades["value_source"] == "prospect"],
        ],
        ignore_index=True,
    ).assign(as_of_date=pd.Timestamp(month.as_of))
    criteria_then = pd.concat(
        [
            grades.criteria_table(graded, measured),
            month.criteria[month.criteria["criterion"] == "prospect"],
        ],
        ignore_index=True,
    )
    before = Before(table_then, criteria_then, Speaking(older, company.grading), True)
    found = told(company, before)
    was = table_then.set_index("customer_id")
    now = company.second.grades.set_index("customer_id")
    total = found.groupby("customer_id")["points"].sum()
    stayed = [
        customer
        for customer in total.index
        if was.loc[customer, "tier"] == now.loc[customer, "tier"]
        and pd.notna(was.loc[customer, "tier_edge_score"])
        and pd.notna(now.loc[customer, "tier_edge_score"])
    ]
    assert stayed
    for customer in stayed:
        there = was.loc[customer, "composite_score"] - was.loc[customer, "tier_edge_score"]
        here = now.loc[customer, "composite_score"] - now.loc[customer, "tier_edge_score"]
        assert total[customer] == pytest.approx(here - there, abs=1e-6)
    model = found[found["block"] == "model"]
    assert len(model)
    assert model["sentence"].dropna().str.startswith("Forecasts were learned anew").all()
    # The level moves customers and edge alike: little of it is left in the distance.
    assert model["points"].abs().median() < 3


def test_other_weights_are_policy(two_months: SimpleNamespace) -> None:
    composite = two_months.config.composite
    other = composite.model_copy(
        update={"weights": {"lifetime_value": 0.2, "payment": 0.6, "contribution": 0.2, "order_amount": 0.0}}
    )
    config = two_months.config.model_copy(update={"composite": other})
    month = two_months.second
    overridden = grades.overrides_valid(two_months.db, month.as_of)
    graded = grades.grade_customers(
        month.measured, two_months.grading, config, two_months.first.grades, overridden, policy_reset=False
    )
    before = before_of(two_months, same_settings=False)
    found = told(two_months, before, config=config, graded=(graded, month.prospects))
    policy = found[found["block"] == "policy"]
    assert policy["points"].abs().max() > 1
    was = two_months.first.grades.set_index("customer_id")
    now = graded.frame.set_index("customer_id")
    total = found.groupby("customer_id")["points"].sum()
    for customer in total.index.intersection(now.index):
        edges_known = pd.notna(was.loc[customer, "tier_edge_score"]) & pd.notna(
            now.loc[customer, "tier_edge_score"]
        )
        if was.loc[customer, "tier"] == now.loc[customer, "tier"] and edges_known:
            there = was.loc[customer, "composite_score"] - was.loc[customer, "tier_edge_score"]
            here = now.loc[customer, "composite_score"] - now.loc[customer, "tier_edge_score"]
            assert total[customer] == pytest.approx(here - there, abs=1e-6)


def test_a_fact_told_moved_the_way_of_its_points(table: pd.DataFrame, two_months: SimpleNamespace) -> None:
    """Concept after concept: what is told has the sign of the block, and never the name of a feature."""
    facts = table[(table["block"] == "facts") & table["template_id"].astype("str").str.startswith("facts.")]
    assert len(facts) > 20
    for sentence, value in zip(facts["sentence"], facts["points"], strict=True):
        pieces = [piece for piece in sentence.split("; ") if "(was " in piece]
        sign = "−" if value < 0 else "+"
        assert pieces
        assert all(f": {sign}" in piece for piece in pieces), sentence
    names = {feature.name for feature in (*FEATURES, *PAYMENT_FEATURES) if "_" in feature.name}
    words = " ".join(table["sentence"].dropna())
    assert not any(name in words for name in names)
    assert "SHAP" not in words


def test_same_input_same_text_in_any_order_of_rows(table: pd.DataFrame, two_months: SimpleNamespace) -> None:
    rng = np.random.default_rng(3)
    month = two_months.first
    shuffled = before_of(
        two_months,
        grades=month.grades.iloc[rng.permutation(len(month.grades))],
        criteria=month.criteria.iloc[rng.permutation(len(month.criteria))],
    )
    pd.testing.assert_frame_equal(told(two_months, shuffled), table)


# ---- words


def placeholders(content: Any) -> Any:
    """The templates of a language file with nothing left but what is filled in."""
    if isinstance(content, dict):
        return {key: placeholders(value) for key, value in content.items() if key != "counts"}
    return sorted(set(re.findall(r"\{(\w+)\}", content)))


def test_chinese_says_the_same_things_with_the_same_figures() -> None:
    folder = Path(changes.__file__).parents[1] / "language"
    english = yaml.safe_load((folder / "en.yaml").read_text(encoding="utf-8"))
    chinese = yaml.safe_load((folder / "zh.yaml").read_text(encoding="utf-8"))
    for part in ("changes", "paths"):
        assert placeholders(chinese[part]).keys() == placeholders(english[part]).keys()
    assert placeholders(chinese["changes"]) == placeholders(english["changes"])
    assert placeholders(chinese["paths"]) == placeholders(english["paths"])


def test_every_gate_has_words() -> None:
    folder = Path(changes.__file__).parents[1] / "language"
    words = yaml.safe_load((folder / "en.yaml").read_text(encoding="utf-8"))
    gates = {"insolvency", "write_off", "blocked", "negative_contribution", "late_payment", "arrears"}
    assert set(words["changes"]["gates"]) == gates
    assert set(words["paths"]["open_gate"]) == gates
