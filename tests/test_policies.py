"""Every policy comes down to exact sizes or to limits; the rest is `tiers.assign`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from clv import policies, tiers
from clv.settings.grading import TierSettings

TABLE = settings(derandomize=True, deadline=None, max_examples=60, database=None)


def frame_of(scores: Sequence[float], **columns: Any) -> pd.DataFrame:
    n = len(scores)
    nobody = pd.Series([None] * n, dtype="str")
    frame = pd.DataFrame(
        {"customer_id": [f"C{i:04d}" for i in range(n)], "composite_score": np.asarray(scores, dtype=float)}
    )
    frame = frame.assign(
        tie_break=0.0, gate=nobody, is_provisional=False, previous_tier=nobody, override_tier=nobody
    )
    return frame.assign(**columns)


def assigned(frame: pd.DataFrame, settings: TierSettings, **options: bool) -> pd.DataFrame:
    return tiers.assign(frame, policies.cut_of(frame, settings), settings.key, settings.band_ratio, **options)


def test_three_classes_are_a_pyramid_of_three() -> None:
    settings = TierSettings(policy="three_classes")
    found = assigned(frame_of(np.arange(200.0)), settings)["tier"].value_counts()
    assert found.to_dict() == {"A": 40, "B": 60, "C": 100}
    assert settings.key == ["A"]


def test_shares_of_value_take_the_fewest_first_ones_who_make_80_percent() -> None:
    value = np.array([50.0, 20, 11, 9, 5, 3, 1, 1, 0, -4])  # positive ones together 100
    frame = frame_of(np.arange(10, 0, -1.0), contribution_margin=value)
    found = assigned(frame, TierSettings(policy="value_shares"))
    assert found["tier"].tolist() == ["A"] * 3 + ["B"] * 2 + ["C"] * 5  # 81, then 95
    exact = frame_of(np.arange(4, 0, -1.0), contribution_margin=[80.0, 15, 4, 1])
    assert assigned(exact, TierSettings(policy="value_shares"))["tier"].tolist() == ["A", "B", "C", "C"]


def test_shares_of_nothing_leave_all_in_the_last_tier() -> None:
    for value in (0.0, -5.0, np.nan):
        found = assigned(
            frame_of(np.arange(30.0), contribution_margin=value), TierSettings(policy="value_shares")
        )
        assert set(found["tier"]) == {"C"}


@TABLE
@given(st.integers(1, 120), st.integers(0, 2**32 - 1), st.floats(0.05, 0.9), st.floats(0.1, 1000))
def test_shares_of_value_hold_at_least_their_share_and_not_one_customer_more(
    n: int, seed: int, share: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    value = np.round(rng.lognormal(3, 2, n), 2) * scale
    frame = frame_of(rng.permutation(n).astype(float), contribution_margin=value)
    chosen = TierSettings(policy="value_shares", shares_ratio={"top": share, "rest": 1 - share}, key=["top"])
    top = assigned(frame, chosen)
    members = top[top["tier"] == "top"].sort_values("composite_rank")["contribution_margin"]
    assert members.sum() >= share * value.sum() * (1 - 1e-9)
    assert members.iloc[:-1].sum() < share * value.sum()
    unscaled = assigned(frame.assign(contribution_margin=value / scale), chosen)
    assert (unscaled["tier"] == top["tier"]).all()


def test_counts_take_so_many_while_they_last() -> None:
    chosen = TierSettings(policy="counts", counts={"vip": 3, "gold": 10}, basic="rest")
    found = assigned(frame_of(np.arange(50.0)), chosen)
    assert found["tier"].value_counts().to_dict() == {"vip": 3, "gold": 10, "rest": 37}
    assert assigned(frame_of(np.arange(5.0)), chosen)["tier"].value_counts().to_dict() == {
        "vip": 3,
        "gold": 2,
    }
    assert assigned(frame_of([1.0]), chosen)["tier"].tolist() == ["vip"]


def test_thresholds_are_reached_at_the_limit_and_kept_a_band_below_it() -> None:
    chosen = TierSettings(policy="thresholds", thresholds={"gold": 1000, "silver": 300}, measure="revenue")
    frame = frame_of(
        np.zeros(7),
        revenue=[1000.0, 999.0, 900.0, 799.0, 250.0, np.nan, 300.0],
        previous_tier=pd.Series([None, None, "gold", "gold", "silver", "gold", "basic"], dtype="str"),
    )
    found = assigned(frame, chosen)
    assert found["tier"].tolist() == ["gold", "silver", "gold", "silver", "silver", "basic", "silver"]
    assert found["tier_rule"].tolist() == ["rank", "rank", "band", "rank", "band", "rank", "rank"]
    assert found["tier_edge_score"].isna().all()  # the composite does not decide


def test_a_gate_keeps_below_key_whatever_the_threshold_says() -> None:
    chosen = TierSettings(policy="thresholds", thresholds={"gold": 1000, "silver": 300}, measure="revenue")
    frame = frame_of([1.0, 2.0], revenue=[5000.0, 5000.0], gate=pd.Series(["arrears", None], dtype="str"))
    found = assigned(frame, chosen)
    assert found["tier"].tolist() == ["silver", "gold"]
    assert found["tier_rule"].tolist() == ["gate:arrears", "rank"]


def test_tiers_may_have_names_in_any_language() -> None:
    chosen = TierSettings(policy="counts", counts={"重要客户": 1, "großer Kunde": 2}, basic="остальные")
    assert chosen.key == ["重要客户"]
    found = assigned(frame_of(np.arange(20.0)), chosen)["tier"]
    assert found.value_counts().to_dict() == {"重要客户": 1, "großer Kunde": 2, "остальные": 17}


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"policy": "thresholds"}, "needs at least one"),
        ({"policy": "thresholds", "thresholds": {"a": 1, "b": 2}}, "expected falling limits"),
        ({"policy": "counts", "counts": {"inactive": 3}}, "none of them 'inactive'"),
        ({"policy": "counts", "counts": {"basic": 3}}, "distinct names"),
        ({"counts": {"a": 3}}, "belongs to the policy counts"),
        (
            {"policy": "thresholds", "thresholds": {"a": 5}, "group_thresholds": {"b": 4}},
            r"expected the tiers \['a'\]",
        ),
        ({"policy": "counts", "counts": {"a": 3}, "key": ["basic"]}, "key must be the highest tiers"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given_settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TierSettings.model_validate(given_settings)


# Confirmation and gates that stay shut


def _earlier(rows: Sequence[tuple[str, int, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["customer_id", "month", "policy_tier"])


def test_a_move_waits_until_so_many_months_have_asked_for_it() -> None:
    names = ["main", "ordinary", "small"]
    moved = pd.DataFrame(
        {
            "customer_id": ["up_again", "up_once", "down_twice", "new", "gated", "decided"],
            "previous_tier": pd.Series(["ordinary", "ordinary", "main", None, "main", "small"], dtype="str"),
            "tier": ["main", "main", "ordinary", "main", "ordinary", "main"],
            "tier_rule": ["rank", "rank", "rank", "rank", "gate:arrears", "override"],
            "tier_edge_score": 50.0,
        }
    )
    earlier = _earlier(
        [
            ("up_again", 1, "main"), ("up_once", 1, "ordinary"), ("down_twice", 1, "small"),
            ("gated", 1, "main"), ("decided", 1, "small"), ("up_once", 2, "main"),
        ]
    )  # fmt: skip
    found = tiers.hold_unconfirmed(moved, names, earlier, 2)
    assert found["tier"].tolist() == ["main", "ordinary", "ordinary", "main", "ordinary", "main"]
    assert found["tier_rule"].tolist() == ["rank", "unconfirmed", "rank", "rank", "gate:arrears", "override"]
    assert found["tier_edge_score"].isna().tolist() == [False, True, False, False, False, False]
    assert tiers.hold_unconfirmed(moved, names, earlier, 1) is moved
