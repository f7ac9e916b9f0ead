"""What claims to be known at first contact is held against the data."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clv import period
from clv.config import Attribute
from clv.errors import ConfigError
from clv.field_audit import audit_fields
from clv.tables import CORE
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 1, 1)
SEED = 7


def attribute(kind: str, known_at: str = "first_contact", **more: str) -> Attribute:
    return Attribute.model_validate({"type": kind, "known_at": known_at, **more})


@pytest.fixture
def db() -> Iterator[Engine]:
    with workspace(threads=1, memory_limit="500MB") as engine:
        for name, table in CORE.items():
            engine.run(f"CREATE TABLE main.{name} ({table.ddl()})")
        yield engine


def fill(db: Engine, frame: pd.DataFrame) -> None:
    """Everybody of `frame` (customer_id, converted, attributes) contacted on one day, and the orders of some."""
    for name in frame.columns.difference(["customer_id", "converted", *CORE["customers"].names]):
        kind = "DOUBLE" if pd.api.types.is_numeric_dtype(frame[name]) else "VARCHAR"
        db.run(f"ALTER TABLE main.customers ADD COLUMN IF NOT EXISTS {name} {kind}")
    contacted = {"first_contact_date": date(2024, 1, 1)} | (
        {} if "valid_from" in frame else {"valid_from": None}
    )
    db.append("main.customers", frame.drop(columns="converted").assign(**contacted))
    buyers = pd.DataFrame({"customer_id": frame.loc[frame["converted"], "customer_id"].unique()})
    db.append("main.order_lines", buyers.assign(order_id="o", net_amount=1, order_date=date(2024, 3, 1)))
    period.see(db, AS_OF)


def people(db: Engine) -> None:
    """200 contacted, half of them customers, with fields that were filled at different moments."""
    converted = np.arange(200) % 2 == 0
    noise = np.random.default_rng(5).random(200)
    frame = pd.DataFrame(
        {
            "customer_id": [f"c{i:03d}" for i in range(200)],
            "industry": np.where(noise < 0.3 + 0.4 * converted, "Retail", "Food"),
            "sales_status": np.where(converted, "won", np.where(noise < 0.05, "won", "lost")),
            "payment_terms": np.where(converted & (noise < 0.6), "30 days", None),
            "calls": np.where(converted, 10 + noise, noise),
            "rare_field": np.where(np.arange(200) == 4, "filled", None),
            "first_visits": noise + 0.5 * converted,
        }
    )
    fill(db, frame.assign(converted=converted))


@pytest.mark.parametrize(
    ("name", "kind", "evidence"),
    [
        ("sales_status", "category", "AUC"),
        ("calls", "number", "AUC of 1.000"),
        ("payment_terms", "category", "filled for"),
    ],
)
def test_a_field_that_betrays_the_outcome_is_refused_with_the_evidence(
    db: Engine, name: str, kind: str, evidence: str
) -> None:
    people(db)
    with pytest.raises(ConfigError, match=rf"attributes\.{name}: .*{evidence}"):
        audit_fields(db, {name: attribute(kind)}, SEED)
    audit_fields(db, {name: attribute(kind, "after_contact")}, SEED)


def test_honest_fields_pass_the_audit(db: Engine) -> None:
    people(db)
    audit_fields(
        db,
        {
            "industry": attribute("category"),
            "first_visits": attribute("number"),
            "rare_field": attribute("category"),
        },
        SEED,
    )


def test_the_audit_is_silent_on_too_few_rows(db: Engine) -> None:
    people(db)
    db.run("DELETE FROM main.customers WHERE customer_id > 'c030'")
    audit_fields(db, {"calls": attribute("number")}, SEED)


def histories(db: Engine, later: dict[str, dict[int, str]]) -> None:
    """100 leads, the even ones customers since 2024-03-01; day -> value of `status` from then on, by kind of lead."""
    rows = []
    for i in range(100):
        kind = "converted" if i % 2 == 0 else "other"
        person = {"customer_id": f"c{i:03d}", "converted": i % 2 == 0}
        rows.append(person | {"valid_from": date(2024, 1, 1), "status": "new"})
        for day, status in later.get(kind, {}).items() if i % 10 < 4 else ():
            rows.append(person | {"valid_from": date(2024, 1, 1) + timedelta(days=day), "status": status})
    fill(db, pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("later", "evidence"),
    [
        (
            {"converted": {30: "offer", 60: "won"}, "other": {90: "lost"}},
            r"changed between first contact and first order for 20 of 50 who became customers, and since first "
            r"contact for 20 of 50 who did not \(first: c000 new -> offer, c002 new -> offer, c010 new -> offer\)",
        ),
        (
            {"converted": {60: "won"}},
            "for 20 of 50 who became customers, and since first contact for 0 of 50",
        ),
    ],
)
def test_a_field_that_changes_after_first_contact_is_refused_by_name_with_counts_and_examples(
    db: Engine, later: dict[str, dict[int, str]], evidence: str
) -> None:
    histories(db, later)
    with pytest.raises(ConfigError, match=rf"attributes\.status: .*{evidence}"):
        audit_fields(db, {"status": attribute("category")}, SEED)
    audit_fields(db, {"status": attribute("category", "after_contact")}, SEED)


@pytest.mark.parametrize(
    "later",
    [
        {"converted": {61: "customer", 200: "regular"}},  # first order on day 60
        {"other": {400: "lost"}},  # not known by as_of
        {"converted": {20: "new"}, "other": {30: "new"}},  # written again, the same
    ],
)
def test_what_changes_once_somebody_is_a_customer_or_not_at_all_is_no_sign(
    db: Engine, later: dict[str, dict[int, str]]
) -> None:
    histories(db, later)
    audit_fields(db, {"status": attribute("category")}, SEED)


BANK = {
    **dict.fromkeys(
        ("job", "education", "default", "housing", "loan", "contact", "month", "day_of_week", "poutcome"),
        "category",
    ),
    "previous": "number",
}


def bank(db: Engine, shared_data: Path) -> None:
    calls = pd.read_csv(shared_data / "bank_marketing" / "bank-additional.csv", sep=";")
    people = calls[[*BANK, "duration"]].astype({"duration": "float64", "previous": "float64"})
    people = people.rename(columns={"default": "in_default"})
    fill(
        db, people.assign(customer_id=[f"{i:05d}" for i in range(len(calls))], converted=calls["y"] == "yes")
    )


def declared(*more: str, **options: str) -> dict[str, Attribute]:
    kinds = {"in_default" if name == "default" else name: kind for name, kind in BANK.items()}
    found = {name: attribute(kind) for name, kind in kinds.items()}
    return found | {name: attribute("number", **options) for name in more}


def test_the_length_of_the_sales_call_declared_as_known_before_it_is_refused(
    db: Engine, shared_data: Path
) -> None:
    bank(db, shared_data)
    audit_fields(db, declared(), SEED)  # each of the honest fields passes
    audit_fields(db, declared("duration", known_at="after_contact"), SEED)
    with pytest.raises(ConfigError, match=r"attributes\.duration: .*AUC of 0\.8.*10 others together \(0\.7"):
        audit_fields(db, declared("duration"), SEED)
    audit_fields(db, declared("duration", checked="said in the first mail"), SEED)


def test_an_honest_field_that_is_the_best_of_many_passes(db: Engine) -> None:
    rng = np.random.default_rng(3)
    n = 1500
    traits = rng.standard_normal((n, 4))
    converted = rng.random(n) < 1 / (1 + np.exp(-(2.0 * traits[:, 0] + traits[:, 1:].sum(axis=1))))
    frame = pd.DataFrame(traits, columns=["best", "b", "c", "d"])
    fill(db, frame.assign(customer_id=[f"{i:05d}" for i in range(n)], converted=converted))
    audit_fields(db, {name: attribute("number") for name in frame}, SEED)


def test_a_strong_field_beside_two_weak_ones_is_no_suspicion(db: Engine) -> None:
    rng = np.random.default_rng(3)
    traits = rng.standard_normal((800, 3))
    converted = traits[:, 0] + 0.5 * rng.standard_normal(800) > 0.5
    frame = pd.DataFrame(traits, columns=["score", "b", "c"])
    fill(db, frame.assign(customer_id=[f"{i:05d}" for i in range(800)], converted=converted))
    audit_fields(db, {name: attribute("number") for name in frame}, SEED)
