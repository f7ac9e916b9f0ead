"""Exact counts under the band, gates, overrides, and what must hold for every customer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clv import policies, tiers
from clv.config import GateSettings
from clv.errors import ConfigError, TableError

TABLE = settings(derandomize=True, deadline=None, max_examples=40, database=None)
SHARES = {"important": 0.01, "main": 0.19, "ordinary": 0.30, "small": 0.50}
NAMES = list(SHARES)
KEY = ["important", "main"]
BAND = 0.2


def _text(values: Sequence[str | None]) -> pd.Series:
    return pd.Series(list(values), dtype="str")


def _frame(scores: Sequence[float], **columns: Sequence[object]) -> pd.DataFrame:
    n = len(scores)
    frame = pd.DataFrame(
        {
            "customer_id": _text([f"C{i:05d}" for i in range(n)]),
            "composite_score": np.asarray(scores, dtype=float),
            "tie_break": np.zeros(n),
            "gate": _text([None] * n),
            "is_provisional": np.zeros(n, dtype=bool),
            "previous_tier": _text([None] * n),
            "earlier_tier": _text([None] * n),
            "override_tier": _text([None] * n),
        }
    )
    for name, values in columns.items():
        text = name in ("customer_id", "gate", "previous_tier", "earlier_tier", "override_tier")
        frame[name] = _text(values) if text else values  # type: ignore[arg-type]
    return frame


def _assign(frame: pd.DataFrame, band: float = BAND, **options: bool) -> pd.DataFrame:
    return tiers.assign(frame, policies.pyramid(len(frame), SHARES, band), KEY, band, **options)


def _sizes(result: pd.DataFrame) -> list[int]:
    return [int((result["tier"] == name).sum()) for name in NAMES]


@st.composite
def populations(draw: st.DrawFn, least: int = 1, most: int = 80) -> pd.DataFrame:
    """Customers in random order with all that can happen to them; about one score in ten is shared."""
    n = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    odd = draw(st.sampled_from([0.0, 0.05, 0.3]))

    def now_and_then(values: Sequence[str | None], share: float) -> list[str | None]:
        return [str(rng.choice(np.array(values, dtype=object))) if rng.random() < share else None
                for _ in range(n)]  # fmt: skip

    scores = np.round(rng.normal(50, 8, n), 0 if draw(st.booleans()) else 3)
    scores[rng.random(n) < odd / 3] = math.nan
    return _frame(
        scores,
        customer_id=[f"C{i:05d}" for i in rng.permutation(n)],
        tie_break=rng.integers(0, 3, n).astype(float),
        gate=now_and_then(["arrears", "late_payment"], odd),
        is_provisional=rng.random(n) < odd,
        previous_tier=now_and_then(NAMES, 0.8),
        earlier_tier=now_and_then(NAMES, 0.6),
        override_tier=now_and_then(NAMES, odd / 3),
    )


def _reference(frame: pd.DataFrame, band: float) -> list[str]:
    """The rule of the design, customer by customer, without overrides and barred customers."""
    order = frame.sort_values(
        ["composite_score", "tie_break", "customer_id"], ascending=[False, False, True], na_position="last"
    ).index
    rank = {row: i + 1 for i, row in enumerate(order)}
    tier: dict[int, str] = {}
    for level, (name, size) in enumerate(tiers.counts(len(frame), SHARES).items()):

        def adjusted(row: int, level: int = level) -> tuple[float, int]:
            before = frame["previous_tier"][row]
            if not isinstance(before, str):
                return rank[row], rank[row]
            is_in = NAMES.index(before) <= level
            factor = 1 + band if is_in else 1 - band
            earlier = frame["earlier_tier"][row]
            if isinstance(earlier, str) and is_in != (NAMES.index(earlier) <= level):
                factor *= factor
            return round(rank[row] / factor, 9), rank[row]

        free = sorted((row for row in frame.index if row not in tier), key=adjusted)
        tier.update(dict.fromkeys(free[:size], name))
    return [tier[row] for row in frame.index]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, [0, 0, 0, 0]),
        (1, [1, 0, 0, 0]),
        (20, [1, 3, 6, 10]),
        (40, [1, 7, 12, 20]),
        (50, [1, 9, 15, 25]),
        (99, [1, 19, 30, 49]),
        (100, [1, 19, 30, 50]),
        (110, [1, 21, 33, 55]),
        (2000, [20, 380, 600, 1000]),
        (1_000_000, [10_000, 190_000, 300_000, 500_000]),
    ],
)
def test_counts_by_largest_remainder(n: int, expected: list[int]) -> None:
    assert list(tiers.counts(n, SHARES).values()) == expected


def test_key_is_exactly_the_top_20_percent() -> None:
    for n in range(20, 3000, 5):
        held = tiers.counts(n, SHARES)
        assert sum(held.values()) == n
        assert held["important"] + held["main"] == n // 5
        assert held["important"] >= 1


@TABLE
@given(st.integers(0, 5000), st.lists(st.integers(0, 100), min_size=1, max_size=6))
def test_counts_add_up_and_stay_within_one_of_the_share(n: int, parts: list[int]) -> None:
    assume(sum(parts) > 0)
    shares = {f"t{i}": part / sum(parts) for i, part in enumerate(parts)}
    held = tiers.counts(n, shares)
    assert sum(held.values()) == n
    for name, size in held.items():
        assert abs(size - shares[name] * n) < 2 if n < 100 else abs(size - shares[name] * n) < 1.001


@TABLE
@given(populations(least=20), st.sampled_from([0.0, 0.1, 0.2, 0.35]))
def test_assignment_is_the_rule_applied_one_customer_at_a_time(frame: pd.DataFrame, band: float) -> None:
    frame = frame.assign(gate=_text([None] * len(frame)), override_tier=_text([None] * len(frame)))
    frame["is_provisional"] = False
    assert _assign(frame, band)["tier"].tolist() == _reference(frame, band)


@TABLE
@given(populations(least=20))
def test_counts_are_exact_whatever_happens_while_enough_are_eligible(frame: pd.DataFrame) -> None:
    held = tiers.counts(len(frame), SHARES)
    overridden = frame["override_tier"].value_counts()
    assume(all(overridden.get(name, 0) <= held[name] for name in NAMES))
    free = frame["override_tier"].isna()
    ordinary = free & frame["gate"].isna()
    assume((ordinary & ~frame["is_provisional"]).sum() >= held["important"])
    assume(ordinary.sum() >= held["important"] + held["main"])
    assert _sizes(_assign(frame)) == list(held.values())


@TABLE
@given(populations(), st.integers(0, 2**32 - 1))
def test_order_of_rows_does_not_matter(frame: pd.DataFrame, seed: int) -> None:
    shuffled = frame.iloc[np.random.default_rng(seed).permutation(len(frame))]
    expected = _assign(frame).loc[shuffled.index]
    pd.testing.assert_frame_equal(_assign(shuffled), expected, check_exact=True)


@TABLE
@given(populations(least=20), st.sampled_from([0.25, 2.0, 64.0]), st.sampled_from([-512.0, 0.0, 512.0]))
def test_shifting_or_stretching_all_scores_changes_no_tier(
    frame: pd.DataFrame, factor: float, shift: float
) -> None:
    rounded = frame.assign(composite_score=frame["composite_score"].round(0))
    moved = rounded.assign(composite_score=rounded["composite_score"] * factor + shift)
    columns = ["composite_rank", "tier", "policy_tier", "tier_rule"]
    pd.testing.assert_frame_equal(_assign(moved)[columns], _assign(rounded)[columns])


@TABLE
@given(populations(), st.integers(0, 10**6), st.floats(0.01, 40), st.sampled_from([0.0, 0.2, 0.5]))
def test_own_better_score_never_lowers_the_tier(
    frame: pd.DataFrame, pick: int, gain: float, band: float
) -> None:
    row = pick % len(frame)
    before = _assign(frame, band)["tier"][row]
    better = frame.copy()
    score = frame["composite_score"][row]
    better.loc[row, "composite_score"] = gain if math.isnan(score) else score + gain
    assert NAMES.index(_assign(better, band)["tier"][row]) <= NAMES.index(before)


def _lowest_kept(frame: pd.DataFrame, row: int, tier: str) -> float:
    """By trial: the score of the first customer (from above) behind which the tier is lost, 0 if none."""
    below = frame["composite_score"].drop(index=row)
    for other in sorted(below[below < frame["composite_score"][row]], reverse=True):
        trial = frame.copy()
        trial.loc[row, "composite_score"] = other - 0.5
        if _assign(trial)["tier"][row] != tier:
            return float(other)
    return 0.0


def test_edge_score_is_where_the_tier_is_lost_or_just_above() -> None:
    rng = np.random.default_rng(11)
    exact = checked = 0
    for _ in range(4):
        n = 40
        frame = _frame(
            rng.permutation(n) + 1.0,
            previous_tier=[*rng.choice(np.array([*NAMES, None], dtype=object), n)],
            gate=[*rng.choice(np.array(["arrears", *[None] * 9], dtype=object), n)],
        )
        result = _assign(frame)
        for row in np.flatnonzero(result["tier"] != "small")[::2]:
            found = _lowest_kept(frame, row, result["tier"][row])
            edge = result["tier_edge_score"][row]
            assert found <= edge <= found + 2
            assert edge <= frame["composite_score"][row]
            exact += edge == found
            checked += 1
    assert exact >= 0.8 * checked


def test_edge_score_is_null_where_a_score_cannot_move_the_tier() -> None:
    frame = _frame(np.arange(100.0), override_tier=["main"] + [None] * 99)
    result = _assign(frame)
    assert result.loc[(result["tier"] == "small") | (result["customer_id"] == "C00000"),
                      "tier_edge_score"].isna().all()  # fmt: skip
    assert result.loc[(result["tier"] == "ordinary"), "tier_edge_score"].notna().all()


def test_first_customer_left_out_is_the_edge_without_history() -> None:
    result = _assign(_frame(np.arange(100.0)))
    edges = result.groupby("tier")["tier_edge_score"].unique()
    assert edges["important"].tolist() == [98.0]
    assert edges["main"].tolist() == [79.0]
    assert edges["ordinary"].tolist() == [49.0]


def test_one_just_past_the_edge_stays_and_counts_stay_exact() -> None:
    scores = np.arange(100, 0, -1.0)
    previous = ["important"] + ["main"] * 18 + ["ordinary", "main"] + ["ordinary"] * 29 + ["small"] * 50
    result = _assign(_frame(scores, previous_tier=previous))
    assert _sizes(result) == [1, 19, 30, 50]
    held, waiting = result.iloc[20], result.iloc[19]
    assert (held["composite_rank"], held["policy_tier"], held["tier"]) == (21, "ordinary", "main")
    assert (waiting["composite_rank"], waiting["policy_tier"], waiting["tier"]) == (20, "main", "ordinary")
    assert held["tier_rule"] == waiting["tier_rule"] == "band"
    assert set(result["tier_rule"].drop(index=[19, 20])) == {"rank"}


def test_who_crossed_an_edge_last_month_has_the_band_twice_before_it_goes_back() -> None:
    # Rank 26 of 100 is past the band of key (20 · 1.2 = 24) and within it twice (20 · 1.44 = 28.8); rank 15 is within
    # the band of ordinary (20 · 0.8 = 16) and not within it twice (12.8).
    scores, held = np.arange(100, 0, -1.0), ["important"] + ["main"] * 19 + ["ordinary"] * 30 + ["small"] * 50
    held[14], held[25] = "ordinary", "main"
    once = _assign(_frame(scores, previous_tier=held))
    assert once["tier"].iloc[[14, 25]].tolist() == ["main", "ordinary"]
    earlier = list(held)
    earlier[14], earlier[25] = "main", "ordinary"
    twice = _assign(_frame(scores, previous_tier=held, earlier_tier=earlier))
    assert twice["tier"].iloc[[14, 25]].tolist() == ["ordinary", "main"]
    assert twice["tier_rule"].iloc[[14, 25]].tolist() == ["band", "band"]
    assert _sizes(twice) == [1, 19, 30, 50]


def test_new_and_returning_customers_enter_at_their_rank() -> None:
    previous = ["main"] * 20 + ["ordinary"] * 30 + ["small"] * 50
    for unknown in (None, "inactive"):
        result = _assign(_frame(np.arange(100, 0, -1.0), previous_tier=[unknown, *previous[1:]]))
        assert result["tier"][0] == "important"


def test_policy_reset_ignores_previous_tiers() -> None:
    previous = list(reversed(["important"] + ["main"] * 19 + ["ordinary"] * 30 + ["small"] * 50))
    result = _assign(_frame(np.arange(100, 0, -1.0), previous_tier=previous), policy_reset=True)
    assert (result["tier"] == result["policy_tier"]).all()
    assert set(result["tier_rule"]) == {"policy_reset"}


def test_gated_customers_count_but_compete_from_the_first_tier_below_key() -> None:
    gate = ["negative_contribution", None, "arrears"] + [None] * 60 + ["arrears"] + [None] * 36
    result = _assign(_frame(np.arange(100, 0, -1.0), gate=gate))
    assert _sizes(result) == [1, 19, 30, 50]
    assert result["tier"].iloc[[0, 1, 2, 3]].tolist() == ["ordinary", "important", "ordinary", "main"]
    assert result["policy_tier"].iloc[0] == "important"
    assert result["tier_rule"].iloc[[0, 2]].tolist() == ["gate:negative_contribution", "gate:arrears"]
    moved_up = result.iloc[[1, 20, 21]]
    assert moved_up["tier_rule"].tolist() == ["eligible_rank"] * 3
    assert result["tier_rule"].iloc[63] == "rank"  # far below key, its gate decided nothing


def test_provisional_customers_are_kept_out_of_the_top_tier_only() -> None:
    result = _assign(_frame(np.arange(100, 0, -1.0), is_provisional=[True] * 2 + [False] * 98))
    assert result["tier"].iloc[:3].tolist() == ["main", "main", "important"]
    assert result["tier_rule"].iloc[:3].tolist() == ["provisional", "provisional", "eligible_rank"]


def test_overridden_customers_count_in_the_tier_they_are_given() -> None:
    override = [None] * 99 + ["important"]
    gate = [None] * 99 + ["arrears"]
    result = _assign(_frame(np.arange(100, 0, -1.0), override_tier=override, gate=gate))
    assert _sizes(result) == [1, 19, 30, 50]
    assert result["tier"].iloc[[0, 99]].tolist() == ["main", "important"]
    assert result["tier_rule"].iloc[[0, 99]].tolist() == ["eligible_rank", "override"]
    assert result["policy_tier"].iloc[99] == "small"


def test_more_overrides_than_seats_are_taken_from_the_tiers_below() -> None:
    override = [None] * 97 + ["important"] * 3
    assert _sizes(_assign(_frame(np.arange(100, 0, -1.0), override_tier=override))) == [3, 17, 30, 50]
    override = ["small"] * 60 + [None] * 40
    assert _sizes(_assign(_frame(np.arange(100, 0, -1.0), override_tier=override))) == [1, 19, 20, 60]


def test_seats_that_nobody_eligible_can_take_pass_to_the_tier_below() -> None:
    gate = [None] * 5 + ["late_payment"] * 95
    result = _assign(_frame(np.arange(100, 0, -1.0), gate=gate))
    assert _sizes(result) == [1, 4, 45, 50]
    assert set(result["tier_rule"].iloc[5:]) == {"gate:late_payment"}
    result = _assign(_frame(np.arange(100, 0, -1.0), is_provisional=[True] * 100))
    assert _sizes(result) == [0, 20, 30, 50]


def test_nothing_measured_ranks_last() -> None:
    result = _assign(_frame([math.nan, *np.arange(99.0)]))
    assert result["composite_rank"][0] == 100
    assert result["tier"][0] == "small"


def test_ties_go_to_the_second_key_and_then_to_the_id() -> None:
    frame = _frame([50.0] * 30, customer_id=[f"{i:03d}" for i in range(30, 0, -1)])
    frame.loc[29, "tie_break"] = -1.0
    frame.loc[10, "tie_break"] = 1.0
    rank = _assign(frame).set_index("customer_id")["composite_rank"]
    assert rank["020"] == 1
    assert rank["001"] == 30
    assert rank["002"] == 2


def test_rank_and_percentile() -> None:
    result = _assign(_frame([10.0, 40.0, 30.0, 20.0] * 10))
    best = result["composite_rank"] == 1
    assert result.loc[best, "composite_score"].tolist() == [40.0]
    assert result.loc[best, "composite_percentile"].tolist() == [39 / 40]
    assert sorted(result["composite_rank"]) == list(range(1, 41))


def test_few_customers_have_thresholds_instead_of_a_ranking() -> None:
    scores = [70.0, 69.0, 58.0, 57.1, 57.0, 50.0, 49.9, math.nan]
    result = _assign(_frame(scores))
    expected = ["important", "main", "main", "main", "ordinary", "ordinary", "small", "small"]
    assert result["tier"].tolist() == expected
    assert result["tier_edge_score"].iloc[[0, 1, 4]].tolist() == pytest.approx(
        [69.3862, 57.0135, 50], abs=1e-3
    )
    assert result["policy_tier"].tolist() == expected
    assert _assign(_frame([40.0] * 19))["tier"].eq("small").all()


def test_thresholds_have_a_band_gates_and_overrides_too() -> None:
    frame = _frame(
        [56.5, 56.5, 57.5, 80.0, 80.0, 30.0],
        previous_tier=["main", None, "ordinary", None, None, None],
        gate=[None, None, None, "arrears", None, None],
        is_provisional=[False, False, False, False, True, False],
        override_tier=[None, None, None, None, None, "main"],
    )
    result = _assign(frame)
    assert result["tier"].tolist() == ["main", "ordinary", "ordinary", "ordinary", "main", "main"]
    assert result["tier_rule"].tolist() == [
        "band", "rank", "band", "gate:arrears", "provisional", "override",
    ]  # fmt: skip


def test_nobody_to_grade_is_an_empty_result() -> None:
    result = _assign(_frame([]))
    assert len(result) == 0
    assert "tier_edge_score" in result


def test_band_cuts_the_moves_of_noisy_scores_to_under_half() -> None:
    rng = np.random.default_rng(3)
    latent = rng.normal(50, 8, 3000)
    raw = banded = [None] * 3000
    moves = {"raw": 0, "banded": 0}
    for month in range(6):
        scores = latent + rng.normal(0, 1.2, 3000)
        plain = _assign(_frame(scores, previous_tier=raw), band=0.0)
        steady = _assign(_frame(scores, previous_tier=banded))
        assert _sizes(steady) == _sizes(plain) == [30, 570, 900, 1500]
        if month:
            moves["raw"] += int((plain["tier"] != _text(raw)).sum())
            moves["banded"] += int((steady["tier"] != _text(banded)).sum())
        raw, banded = plain["tier"].tolist(), steady["tier"].tolist()
    assert moves["raw"] > 0.05 * 5 * 3000
    assert moves["banded"] < 0.4 * moves["raw"]


def test_input_frame_is_left_alone_and_its_index_kept() -> None:
    frame = _frame(np.arange(30.0)).set_index(np.arange(30) * 7)
    copy = frame.copy()
    result = _assign(frame)
    pd.testing.assert_frame_equal(frame, copy)
    assert result.index.tolist() == frame.index.tolist()


def test_repeated_customers_unknown_overrides_and_unknown_keys_are_refused() -> None:
    with pytest.raises(TableError, match=r"found 1 repeated ids, first \['A'\]"):
        _assign(_frame([1.0, 2.0], customer_id=["A", "A"]))
    with pytest.raises(TableError, match="among important, main, ordinary, small, found 1 others"):
        _assign(_frame([1.0, 2.0], override_tier=["gold", None]))
    with pytest.raises(ConfigError, match="found gold"):
        tiers.assign(_frame([1.0]), policies.pyramid(1, SHARES, BAND), ["gold"], BAND)


def test_tier_change_reads_the_policy_from_the_top() -> None:
    now = _text(["main", "main", "main", "main", "main", "inactive"])
    before = _text(["ordinary", "main", "important", None, "inactive", "main"])
    change = tiers.tier_change(now, before, NAMES)
    assert change.tolist()[:5] == ["up", "same", "down", "new", "new"]
    assert change.isna().tolist() == [False] * 5 + [True]


def test_gates_name_the_first_reason_and_missing_measures_shut_none() -> None:
    nan = math.nan
    frame = pd.DataFrame(
        {
            "contribution_margin": [-1.0, 0.0, 5.0, 5.0, nan, -1.0],
            "late_payment_probability": [0.9, 0.5, 0.1, 0.49, nan, nan],
            "overdue_balance_ratio": [0.9, 0.9, 0.31, 0.30, nan, nan],
        }
    )
    reason = tiers.gates(frame, GateSettings())
    expected = ["negative_contribution", "late_payment", "arrears", None, None, "negative_contribution"]
    assert [r if isinstance(r, str) else None for r in reason] == expected
    off = GateSettings(
        negative_contribution=False, late_payment_probability=None, overdue_balance_ratio=None, blocked=False,
        bad_debt_months=None,
    )  # fmt: skip
    assert tiers.gates(frame, off).isna().all()


def test_a_gate_that_shut_opens_once_its_figure_is_a_band_below_the_limit() -> None:
    frame = pd.DataFrame(
        {
            "contribution_margin": 1.0,
            "late_payment_probability": [0.45, 0.45, 0.40, 0.39, 0.0, 0.0],
            "overdue_balance_ratio": [0.0, 0.0, 0.0, 0.0, 0.25, 0.25],
            "previous_rule": _text(
                ["gate:late_payment", "rank", "gate:late_payment", "gate:late_payment", "gate:arrears", None]
            ),
        }
    )
    settings = GateSettings(late_payment_probability=0.5, overdue_balance_ratio=0.3)
    held = tiers.gates(frame, settings, band_ratio=0.2).astype(object)
    assert held.where(held.notna(), None).tolist() == [
        "late_payment", None, "late_payment", None, "arrears", None,
    ]  # fmt: skip
    assert tiers.gates(frame, settings).isna().all()
