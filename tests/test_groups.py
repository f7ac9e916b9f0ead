"""Account groups: money summed, risk weighted by exposure, chains followed to the top, circles refused."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from clv import composite, groups
from clv.config import Config
from clv.credit import credit_standing
from clv.errors import TableError
from clv.ingest.links import refuse_cycles
from clv.policies import Cut
from clv.tables import CORE
from clv.warehouse import Engine

AS_OF = date(2026, 1, 1)
KINDS = {"lifetime_value": "log", "payment": "payment", "contribution": "asinh", "order_amount": "log1p"}
NAMES = ("important", "main", "ordinary", "small")


def config_of(**more: object) -> Config:
    sources = {
        "order_lines": {"path": "orders.csv"},
        "invoices": {"path": "i.csv"},
        "payments": {"path": "p.csv"},
    }
    return Config.model_validate({"company": "tiny", "reporting_currency": "EUR", "sources": sources, **more})


def company(n: int = 100, seed: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    worth = np.sort(rng.lognormal(6, 1.3, n))[::-1]
    values = pd.DataFrame(
        {
            "lifetime_value": worth,
            "payment": rng.beta(1, 9, n),
            "contribution": worth * 0.8,
            "order_amount": worth * 5,
        }
    )
    frame = pd.DataFrame(
        {
            "customer_id": [f"c{i:03d}" for i in range(n)],
            "contribution_margin": values["contribution"],
            "late_payment_probability": values["payment"],
            "overdue_balance_ratio": 0.0,
            "open_balance": 100.0,
            "is_blocked": False,
            "bad_debt": pd.Series([None] * n, dtype="str"),
            "account_group_id": pd.Series([None] * n, dtype="str"),
        }
    )
    return frame, values


def graded_groups(
    frame: pd.DataFrame, values: pd.DataFrame, config: Config, cut: Cut, exposure: np.ndarray | None = None
) -> pd.Series:
    grading = composite.fit(values, KINDS, {}, trained_as_of=AS_OF)
    composed = composite.compose(grading.score(values), config.weights, list(KINDS), grading.baselines, 0.6)
    frame = frame.assign(composite_score=composed["composite_score"])
    owed = np.ones(len(frame)) if exposure is None else exposure
    found = groups.group_tiers(frame, values, owed, grading, config, cut, list(KINDS))
    return found.set_axis(frame["customer_id"])


PYRAMID = Cut(NAMES, (1, 19, 30, 50))


def test_a_group_of_small_members_is_graded_by_their_sum() -> None:
    frame, values = company()
    frame.loc[60:89, "account_group_id"] = "G1"
    values.loc[60:89, "payment"] = 0.02
    found = graded_groups(frame, values, config_of(), PYRAMID)
    assert found.notna().sum() == 30
    assert found["c060"] == found["c089"] == "main"  # thirty small ones together are large


def test_a_group_of_one_has_the_tier_of_its_rank() -> None:
    frame, values = company()
    frame["account_group_id"] = [f"G{i}" for i in range(100)]
    config = config_of(gates={"late_payment_probability": None})
    found = graded_groups(frame, values, config, PYRAMID)
    assert found.value_counts().to_dict() == {"important": 1, "main": 19, "ordinary": 30, "small": 50}


def test_risk_is_weighted_by_exposure_not_by_heads() -> None:
    frame, values = company()
    frame.loc[:1, "account_group_id"] = "G1"
    values.loc[:1, "payment"] = frame.loc[:1, "late_payment_probability"] = [0.9, 0.05]
    exposure = np.ones(100)
    exposure[:2] = [1.0, 99.0]
    assert graded_groups(frame, values, config_of(), PYRAMID, exposure)["c000"] in ("important", "main")
    exposure[:2] = [99.0, 1.0]
    assert graded_groups(frame, values, config_of(), PYRAMID, exposure)["c000"] == "ordinary"  # late: gated


def test_a_blocked_member_closes_the_group_only_where_it_holds_most_of_the_money() -> None:
    frame, values = company()
    frame.loc[:1, "account_group_id"] = "G1"
    frame.loc[0, "is_blocked"] = True
    values["payment"] = frame["late_payment_probability"] = 0.05
    exposure = np.ones(100)
    exposure[:2] = [10.0, 90.0]
    assert graded_groups(frame, values, config_of(), PYRAMID, exposure)["c001"] in ("important", "main")
    exposure[:2] = [90.0, 10.0]
    assert graded_groups(frame, values, config_of(), PYRAMID, exposure)["c001"] == "ordinary"


def test_nobody_in_a_group_has_no_group_tier() -> None:
    frame, values = company()
    assert graded_groups(frame, values, config_of(), PYRAMID).isna().all()


def test_a_chain_leads_to_the_group_at_the_top_and_a_named_customer_is_in_its_own_group() -> None:
    direct = pd.Series({"a": "b", "b": "G", "c": None, "d": "c", "e": None, "f": "f"}, dtype="str")
    found = groups.roots(direct)
    assert found.fillna("none").to_dict() == {
        "a": "G", "b": "G", "c": "c", "d": "c", "e": "none", "f": "f",
    }  # fmt: skip


@pytest.fixture
def core(engine: Engine) -> Engine:
    for table in CORE.values():
        engine.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
    return engine


def test_groups_that_belong_to_each_other_stop_the_run_and_are_named(core: Engine) -> None:
    core.run("""
        INSERT INTO main.account_links BY NAME SELECT * FROM (VALUES
            ('a', 'b', DATE '2025-01-01', NULL), ('b', 'c', DATE '2025-01-01', NULL),
            ('c', 'a', DATE '2025-06-01', DATE '2025-12-30'), ('d', 'd', DATE '2025-01-01', NULL),
            ('e', 'b', DATE '2025-01-01', NULL)
        ) AS t(customer_id, account_group_id, valid_from, valid_to)""")
    refuse_cycles(core, AS_OF)  # the circle has ended
    refuse_cycles(core, date(2025, 6, 1))  # and has not begun
    with pytest.raises(TableError, match=r"found 1 circles on 2025-06-02, first a → b → c → a\. End one"):
        refuse_cycles(core, date(2025, 6, 2))


def test_credit_standing_is_the_last_word_on_a_block_and_any_recent_bad_debt(core: Engine) -> None:
    core.run("CREATE SCHEMA past")
    core.run("""
        CREATE TABLE past.credit_events AS SELECT * FROM (VALUES
            ('a', DATE '2025-05-01', 'blocked'), ('a', DATE '2025-06-01', 'released'),
            ('b', DATE '2025-06-01', 'blocked'), ('b', DATE '2025-05-01', 'released'),
            ('c', DATE '2025-05-01', 'write_off'), ('c', DATE '2025-06-01', 'insolvency'),
            ('d', DATE '2023-12-31', 'write_off'), ('e', DATE '2024-01-01', 'write_off'),
            ('f', DATE '2025-05-01', 'blocked'), ('f', DATE '2025-05-01', 'released')
        ) AS t(customer_id, event_date, kind)""")
    found = credit_standing(core, AS_OF, config_of()).set_index("customer_id")
    assert found["is_blocked"].to_dict() == {
        "a": False, "b": True, "c": False, "d": False, "e": False, "f": False,
    }  # fmt: skip
    bad = found["bad_debt"].astype(object).where(found["bad_debt"].notna(), None).to_dict()
    assert bad == {"a": None, "b": None, "c": "insolvency", "d": None, "e": "write_off", "f": None}
    off = credit_standing(core, AS_OF, config_of(gates={"bad_debt_months": None}))
    assert off["bad_debt"].isna().all()
