"""Firmness by DESIGN: a normal step of the composite between the edges of the band, mean over drawn weights."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from clv import firmness
from clv.firmness import Calibration, Changes, Edges, rank_edges, read_calibration

TABLE = settings(derandomize=True, deadline=None, max_examples=40, database=None)
STEADY = Changes((), (2.0,))


def _firm(
    scores: pd.DataFrame,
    tier: list[int],
    edges: Edges,
    weights: dict[str, float] | None = None,
    cannot_rise: list[bool] | None = None,
) -> np.ndarray:
    changes = dict.fromkeys(scores.columns, STEADY)
    return firmness.firmness(
        scores,
        weights or dict.fromkeys(scores, 1 / scores.shape[1]),
        changes,
        np.array(tier),
        edges,
        cannot_rise=np.array(cannot_rise or [False] * len(scores)),
        seed=7,
    )


def test_one_criterion_by_hand() -> None:
    edges = Edges(keep_score=(60.0, 40.0, -math.inf), rise_score=(math.inf, 65.0, 45.0))
    found = _firm(pd.DataFrame({"c": [62.0, 50.0, 44.0, math.nan]}), [0, 1, 2, 2], edges)
    expected = [
        1 - norm.cdf((60 - 62) / 2),
        norm.cdf((65 - 50) / 2) - norm.cdf((40 - 50) / 2),
        norm.cdf((45 - 44) / 2),
    ]
    assert found[:3] == pytest.approx(expected)
    assert math.isnan(found[3])


def test_whom_a_gate_keeps_below_cannot_leave_upwards() -> None:
    edges = Edges(keep_score=(60.0, -math.inf), rise_score=(math.inf, 60.0))
    scores = pd.DataFrame({"c": [80.0, 80.0]})
    assert _firm(scores, [1, 1], edges, cannot_rise=[True, False]) == pytest.approx([1.0, 0.0], abs=1e-12)


def test_two_criteria_are_the_mean_over_drawn_weights_of_the_formula() -> None:
    edges = Edges(keep_score=(55.0, -math.inf), rise_score=(math.inf, 55.0))
    scores = pd.DataFrame({"a": [70.0, 50.0], "b": [50.0, math.nan]})
    weights = {"a": 0.25, "b": 0.75}
    found = _firm(scores, [0, 1], edges, weights)
    drawn = np.array([0.25, 0.75]) * np.exp(0.2 * np.random.default_rng(7).standard_normal((64, 2)))
    stays = []
    for wa, wb in drawn:
        a, b = wa / (wa + wb), wb / (wa + wb)
        sd = math.sqrt((a * 2) ** 2 + (b * 2) ** 2)
        stays.append(1 - norm.cdf((55 - (a * 70 + b * 50)) / sd))
    assert found[0] == pytest.approx(np.mean(stays))
    assert found[1] == pytest.approx(norm.cdf((55 - 50) / 2))  # b was not measured: a alone


def test_edges_are_the_ranks_of_the_band() -> None:
    edges = rank_edges([10, 40, 50], 0.2)
    assert edges.keep == pytest.approx([12, 60, 101])
    assert edges.rise == pytest.approx([0, 8, 40])
    low, high = edges.scores(np.arange(100, 0, -1.0))
    assert low.tolist() == [89.0, 41.0, -math.inf]  # the score at rank 12 and at rank 60
    assert high.tolist() == [math.inf, 93.0, 61.0]


def test_changes_are_robust_and_by_decile_of_the_score() -> None:
    rng = np.random.default_rng(0)
    before = np.repeat(np.arange(10) * 10.0, 2000)
    after = before + rng.normal(0, 1 + before / 10)
    after[::200] += 1e6  # a few wild ones
    found = Changes.fit(before, after)
    assert found.of(np.array([0.0, 90.0])) == pytest.approx([1.0, 10.0], rel=0.12)


def test_nothing_seen_is_a_change_of_almost_nothing() -> None:
    assert Changes.fit(np.array([math.nan]), np.array([1.0])).of(np.array([50.0])) == [firmness.SMALLEST_SD]
    scores = pd.DataFrame({"c": [50.0]})
    edges = Edges(keep_score=(-math.inf,), rise_score=(math.inf,))
    empty = firmness.firmness(
        scores, {"c": 1.0}, {}, np.array([0]), edges, cannot_rise=np.array([False]), seed=1
    )
    assert np.isnan(empty).all()


def test_what_is_promised_is_what_became_of_the_formula() -> None:
    # 200 of each P; of those at 0.2 half stayed, at 0.6 fewer than at 0.5: both have their mean.
    formula = np.repeat([0.2, 0.5, 0.6, 0.999], 200)
    stayed = np.concatenate([np.arange(200) < held for held in (100, 160, 140, 200)]).astype(float)
    found = Calibration.fit(formula, stayed)
    smoothed = [101 / 202, (161 + 141) / 404, (161 + 141) / 404, 201 / 202]
    assert found.of(np.array([0.2, 0.5, 0.6, 0.999])) == pytest.approx(smoothed)
    assert found.of(np.array([0.0, 0.35, 1.0])) == pytest.approx(
        [smoothed[0], (smoothed[0] + smoothed[1]) / 2, smoothed[3]]
    )
    assert np.isnan(found.of(np.array([math.nan]))).all()


def test_a_few_pairs_calibrate_nothing() -> None:
    found = Calibration.fit(np.full(199, 0.7), np.zeros(199))
    assert found == Calibration()
    assert found.of(np.array([0.3, math.nan]))[0] == 0.3


@TABLE
@given(st.integers(200, 400), st.integers(0, 2**32 - 1))
def test_a_calibration_rises_and_promises_nothing_for_certain(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    formula = rng.beta(5, 1, n) if seed % 2 else rng.choice([0.1, 0.5, 1.0], n)
    found = Calibration.fit(formula, (rng.random(n) < formula).astype(float))
    promised = found.of(np.linspace(0, 1, 50))
    assert (np.diff(promised) >= 0).all()
    assert ((promised > 0) & (promised < 1)).all()
    assert read_calibration(asdict(found)) == found


@pytest.mark.parametrize(
    "entry",
    [
        {"formula": [0.1, 0.2], "stayed": [0.5]},
        {"formula": [0.2, 0.1], "stayed": [0.5, 0.6]},
        {"formula": [0.1, 0.2], "stayed": [0.6, 0.5]},
        {"formula": [0.1], "stayed": [1.5]},
        {"formula": [0.1], "stayed": [math.nan]},
    ],
)
def test_what_is_no_calibration_is_refused(entry: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="curve of firmness"):
        read_calibration(entry)


@TABLE
@given(st.integers(20, 200), st.integers(0, 2**32 - 1))
def test_firmness_is_a_probability_whatever_the_order_of_rows(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = pd.DataFrame(
        {"a": rng.normal(50, 8, n), "b": np.where(rng.random(n) < 0.1, np.nan, rng.normal(50, 8, n))}
    )
    tier = np.minimum(rng.integers(0, 4, n), 3)
    edges = rank_edges([n // 10, n // 5, n // 5, n - n // 10 - 2 * (n // 5)], 0.2)
    found = _firm(scores, tier.tolist(), edges)
    assert ((found >= 0) & (found <= 1)).all()
    order = rng.permutation(n)
    again = _firm(scores.iloc[order], tier[order].tolist(), edges)
    np.testing.assert_allclose(again, found[order], atol=1e-12)
