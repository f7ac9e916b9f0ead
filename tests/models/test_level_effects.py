"""What each level of a crowded category did: shrunk, cross-fitted, silent where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clv.models.level_effects import FOLDS, LevelEffects, folds, log_mean, log_odds, out_of_fold


def people(n: int, levels: int, seed: int, effect: float) -> tuple[pd.DataFrame, np.ndarray]:
    """`n` people of so many areas, whose log-odds of an outcome differ by a normal draw times `effect`."""
    rng = np.random.default_rng(seed)
    area = rng.integers(0, levels, n)
    odds = -1.0 + effect * rng.standard_normal(levels)[area]
    frame = pd.DataFrame({"customer_id": [f"{i:05d}" for i in range(n)], "area": [f"a{i}" for i in area]})
    return frame, (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.float64)


def test_a_level_is_shrunk_to_the_whole_by_the_variance_within_over_that_between() -> None:
    frame = pd.DataFrame({"customer_id": list("abcdefgh"), "area": list("xxxxyyyy")})
    outcome = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    # m = 1/2, means 3/4 and 1/4; within = 1/4, Σ n(x - m)² = 1/2, spread = 8 - 32/8 = 4, k = 1/4·4 / (1/2 - 1/4) = 4:
    # (4·3/4 + 4·1/2)/8 = 5/8.
    found = LevelEffects.fit(frame, outcome, ["area"], log_odds)
    assert found.effects["area"]["x"] == pytest.approx(np.log((5 / 8) / (3 / 8)))
    assert found.effects["area"]["y"] == pytest.approx(-np.log((5 / 8) / (3 / 8)))
    money = LevelEffects.fit(frame, outcome, ["area"], log_mean)
    assert money.effects["area"]["x"] == pytest.approx(np.log((5 / 8) / (1 / 2)))


def test_unknown_levels_and_nulls_get_the_prior() -> None:
    frame, outcome = people(2000, 40, 1, 1.0)
    found = LevelEffects.fit(frame, outcome, ["area"], log_odds)
    asked = pd.DataFrame({"area": ["nowhere", None, "a1"]})
    effects = found.transform(asked)[:, 0]
    assert effects[0] == effects[1] == 0.0
    assert effects[2] == found.effects["area"]["a1"] != 0.0


def test_the_statistic_of_a_training_row_is_learned_without_its_own_customer() -> None:
    """The slow twin: each fold's rows from a fit on all other folds; and a row's outcome cannot move its own figure."""
    frame, outcome = people(600, 30, 2, 1.0)
    found = out_of_fold(frame, outcome, ["area"], log_odds, 7)[:, 0]
    fold = folds(frame["customer_id"], 7)
    slow = np.zeros(len(frame))
    for i in range(0, len(frame), 29):
        others = fold != fold[i]
        learned = LevelEffects.fit(frame[others], outcome[others], ["area"], log_odds)
        slow[i] = learned.effects["area"].get(frame["area"][i], 0.0)
        turned = outcome.copy()
        turned[i] = 1 - turned[i]
        assert out_of_fold(frame, turned, ["area"], log_odds, 7)[i, 0] == found[i]
    np.testing.assert_array_equal(found[::29], slow[::29])


def test_rows_of_one_customer_share_a_fold() -> None:
    frame, _ = people(200, 5, 3, 1.0)
    twice = pd.concat([frame, frame], ignore_index=True)
    fold = folds(twice["customer_id"], 7)
    np.testing.assert_array_equal(fold[:200], fold[200:])
    assert set(fold) == set(range(FOLDS))


@pytest.mark.parametrize("levels", [30, 100, 300])
def test_a_random_category_of_many_levels_gains_nothing(levels: int) -> None:
    """Out of fold its statistic tells no more of the outcome than chance would, over 30 samples of 400."""
    told = []
    for seed in range(30):
        frame, outcome = people(400, levels, seed, 0.0)
        found = out_of_fold(frame, outcome, ["area"], log_odds, 7)[:, 0]
        told.append(np.corrcoef(found, outcome)[0, 1] if found.std() > 0 else 0.0)
    assert np.mean(told) < 3 / np.sqrt(400 * 30)


@given(seed=st.integers(0, 10_000), levels=st.integers(2, 60), effect=st.floats(0, 2))
@settings(max_examples=40, deadline=None)
def test_an_effect_lies_between_nothing_and_what_the_level_did(seed: int, levels: int, effect: float) -> None:
    frame, outcome = people(300, levels, seed, effect)
    found = LevelEffects.fit(frame, outcome, ["area"], log_mean).effects["area"]
    did = np.log(frame.assign(y=outcome).groupby("area")["y"].mean().clip(1e-6) / outcome.mean())
    for level, value in found.items():
        assert min(did[level], 0) - 1e-9 <= value <= max(did[level], 0) + 1e-9


def test_a_category_that_matters_is_found_again() -> None:
    frame, outcome = people(3000, 60, 4, 1.0)
    found = out_of_fold(frame, outcome, ["area"], log_odds, 7)[:, 0]
    assert np.corrcoef(found, outcome)[0, 1] > 0.25


def test_snapshots_of_the_same_customers_are_not_so_many_observations() -> None:
    frame, outcome = people(300, 30, 5, 0.6)
    once = LevelEffects.fit(frame, outcome, ["area"], log_odds)
    ten = LevelEffects.fit(pd.concat([frame] * 10), np.tile(outcome, 10), ["area"], log_odds)
    assert ten.effects["area"] == pytest.approx(once.effects["area"])


def test_one_level_or_one_outcome_says_nothing() -> None:
    frame, outcome = people(50, 1, 6, 1.0)
    assert LevelEffects.fit(frame, outcome, ["area"], log_odds).effects == {"area": {}}
    assert LevelEffects.fit(frame, np.zeros(50), ["area"], log_odds).transform(frame).tolist() == [[0.0]] * 50
    assert LevelEffects({}).transform(frame).shape == (50, 0)
