"""The search for the shape of the lifetime-value model: on calibration periods alone, never worse than its start."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clv import ingest, learn
from clv.config import Config
from clv.contribution import price_lines
from clv.errors import ModelError
from clv.period import Horizon
from clv.warehouse import workspace

AS_OF = date(2025, 1, 1)
QUARTER = Horizon(months=3)
TESTED_FROM = date(2024, 10, 1)
MINUTES = 0.05  # a few shapes


def orders(until: date) -> pd.DataFrame:
    """Two years of 300 customers with rates and values of their own."""
    rng = np.random.default_rng(4)
    counts = rng.poisson(rng.gamma(1.0, 12.0, 300))
    owner = np.repeat(np.arange(300), counts)
    day = pd.Timestamp("2023-01-01") + pd.to_timedelta(rng.integers(0, 731, len(owner)), unit="D")
    value = rng.lognormal(4, 1, 300)[owner] * rng.lognormal(0, 0.3, len(owner))
    frame = pd.DataFrame(
        {"customer_id": [f"K{i:03d}" for i in owner], "order_date": day, "net_amount": value.round(2)}
    )
    frame = frame[frame["order_date"] < pd.Timestamp(until)]
    return frame.assign(order_id=[f"O{i}" for i in range(len(frame))])


def tuned(frame: pd.DataFrame, folder: Path) -> learn.Tuned:
    frame.to_csv(folder / "orders.csv", index=False)
    config = Config.model_validate(
        {
            "company": "tuned",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"path": str(folder / "orders.csv")}},
            "engine": {"threads": 1},
        }
    )
    with workspace(threads=1, memory_limit="1GB") as db:
        ingest.load(db, config, AS_OF)
        basis = price_lines(db, config).basis
        return learn.tune_lifetime_value(db, AS_OF, config, basis=basis, horizon=QUARTER, minutes=MINUTES)


def test_the_configured_shape_is_tried_first_and_never_beaten_by_a_worse_one(tmp_path: Path) -> None:
    found = tuned(orders(AS_OF), tmp_path)
    first = found.trials.iloc[0]
    assert (first["num_leaves"], first["rounds"], first["learning_rate"]) == (7, 200, 0.03)
    best = found.trials.loc[found.trials["normalised_gini"].idxmax()]
    assert best["normalised_gini"] >= first["normalised_gini"]
    assert found.config.lifetime_value.num_leaves == best["num_leaves"]
    assert found.config.lifetime_value.rounds == best["rounds"]


def test_every_period_tuned_on_ends_before_the_one_that_tests_the_model(tmp_path: Path) -> None:
    found = tuned(orders(AS_OF), tmp_path)
    assert len(found.origins) == 3
    assert all(QUARTER.after(origin) <= TESTED_FROM for origin in found.origins)


def test_what_happens_in_the_period_that_tests_the_model_moves_no_search(tmp_path: Path) -> None:
    whole, changed = orders(AS_OF), orders(AS_OF)
    later = changed["order_date"] >= pd.Timestamp(TESTED_FROM)
    changed.loc[later, "net_amount"] = changed.loc[later, "net_amount"].to_numpy()[::-1] * 3
    first, second = tuned(whole, tmp_path), tuned(changed, tmp_path)
    tried = min(len(first.trials), len(second.trials))
    pd.testing.assert_frame_equal(first.trials.head(tried), second.trials.head(tried))


def test_a_history_without_such_a_period_says_so(tmp_path: Path) -> None:
    short = orders(AS_OF)
    short = short[short["order_date"] >= pd.Timestamp(TESTED_FROM - timedelta(days=120))]
    with pytest.raises(ModelError, match="No period to tune on before the test of 2024-10-01"):
        tuned(short, tmp_path)
