"""A path, walked for real, reaches the next tier; one step less does not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clv import grades, levers, paths, scenario
from clv.criteria import Measured, measure
from clv.edges import reaching, reaching_each
from clv.grades import Graded, composites
from clv.period import add_months, see
from clv.policies import Cut
from clv.receivables import invoice_state

SAMPLE = 5  # paths walked per lever


@dataclass(frozen=True)
class Speaking:
    models: Any
    grading: Any


@pytest.fixture(scope="module")
def found(two_months: SimpleNamespace) -> pd.DataFrame:
    month = two_months.second
    now = Speaking(two_months.models, two_months.grading)
    return paths.paths(
        two_months.db,
        month.as_of,
        month.customers,
        month.measured,
        now,
        two_months.config,
        two_months.pricing,
    )


def aims(company: SimpleNamespace) -> pd.DataFrame:
    return paths.aims_of(company.second.customers, company.config, company.pricing.basis).frame


def append_usual_orders(db: Any, customer: str, as_of: date, count: int) -> None:
    """By hand, from the words of the method: the usual order again, evenly over the free days of the last 90."""
    lines = db.frame(
        "SELECT * FROM main.order_lines WHERE customer_id = ? AND order_date < ?", [customer, as_of]
    )
    days = lines.groupby("order_date")["net_amount"].sum()
    orders = days[days > 0]
    recent = orders[orders.index >= pd.Timestamp(as_of - timedelta(days=365))]
    orders = recent if len(recent) else orders
    ranked = sorted(orders.items(), key=lambda item: (item[1], item[0]))
    usual = ranked[(len(ranked) + 1) // 2 - 1][0]
    window = pd.date_range(as_of - timedelta(days=90), as_of - timedelta(days=1))
    free = [day for day in window if day not in days.index]
    for i in range(1, count + 1):
        day = free[int(np.ceil((i - 0.5) * len(free) / count)) - 1]
        db.run(
            f"""INSERT INTO main.order_lines SELECT * REPLACE (DATE '{day:%Y-%m-%d}' AS order_date,
                order_id || '-{i}' AS order_id, NULL AS posted_date)
                FROM main.order_lines WHERE customer_id = ? AND order_date = ?
                    AND NOT contains(order_id, '-again')""".replace(f"-{i}'", f"-again{i}'"),
            [customer, usual.date()],
        )


def pay_sooner(db: Any, customer: str, as_of: date, days: int, company: SimpleNamespace) -> None:
    see(db, as_of)
    state = db.frame(f"SELECT * FROM {invoice_state(db, as_of, company.config.payment)}")
    for row in state[state["customer_id"] == customer].itertuples():
        payments = db.rows(
            "SELECT DISTINCT payment_date FROM main.payments WHERE invoice_id = ?", [row.invoice_id]
        )
        issued = row.invoice_date.date()
        for (paid,) in sorted(payments):
            sooner = min(paid, max(paid - timedelta(days=days), issued))
            db.run(
                "UPDATE main.payments SET payment_date = ? WHERE invoice_id = ? AND payment_date = ?",
                [sooner, row.invoice_id, paid],
            )
        if row.is_open and row.overdue_days > 0:
            shift = max(min(days, row.overdue_days, row.age_days - 1), 0)
            db.run(
                f"""UPDATE main.invoices SET invoice_date = invoice_date + {shift}, due_date = due_date + {shift}
                    WHERE invoice_id = ?""",
                [row.invoice_id],
            )


def raise_margin(db: Any, customer: str, as_of: date, points: int) -> None:
    db.run(
        f"""UPDATE main.order_lines SET value = value + round(net_amount * {points} / 100, 4)
            WHERE customer_id = ? AND order_date >= ?""",
        [customer, add_months(as_of, -12)],
    )


def walked(company: SimpleNamespace, path: dict[str, Any], amount: int) -> Measured:
    """The customer alone, measured with the facts of its path as real ones."""
    day, customer = company.second.as_of, path["customer_id"]
    with scenario.facts_of(company.db, pd.DataFrame({"customer_id": [customer], "copy": [""]})):
        if path["lever"] == "more_orders":
            append_usual_orders(company.db, customer, day, amount)
        elif path["lever"] == "faster_payment":
            pay_sooner(company.db, customer, day, amount, company)
        else:
            raise_margin(company.db, customer, day, amount)
        return measure(company.db, day, company.config, company.pricing, company.models)


def score_of(company: SimpleNamespace, measured: Measured) -> float:
    _, composed = composites(measured, company.grading, company.config)
    return float(composed["composite_score"].iloc[0])


def regraded(company: SimpleNamespace, measured: Measured) -> str:
    """The tier of the customer a month on, if others stay as they are."""
    month = company.second
    whole = month.measured
    customer = measured.customers["customer_id"].iloc[0]
    place = int(np.flatnonzero((whole.customers["customer_id"] == customer).to_numpy())[0])
    customers, values = whole.customers.astype("object").copy(), whole.values.copy()
    for name in customers.columns:
        customers.iat[place, customers.columns.get_loc(name)] = measured.customers[name].iloc[0]
    values.iloc[place] = measured.values.iloc[0]
    again = replace(whole, customers=customers.astype(whole.customers.dtypes), values=values)
    overrides = grades.overrides_valid(company.db, month.as_of)
    graded = grades.grade_customers(
        again, company.grading, company.config, month.grades, overrides, policy_reset=False
    )
    return str(graded.frame["tier"].iloc[place])


def sample(found: pd.DataFrame, lever: str) -> list[dict[str, Any]]:
    rows = found[found["lever"] == lever]
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).round().astype(int))
    return rows.iloc[chosen].to_dict("records")


@pytest.mark.parametrize("lever", list(levers.LEVERS))
def test_the_path_walked_with_real_facts_reaches_the_edge_and_one_less_does_not(
    lever: str, found: pd.DataFrame, two_months: SimpleNamespace
) -> None:
    edges = aims(two_months).set_index("customer_id")
    walks = sample(found, lever)
    assert walks
    see(two_months.db, two_months.second.as_of)
    for path in walks:
        aim = edges.loc[path["customer_id"]]
        amount = int(path["amount"])
        assert score_of(two_months, walked(two_months, path, amount)) >= aim["edge"], path
        less = walked(two_months, path, amount - 1)
        gated = aim["is_key"] and bool(aim["gate"])
        assert gated or score_of(two_months, less) < aim["edge"], path


def test_who_has_walked_a_path_is_in_the_tier_a_month_later_if_others_stay_as_they_are(
    found: pd.DataFrame, two_months: SimpleNamespace
) -> None:
    edges = aims(two_months).set_index("customer_id")
    for path in sample(found[found["lever"] != "open_gate"], "more_orders"):
        if edges.loc[path["customer_id"], "gate"]:
            continue
        amount = int(path["amount"])
        assert regraded(two_months, walked(two_months, path, amount)) == path["target_tier"], path
        assert regraded(two_months, walked(two_months, path, amount - 1)) != path["target_tier"], path


def test_no_path_asks_for_more_than_the_members_of_the_target_tier_do(
    found: pd.DataFrame, two_months: SimpleNamespace
) -> None:
    frame = two_months.second.customers.frame.set_index("customer_id")
    for lever, name, sign, unit in (
        ("more_orders", "orders_90", 1, 1),
        ("faster_payment", "mean_days_beyond_terms", -1, 1),
        ("better_margin", "margin_ratio_365", 1, 100),
    ):
        for path in found[found["lever"] == lever].to_dict("records"):
            members = frame.loc[frame["tier"] == path["target_tier"], name].dropna().to_numpy(float) * sign
            own = float(frame.loc[path["customer_id"], name]) * sign
            assert own + path["amount"] / unit <= np.quantile(members, 0.95) + 1e-6


def test_nothing_is_said_where_nothing_feasible_works_and_amounts_are_whole_and_positive(
    found: pd.DataFrame, two_months: SimpleNamespace
) -> None:
    walks = found[found["lever"] != "open_gate"]
    assert (walks["amount"] == walks["amount"].round()).all()
    assert (walks["amount"] >= 1).all()
    frame = two_months.second.customers.frame
    top = set(frame.loc[frame["tier"] == two_months.config.tiers.names[0], "customer_id"])
    inactive = set(frame.loc[~frame["is_active"].astype(bool), "customer_id"])
    decided = set(frame.loc[frame["override_tier"].notna(), "customer_id"])
    assert not set(found["customer_id"]) & (top | inactive | decided)
    assert 0 < walks["customer_id"].nunique() < len(frame) / 2
    assert found["sentence"].str.endswith(".").all()


def test_a_gate_is_told_what_opens_it(found: pd.DataFrame, two_months: SimpleNamespace) -> None:
    frame = two_months.second.customers.frame.set_index("customer_id")
    opened = found[found["lever"] == "open_gate"]
    assert len(opened)
    assert frame.loc[opened["customer_id"], "tier_rule"].str.startswith("gate:").all()
    arrears = opened[frame.loc[opened["customer_id"], "tier_rule"].eq("gate:arrears").to_numpy()]
    assert (arrears["amount"] > 0).all()


def test_switched_off_there_are_no_paths(two_months: SimpleNamespace) -> None:
    off = two_months.config.model_copy(
        update={"explain": two_months.config.explain.model_copy(update={"paths": False})}
    )
    month = two_months.second
    now = Speaking(two_months.models, two_months.grading)
    nothing = paths.paths(
        two_months.db, month.as_of, month.customers, month.measured, now, off, two_months.pricing
    )
    assert nothing.empty


def test_paths_do_not_depend_on_the_order_of_rows_nor_on_blocks(
    found: pd.DataFrame, two_months: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "BLOCK_COPIES", 900)
    month = two_months.second
    shuffled = np.random.default_rng(1).permutation(len(month.customers.frame))
    graded = replace(month.customers, frame=month.customers.frame.iloc[shuffled])
    now = Speaking(two_months.models, two_months.grading)
    again = paths.paths(
        two_months.db, month.as_of, graded, month.measured, now, two_months.config, two_months.pricing
    )
    pd.testing.assert_frame_equal(again, found)


@settings(max_examples=25, deadline=None)
@given(
    works=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    largest=st.lists(st.integers(1, 60), min_size=12, max_size=12),
)
def test_the_smallest_amount_is_found_whatever_the_range(works: list[int], largest: list[int]) -> None:
    frame = pd.DataFrame(
        {
            "customer_id": [f"c{i}" for i in range(len(works))],
            "edge": 0.0,
            "is_key": False,
            "gate": None,
            **dict.fromkeys(levers.LEVERS, 0.0),
        }
    ).assign(more_orders=np.array(largest[: len(works)], dtype=float))
    enough = dict(zip(frame["customer_id"], works, strict=True))

    def reach(tried: pd.DataFrame) -> np.ndarray[Any, Any]:
        return (tried["amount"] >= tried["customer_id"].map(enough)).to_numpy(bool)

    found = paths.smallest_amounts(frame, reach)
    expected = {
        name: need for (name, need), most in zip(enough.items(), largest, strict=False) if need <= most
    }
    assert dict(zip(found["customer_id"], found["amount"], strict=True)) == expected


def test_who_comes_from_below_takes_the_seat_of_the_last_member() -> None:
    """Ten customers, three seats, b = 0.20: the member at rank 3 falls to 4/1.2 = 3.33; rank 2/0.8 = 2.5 is before it,
    3/0.8 = 3.75 is not. So rank 2 has to be reached: ⌊4 · 0.8/1.2⌋ = 2."""
    frame = pd.DataFrame(
        {
            "customer_id": [f"c{i}" for i in range(10)],
            "composite_score": np.arange(90.0, 80.0, -1.0),
            "composite_rank": np.arange(1, 11),
            "tier": ["a"] * 3 + ["b"] * 7,
            "tier_rule": "rank",
            "tie_break": 0.0,
            "previous_tier": ["a"] * 3 + ["b"] * 7,
        }
    )
    cut = Cut(("a", "b"), sizes=(3, 7))
    assert reaching(frame, cut, 0.20) == {"a": 89.0}
    # Who is ahead of the last member already does not push it down: ⌊4 · 0.8/1.2⌋ = 2, from behind ⌊5 · 0.8/1.2⌋ = 3.
    tier = ["a", "a", "b", "a"] + ["b"] * 6
    seat_taken = frame.assign(tier=tier, previous_tier=tier)
    at_the_top = np.zeros(10, dtype=np.int64)
    assert reaching_each(seat_taken, cut, 0.20, at_the_top)[[2, 9]].tolist() == [89.0, 88.0]
    # Who left has the band twice: 2/0.64 = 3.13 is still before 4/1.2 = 3.33.
    left = frame.assign(previous_tier=["a"] * 4 + ["b"] * 6)
    assert reaching_each(left, cut, 0.20, at_the_top)[[3, 9]].tolist() == [89.0, 89.0]
    # A member that came in has it twice as well, 4/1.44 = 2.78: then 2/0.8 is before it, and 3.13 is not.
    entered = frame.assign(previous_tier=["a"] * 2 + ["b"] + ["a"] + ["b"] * 6)
    assert reaching_each(entered, cut, 0.20, at_the_top)[[3, 9]].tolist() == [90.0, 89.0]
    # Members set by hand give no seat up; by limits it is the limit of who was below.
    assert math.isnan(reaching(frame.assign(tier_rule="override"), cut, 0.20)["a"])
    assert reaching(frame, Cut(("a", "b"), limits=((70.0, 75.0, 80.0),)), 0.20) == {"a": 80.0}


def test_potential_is_known_below_key_alone_and_follows_its_definition(
    found: pd.DataFrame, two_months: SimpleNamespace
) -> None:
    graded: Graded = paths.with_potential(two_months.second.customers, found, two_months.config)
    frame = graded.frame
    known = frame["has_upgrade_potential"].notna()
    assert (known == frame["tier"].isin(["ordinary", "small"])).all()
    leads = frame["customer_id"].isin(found.loc[found["amount"].notna(), "customer_id"])
    above = {"ordinary": "main", "small": "ordinary"}
    median = frame.groupby("tier")["clv"].median()
    grows = (frame["clv"] >= 1.25 * frame["contribution_margin"].clip(lower=0)) & (
        frame["clv"] >= frame["tier"].map(above).map(median)
    )
    assert (frame.loc[known, "has_upgrade_potential"] == (leads | grows)[known]).all()
    assert 0 < frame.loc[known, "has_upgrade_potential"].mean() < 0.6
