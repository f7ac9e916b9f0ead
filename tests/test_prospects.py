"""Prospects as of a date: who they are, what they did next, what may be known of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from clv import period, prospects
from clv.config import Config
from clv.errors import ModelError
from clv.tables import CORE
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 1, 1)


def settings(**sections: object) -> Config:
    return Config.model_validate(
        {
            "company": "tiny",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"table": "lines"}, "customers": {"table": "people"}},
            "attributes": {"industry": {"type": "category", "known_at": "first_contact"}},
            **sections,
        }
    )


@pytest.fixture
def db() -> Iterator[Engine]:
    with workspace(threads=1, memory_limit="500MB") as engine:
        for name, table in CORE.items():
            engine.run(f"CREATE TABLE main.{name} ({table.ddl()})")
        engine.run("ALTER TABLE main.customers ADD COLUMN industry VARCHAR")
        engine.run("ALTER TABLE main.order_lines ADD COLUMN value DECIMAL(18,4)")
        yield engine


def contact(db: Engine, customer: str, day: str | None, industry: str | None = None) -> None:
    db.run(
        "INSERT INTO main.customers (customer_id, first_contact_date, industry) VALUES (?, ?, ?)",
        [customer, day, industry],
    )


def order(db: Engine, customer: str, day: str, value: float = 100, posted: str | None = None) -> None:
    db.run(
        "INSERT INTO main.order_lines (order_id, customer_id, order_date, net_amount, value, posted_date) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [f"{customer}-{day}", customer, day, value, value, posted],
    )


def who(db: Engine, as_of: date) -> dict[str, int]:
    period.see(db, as_of)
    rows = prospects.prospect_rows(db, as_of)
    return dict(zip(rows["customer_id"], rows["days_since_first_contact"], strict=True))


def test_a_prospect_has_been_contacted_and_has_not_ordered(db: Engine) -> None:
    contact(db, "waiting", "2024-12-22")
    contact(db, "customer", "2024-12-01")
    order(db, "customer", "2024-12-31")
    contact(db, "orders on the day", "2024-12-01")
    order(db, "orders on the day", "2025-01-01")
    contact(db, "not contacted yet", "2025-01-01")
    contact(db, "no first contact", None)
    assert who(db, AS_OF) == {"waiting": 10, "orders on the day": 31}


def test_an_order_posted_later_is_not_known_yet(db: Engine) -> None:
    contact(db, "late paper", "2024-12-01")
    order(db, "late paper", "2024-12-30", posted="2025-01-02")
    assert who(db, AS_OF) == {"late paper": 31}
    assert who(db, date(2025, 1, 3)) == {}


def test_rows_carry_every_attribute_and_come_sorted(db: Engine) -> None:
    for customer in ("b", "a", "00042"):
        contact(db, customer, "2024-12-01", "Retail")
    period.see(db, AS_OF)
    rows = prospects.prospect_rows(db, AS_OF)
    assert list(rows.columns) == ["customer_id", "days_since_first_contact", "industry"]
    assert list(rows["customer_id"]) == ["00042", "a", "b"]


def test_converted_is_the_first_order_within_the_window(db: Engine) -> None:
    snapshot = date(2024, 6, 1)
    for customer, day in {
        "on the day": "2024-06-01",
        "last day": "2024-08-29",
        "a day late": "2024-08-30",
        "known customer": "2024-05-31",
    }.items():
        contact(db, customer, "2024-05-01")
        order(db, customer, day)
    contact(db, "never", "2024-05-01")
    rows = prospects.prospect_outcomes(db, snapshot, 90, AS_OF)
    assert dict(zip(rows["customer_id"], rows["converted"], strict=True)) == {
        "on the day": True,
        "last day": True,
        "a day late": False,
        "never": False,
    }
    assert (rows["snapshot_date"] == pd.Timestamp(snapshot)).all()


def test_no_label_before_the_window_has_ended(db: Engine) -> None:
    contact(db, "early", "2024-10-01")
    order(db, "early", "2024-11-02")
    immature = prospects.prospect_outcomes(db, date(2024, 11, 1), 90, AS_OF)
    assert immature["converted"].isna().all()
    assert len(immature) == 1
    mature = prospects.prospect_outcomes(db, date(2024, 11, 1), 61, AS_OF)
    assert list(mature["converted"]) == [True]


def test_who_had_ordered_before_the_snapshot_is_no_exposure_even_if_posted_later(db: Engine) -> None:
    contact(db, "late paper", "2024-05-01")
    order(db, "late paper", "2024-05-30", posted="2024-06-03")
    assert prospects.prospect_outcomes(db, date(2024, 6, 1), 90, AS_OF).empty


def test_labels_ignore_what_is_posted_on_or_after_as_of(db: Engine) -> None:
    contact(db, "later paper", "2024-05-01")
    order(db, "later paper", "2024-06-15", posted="2025-01-01")
    rows = prospects.prospect_outcomes(db, date(2024, 6, 1), 90, AS_OF)
    assert list(rows["converted"]) == [False]


def population(db: Engine) -> None:
    """One lead a week through 2023 and 2024; every third orders after 40 days."""
    order(db, "first of all", "2022-12-31")
    for week in range(104):
        day = date(2023, 1, 1) + timedelta(days=7 * week)
        contact(db, f"lead {week:03d}", str(day), "Retail" if week % 2 else "Food")
        if week % 3 == 0:
            order(db, f"lead {week:03d}", str(day + timedelta(days=40)))


def test_training_snapshots_are_mature_and_hold_those_still_prospects(db: Engine) -> None:
    population(db)
    training = prospects.training_rows(db, AS_OF, settings())
    assert max(training.snapshots) == date(2024, 10, 3)  # 90 days before as_of
    assert set(np.diff(training.snapshots)) == {timedelta(days=30)}
    rows = training.rows
    assert rows["converted"].notna().all()
    seen = rows[rows["customer_id"] == "lead 003"]  # contacted 2023-01-22, orders 2023-03-03
    assert seen["days_since_first_contact"].max() <= 40
    assert seen["converted"].all()
    patient = rows[rows["customer_id"] == "lead 001"]
    assert len(patient) == len([day for day in training.snapshots if day > date(2023, 1, 8)])
    assert not patient["converted"].any()
    # A lead that converts 40 days after contact never looks like an aged one.
    assert not rows.loc[rows["days_since_first_contact"] > 40, "converted"].any()


def test_training_reaches_back_only_so_many_months(db: Engine) -> None:
    population(db)
    training = prospects.training_rows(db, AS_OF, settings(prospect={"training_months": 12}))
    assert min(training.snapshots) >= date(2024, 1, 1)


def test_left_truncated_cohorts_are_dropped_and_counted(db: Engine) -> None:
    population(db)
    for number in range(5):
        contact(db, f"old {number}", "2022-06-01")
    training = prospects.training_rows(db, AS_OF, settings())
    assert training.observable_from == date(2022, 12, 31)
    assert training.left_truncated == 5
    assert not training.rows["customer_id"].str.startswith("old").any()
    told = prospects.training_rows(db, AS_OF, settings(left_truncated_before="2023-03-01"))
    assert told.left_truncated > 5
    contacts = told.rows["snapshot_date"] - pd.to_timedelta(told.rows["days_since_first_contact"], unit="D")
    assert contacts.min() >= pd.Timestamp("2023-03-01")


def test_training_leaves_the_view_at_as_of(db: Engine) -> None:
    population(db)
    prospects.training_rows(db, AS_OF, settings())
    assert db.rows("SELECT max(order_date) FROM past.order_lines") == [(date(2024, 12, 13),)]


def test_nothing_on_or_after_as_of_moves_the_training_rows(db: Engine) -> None:
    population(db)
    before = prospects.training_rows(db, AS_OF, settings())
    values = prospects.conversion_values(db, AS_OF, 12, 0.1)
    for week in range(104):
        order(db, f"lead {week:03d}", "2025-01-01", value=1e6)
        order(db, f"lead {week:03d}", "2024-02-01", value=1e6, posted="2025-01-01")
    contact(db, "new", "2025-01-01")
    after = prospects.training_rows(db, AS_OF, settings())
    pd.testing.assert_frame_equal(after.rows, before.rows)
    pd.testing.assert_frame_equal(prospects.conversion_values(db, AS_OF, 12, 0.1), values)


def test_no_orders_or_no_mature_snapshot_is_named(db: Engine) -> None:
    contact(db, "waiting", "2024-12-22")
    with pytest.raises(ModelError, match="nobody has converted yet"):
        prospects.training_rows(db, AS_OF, settings())
    order(db, "somebody", "2024-12-01")
    with pytest.raises(ModelError, match="History too short"):
        prospects.training_rows(db, AS_OF, settings())


def test_months_without_prospects_are_no_rows(db: Engine) -> None:
    order(db, "somebody", "2023-01-01")
    assert prospects.training_rows(db, AS_OF, settings()).rows.empty
    contact(db, "first lead", "2024-09-01", "Retail")
    order(db, "first lead", "2024-11-01")
    rows = prospects.training_rows(db, AS_OF, settings()).rows
    assert list(rows["converted"]) == [True, True]
    assert list(rows["days_since_first_contact"]) == [2, 32]


def test_value_is_discounted_over_the_months_from_the_first_order(db: Engine) -> None:
    contact(db, "buyer", "2023-01-01")
    order(db, "buyer", "2023-03-01", 100)
    order(db, "buyer", "2024-02-29", 100)  # the last day of the 12 months, 365 days after
    order(db, "buyer", "2024-03-01", 1e6)  # outside
    period.see(db, AS_OF)
    [row] = prospects.conversion_values(db, AS_OF, 12, 0.10).to_dict("records")
    assert row["days_since_first_contact"] == 59
    assert row["value"] == pytest.approx(100 + 100 / 1.10, abs=1e-5)


def test_only_matured_values_count(db: Engine) -> None:
    contact(db, "just matured", "2023-12-01")
    order(db, "just matured", "2024-01-01")
    contact(db, "a day short", "2023-12-01")
    order(db, "a day short", "2024-01-02")
    period.see(db, AS_OF)
    assert list(prospects.conversion_values(db, AS_OF, 12, 0.1)["customer_id"]) == ["just matured"]


def test_a_loss_counts_as_nothing_and_unknown_or_truncated_contacts_are_left_out(db: Engine) -> None:
    for customer, day in {
        "loss": "2023-01-05",
        "unknown": None,
        "after": "2023-06-01",
        "old": "2022-01-01",
    }.items():
        contact(db, customer, day)
        order(db, customer, "2023-02-01", -50)
    period.see(db, AS_OF)
    rows = prospects.conversion_values(db, AS_OF, 12, 0.1, observable_from=date(2023, 1, 1))
    assert list(rows["customer_id"]) == ["loss"]
    assert list(rows["value"]) == [0.0]


def judge(
    db: Engine, customer: str, score: float, day: str, until: str | None, criterion: str = "prospect"
) -> None:
    db.run(
        "INSERT INTO main.judgements (customer_id, criterion, score, judged_by, judged_date, valid_until) "
        "VALUES (?, ?, ?, 'Ada', ?, ?)",
        [customer, criterion, score, day, until],
    )


def test_a_judgement_expires_and_the_newest_valid_one_counts(db: Engine) -> None:
    judge(db, "open", 10, "2024-05-01", None)
    judge(db, "open", 20, "2024-06-01", None)
    judge(db, "expired", 30, "2024-06-01", "2024-12-31")
    judge(db, "last day", 40, "2024-06-01", "2025-01-01")
    judge(db, "newer expired", 50, "2024-05-01", None)
    judge(db, "newer expired", 60, "2024-06-01", "2024-07-01")
    judge(db, "too new", 70, "2025-01-01", None)
    judge(db, "other", 80, "2024-06-01", None, criterion="payment")
    period.see(db, AS_OF)
    valid = prospects.judgements_valid(db, AS_OF)
    assert dict(zip(valid["customer_id"], valid["score"], strict=True)) == {
        "last day": 40,
        "newer expired": 50,
        "open": 20,
    }


def version(db: Engine, customer: str, contacted: str, valid_from: str, industry: str) -> None:
    db.run(
        "INSERT INTO main.customers (customer_id, first_contact_date, valid_from, industry) VALUES (?, ?, ?, ?)",
        [customer, contacted, valid_from, industry],
    )


def test_training_reads_the_attribute_that_was_known_at_the_snapshot(db: Engine) -> None:
    order(db, "first of all", "2022-12-31")
    version(db, "lead", "2024-05-01", "2024-05-01", "Food")
    version(db, "lead", "2024-05-01", "2024-07-15", "Retail")
    rows = prospects.training_rows(db, AS_OF, settings()).rows
    known = dict(zip(rows["snapshot_date"].dt.date, rows["industry"], strict=True))
    assert known[date(2024, 7, 5)] == "Food"
    assert known[date(2024, 8, 4)] == "Retail"


def test_value_goes_with_the_attribute_known_when_the_first_order_came(db: Engine) -> None:
    for customer in ("buyer", "on the day", "late row"):
        order(db, customer, "2023-03-01", 100)
    version(db, "buyer", "2023-01-01", "2023-01-01", "unknown")
    version(db, "buyer", "2023-01-01", "2023-02-01", "Food")
    version(db, "buyer", "2023-01-01", "2023-06-01", "key account")
    version(db, "on the day", "2023-01-01", "2023-01-01", "open")
    version(db, "on the day", "2023-01-01", "2023-03-01", "won")
    version(db, "late row", "2023-01-01", "2023-08-01", "first")
    version(db, "late row", "2023-01-01", "2023-09-01", "second")
    period.see(db, AS_OF)
    rows = prospects.conversion_values(db, AS_OF, 12, 0.10)
    assert dict(zip(rows["customer_id"], rows["industry"], strict=True)) == {
        "buyer": "Food",
        "on the day": "open",
        "late row": "first",
    }
