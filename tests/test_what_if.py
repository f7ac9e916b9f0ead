"""Two policies on the same month: who moves, and how far they agree, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from clv import what_if
from clv.grades import Graded


def sides() -> tuple[pd.DataFrame, Graded]:
    published = pd.DataFrame(
        {
            "customer_id": ["a", "b", "c", "d", "gone"],
            "tier": ["main", "main", "small", "small", "small"],
            "tier_rule": "rank",
            "composite_score": [70.0, 65.0, 40.0, 30.0, 20.0],
            "is_key": [True, True, False, False, False],
            "contribution_margin": [100.0, 50.0, 20.0, 5.0, 1.0],
            "clv": [None] * 5,
            "order_amount": [1000.0, 500.0, 200.0, 50.0, 10.0],
        }
    )
    frame = pd.DataFrame(
        {"customer_id": ["d", "c", "b", "a"], "tier": ["small", "main", "small", "main"], "tier_rule": "rank"}
    )
    return published, cast(Graded, SimpleNamespace(frame=frame, key=("main",)))


def test_moves_money_and_agreement_by_hand() -> None:
    published, graded = sides()
    both = what_if.beside(published, graded)
    assert both["customer_id"].tolist() == ["a", "b", "c", "d"]
    found: dict[str, Any] = what_if.report(both, published, graded)
    assert (found["customers"], found["missing"], found["moved"]) == (4, 1, 2)
    assert found["agreement_ratio"] == 0.5
    assert found["kappa"] == 0.0  # halves on both sides agree by half by chance
    assert found["key_kept_ratio"] == 0.5
    assert found["moves"] == [
        {"from": "main", "to": "small", "customers": 1.0, "contribution_margin": 50.0, "order_amount": 500.0},
        {"from": "small", "to": "main", "customers": 1.0, "contribution_margin": 20.0, "order_amount": 200.0},
    ]
    assert found["key_money"]["contribution_margin"] == {"published": 150.0, "then": 120.0}


def test_the_same_grading_agrees_with_itself() -> None:
    published, graded = sides()
    same = cast(Graded, SimpleNamespace(frame=published[["customer_id", "tier", "tier_rule"]], key=("main",)))
    found = what_if.report(what_if.beside(published, same), published, same)
    assert (found["agreement_ratio"], found["kappa"], found["moved"], found["moves"]) == (1.0, 1.0, 0, [])
    assert found["key_kept_ratio"] == pytest.approx(1.0)
    assert graded.key == ("main",)
