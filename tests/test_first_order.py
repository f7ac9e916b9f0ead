"""The step at the first order: what was said before and after it, and what then came."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from clv import first_order, prospects
from clv.config import Config
from clv.learn import first_order as learn_first_order
from clv.learn.prospect_past import PastModel
from clv.period import see
from clv.scales import fit_scale
from clv.tables import CORE
from clv.warehouse import Engine

NOW = {"first_order_customers": 85.0} | {
    f"first_order_step_{name}_ratio": ratio
    for name, ratio in {"mean": 0.79, "quartile_1": 0.5, "median": 0.8, "quartile_3": 1.4}.items()
}


def pairs(n: int, seed: int = 1) -> pd.DataFrame:
    """Young customers whose own history knows what comes, and whose prospect forecast knows nothing of it."""
    rng = np.random.default_rng(seed)
    came = rng.gamma(0.8, 1000, n)
    given = rng.gamma(4, 300, n)
    return pd.DataFrame(
        {
            "conversion_probability": 0.4,
            "prospect_value": 0.4 * given,
            "value_given_conversion": given,
            "realised_from_first_order": came + 100,
            "order_count": rng.integers(1, 5, n),
            "clv": came * rng.lognormal(0, 0.5, n),
            "realised_after": came,
        }
    )


def test_the_step_by_hand() -> None:
    given, clv = [1000.0, 2000.0, 3000.0, 4000.0, 5000.0], [500.0, 2000.0, 6000.0, 1000.0, 500.0]
    frame = pairs(5).assign(value_given_conversion=given, clv=clv)
    found = first_order.step(frame).set_index("figure")
    ratio = found.loc["step_ratio"]
    assert ratio["mean"] == pytest.approx(10_000 / 15_000)  # of the totals, not the mean of ratios
    assert (ratio["quartile_1"], ratio["median"], ratio["quartile_3"]) == (0.25, 0.5, 1.0)
    assert found.loc["clv", "mean"] == 2000
    assert found["customers"].eq(5).all()
    assert first_order.step(frame.iloc[:0]).empty


def test_a_blend_is_measured_against_history_alone_and_hurts_where_history_knows() -> None:
    found = first_order.blends(pairs(200), seed=7)
    clv, prospect, *blends = found.to_dict("records")
    assert (clv["gain_low"], clv["gain_high"]) == (0, 0)
    assert prospect["gain_high"] < 0
    assert [row["prior_orders"] for row in blends] == list(first_order.PRIOR_ORDERS)
    assert all(row["gain_high"] < 0 for row in blends[1:])
    ginis = [clv["normalised_gini"], *(row["normalised_gini"] for row in blends)]
    assert ginis == sorted(ginis, reverse=True)  # the more of it, the worse


def test_facts_of_few_customers_say_no_spread() -> None:
    since, until = date(2024, 10, 1), date(2025, 1, 1)
    [(name, value, _)] = first_order.facts(pairs(9), since, until)
    assert (name, value) == ("first_order_customers", 9)
    known = {name: value for name, value, _ in first_order.facts(pairs(40), since, until)}
    assert known["first_order_customers"] == 40
    assert set(NOW) <= set(known)


def reader(grades: pd.DataFrame) -> Callable[..., pd.DataFrame]:
    facts = pd.DataFrame({"name": list(NOW), "value": list(NOW.values())})
    return lambda sql, *parameters: facts if "month_facts" in sql else grades


@pytest.mark.parametrize(
    ("sources", "speaks"),
    [(["prospect", "history"], True), (["history", "history"], False), (["prospect"], False)],
)
def test_only_who_was_a_prospect_last_month_has_a_step(sources: list[str], speaks: bool) -> None:
    month = date(2026, 2, 1)
    grades = pd.DataFrame(
        {
            "as_of_date": pd.to_datetime(["2026-01-01", "2026-02-01"][-len(sources) :]),
            "value_source": sources,
            "clv": [np.nan, 900.0][-len(sources) :],
            "prospect_value": [400.0, np.nan][: len(sources)],
            "conversion_probability": [0.5, np.nan][: len(sources)],
        }
    )
    step = first_order.of_customer(reader(grades), "c", month)
    assert (step is not None) == speaks
    if step:
        assert (step["prospect_value"], step["value_given_conversion"], step["clv"]) == (400.0, 800.0, 900.0)
        assert step["customers"] == NOW["first_order_customers"]
        assert step["moved_mean"] == pytest.approx(NOW["first_order_step_mean_ratio"] - 1)


# Whose step it is


class _ByAge:
    """A prospect model that says its own age in days, so that it shows which snapshot spoke last."""

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        age = rows["days_since_first_contact"].to_numpy(np.float64)
        return pd.DataFrame(
            {
                "customer_id": rows["customer_id"].to_numpy(),
                "conversion_probability": 0.5,
                "value_given_conversion": age,
                "prospect_value": age / 2,
            }
        )


def test_the_last_word_before_the_first_order_stands_beside_the_first_word_after_it(engine: Engine) -> None:
    for name, table in CORE.items():
        engine.run(f"CREATE TABLE main.{name} ({table.ddl()})")
    engine.run("ALTER TABLE main.order_lines ADD COLUMN value DECIMAL(18,4)")
    contacts = {
        "early": "2023-09-01",
        "mid": "2023-10-20",
        "quick": "2023-12-01",
        "old": "2023-06-01",
        "never": "2023-09-01",
    }
    orders = {"early": "2023-10-05", "mid": "2023-12-05", "quick": "2023-12-10", "old": "2023-09-01"}
    for customer, day in contacts.items():
        engine.run(
            "INSERT INTO main.customers (customer_id, first_contact_date) VALUES (?, ?)", [customer, day]
        )
    for customer, day in orders.items():
        for order in (day, "2024-03-01"):
            engine.run(
                "INSERT INTO main.order_lines (order_id, customer_id, order_date, net_amount, value) "
                "VALUES (?, ?, ?, 100, 100)",
                [f"{customer} {order}", customer, order],
            )
    settings = Config.model_validate(
        {
            "company": "tiny",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"table": "lines"}, "customers": {"table": "people"}},
            "lifetime_value": {"discount_rate_annual_ratio": 0},
        }
    )
    start = date(2023, 10, 1)
    until = start + timedelta(days=90)
    past = PastModel(start, _ByAge(), fit_scale("prospect", "log", np.array([1.0, 2.0]), 1.0))  # type: ignore[arg-type]
    ids = np.array(["early", "mid", "quick", "old"], dtype=object)
    made = learn_first_order.value_forecasts(engine, until, ids, np.full(4, 70.0), np.full(4, 90.0))
    assert made["order_count"].tolist() == [1, 1, 1, 1]  # the order of March is not known yet
    found = learn_first_order.pairs(engine, date(2025, 1, 1), settings, past, made).set_index("customer_id")
    # `quick` came and ordered between two snapshots; `old` had ordered before the window, `never` never did.
    assert found.index.tolist() == ["early", "mid"]
    assert found["value_given_conversion"].to_dict() == {"early": 30, "mid": 41}  # on 10-01 and 11-30
    assert found["realised_from_first_order"].tolist() == [200, 200]
    assert found["clv"].tolist() == [70, 70]
    immature = learn_first_order.pairs(engine, date(2024, 11, 1), settings, past, made)
    assert immature["customer_id"].tolist() == ["early"]
    see(engine, date(2025, 1, 1))
    assert prospects.prospect_rows(engine, date(2025, 1, 1))["customer_id"].tolist() == ["never"]
