"""How steady tiers are, and what they held: worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clv import stability


def history(rows: dict[str, str], rules: dict[tuple[str, int], str] | None = None) -> pd.DataFrame:
    """Months of each customer as digits; a dot = not in tiers. Rules other than `rank` by customer and month."""
    return pd.DataFrame(
        [
            {
                "customer_id": customer,
                "month": month,
                "tier": int(tier),
                "tier_rule": (rules or {}).get((customer, month), "rank"),
            }
            for customer, months in rows.items()
            for month, tier in enumerate(months)
            if tier != "."
        ]
    )


def test_moves_and_reversals_by_hand() -> None:
    found = stability.steadiness(history({"a": "0101", "b": "0011", "c": "1111", "d": "1.11", "e": "0121"}))
    # Pairs of months in tiers: 3 + 3 + 3 + 1 + 3; moves: a 3, b 1, e 3. Moves whose next month is known: a 2, b 1,
    # e 2; undone: a 2 (0-1-0, 1-0-1), e 1 (1-2-1).
    assert found.moves == 7
    assert found.moves_ratio == pytest.approx(7 / 13)
    assert found.reversals_ratio == found.ranking_reversals_ratio == pytest.approx(3 / 5)


def test_moves_are_put_down_to_the_rule_that_made_them() -> None:
    rules = {
        ("a", 1): "gate:arrears",
        ("c", 2): "override",
        ("d", 1): "gate:arrears",
        ("d", 2): "gate:arrears",
    }
    seen = history({"a": "010", "b": "0100", "c": "1101", "d": "0111"}, rules)
    moved = stability.moves(seen)
    assert stability.moves_by(moved, moved["rule"]) == {
        "gate:arrears": {"moves": 2.0, "share_ratio": 2 / 7, "reversals_ratio": 0.5},
        "ranking": {"moves": 2.0, "share_ratio": 2 / 7, "reversals_ratio": 0.5},
        "after gate:arrears": {"moves": 1.0, "share_ratio": 1 / 7, "reversals_ratio": None},
        "after override": {"moves": 1.0, "share_ratio": 1 / 7, "reversals_ratio": None},
        "override": {"moves": 1.0, "share_ratio": 1 / 7, "reversals_ratio": 1.0},
    }
    found = stability.steadiness(seen)
    # Of five moves whose next month is known (a's and d's by arrears, both of b but its last, c's by a person) three
    # went back; of the two by ranking one.
    assert found.reversals_ratio == pytest.approx(3 / 5)
    assert found.ranking_reversals_ratio == pytest.approx(1 / 2)


def test_one_month_has_no_moves() -> None:
    found = stability.steadiness(history({"a": "0"}))
    assert (found.moves_ratio, found.reversals_ratio, found.moves) == (None, None, 0)


def test_rfm_adds_three_classes_of_fifths() -> None:
    frame = pd.DataFrame(
        {
            "days_since_last_purchase": [1.0, 2, 3, 4, np.nan],
            "order_count": [5, 5, 5, 1, 1],
            "revenue_365": [10.0, 20, 30, 40, 50],
        }
    )
    assert stability.rfm(frame).tolist() == [5 + 3 + 1, 4 + 3 + 2, 3 + 3 + 3, 2 + 1 + 4, 1 + 1 + 5]


def test_value_by_tier_has_means_intervals_and_an_order() -> None:
    rng = np.random.default_rng(5)
    ids = np.repeat([f"c{i}" for i in range(300)], 2)
    tier = np.repeat(np.arange(300) % 3, 2)
    realised = np.array([90.0, 30.0, 10.0])[tier] + rng.normal(0, 5, 600)
    found = stability.value_by_tier(ids, tier, realised, ["a", "b", "c", "empty"], seed=1)
    assert found["a"]["customers"] == 200
    assert found["a"]["mean"] == pytest.approx(90, abs=1)
    assert found["a"]["low"] < found["a"]["mean"] < found["a"]["high"]
    assert found["empty"] == {"customers": 0.0, "mean": None, "low": None, "high": None}
    assert stability.is_monotone(found)
    turned = stability.value_by_tier(ids, 2 - tier, realised, ["a", "b", "c"], seed=1)
    assert not stability.is_monotone(turned)
    again = stability.value_by_tier(ids[::-1], tier[::-1], realised[::-1], ["a", "b", "c", "empty"], seed=1)
    assert again["b"]["low"] == pytest.approx(found["b"]["low"])


def test_intervals_draw_customers_with_all_their_rows() -> None:
    once = stability.value_by_tier(["a", "b"], np.array([0, 0]), np.array([0.0, 10.0]), ["t"], seed=1)
    many = stability.value_by_tier(
        ["a"] * 50 + ["b"] * 50, np.zeros(100, dtype=int), np.repeat([0.0, 10.0], 50), ["t"], seed=1
    )
    assert many["t"]["low"] == once["t"]["low"]
    assert many["t"]["high"] == once["t"]["high"]


def test_firmness_is_held_against_who_stayed() -> None:
    found = stability.firmness_report(np.array([0.9, 0.9, 0.5, np.nan]), np.array([1.0, 1.0, 0.0, 1.0]))
    assert found["customers"] == 3
    assert found["firm_promised"] == pytest.approx(0.9)
    assert (found["firm_stayed"], found["other_stayed"]) == (1.0, 0.0)
    assert found["brier"] == pytest.approx((0.01 + 0.01 + 0.25) / 3)


def test_what_chosen_rows_hold() -> None:
    realised = np.array([5.0, 3.0, 2.0])
    assert stability.held(realised, np.array([True, False, True])) == pytest.approx(0.7)
    assert np.isnan(stability.held(-realised, np.array([True, False, True])))
