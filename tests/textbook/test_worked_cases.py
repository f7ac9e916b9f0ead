"""Worked cases of grading that every release must reproduce, inside one fixed population of 100 customers.

`population.csv` holds one customer a row with its numbers: net orders of a year, margin before late money, days
beyond terms, P(more than 30 days late), share of the open balance overdue by more than 30 days. Nine customers
are the cases; the other 91 (i = 0 to 90) follow fixed formulas: orders 50,000·600^((37·i mod 91)/90), margins
10 to 20 % = 0.10 + 0.01·(7·i mod 11), days beyond terms (13·i mod 40) - 10, late with 0.02 + 0.01 a day.
The value of the next year is the margin of this one, discounted by half a year at 8 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from clv import composite, policies, tiers
from clv.config import CompositeSettings, GateSettings, TierSettings

NUMBERS = Path(__file__).parent / "population.csv"
KINDS = {"lifetime_value": "log", "payment": "payment", "contribution": "asinh", "order_amount": "log1p"}
POLICY = TierSettings()
DEFAULT = CompositeSettings().weights
CAPITAL_RATE = 0.08


@pytest.fixture(scope="module")
def population() -> pd.DataFrame:
    text = pd.read_csv(NUMBERS, dtype=str, keep_default_na=False)
    numbers = text.drop(columns="customer_id").astype("float64")
    return numbers.assign(
        customer_id=text["customer_id"],
        contribution_margin=numbers["order_amount"] * numbers["contribution_margin_ratio"],
    )


def _grade(population: pd.DataFrame, weights: Mapping[str, float]) -> pd.DataFrame:
    """Tiers of the population by customer_id, all of it new this month."""
    values = pd.DataFrame(
        {
            "lifetime_value": population["contribution_margin"] / (1 + CAPITAL_RATE) ** 0.5,
            "payment": population["late_payment_probability"],
            "contribution": population["contribution_margin"],
            "order_amount": population["order_amount"],
        }
    )
    grading = composite.fit(values, KINDS, {}, trained_as_of=date(2026, 1, 1))
    scores = grading.score(values)
    graded = composite.compose(scores, weights, set(KINDS), grading.baselines, 0.6)
    nobody = pd.Series([None] * len(population), dtype="str")
    frame = population.assign(
        composite_score=graded["composite_score"],
        is_provisional=graded["is_provisional"],
        tie_break=population["contribution_margin"],
        gate=tiers.gates(population, GateSettings()),
        previous_tier=nobody,
        override_tier=nobody,
    )
    result = tiers.assign(frame, policies.cut_of(frame, POLICY), POLICY.key, POLICY.band_ratio)
    return result.set_index("customer_id")


@pytest.fixture(scope="module")
def grades(population: pd.DataFrame) -> pd.DataFrame:
    return _grade(population, DEFAULT)


def test_population_is_100_customers_with_100_ids(population: pd.DataFrame) -> None:
    assert len(population) == population["customer_id"].nunique() == 100


def test_100_customers_make_1_19_30_50(grades: pd.DataFrame) -> None:
    sizes = grades["tier"].value_counts()
    assert {name: int(sizes[name]) for name in POLICY.shares_ratio} == {
        "important": 1,
        "main": 19,
        "ordinary": 30,
        "small": 50,
    }
    assert grades["tier"].isin(POLICY.key).sum() == 20


def test_60m_at_10_percent_leads_50m_at_15_by_order_amount(population: pd.DataFrame) -> None:
    rank = _grade(population, {"order_amount": 1.0})["composite_rank"]
    assert rank["orders_60m_at_10"] == 1
    assert rank["orders_50m_at_15"] == 2


def test_50m_at_15_percent_leads_60m_at_10_by_contribution(population: pd.DataFrame) -> None:
    graded = _grade(population, {"contribution": 1.0})
    assert graded["contribution_margin"]["orders_60m_at_10"] == pytest.approx(6_000_000)
    assert graded["contribution_margin"]["orders_50m_at_15"] == pytest.approx(7_500_000)
    assert graded["composite_rank"]["orders_50m_at_15"] == 1
    assert graded["composite_rank"]["orders_60m_at_10"] > 1


def test_8m_paid_on_time_ranks_above_10m_paid_half_a_year_late(grades: pd.DataFrame) -> None:
    late, on_time = grades.loc["orders_10m_half_a_year_late"], grades.loc["orders_8m_on_time"]
    assert late["contribution_margin_ratio"] == on_time["contribution_margin_ratio"] == 0.12
    assert on_time["composite_rank"] < late["composite_rank"]


def test_10m_leads_8m_where_payment_does_not_count(population: pd.DataFrame) -> None:
    rank = _grade(population, {"lifetime_value": 0.7, "contribution": 0.3})["composite_rank"]
    assert rank["orders_10m_half_a_year_late"] < rank["orders_8m_on_time"]


def test_best_payer_with_tiny_orders_is_not_key(grades: pd.DataFrame, population: pd.DataFrame) -> None:
    best = population["late_payment_probability"].idxmin()
    assert population["customer_id"][best] == "best_payer_tiny_orders"
    assert grades.loc["best_payer_tiny_orders", "tier"] not in POLICY.key


@pytest.mark.parametrize(
    ("customer", "rule"),
    [
        ("large_orders_thin_margin", "rank"),
        ("large_orders_at_a_loss", "rank"),
        ("large_orders_in_arrears", "gate:arrears"),
        ("large_orders_paid_late", "rank"),
    ],
)
def test_large_orders_at_low_margin_or_in_arrears_are_not_key(
    grades: pd.DataFrame, customer: str, rule: str
) -> None:
    by_amount = grades["order_amount"].rank(ascending=False)
    assert by_amount[customer] <= 20
    assert grades.loc[customer, "tier"] not in POLICY.key
    assert grades.loc[customer, "tier_rule"] == rule


def test_without_payment_in_the_weights_the_gates_still_hold(population: pd.DataFrame) -> None:
    graded = _grade(population, {"order_amount": 1.0})
    for customer, reason in {
        "large_orders_at_a_loss": "negative_contribution",
        "large_orders_in_arrears": "arrears",
        "large_orders_paid_late": "late_payment",
    }.items():
        assert graded.loc[customer, "policy_tier"] in POLICY.key
        assert graded.loc[customer, "tier"] == "ordinary"
        assert graded.loc[customer, "tier_rule"] == f"gate:{reason}"
