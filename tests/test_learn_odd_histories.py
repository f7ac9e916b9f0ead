"""Histories from which nothing, or little, can be learned: a verdict in words, and never a value that is no number."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clv import ingest, learn
from clv.config import Config
from clv.contribution import price_lines
from clv.learn.learned import Learned
from clv.models.lifetime_value import LifetimeValue
from clv.period import Horizon
from clv.warehouse import workspace

AS_OF = date(2025, 1, 1)
QUARTER = Horizon(months=3)
Orders = list[tuple[str, str, float]]  # customer, day, net amount


def regular(customers: int = 60, until: str = "2024-12-31", days: int = 35) -> Orders:
    """Customers who order every so many days, each always for the same amount."""
    calendar = pd.date_range("2023-01-01", until, freq="D")
    return [
        (f"K{i:03d}", str(day.date()), 50.0 + 10 * i)
        for i in range(customers)
        for day in calendar[i % days :: days]
    ]


def one_customer() -> Orders:
    return [("K", f"2024-{month:02d}-03", 80.0 + month) for month in range(1, 13)]


def no_repeat_buyers() -> Orders:
    return [(f"K{i:03d}", f"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d}", 20.0 + i) for i in range(120)]


def one_purchase_day_for_all() -> Orders:
    return [(f"K{i:03d}", "2024-11-11", 20.0 + i) for i in range(120)]


def all_values_equal() -> Orders:
    return [(customer, day, 100.0) for customer, day, _ in regular()]


def a_single_huge_order() -> Orders:
    return [*regular(), ("K001", "2024-10-05", 5e9)]


def only_returns() -> Orders:
    return [(customer, day, -net) for customer, day, net in regular(30)]


def shorter_than_the_horizon() -> Orders:
    return [row for row in regular() if row[1] >= "2024-11-20"]


def negative_and_zero_values() -> Orders:
    return [(customer, day, (-net, 0.0, net)[i % 3]) for i, (customer, day, net) in enumerate(regular())]


def amounts_of_a_thousand_billion() -> Orders:
    return [(customer, day, net * 1e10) for customer, day, net in regular(80)]


# What each ends as: the mode of the model that grades, and what the reason must say.
CASES: dict[Callable[[], Orders], tuple[str, str]] = {
    one_customer: ("last_period", "no skill"),
    no_repeat_buyers: ("last_period", "Nobody bought anything in the label windows"),
    one_purchase_day_for_all: ("last_period", "History too short to learn from"),
    all_values_equal: ("last_period", "no skill"),
    only_returns: ("last_period", "Nobody bought anything in the label windows"),
    shorter_than_the_horizon: ("last_period", "History too short to learn from"),
}


def learned_of(orders: Orders, folder: Path) -> tuple[Learned[LifetimeValue], pd.DataFrame]:
    frame = pd.DataFrame(orders, columns=["customer_id", "order_date", "net_amount"])
    frame.assign(order_id=[f"O{i}" for i in range(len(frame))]).to_csv(folder / "orders.csv", index=False)
    config = Config.model_validate(
        {
            "company": "odd",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"path": str(folder / "orders.csv")}},
            "engine": {"threads": 1},
            "contract": {"maximum_rejected_ratio": 1.0},
        }
    )
    with workspace(threads=1, memory_limit="1GB") as db:
        ingest.load(db, config, AS_OF)
        basis = price_lines(db, config).basis
        return learn.learn_lifetime_value(db, AS_OF, config, basis=basis, horizon=QUARTER)


@pytest.mark.parametrize(
    "orders",
    [*CASES, a_single_huge_order, negative_and_zero_values, amounts_of_a_thousand_billion],
    ids=lambda orders: orders.__name__,
)
def test_no_history_gives_a_value_that_is_no_number(orders: Callable[[], Orders], tmp_path: Path) -> None:
    learned, present = learned_of(orders(), tmp_path)
    predicted = learned.model.predict(present)
    assert len(predicted) == len(present) > 0
    assert np.isfinite(predicted["value"]).all()
    if learned.model.mode == "last_period":
        assert predicted[["clv", "clv_low", "clv_high"]].isna().all(axis=None)
    else:
        assert np.isfinite(predicted[["clv", "clv_low", "clv_high"]]).all(axis=None)
        outlook = learned.model.outlook(present)
        assert np.isfinite(outlook[["clv", "clv_low", "clv_high"]]).all(axis=None)
    assert learned.why


@pytest.mark.parametrize("orders", list(CASES), ids=lambda orders: orders.__name__)
def test_what_cannot_be_learned_is_graded_by_the_last_period_and_says_why(
    orders: Callable[[], Orders], tmp_path: Path
) -> None:
    mode, words = CASES[orders]
    learned, _ = learned_of(orders(), tmp_path)
    assert not learned.passed
    assert learned.model.mode == mode
    assert words in learned.why
