"""Every rule of grading, a test each named after it: scores to composite to tiers, by properties.

Scores are drawn as they come from real companies: correlated values, some missing, some gated, last month's tiers.
Rule 7 (groups) stands in test_groups, rule 8 (pairs) in test_pairwise, rule 10 (tiers order what customers then bring)
in test_stability and test_backtests; firmness of rule 9 in test_firmness; the worked cases in tests/textbook.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clv import composite, policies, stability, tiers
from clv.settings.grading import CompositeSettings, GateSettings, TierSettings

TABLE = settings(derandomize=True, deadline=None, max_examples=30, database=None)
AS_OF = date(2026, 1, 1)
KINDS = {"lifetime_value": "log", "payment": "payment", "contribution": "asinh", "order_amount": "log1p"}
WEIGHTS = CompositeSettings().weights
SIZES = st.sampled_from([1, 7, 19, 20, 60, 100, 230])
SEEDS = st.integers(0, 2**32 - 1)
POLICIES = {
    "pyramid": TierSettings(),
    "three_classes": TierSettings(policy="three_classes"),
    "value_shares": TierSettings(policy="value_shares"),
    "counts": TierSettings(policy="counts", counts={"vip": 5, "gold": 20}),
    "thresholds": TierSettings(
        policy="thresholds", thresholds={"gold": 3000, "silver": 800}, measure="contribution_margin"
    ),
}
POLICY = st.sampled_from(list(POLICIES.values()))


def company(n: int, seed: int, missing: float = 0.1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values of the criteria, and what tiers read beside the composite."""
    rng = np.random.default_rng(seed)
    worth = rng.lognormal(6, 1.4, n)
    values = pd.DataFrame(
        {
            "lifetime_value": worth,
            "payment": np.where(rng.random(n) < missing, math.nan, rng.beta(1, 6, n)),
            "contribution": worth * rng.normal(0.8, 0.5, n),
            "order_amount": worth * rng.uniform(3, 8, n),
        }
    )
    frame = pd.DataFrame(
        {
            "customer_id": [f"C{i:04d}" for i in rng.permutation(n)],
            "tie_break": worth,
            "contribution_margin": values["contribution"],
            "late_payment_probability": values["payment"],
            "overdue_balance_ratio": np.where(rng.random(n) < 0.05, 0.6, 0.0),
            "override_tier": pd.Series([None] * n, dtype="str"),
        }
    )
    return values, frame


def graded(
    values: pd.DataFrame,
    frame: pd.DataFrame,
    policy: TierSettings,
    *,
    grading: composite.Grading | None = None,
    weights: Mapping[str, float] = WEIGHTS,
    previous: Any = None,
) -> pd.DataFrame:
    """Values all the way to tiers."""
    grading = grading or composite.fit(values, KINDS, {}, trained_as_of=AS_OF)
    composed = composite.compose(grading.score(values), weights, list(KINDS), grading.baselines, 0.6)
    held = pd.Series([None] * len(frame), dtype="str") if previous is None else previous
    rows = frame.assign(
        composite_score=composed["composite_score"],
        is_provisional=composed["is_provisional"],
        gate=tiers.gates(frame, GateSettings()),
        previous_tier=held,
    )
    return tiers.assign(rows, policies.cut_of(rows, policy), policy.key, policy.band_ratio)


def previous_of(policy: TierSettings, n: int, seed: int) -> pd.Series:
    rng = np.random.default_rng(seed + 1)
    names = np.array([*policy.names, None], dtype=object)
    return pd.Series(rng.choice(names, n), dtype="str")


# 1


def test_rule_1_nobody_ties_at_the_top_of_the_scale() -> None:
    worth = np.random.default_rng(2).lognormal(6, 1.5, 200_000)
    for method in ("log_z", "log_percentile"):
        scale = composite.fit({"c": worth}, {"c": "log"}, {}, trained_as_of=AS_OF, method=method).scales["c"]
        best = np.sort(scale.score(worth))[-2000:]
        assert (np.diff(best) > 0).mean() > 0.99
        assert scale.score([worth.max() * 2])[0] > best[-1]


@TABLE
@given(SIZES, SEEDS, st.sampled_from([0.01, 3.7, 1000.0]))
def test_rule_1_scale_proof_the_currency_of_all_money_changes_no_tier(n: int, seed: int, rate: float) -> None:
    values, frame = company(n, seed)
    money = ["lifetime_value", "contribution", "order_amount"]
    converted = values.assign(**{name: values[name] * rate for name in money})
    policy = POLICIES["pyramid"]
    other = frame.assign(
        contribution_margin=frame["contribution_margin"] * rate, tie_break=frame["tie_break"] * rate
    )
    assert graded(converted, other, policy)["tier"].tolist() == graded(values, frame, policy)["tier"].tolist()


@TABLE
@given(SEEDS)
def test_rule_1_both_scales_rank_one_criterion_alike(seed: int) -> None:
    worth = np.random.default_rng(seed).lognormal(6, 1.5, 300)
    ranks = [
        composite.fit({"c": worth}, {"c": "log"}, {}, trained_as_of=AS_OF, method=method)
        .scales["c"].score(worth).argsort(kind="stable").tolist()
        for method in ("log_z", "log_percentile")
    ]  # fmt: skip
    floor = np.percentile(worth, 1)
    above = set(np.flatnonzero(worth > floor).tolist())
    assert [i for i in ranks[0] if i in above] == [i for i in ranks[1] if i in above]


# 2


@TABLE
@given(SIZES, SEEDS, POLICY, st.sampled_from(list(KINDS)), st.floats(0.01, 3.0))
def test_rule_2_monotone_a_better_criterion_never_lowers_composite_or_tier(
    n: int, seed: int, policy: TierSettings, criterion: str, gain: float
) -> None:
    values, frame = company(n, seed, missing=0.0)
    held = previous_of(policy, n, seed)
    grading = composite.fit(values, KINDS, {}, trained_as_of=AS_OF)
    before = graded(values, frame, policy, grading=grading, previous=held)
    row = seed % n
    better, facts = values.copy(), frame.copy()
    old = float(values.loc[row, criterion])
    new = old * math.exp(-gain) if criterion == "payment" else old + abs(old) * gain
    better.loc[row, criterion] = new
    if criterion == "payment":
        facts.loc[row, "late_payment_probability"] = new
    if criterion == "contribution":
        facts.loc[row, "contribution_margin"] = new
    after = graded(better, facts, policy, grading=grading, previous=held)
    assert after["composite_score"][row] >= before["composite_score"][row] - 1e-9
    if (
        policy.policy == "value_shares"
    ):  # one's own growth moves the cut: more of the value is in the first tier
        return
    names = list(policy.names)
    assert names.index(after["tier"][row]) <= names.index(before["tier"][row])


# 3


@TABLE
@given(SIZES, SEEDS)
def test_rule_3_a_missing_criterion_is_weighed_away_and_below_60_percent_is_provisional(
    n: int, seed: int
) -> None:
    values, frame = company(n, seed, missing=0.5)
    scores = composite.fit(values, KINDS, {}, trained_as_of=AS_OF).score(values)
    found = composite.compose(scores, WEIGHTS, list(KINDS), dict.fromkeys(KINDS, 50.0), 0.6)
    without = scores["payment"].isna()
    rest = (scores["lifetime_value"] * 0.5 + scores["contribution"] * 0.2) / 0.7
    np.testing.assert_allclose(found["composite_score"][without], rest[without], atol=1e-9)
    assert found["is_provisional"].sum() == 0  # 70 % are measured
    heavy = {"lifetime_value": 0.3, "payment": 0.5, "contribution": 0.2}
    provisional = graded(values, frame, POLICIES["pyramid"], weights=heavy)
    assert provisional["is_provisional"].tolist() == without.tolist()
    assert not (provisional["is_provisional"] & (provisional["tier"] == "important")).any()


# 4


@TABLE
@given(SIZES, SEEDS, POLICY)
def test_rule_4_no_gated_customer_is_key_and_the_rule_says_which_gate(
    n: int, seed: int, policy: TierSettings
) -> None:
    values, frame = company(n, seed)
    found = graded(values, frame, policy, previous=previous_of(policy, n, seed))
    gated = found["gate"].notna()
    assert not found.loc[gated, "tier"].isin(policy.key).any()
    shut = found["tier_rule"].str.startswith("gate:")
    assert (found.loc[shut, "tier_rule"] == "gate:" + found.loc[shut, "gate"]).all()


def test_rule_4_a_dated_override_goes_before_every_gate() -> None:
    values, frame = company(100, 4)
    frame.loc[:, "overdue_balance_ratio"] = 0.9
    frame.loc[3, "override_tier"] = "main"
    found = graded(values, frame, POLICIES["pyramid"])
    assert found.loc[3, ["tier", "tier_rule"]].tolist() == ["main", "override"]


# 5


@TABLE
@given(st.integers(20, 400), SEEDS, st.sampled_from(["pyramid", "three_classes", "counts"]))
def test_rule_5_shares_are_exact_in_every_month_whatever_the_band_holds(n: int, seed: int, name: str) -> None:
    policy = POLICIES[name]
    values, frame = company(n, seed)
    frame = frame.assign(
        contribution_margin=1.0, late_payment_probability=0.1, overdue_balance_ratio=0.0
    )  # no gates
    found = graded(values, frame, policy, previous=previous_of(policy, n, seed))["tier"].value_counts()
    shares = dict(policy.shares_ratio)
    expected = (
        tiers.counts(n, shares)
        if name != "counts"
        else {"vip": 5, "gold": min(20, n - 5), "basic": max(n - 25, 0)}
    )
    assert {tier: int(found.get(tier, 0)) for tier in policy.names} == expected


@TABLE
@given(SIZES, SEEDS, POLICY)
def test_rule_5_permutation_proof_the_order_of_rows_changes_nothing(
    n: int, seed: int, policy: TierSettings
) -> None:
    values, frame = company(n, seed)
    held = previous_of(policy, n, seed)
    order = np.random.default_rng(seed).permutation(n)
    one = graded(values, frame, policy, previous=held)
    other = graded(
        values.iloc[order].reset_index(drop=True),
        frame.iloc[order].reset_index(drop=True),
        policy,
        previous=held.iloc[order].reset_index(drop=True),
    )
    columns = ["customer_id", "tier", "tier_rule", "composite_rank"]
    pd.testing.assert_frame_equal(
        one[columns].sort_values("customer_id", ignore_index=True),
        other[columns].sort_values("customer_id", ignore_index=True),
    )


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("kind", ["one", "all equal", "all negative", "nothing measured"])
def test_rule_5_small_and_odd_populations_have_a_tier_each(policy: TierSettings, kind: str) -> None:
    n = 1 if kind == "one" else 50
    values, frame = company(n, 1)
    if kind == "all equal":
        values.loc[:, :] = [100.0, 0.1, 50.0, 400.0]
    if kind == "all negative":
        values = values.assign(
            lifetime_value=-values["lifetime_value"], contribution=-values["lifetime_value"]
        )
    if kind == "nothing measured":
        values.loc[:, :] = math.nan
    frame["contribution_margin"] = values["contribution"]
    found = graded(values, frame, policy)
    assert found["tier"].isin(policy.names).all()
    assert found["tier_rule"].notna().all()
    assert not found["composite_score"].isin([math.inf, -math.inf]).any()
    if kind == "all negative":
        assert not found["tier"].isin(policy.key).any()


# 6


def test_rule_6_the_band_halves_the_moves_and_keeps_the_counts() -> None:
    rng = np.random.default_rng(8)
    latent, held, rows = rng.normal(50, 8, 2000), {0.0: None, 0.2: None}, {0.0: [], 0.2: []}
    nobody = pd.Series([None] * 2000, dtype="str")
    for month in range(13):
        frame = pd.DataFrame(
            {
                "customer_id": [f"C{i:04d}" for i in range(2000)],
                "composite_score": latent + rng.normal(0, 1.3, 2000),
                "tie_break": 0.0,
                "gate": nobody,
                "is_provisional": False,
                "override_tier": nobody,
            }
        )
        for band in held:
            policy = TierSettings(band_ratio=band)
            before = nobody if held[band] is None else held[band]
            found = tiers.assign(
                frame.assign(previous_tier=before), policies.cut_of(frame, policy), policy.key, band
            )
            assert found["tier"].value_counts().to_dict() == tiers.counts(2000, policy.shares_ratio)
            held[band] = found["tier"]
            codes = pd.Index(policy.names).get_indexer(found["tier"])
            rows[band].append(
                frame[["customer_id"]].assign(month=month, tier=codes, tier_rule=found["tier_rule"])
            )
    raw, banded = (stability.steadiness(pd.concat(rows[band])) for band in (0.0, 0.2))
    assert banded.moves < 0.5 * raw.moves
    assert banded.reversals_ratio is not None
    assert raw.reversals_ratio is not None
    # What is drawn here is noise alone, and still fewer of the moves are undone.
    assert banded.reversals_ratio < 0.7 * raw.reversals_ratio


@TABLE
@given(SIZES, SEEDS)
def test_rule_6_new_and_returning_customers_enter_at_raw_rank(n: int, seed: int) -> None:
    values, frame = company(n, seed)
    policy = POLICIES["pyramid"]
    new = graded(values, frame, policy)
    returning = graded(values, frame, policy, previous=pd.Series(["inactive"] * n, dtype="str"))
    assert new["tier"].tolist() == returning["tier"].tolist()


# 7: tests/test_groups.py. 8: tests/test_pairwise.py. 9: tests/test_firmness.py, and:


@TABLE
@given(st.integers(20, 200), SEEDS)
def test_rule_9_effective_weights_sum_to_one_and_are_the_share_of_the_spread(n: int, seed: int) -> None:
    values, _ = company(n, seed, missing=0.0)
    scores = composite.fit(values, KINDS, {}, trained_as_of=AS_OF).score(values)
    found = composite.effective_weights(scores, WEIGHTS)
    assert math.fsum(found.values()) == pytest.approx(1)
    total = sum(scores[name] * weight for name, weight in WEIGHTS.items())
    by_hand = 0.5 * np.cov(scores["lifetime_value"], total, bias=True)[0, 1] / np.var(total)
    assert found["lifetime_value"] == pytest.approx(by_hand)


# The worked case of thresholds


def test_thresholds_on_personal_assets_and_on_the_average_of_a_household() -> None:
    from tests.test_groups import config_of

    from clv.groups import group_tiers

    chosen = {
        "policy": "thresholds",
        "thresholds": {"diamond": 1_000_000, "gold": 300_000, "silver": 100_000},
        "group_thresholds": {"diamond": 800_000, "gold": 250_000, "silver": 80_000},
        "group_measure": "average",
        "measure": "clv",
        "key": ["diamond"],
    }
    config = config_of(
        tiers=chosen, composite={"weights": {"lifetime_value": 1.0}}, gates={"bad_debt_months": None}
    )
    assets = [1_000_000.0, 999_999.0, 300_000.0, 100_000.0, 99_999.0, 1_500_000, 100_000, 200_000, 50_000]
    household = [None] * 5 + ["H1", "H1", "H2", "H2"]
    n = len(assets)
    nobody = pd.Series([None] * n, dtype="str")
    frame = pd.DataFrame(
        {
            "customer_id": [f"P{i}" for i in range(n)], "clv": assets, "composite_score": 50.0, "tie_break": 0.0,
            "contribution_margin": 1.0, "late_payment_probability": 0.1, "overdue_balance_ratio": 0.0, "gate": nobody,
            "is_provisional": False, "previous_tier": nobody, "override_tier": nobody, "revenue": 1.0,
            "account_group_id": pd.Series(household, dtype="str"),
        }
    )  # fmt: skip
    cut = policies.cut_of(frame, config.tiers)
    own = tiers.assign(frame, cut, config.tiers.key, config.tiers.band_ratio)["tier"].tolist()
    assert own == ["diamond", "gold", "gold", "silver", "basic", "diamond", "silver", "silver", "basic"]
    values = pd.DataFrame({"lifetime_value": assets})
    grading = composite.fit(values, {"lifetime_value": "log"}, {}, trained_as_of=AS_OF)
    found = group_tiers(frame, values, np.ones(n), grading, config, cut, ["lifetime_value"])
    assert found.iloc[:5].isna().all()
    assert found.iloc[5:].tolist() == [
        "diamond",
        "diamond",
        "silver",
        "silver",
    ]  # 800,000 and 125,000 on average
