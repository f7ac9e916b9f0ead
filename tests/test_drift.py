"""Drift of prospects: bins fixed on what the model learned from, and chance taken off before anything is flagged."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from clv import drift, metrics
from clv.drift import Bins, Population

KINDS = {"visits": "number", "source": "category", "quote": "flag"}


def people(n: int, seed: int, fairs: float = 0.5, visits: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "customer_id": [f"p{i}" for i in range(n)],
            "visits": np.where(rng.random(n) < 0.1, np.nan, rng.normal(visits, 1, n)),
            "source": np.where(rng.random(n) < fairs, "fair", "web"),
            "quote": pd.array(rng.random(n) < 0.3, dtype="boolean"),
        }
    )


def test_psi_of_a_category_by_hand() -> None:
    reference = pd.DataFrame({"customer_id": range(10), "source": ["fair"] * 5 + ["web"] * 5})
    now = pd.DataFrame({"customer_id": range(10), "source": ["fair"] * 8 + ["web"] * 2})
    [found] = Population.fit(reference, {"source": "category"}).against(now).to_dict("records")
    assert found["psi"] == pytest.approx(0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5))
    assert found["bins"] == 2
    assert not found["is_moved"]  # 0.42 is above 0.2, and within what ten people give by chance


def test_what_chance_gives_of_many_is_the_chi_squared_of_the_literature() -> None:
    reference, now = people(4000, 1), people(1000, 2)
    found = Population.fit(reference, KINDS).against(now)
    noise = 1 / 4000 + 1 / 1000
    np.testing.assert_allclose(found["expected_psi"], (found["bins"] - 1) * noise, rtol=0.15)
    np.testing.assert_allclose(found["chance_psi"], chi2.ppf(0.95, found["bins"] - 1) * noise, rtol=0.15)


def test_numbers_are_binned_as_psi_of_raw_samples_bins_them() -> None:
    reference, now = people(500, 1), people(300, 2, visits=0.4)
    found = Population.fit(reference, KINDS).against(now).set_index("attribute")
    edges = metrics.psi_edges(reference["visits"])
    assert found.loc["visits", "psi"] == pytest.approx(metrics.psi(reference["visits"], now["visits"], edges))
    assert found.loc["visits", "bins"] == 11  # ten, and the missing ones


def test_the_training_population_itself_has_not_moved() -> None:
    reference = people(400, 3)
    found = Population.fit(reference, KINDS).against(reference)
    assert found["psi"].tolist() == [0, 0, 0]
    assert not found["is_moved"].any()


def test_levels_and_missing_values_not_seen_before_are_drift() -> None:
    reference = people(400, 3)
    now = people(400, 4).assign(source="phone", visits=np.nan)
    found = Population.fit(reference, KINDS).against(now).set_index("attribute")
    assert found.loc[["source", "visits"], "is_moved"].all()
    assert not found.loc["quote", "is_moved"]
    assert "moved: source, visits" in drift.said(found.reset_index())


def test_under_no_change_psi_is_what_chance_gives_and_small_months_are_not_flagged() -> None:
    """Means over 150 months of 40 prospects each, drawn like the reference of 400."""
    population = Population.fit(people(400, 5), KINDS)
    months = [population.against(people(40, seed)) for seed in range(1000, 1150)]
    together = pd.concat(months).groupby("attribute")[["psi", "expected_psi", "is_moved"]].mean()
    np.testing.assert_allclose(together["psi"], together["expected_psi"], rtol=0.35)
    assert together.loc["visits", "psi"] > 0.2  # which a rule of thumb would call moved every other month
    assert (together["is_moved"] < 0.1).all()
    moved = [population.against(people(40, seed, fairs=0.95))["is_moved"] for seed in range(20)]
    assert np.mean([found[1] for found in moved]) > 0.9  # sorted by name: quote, source, visits


def test_a_population_comes_back_from_its_text() -> None:
    population = Population.fit(people(200, 6), KINDS)
    text = json.dumps(population.to_dict(), allow_nan=False)
    assert Population.from_dict(json.loads(text)) == population


def test_rare_levels_share_a_bin_and_nobody_is_no_drift() -> None:
    many = pd.Series([f"level {i:02d}" for i in range(30) for _ in range(i + 1)])
    bins = Bins.fit(many, "category")
    assert len(bins.levels) == drift.LEVELS
    assert bins.levels[0] == "level 29"
    assert sum(bins.shares) == pytest.approx(1)
    population = Population.fit(people(200, 6), KINDS)
    assert population.against(people(0, 1)).empty
    assert Population(0, {}).against(people(20, 1)).empty


def test_drift_does_not_depend_on_the_order_of_rows() -> None:
    reference, now = people(300, 7), people(100, 8)
    expected = Population.fit(reference, KINDS).against(now)
    shuffled = Population.fit(reference.sample(frac=1, random_state=1), KINDS)
    pd.testing.assert_frame_equal(shuffled.against(now.sample(frac=1, random_state=2)), expected)
