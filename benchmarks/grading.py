"""A million customers graded: scores, composite, gates, tiers under the band, firmness, quadrants, groups; and memory.

    .venv/bin/python benchmarks/grading.py --customers 1000000 --groups 450000

Values are drawn, the month before is drawn too, so every rule has work to do. The baseline is one sort of the
composite, which no ranking can do without. Seconds are by the clock, and of processors where others use them too.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd

from clv import grades
from clv.config import Config
from clv.criteria import Measured
from clv.firmness import Changes

AS_OF = date(2026, 1, 1)
KINDS = {
    "lifetime_value": "log", "payment": "payment", "payment_record": "record", "contribution": "asinh",
    "order_amount": "log1p",
}  # fmt: skip


def company(n: int, groups: int, seed: int = 1) -> tuple[Measured, pd.DataFrame]:
    """What would have been measured of `n` customers, and the month before.

    Two thirds of the customers are in one of so many account groups, a third of which belong to another one.
    """
    rng = np.random.default_rng(seed)
    worth = rng.lognormal(6, 1.5, n)
    late, on_time = rng.beta(1, 8, n), rng.beta(8, 1, n)
    ids = pd.Series(np.char.add("C", np.char.zfill(np.arange(n).astype(str), 8)), dtype="str")
    customers = pd.DataFrame(
        {
            "customer_id": ids,
            "segment": "all",
            "is_active": rng.random(n) < 0.9,
            "clv": worth,
            "contribution_margin": worth * rng.normal(0.8, 0.4, n),
            "order_amount": worth * 5,
            "revenue": worth * 5,
            "late_payment_probability": late,
            "on_time_share_ratio": on_time,
            "overdue_balance_ratio": np.where(rng.random(n) < 0.05, 0.5, 0.0),
            "open_balance": worth / 10,
            "probability_active": rng.beta(5, 1, n),
            "bad_debt": pd.Series(None, index=range(n), dtype="str"),
            "is_blocked": False,
            "account_group_id": in_groups(ids, groups, rng),
        }
    )
    values = pd.DataFrame(
        {
            "lifetime_value": worth,
            "payment": late,
            "payment_record": on_time,
            "contribution": customers["contribution_margin"],
            "order_amount": customers["order_amount"],
        }
    )
    nobody = pd.DataFrame({"customer_id": [], "prospect_value": [], "judgement": []})
    measured = Measured(
        customers=customers,
        values=values,
        prospects=nobody,
        prospect_values=nobody[["prospect_value"]].set_axis(["prospect"], axis=1),
        kinds=KINDS,
        references={},
        off={},
        fallback={},
        payment_rows=pd.DataFrame({"customer_id": ids, "amount": worth / 2}),
    )
    noisy = np.argsort(-worth * rng.lognormal(0, 0.1, n), kind="stable")
    tier = np.empty(n, dtype=object)
    names = np.repeat(
        ["important", "main", "ordinary", "small"], (np.array([0.01, 0.19, 0.30, 0.50]) * n).astype(int)
    )
    tier[noisy[: len(names)]] = names
    tier[noisy[len(names) :]] = "small"
    previous = pd.DataFrame(
        {
            "customer_id": ids,
            "value_source": "history",
            "tier": tier,
            "tier_rule": "rank",
            "previous_tier": tier[rng.permutation(n)],
        }
    )
    return measured, previous


def in_groups(ids: pd.Series, groups: int, rng: np.random.Generator) -> pd.Series:
    """The group that each customer names: a customer itself, the first ones; a third of these name one of the first."""
    n = len(ids)
    head = rng.integers(0, max(groups, 1), n)
    named = ids.take(head).set_axis(ids.index)
    is_head = np.arange(n) < groups
    nested = is_head & (np.arange(n) % 3 == 0) & (head < np.arange(n))
    member = ~is_head & (rng.random(n) < 2 / 3) if groups else np.zeros(n, dtype=bool)
    return named.where(member | nested)


@contextmanager
def timed(what: str, times: dict[str, tuple[float, float]]) -> Iterator[None]:
    started, used = time.perf_counter(), time.process_time()
    yield
    times[what] = time.perf_counter() - started, time.process_time() - used


def main(n: int, account_groups: int, say: Callable[[str], None] = print) -> None:
    sources = {
        "order_lines": {"path": "orders.csv"},
        "invoices": {"path": "i.csv"},
        "payments": {"path": "p.csv"},
    }
    config = Config.model_validate({"company": "bench", "reporting_currency": "EUR", "sources": sources})
    measured, previous = company(n, account_groups)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: dict[str, tuple[float, float]] = {}
    with timed("scales", times):
        grading = grades.fit_grading(measured, AS_OF)
    changes = {name: Changes(tuple(range(10, 100, 10)), (2.0,) * 10) for name in KINDS}
    nobody = pd.DataFrame({"customer_id": [], "tier": []})
    with timed("grades, tiers, firmness, quadrants, groups", times):
        graded = grades.grade_customers(
            measured, replace(grading, changes=changes), config, previous, nobody, policy_reset=False
        )
    with timed("tables", times):
        grades.grades_table(graded, {}, "contribution")
        grades.criteria_table(graded, measured)
        grades.tier_summary(graded)
    with timed("one sort (baseline)", times):
        np.argsort(graded.frame["composite_score"].to_numpy(), kind="stable")
    for name, (seconds, used) in times.items():
        say(f"{name:<44}{seconds:7.1f} s {used:7.1f} s of processors")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times.pop("one sort (baseline)")
    total, used = (sum(column) for column in zip(*times.values(), strict=True))
    held = graded.frame["account_group_id"].nunique()
    say(
        f"{n:,} customers, {held:,} account groups: {total:.1f} s ({used:.1f} s of processors), "
        f"peak {peak / 2**20:.1f} GB ({before / 2**20:.1f} before)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=450_000)
    given = parser.parse_args()
    main(given.customers, given.groups)
