"""Published numbers for the CDNOW data: sample and whole cohort, calibration to 1997-09-30, 39 weeks after it.

Fader, Hardie and Lee (2005) and brucehardie.com/notes. The data ship inside `lifetimes`; only the files are read.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from clv.models import btyd, lifetimes_guess
from clv.models.btyd import Btyd
from clv.models.histories import Histories
from clv.models.pareto_nbd import ParetoNBD

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
def cohort() -> Customers:
    return read("CDNOW_master.txt", customer=0, date=1, skip=1)


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


def test_bgnbd_on_the_whole_cohort(cohort: Customers) -> None:
    assert len(cohort.frequency) == 23_570
    model = cohort.fit(unit_days=7)
    assert_params(model.purchase_params, r=0.2516, alpha=4.7889, a=0.7234, b=2.1611)
    assert model.detail["log_likelihood"] == pytest.approx(-95368.44, abs=0.02)


@pytest.mark.parametrize("name", ["bgnbd", "mbgnbd"])
def test_the_whole_cohort_by_the_fitters_of_lifetimes_themselves(cohort: Customers, name: str) -> None:
    """One row per customer, nothing collapsed, no portion: the same answers, at least as likely."""
    x, recency, T = cohort.frequency, cohort.recency_days / 7, cohort.T_days / 7
    repeat = cohort.mean_repeat_value > 0
    with lifetimes_guess.lifetimes() as lifetimes:
        purchases = getattr(lifetimes, lifetimes_guess.FITTERS[name])().fit(x, recency, T)
        values = lifetimes.GammaGammaFitter().fit(x[repeat], cohort.mean_repeat_value[repeat])
    model = cohort.fit(unit_days=7, purchase_model=name)
    assert model.verdict == "converged"
    assert_params(model.purchase_params, **purchases.params_)
    assert_params(model.value_params, **values.params_)
    theirs = -len(x) * purchases._negative_log_likelihood_ - x.sum() * np.log(T.max())
    assert model.detail["log_likelihood"] == pytest.approx(theirs, abs=0.02)
    assert model.detail["log_likelihood"] >= theirs - 1e-6
    value_likelihood = -repeat.sum() * values._negative_log_likelihood_
    assert model.detail["value_log_likelihood"] == pytest.approx(value_likelihood, abs=0.02)
    assert model.detail["value_log_likelihood"] >= value_likelihood - 1e-6


def test_pareto_nbd_on_the_whole_cohort_is_a_minimum_that_no_simplex_improves(cohort: Customers) -> None:
    """Nelder-Mead on the plain sum over customers, as `lifetimes` would search, begun at the answer."""
    x, recency, T = cohort.frequency, cohort.recency_days / 7, cohort.T_days / 7
    model = cohort.fit(unit_days=7, purchase_model="pareto_nbd")
    assert model.verdict == "converged"
    assert model.log_likelihood(x, recency, T).sum() == pytest.approx(model.detail["log_likelihood"])
    histories = Histories.of(x, recency, T)

    def loss(logs: Floats) -> float:
        found = ParetoNBD(*np.exp(logs)).log_likelihood(*histories.columns)
        return -float(np.sum(histories.weights * found))

    logs = np.log(list(model.purchase_params.values()))
    found = minimize(loss, logs, method="Nelder-Mead", options={"maxfev": 60})
    assert -found.fun - model.detail["log_likelihood"] < 1e-6


@pytest.mark.parametrize("name", ["bgnbd", "mbgnbd"])
def test_without_lifetimes_the_search_from_fixed_starts_reaches_the_same(
    sample: Customers, cohort: Customers, name: btyd.PurchaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = [customers.fit(7, name) for customers in (sample, cohort)]
    monkeypatch.setitem(sys.modules, "lifetimes", None)  # importing it is an ImportError
    with pytest.raises(ImportError), lifetimes_guess.lifetimes():
        pass
    for customers, expected in zip((sample, cohort), with_it, strict=True):
        alone = customers.fit(7, name)
        assert alone.verdict == "converged"
        assert alone.purchase_params == pytest.approx(expected.purchase_params, rel=1e-7)
        assert alone.value_params == pytest.approx(expected.value_params, rel=1e-7)
        for key in ("log_likelihood", "value_log_likelihood"):
            assert alone.detail[key] == pytest.approx(expected.detail[key], abs=1e-5)


@pytest.mark.parametrize("purchase_model", ["bgnbd", "mbgnbd", "pareto_nbd"])
def test_auto_compares_the_models_out_of_sample(sample: Customers, purchase_model: str) -> None:
    """BG/NBD, MBG/NBD and Pareto/NBD in the order of the published log-likelihoods, a little lower each."""
    model = sample.fit(7, "auto")
    published = {"bgnbd": -9582.43, "mbgnbd": -9582.13, "pareto_nbd": -9594.98}
    score = model.detail[f"held_out_log_likelihood_{purchase_model}"]
    assert published[purchase_model] / 2_357 - 0.01 < score < published[purchase_model] / 2_357 + 0.001
    assert score <= model.detail[f"held_out_log_likelihood_{model.purchase_model}"]
    assert model.purchase_model != "pareto_nbd"
