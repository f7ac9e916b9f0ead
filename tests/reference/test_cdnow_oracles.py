"""Published numbers for the CDNOW data: sample and whole cohort, calibration to 1997-09-30, 39 weeks after it.

Fader, Hardie and Lee (2005) and brucehardie.com/notes. The data ship inside `lifetimes`; only the files are read.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray

from clv.models import btyd
from clv.models.btyd import Btyd

AS_OF = "1997-10-01"
LAST_DAY = "1997-09-30"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Customers:
    frequency: Floats
    recency_days: Floats
    T_days: Floats
    mean_repeat_value: Floats
    holdout_purchases: int

    def fit(self, unit_days: int, purchase_model: btyd.PurchaseModel = "bgnbd") -> Btyd:
        """In units of `unit_days`, values of repeat purchases only: as published."""
        x, recency, T = self.frequency, self.recency_days / unit_days, self.T_days / unit_days
        return btyd.fit(x, recency, T, x, self.mean_repeat_value, purchase_model=purchase_model)


def read(file: str, customer: int, date: int, skip: int) -> Customers:
    spec = importlib.util.find_spec("lifetimes")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "datasets" / file
    rows = [line.split() for line in path.read_text().splitlines()[skip:] if line.strip()]
    with duckdb.connect() as con:
        con.execute("CREATE TABLE lines (customer_id VARCHAR, day DATE, amount DECIMAL(18, 4))")
        con.execute("SET threads = 1")
        con.execute(
            "INSERT INTO lines SELECT unnest($1), strptime(unnest($2), '%Y%m%d'), unnest($3)::DECIMAL(18, 4)",
            [[row[customer] for row in rows], [row[date] for row in rows], [row[-1] for row in rows]],
        )
        columns = con.execute(f"""
            WITH days AS (SELECT customer_id, day, sum(amount) AS amount FROM lines GROUP BY ALL),
            dated AS (SELECT *, min(day) OVER (PARTITION BY customer_id) AS first_day FROM days)
            SELECT (count(*) - 1)::DOUBLE AS frequency,
                   (max(day) - min(day))::DOUBLE AS recency_days,
                   (DATE '{LAST_DAY}' - min(day))::DOUBLE AS T_days,
                   coalesce(avg(amount) FILTER (day > first_day), 0)::DOUBLE AS mean_repeat_value
            FROM dated WHERE day < '{AS_OF}' GROUP BY customer_id ORDER BY customer_id
        """).fetchnumpy()
        days_after = f"SELECT count(DISTINCT (customer_id, day)) FROM lines WHERE day >= '{AS_OF}'"
        holdout = con.execute(days_after).fetchone()
    assert holdout is not None
    return Customers(**columns, holdout_purchases=holdout[0])


@pytest.fixture(scope="module")
def sample() -> Customers:
    return read("CDNOW_sample.txt", customer=1, date=2, skip=0)


@pytest.fixture(scope="module")
def in_weeks(sample: Customers) -> Btyd:
    return sample.fit(unit_days=7)


def assert_params(params: dict[str, float], **published: float) -> None:
    assert set(params) == set(published)
    for name, value in published.items():
        assert params[name] == pytest.approx(value, rel=1e-3), name


def test_sample_is_the_published_one(sample: Customers) -> None:
    assert len(sample.frequency) == 2_357
    assert sample.frequency.sum() == 2_457
    assert (sample.frequency > 0).sum() == 946
    assert sample.holdout_purchases == 1_882


def test_bgnbd_on_the_sample(in_weeks: Btyd) -> None:
    assert in_weeks.purchase_model == "bgnbd"
    assert in_weeks.verdict == "converged"
    assert_params(in_weeks.purchase_params, r=0.2426, alpha=4.4136, a=0.7929, b=2.4259)
    assert in_weeks.detail["log_likelihood"] == pytest.approx(-9582.43, abs=0.02)


def test_bgnbd_in_days_is_the_same_model(sample: Customers, in_weeks: Btyd) -> None:
    in_days = sample.fit(unit_days=1)
    expected = in_weeks.purchase_params | {"alpha": in_weeks.purchase_params["alpha"] * 7}
    assert in_days.purchase_params == pytest.approx(expected, rel=1e-4)
    x, recency, T = sample.frequency, sample.recency_days, sample.T_days
    np.testing.assert_allclose(
        in_days.expected_purchases(x, recency, T, 273),
        in_weeks.expected_purchases(x, recency / 7, T / 7, 39),
        rtol=1e-4,
    )
    # the density of x times, each 7 times as long
    assert in_days.detail["log_likelihood"] == pytest.approx(-9582.43 - 2_457 * np.log(7), abs=0.02)


def test_mbgnbd_on_the_sample(sample: Customers) -> None:
    model = sample.fit(unit_days=7, purchase_model="mbgnbd")
    assert model.purchase_model == "mbgnbd"
    assert model.verdict == "converged"
    assert_params(model.purchase_params, r=0.5248, alpha=6.1830, a=0.8914, b=1.6140)
    assert model.detail["log_likelihood"] == pytest.approx(-9582.13, abs=0.02)


def test_pareto_nbd_on_the_sample(sample: Customers) -> None:
    model = sample.fit(unit_days=7, purchase_model="pareto_nbd")
    assert model.purchase_model == "pareto_nbd"
    assert model.verdict == "converged"
    assert_params(model.purchase_params, r=0.5532, alpha=10.577, s=0.6062, beta=11.670)
    assert model.detail["log_likelihood"] == pytest.approx(-9594.98, abs=0.02)


def test_pareto_nbd_in_days_is_the_same_model(sample: Customers) -> None:
    in_days, in_weeks = (sample.fit(unit_days, "pareto_nbd") for unit_days in (1, 7))
    x, recency, T = sample.frequency, sample.recency_days, sample.T_days
    np.testing.assert_allclose(
        in_days.expected_purchases(x, recency, T, 273),
        in_weeks.expected_purchases(x, recency / 7, T / 7, 39),
        rtol=1e-4,
    )
    assert in_days.detail["log_likelihood"] == pytest.approx(-9594.98 - 2_457 * np.log(7), abs=0.02)


def test_gamma_gamma_on_the_repeat_buyers_of_the_sample(in_weeks: Btyd) -> None:
    assert in_weeks.value_model == "gamma_gamma"
    assert in_weeks.detail["value_n"] == 946
    assert_params(in_weeks.value_params, p=6.249, q=3.745, v=15.448)
    assert in_weeks.detail["value_log_likelihood"] == pytest.approx(-4055.92, abs=0.02)


def test_customer_with_two_repeats(in_weeks: Btyd) -> None:
    assert in_weeks.expected_purchases(2, 30.43, 38.86, 39)[0] == pytest.approx(1.226, abs=5e-4)
    assert in_weeks.probability_active(2, 30.43, 38.86)[0] == pytest.approx(0.7266, abs=5e-5)


def test_new_customer_from_the_rounded_parameters() -> None:
    params = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}
    model = Btyd("bgnbd", params, "shrinkage", {"mean": 1.0, "k": 1.0}, "", {})
    for weeks, published in ((1, 0.0533), (3, 0.1509), (32, 1.0452), (78, 1.8605)):
        assert model.expected_purchases(0, 0, 0, weeks)[0] == pytest.approx(published, abs=5e-5)


def test_bgnbd_on_the_whole_cohort() -> None:
    cohort = read("CDNOW_master.txt", customer=0, date=1, skip=1)
    assert len(cohort.frequency) == 23_570
    model = cohort.fit(unit_days=7)
    assert_params(model.purchase_params, r=0.2516, alpha=4.7889, a=0.7234, b=2.1611)
    assert model.detail["log_likelihood"] == pytest.approx(-95368.44, abs=0.02)
